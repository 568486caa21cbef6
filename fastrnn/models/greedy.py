"""Greedy decoding: the likeliest token, step by step."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

__all__ = ["Step", "greedy"]

State = TypeVar("State")

# Tokens [N] and the state before them give log-probabilities [N, V] and the state after.
Step = Callable[[Tensor, State], tuple[Tensor, State]]


@torch.no_grad()
def greedy(
    step: Step[State], state: State, start: int, end: int, *, rows: int, limit: int,
    device: torch.device | str | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Writes the likeliest token at each step until every row has ended.

    Args:
        step: tokens ``[N]`` int64 and a state give log-probabilities ``[N, V]`` and a state.
        state: before the first step, of ``rows`` rows.
        start, end: the token read first, and the one that ends a row.
        rows: N.
        limit: how many tokens to write at most.
        device: of the tokens.

    Returns:
        tokens ``[N, T]`` int64, without ``start``, ``end`` from the end on; and the lengths
        ``[N]``, which count no ``end``.
    """
    token = torch.full((rows,), start, device=device)
    ended = torch.zeros_like(token, dtype=torch.bool)
    written = []
    for _ in range(limit):
        scores, state = step(token, state)
        token = scores.argmax(-1).masked_fill(ended, end)
        ended = ended | (token == end)
        written.append(token)
        if bool(ended.all()):
            break
    tokens = torch.stack(written, 1)
    return tokens, (tokens != end).sum(1)
