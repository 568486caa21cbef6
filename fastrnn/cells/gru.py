"""Gated recurrent unit (Cho et al. 2014) as in torch and cuDNN: reset after the product."""

import torch
from torch import Tensor

from . import UNCLIPPED, CellSpec, Clip, clip


def step(
    gates_x: Tensor,
    gates_h: Tensor,
    states: tuple[Tensor, ...],
    params: tuple[Tensor, ...] = (),
    clips: Clip = UNCLIPPED,
) -> tuple[Tensor, ...]:
    (h,) = states
    r_x, z_x, n_x = gates_x.chunk(3, dim=-1)
    r_h, z_h, n_h = gates_h.chunk(3, dim=-1)
    r = torch.sigmoid(clip(r_x + r_h, clips.gates))
    z = torch.sigmoid(clip(z_x + z_h, clips.gates))
    n = torch.tanh(clip(n_x + r * n_h, clips.gates))
    return ((1 - z) * n + z * h,)


SPEC = CellSpec(
    name="gru",
    gates=("r", "z", "n"),
    states=("h",),
    step=step,
    saved=("r", "z", "n", "n_h"),
    apart=("n",),
    reads_h=True,
    torch_layer="GRU",
    torch_cell="GRUCell",
)
