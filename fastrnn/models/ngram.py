"""Counting: the n-gram models that a neural language model has to beat."""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["NGram"]

_Counts = dict[tuple[int, ...], dict[int, int]]


class NGram:
    r"""Predicts a token from the n-1 before it, by counts; smoothed in one of two ways.

    With c(h, w) the number of times that w followed h, c(h) their sum, V the vocabulary:

    * ``add``: :math:`p(w|h) = (c(h,w) + \alpha) / (c(h) + \alpha V)` (Lidstone's law).
    * ``back_off``: :math:`p(w|h) = (c(h,w) - d) / c(h)` where w was seen after h, else
      :math:`\beta(h) p(w|h')` with h' without its first token; :math:`\beta` shares what the
      discount d has freed among the unseen (Katz 1987, with the absolute discount of Ney &
      Essen 1991). Below the bigram: add-one over single tokens.

    Args:
        tokens: the training text, numbers below ``vocabulary``.
        vocabulary: V.
        order: n, at least 1.

    Raises:
        ValueError: ``order`` below 1, or a token that is not below ``vocabulary``.
    """

    def __init__(self, tokens: Sequence[int], vocabulary: int, order: int) -> None:
        if order < 1:
            raise ValueError(f"order should be at least 1, got {order}")
        if tokens and not (min(tokens) >= 0 and max(tokens) < vocabulary):
            raise ValueError(f"tokens should be below {vocabulary}, got {max(tokens)}")
        self.vocabulary, self.order = vocabulary, order
        # One table for each length of the context.
        self._counts: list[_Counts] = [{} for _ in range(order)]
        for i, token in enumerate(tokens):
            for length in range(min(order, i + 1)):
                followers = self._counts[length].setdefault(tuple(tokens[i - length : i]), {})
                followers[token] = followers.get(token, 0) + 1
        self._totals = [{h: sum(f.values()) for h, f in table.items()} for table in self._counts]
        self._shares: dict[tuple[float, tuple[int, ...]], float] = {}

    def add(
        self, context: Sequence[int], token: int, alpha: float, order: int | None = None
    ) -> float:
        """The probability of ``token`` with add-alpha smoothing."""
        h = self._tail(context, order)
        count = self._counts[len(h)].get(h, {}).get(token, 0)
        total = self._totals[len(h)].get(h, 0)
        return (count + alpha) / (total + alpha * self.vocabulary)

    def back_off(
        self, context: Sequence[int], token: int, discount: float = 0.75, order: int | None = None
    ) -> float:
        """The probability of ``token`` with back-off; ``discount`` between 0 and 1."""
        return self._back_off(self._tail(context, order), token, discount)

    def _tail(self, context: Sequence[int], order: int | None) -> tuple[int, ...]:
        length = min((order or self.order) - 1, len(context))
        return tuple(context[len(context) - length :])

    def _back_off(self, h: tuple[int, ...], token: int, discount: float) -> float:
        if not h:
            return self.add((), token, 1.0, 1)
        followers = self._counts[len(h)].get(h)
        if followers is None:
            return self._back_off(h[1:], token, discount)
        if token in followers:
            return (followers[token] - discount) / self._totals[len(h)][h]
        share = self._shares.get((discount, h))
        if share is None:
            freed = discount * len(followers) / self._totals[len(h)][h]
            seen = sum(self._back_off(h[1:], w, discount) for w in followers)
            # Where all tokens were seen there is nobody to share with; and never to be asked.
            share = self._shares[discount, h] = freed / max(1 - seen, 1e-12)
        return share * self._back_off(h[1:], token, discount)

    def bits(
        self,
        tokens: Sequence[int],
        *,
        alpha: float | None = None,
        discount: float = 0.75,
        order: int | None = None,
    ) -> float:
        """Sum of -log2 p over ``tokens``: add-alpha where ``alpha`` is given, else back-off."""
        order = order or self.order
        total = 0.0
        for i, token in enumerate(tokens):
            context = tokens[max(0, i - order + 1) : i]
            if alpha is None:
                p = self.back_off(context, token, discount, order)
            else:
                p = self.add(context, token, alpha, order)
            total -= math.log2(p)
        return total
