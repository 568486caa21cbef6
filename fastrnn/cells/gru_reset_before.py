"""Gated recurrent unit in its first form (Cho et al. 2014): the reset gate before the product."""

import torch
from torch import Tensor

from . import UNCLIPPED, CellSpec, Clip, clip


def operand(gates_x: Tensor, gates_h: Tensor, h: Tensor, clips: Clip = UNCLIPPED) -> Tensor:
    """``r * h``, of which the product of n is taken; of the gates, r and z are there."""
    r = (gates_x + gates_h).chunk(2, dim=-1)[0]
    return torch.sigmoid(clip(r, clips.gates)) * h


def step(
    gates_x: Tensor,
    gates_h: Tensor,
    states: tuple[Tensor, ...],
    params: tuple[Tensor, ...] = (),
    clips: Clip = UNCLIPPED,
) -> tuple[Tensor, ...]:
    (h,) = states
    _, z, n = clip(gates_x + gates_h, clips.gates).chunk(3, dim=-1)
    z = torch.sigmoid(z)
    return ((1 - z) * torch.tanh(n) + z * h,)


SPEC = CellSpec(
    name="gru_reset_before",
    gates=("r", "z", "n"),
    states=("h",),
    step=step,
    saved=("r", "z", "n"),
    reads_h=True,
    second=("n",),
    operand=operand,
)
