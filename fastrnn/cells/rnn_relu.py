"""Elman network (Elman 1990) with relu."""

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
    return (torch.relu(clip(gates_x + gates_h, clips.gates)),)


SPEC = CellSpec(
    name="rnn_relu",
    gates=("h",),
    states=("h",),
    step=step,
    torch_layer="RNN",
    torch_cell="RNNCell",
)
