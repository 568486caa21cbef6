"""Independently recurrent network (Li et al. 2018) with relu: a unit sees its own past only."""

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
    (weight_u,) = params
    return (torch.relu(clip(gates_x + gates_h + weight_u * h, clips.gates)),)


SPEC = CellSpec(
    name="indrnn_relu",
    gates=("h",),
    states=("h",),
    step=step,
    reads_h=True,
    params=("weight_u",),
    param_widths=(1,),
    recurrent=False,
)
