"""Long short-term memory (Hochreiter & Schmidhuber 1997, with Gers' forget gate)."""

import torch
from torch import Tensor

from . import CellSpec


def step(gates_x: Tensor, gates_h: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    _, c = states
    i, f, g, o = (gates_x + gates_h).chunk(4, dim=-1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


SPEC = CellSpec(
    name="lstm",
    gates=("i", "f", "g", "o"),
    states=("h", "c"),
    step=step,
    saved=("i", "f", "g", "o", "c"),
    torch_layer="LSTM",
    torch_cell="LSTMCell",
)
