"""minGRU (Feng et al. 2024): gates that see the input alone.

u, the paper's z, lets the new value in.
"""

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
    u, n = clip(gates_x + gates_h, clips.gates).chunk(2, dim=-1)
    u = torch.sigmoid(u)
    return ((1 - u) * h + u * n,)


SPEC = CellSpec(
    name="min_gru",
    gates=("u", "n"),
    states=("h",),
    step=step,
    saved=("u", "n"),
    reads_h=True,
    recurrent=False,
)
