"""LSTM with layer normalisation of the recurrent side and of the cell state (Ba et al. 2016).

The input side comes normalised already, its bias added: it needs no state, so all steps are
normalised at once, before the scan.
"""

import torch
from torch import Tensor
from torch.nn.functional import layer_norm

from . import UNCLIPPED, CellSpec, Clip, clip


def step(
    gates_x: Tensor,
    gates_h: Tensor,
    states: tuple[Tensor, ...],
    params: tuple[Tensor, ...] = (),
    clips: Clip = UNCLIPPED,
) -> tuple[Tensor, ...]:
    _, c = states
    weight_hh, weight_c, bias_c = params
    gates_h = layer_norm(gates_h, gates_h.shape[-1:], weight_hh)
    i, f, g, o = clip(gates_x + gates_h, clips.gates).chunk(4, dim=-1)
    c = clip(torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g), clips.cell)
    return torch.sigmoid(o) * torch.tanh(layer_norm(c, c.shape[-1:], weight_c, bias_c)), c


SPEC = CellSpec(
    name="layer_norm_lstm",
    gates=("i", "f", "g", "o"),
    states=("h", "c"),
    step=step,
    saved=("i", "f", "g", "o", "i_h", "f_h", "g_h", "o_h", "c"),
    apart=("i", "f", "g", "o"),
    params=("weight_ln_hh", "weight_ln_c", "bias_ln_c"),
    param_widths=(4, 1, 1),
    whole_row=True,
    clipped="c",
)
