"""The neural language model without recurrence: a window of tokens before the next."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["FeedForwardLanguageModel"]


class FeedForwardLanguageModel(nn.Module):
    r"""Predicts the next token from the n before it.

    .. math::
        h = \tanh(W [e(w_{t-n+1}); …; e(w_t)] + b) \qquad
        p(w_{t+1} | w_{t-n+1} … w_t) = \mathrm{softmax}(V h + d)

    (Bengio et al., *A neural probabilistic language model*, 2003, without its direct
    connections.) It is called as the recurrent one is; its state is the n - 1 tokens before.

    Args:
        vocabulary: number of tokens V.
        context: n.
        embedding: width of a token.
        hidden: units.
    """

    def __init__(self, vocabulary: int, context: int, embedding: int, hidden: int) -> None:
        super().__init__()
        if context < 1:
            raise ValueError(f"context should be at least 1, got {context}")
        self.context = context
        # One token more, for what is before the beginning.
        self.embedding = nn.Embedding(vocabulary + 1, embedding)
        self.hidden = nn.Linear(context * embedding, hidden)
        self.head = nn.Linear(hidden, vocabulary)

    def forward(self, tokens: Tensor, hx: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """``[T, B]`` tokens and the ones before give ``[T, B, V]`` logits and the next state."""
        if hx is None:
            before = self.context - 1, tokens.shape[1]
            hx = tokens.new_full(before, self.embedding.num_embeddings - 1)
        tokens = torch.cat([hx, tokens])
        windows = self.embedding(tokens).unfold(0, self.context, 1)  # [T, B, E, n]
        out = torch.tanh(F.linear(windows.flatten(2), self.hidden.weight, self.hidden.bias))
        return self.head(out), tokens[len(tokens) - self.context + 1 :]
