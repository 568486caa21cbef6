"""minLSTM (Feng et al. 2024): gates that see the input alone, scaled to sum to 1."""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from . import UNCLIPPED, CellSpec, Clip, clip


def step(
    gates_x: Tensor,
    gates_h: Tensor,
    states: tuple[Tensor, ...],
    params: tuple[Tensor, ...] = (),
    clips: Clip = UNCLIPPED,
) -> tuple[Tensor, ...]:
    (h,) = states
    f, i, n = clip(gates_x + gates_h, clips.gates).chunk(3, dim=-1)
    # The gates over their sum, which is zero in rounding where both underflow:
    # f / (f + i) = sigmoid(log f - log i).
    share = logsigmoid(f) - logsigmoid(i)
    return (torch.sigmoid(share) * h + torch.sigmoid(-share) * n,)


SPEC = CellSpec(
    name="min_lstm",
    gates=("f", "i", "n"),
    states=("h",),
    step=step,
    saved=("f", "i", "n"),
    reads_h=True,
    recurrent=False,
)
