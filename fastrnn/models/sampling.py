"""Text from a language model, a token at a time."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["draw", "sample"]


def draw(logits: Tensor, temperature: float, generator: torch.Generator | None = None) -> Tensor:
    r"""A token of each row, with probability :math:`\mathrm{softmax}(logits / temperature)`.

    Args:
        logits: ``[..., V]``.
        temperature: below 1 sharper, above 1 flatter; 0: the likeliest token (greedy).
        generator: of the CPU.

    Returns:
        ``[...]``, int64, on the CPU.

    Raises:
        ValueError: a negative temperature.
    """
    if temperature < 0:
        raise ValueError(f"temperature should not be negative, got {temperature}")
    logits = logits.detach().float().cpu()
    if temperature == 0:
        return logits.argmax(-1)
    odds = torch.softmax(logits / temperature, -1)
    return torch.multinomial(odds.flatten(0, -2), 1, generator=generator).view(odds.shape[:-1])


@torch.no_grad()
def sample(
    model: nn.Module,
    prompt: Tensor,
    length: int,
    temperature: float,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Continue ``prompt`` (``[T]``) by ``length`` tokens, one step (T = 1) a call.

    Args:
        model: ``(tokens [T, B], state)`` gives logits ``[T, B, V]`` and the next state.

    Returns:
        The continuation without the prompt, ``[length]``, on the CPU.
    """
    device = next(model.parameters()).device
    logits, hx = model(prompt.to(device).unsqueeze(1))
    drawn = torch.empty(length, dtype=torch.int64)
    for step in range(length):
        token = draw(logits[-1], temperature, generator)
        drawn[step] = token
        logits, hx = model(token.to(device).unsqueeze(1), hx)
    return drawn
