"""A language model of causal attention alone."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .positions import sinusoids
from .transformer import TransformerLayer

__all__ = ["TransformerLanguageModel"]


class TransformerLanguageModel(nn.Module):
    """Predicts the next token from up to ``window`` before it (Vaswani et al. 2017, the decoder).

    It is called as the recurrent one is; its state is the tokens that still count.

    Args:
        vocabulary: number of tokens V.
        size: width of the vectors, even.
        heads, layers: of the attention.
        window: how many tokens are seen at most, those of the call included.
        dropout: in training.
    """

    def __init__(
        self,
        vocabulary: int,
        size: int,
        heads: int,
        layers: int,
        window: int,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.size, self.window = size, window
        self.embedding = nn.Embedding(vocabulary, size)
        nn.init.normal_(self.embedding.weight, std=size**-0.5)
        self.stack = nn.ModuleList(
            TransformerLayer(size, heads, 4 * size, dropout=dropout) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(size)
        self.head = nn.Linear(size, vocabulary)

    def forward(self, tokens: Tensor, hx: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """``[T, B]`` tokens and the ones before give ``[T, B, V]`` logits and the next state."""
        steps = len(tokens)
        if steps > self.window:
            raise ValueError(f"tokens should be at most {self.window} steps, got {steps}")
        if hx is not None:
            tokens = torch.cat([hx, tokens])[-self.window :]
        length = len(tokens)
        x = self.embedding(tokens.t()) * math.sqrt(self.size)
        x = x + sinusoids(length, self.size, x)
        causal = torch.ones(length, length, dtype=torch.bool, device=x.device).triu(1)
        for layer in self.stack:
            x, _, _ = layer(x, causal=causal)
        return self.head(self.norm(x[:, -steps:])).transpose(0, 1), tokens
