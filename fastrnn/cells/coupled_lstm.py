"""LSTM whose forget gate is what its input gate leaves, f = 1 - i (Greff et al. 2015, CIFG)."""

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
    i, g, o = clip(gates_x + gates_h, clips.gates).chunk(3, dim=-1)
    i, g = torch.sigmoid(i), torch.tanh(g)
    c = clip((1 - i) * c + i * g, clips.cell)
    return torch.sigmoid(o) * torch.tanh(c), c


SPEC = CellSpec(
    name="coupled_lstm",
    gates=("i", "g", "o"),
    states=("h", "c"),
    step=step,
    saved=("i", "g", "o", "c"),
    clipped="c",
)
