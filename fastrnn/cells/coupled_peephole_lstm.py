"""LSTM with peepholes and f = 1 - i: ONNX's ``input_forget`` with peepholes."""

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
    p_i, p_o = weight_ch.chunk(2, dim=-1)
    i, g, o = (gates_x + gates_h).chunk(3, dim=-1)
    i = torch.sigmoid(clip(i + p_i * c, clips.gates))
    c = clip((1 - i) * c + i * torch.tanh(clip(g, clips.gates)), clips.cell)
    o = torch.sigmoid(clip(o + p_o * c, clips.gates))
    return o * torch.tanh(c), c


SPEC = CellSpec(
    name="coupled_peephole_lstm",
    gates=("i", "g", "o"),
    states=("h", "c"),
    step=step,
    saved=("i", "g", "o", "c"),
    params=("weight_ch",),  # i, o
    param_widths=(2,),
    clipped="c",
)
