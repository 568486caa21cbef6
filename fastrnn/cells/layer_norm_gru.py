"""GRU of world models (Hafner et al. 2020): one layer normalisation over all pre-activations.

u lets the new value in, the opposite of z in this library's GRU, and starts from a bias of -1.
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
    (h,) = states
    weight, bias = params
    gates = layer_norm(gates_x + gates_h, gates_x.shape[-1:], weight, bias)
    r, u, n = gates.chunk(3, dim=-1)
    r = torch.sigmoid(clip(r, clips.gates))
    u = torch.sigmoid(clip(u - 1, clips.gates))
    n = torch.tanh(clip(r * n, clips.gates))
    return (u * n + (1 - u) * h,)


SPEC = CellSpec(
    name="layer_norm_gru",
    gates=("r", "u", "n"),
    states=("h",),
    step=step,
    saved=("r", "u", "n", "a_r", "a_u", "a_n"),
    reads_h=True,
    params=("weight_ln", "bias_ln"),
    param_widths=(3, 3),
    whole_row=True,
)
