"""The demo's model: embedding, any recurrent layer, linear."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

EMBEDDING = 64


class LanguageModel(nn.Module):
    """Predicts the next character from those before it.

    Args:
        vocabulary: number of characters V.
        layer: a recurrent layer of ``EMBEDDING`` inputs, of torch.nn or of fastrnn.
    """

    def __init__(self, vocabulary: int, layer: nn.Module, hidden: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, EMBEDDING)
        self.recurrent = layer
        self.head = nn.Linear(hidden, vocabulary)

    def forward(self, tokens: Tensor, hx: Any = None) -> tuple[Tensor, Any]:
        """``[T, B]`` characters and a state give ``[T, B, V]`` logits and the next state."""
        out, hx = self.recurrent(self.embedding(tokens), hx)
        return self.head(out), hx


@torch.no_grad()
def sample(
    model: LanguageModel,
    prompt: Tensor,
    length: int,
    temperature: float,
    generator: torch.Generator,
) -> Tensor:
    """Continue ``prompt`` (``[T]``) by ``length`` characters, one step (T = 1) a call.

    Returns:
        The continuation without the prompt, ``[length]``, on the CPU.
    """
    device = next(model.parameters()).device
    logits, hx = model(prompt.to(device).unsqueeze(1))
    drawn = torch.empty(length, dtype=torch.int64)
    for step in range(length):
        odds = torch.softmax(logits[-1, 0].cpu() / temperature, dim=0)
        token = torch.multinomial(odds, 1, generator=generator)
        drawn[step] = token
        logits, hx = model(token.to(device).unsqueeze(1), hx)
    return drawn
