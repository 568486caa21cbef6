"""Light GRU (Ravanelli et al. 2018): no reset gate, relu; its input side comes normalised."""

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
    z, n = clip(gates_x + gates_h, clips.gates).chunk(2, dim=-1)
    z = torch.sigmoid(z)
    return ((1 - z) * torch.relu(n) + z * h,)


SPEC = CellSpec(
    name="light_gru",
    gates=("z", "n"),
    states=("h",),
    step=step,
    saved=("z", "n"),
    reads_h=True,
)
