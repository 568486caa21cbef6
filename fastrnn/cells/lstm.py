"""Long short-term memory (Hochreiter & Schmidhuber 1997, with Gers' forget gate)."""

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
    _, c = states
    i, f, g, o = clip(gates_x + gates_h, clips.gates).chunk(4, dim=-1)
    c = clip(torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g), clips.cell)
    return torch.sigmoid(o) * torch.tanh(c), c


SPEC = CellSpec(
    name="lstm",
    gates=("i", "f", "g", "o"),
    states=("h", "c"),
    step=step,
    saved=("i", "f", "g", "o", "c"),
    clipped="c",
    torch_layer="LSTM",
    torch_cell="LSTMCell",
)
