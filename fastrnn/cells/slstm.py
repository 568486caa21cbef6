"""sLSTM (Beck et al. 2024): exponential input gate, a normaliser n, and m that keeps both finite.

c and n are what they would be times exp(-m); h is their ratio, so m cancels.
"""

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
    _, c, n, m = states
    i, f, g, o = clip(gates_x + gates_h, clips.gates).chunk(4, dim=-1)
    f = logsigmoid(f) + m
    m = torch.where(n == 0, i, torch.maximum(f, i))
    i, f = torch.exp(i - m), torch.exp(f - m)
    c = f * c + i * torch.tanh(g)
    n = f * n + i
    return torch.sigmoid(o) * c / n, c, n, m


SPEC = CellSpec(
    name="slstm",
    gates=("i", "f", "g", "o"),
    states=("h", "c", "n", "m"),
    step=step,
    saved=("i", "f", "g", "o", "slope", "c", "n", "m"),
)
