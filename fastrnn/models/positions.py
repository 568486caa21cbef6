"""Sinusoidal positions, which tell attention where a vector stands."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["sinusoids"]


def sinusoids(length: int, size: int, like: Tensor, start: int = 0) -> Tensor:
    r"""Positions ``start`` to ``start + length`` as vectors ``[length, size]``.

    .. math::
        p_{t,2i} = \sin(t / 10000^{2i/d}) \qquad p_{t,2i+1} = \cos(t / 10000^{2i/d})

    (Vaswani et al. 2017.) Device and dtype are those of ``like``.

    Raises:
        ValueError: an odd size.
    """
    if size % 2:
        raise ValueError(f"size should be even, got: {size}")
    time = torch.arange(start, start + length, device=like.device, dtype=torch.float32)
    pace = torch.arange(0, size, 2, device=like.device, dtype=torch.float32)
    angle = time.unsqueeze(1) * torch.exp(pace * (-math.log(10000.0) / size))
    return torch.stack([angle.sin(), angle.cos()], -1).flatten(1).to(like.dtype)
