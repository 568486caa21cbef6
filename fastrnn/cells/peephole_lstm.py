"""LSTM whose gates see the cell state (Gers & Schmidhuber 2000): i and f the old one, o the new."""

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
    (weight_ch,) = params
    p_i, p_f, p_o = weight_ch.chunk(3, dim=-1)
    i, f, g, o = (gates_x + gates_h).chunk(4, dim=-1)
    i = torch.sigmoid(clip(i + p_i * c, clips.gates))
    f = torch.sigmoid(clip(f + p_f * c, clips.gates))
    c = clip(f * c + i * torch.tanh(clip(g, clips.gates)), clips.cell)
    o = torch.sigmoid(clip(o + p_o * c, clips.gates))
    return o * torch.tanh(c), c


SPEC = CellSpec(
    name="peephole_lstm",
    gates=("i", "f", "g", "o"),
    states=("h", "c"),
    step=step,
    saved=("i", "f", "g", "o", "c"),
    params=("weight_ch",),  # i, f, o
    param_widths=(3,),
    clipped="c",
)
