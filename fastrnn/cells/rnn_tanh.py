"""Elman network (Elman 1990) with tanh."""

import torch
from torch import Tensor

from . import CellSpec


def step(gates_x: Tensor, gates_h: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (torch.tanh(gates_x + gates_h),)


SPEC = CellSpec(
    name="rnn_tanh",
    gates=("h",),
    states=("h",),
    step=step,
    torch_layer="RNN",
    torch_cell="RNNCell",
)
