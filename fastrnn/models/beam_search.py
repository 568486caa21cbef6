"""Beam search over any model that can be stepped."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .greedy import State, Step

__all__ = ["Beams", "beam_search", "select_rows"]


class Beams(NamedTuple):
    """What was found, best first.

    Attributes:
        tokens: ``[B, K, T]`` int64, without the start token, the end token from the end on.
        lengths: ``[B, K]``: how many tokens stand before the end.
        scores: ``[B, K]``: log-probabilities, divided by the length penalty; -inf where there
            were fewer than K sequences.
    """

    tokens: Tensor
    lengths: Tensor
    scores: Tensor


def select_rows(state: Any, rows: Tensor) -> Any:
    """Rows of every tensor of a nest of tuples, lists and dicts, whose first dimension is B."""
    if isinstance(state, Tensor):
        return state.index_select(0, rows)
    if isinstance(state, dict):
        return {name: select_rows(value, rows) for name, value in state.items()}
    if isinstance(state, tuple) and hasattr(state, "_fields"):
        return type(state)(*(select_rows(value, rows) for value in state))
    if isinstance(state, (tuple, list)):
        return type(state)(select_rows(value, rows) for value in state)
    return state


@torch.no_grad()
def beam_search(
    step: Step[State],
    state: State,
    start: int | Tensor,
    end: int,
    *,
    rows: int,
    beams: int,
    limit: int,
    select: Callable[[State, Tensor], State] = select_rows,
    length_penalty: float = 0.0,
    device: torch.device | str | None = None,
) -> Beams:
    r"""The K likeliest sequences that a beam of K finds.

    At each step every live sequence is continued by every token, and of all these the K best
    are kept. A sequence that has ended keeps its place, and its score, as long as it is among
    them. In the end the score of a sequence of n tokens (its end counted) is divided by

    .. math::
        ((5 + n) / 6)^{\alpha}

    (Wu et al., *Google's neural machine translation system*, 2016.) K = 1 is greedy decoding.

    Args:
        step: tokens ``[N]`` int64 and a state give log-probabilities ``[N, V]``, -inf for what
            must not be, and the state after. Called with N = B, then with N = B K.
        state: before the first step, of B rows.
        start: the token read first, one for all or ``[B]``.
        end: the token that ends a sequence.
        rows: B.
        beams: K.
        limit: how many tokens to write at most, the end counted; what is cut off there has no
            end.
        select: ``select(state, rows)``, rows int64 ``[B K]``: the state whose i-th row is that
            one; by default for states whose tensors have their rows in the first dimension.
        length_penalty: alpha; 0 leaves log-probabilities, which favour what is short.
        device: of the tokens, unless ``start`` has one.

    Raises:
        ValueError: a number that is not positive.
    """
    for name, number in (("rows", rows), ("beams", beams), ("limit", limit)):
        if number < 1:
            raise ValueError(f"{name} should be positive, got: {number}")
    if isinstance(start, Tensor):
        token, device = start, start.device
    else:
        token = torch.full((rows,), start, device=device)
    first_row = torch.arange(rows, device=device).unsqueeze(1) * beams

    log_probs, state = step(token, state)
    vocabulary = log_probs.shape[1]
    scores, choice = _best(log_probs, beams)
    state = select(state, torch.arange(rows, device=device).repeat_interleave(beams))
    tokens = choice.unsqueeze(2)
    ended = choice == end
    for _ in range(limit - 1):
        if bool((ended | (scores == -torch.inf)).all()):
            break
        log_probs, state = step(tokens[:, :, -1].flatten(), state)
        log_probs = log_probs.unflatten(0, (rows, beams))
        # What has ended goes on with its end, at no cost.
        log_probs = log_probs.masked_fill(ended.unsqueeze(2), -torch.inf)
        log_probs[:, :, end].masked_fill_(ended, 0.0)
        scores, choice = _best((scores.unsqueeze(2) + log_probs).flatten(1), beams)
        parent, choice = choice // vocabulary, choice % vocabulary
        state = select(state, (first_row + parent).flatten())
        kept = tokens.gather(1, parent.unsqueeze(2).expand(-1, -1, tokens.shape[2]))
        tokens = torch.cat([kept, choice.unsqueeze(2)], 2)
        ended = choice == end
    lengths = (tokens != end).sum(2)
    if length_penalty:
        counted = (lengths + ended.long()).to(scores.dtype)
        scores = scores / ((5 + counted) / 6) ** length_penalty
    scores, order = scores.sort(dim=1, descending=True, stable=True)
    tokens = tokens.gather(1, order.unsqueeze(2).expand_as(tokens))
    return Beams(tokens, lengths.gather(1, order), scores)


def _best(scores: Tensor, beams: int) -> tuple[Tensor, Tensor]:
    """The K best of ``[B, N]`` and their places; -inf at place 0 where N < K."""
    found, places = scores.topk(min(beams, scores.shape[1]), 1)
    missing = beams - found.shape[1]
    if missing:
        found = torch.nn.functional.pad(found, (0, missing), value=-torch.inf)
        places = torch.nn.functional.pad(places, (0, missing))
    return found, places
