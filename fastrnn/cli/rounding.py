"""When do two training runs agree to rounding?

Training is chaotic: one unit in the last place of a weight grows until the curves part visibly,
sooner at a high learning rate. No fixed tolerance can tell rounding from a fault, so a control run
sets the bound: torch.nn's layer once more, its initial recurrent weights nudged by one unit in the
last place.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import nn

# Layers that differ in rounding alone (torch's in float32 and in float64, with the batch in
# another order, and nudged) were within 3x of each other's distance, over LSTM and GRU of 32 to
# 256 units and up to 800 steps.
FACTOR = 10.0


@torch.no_grad()
def nudge(layer: nn.Module, generator: torch.Generator) -> None:
    """Move each parameter by one unit in the last place, up, down or not at all."""
    for parameter in layer.parameters():
        up = torch.randint(-1, 2, parameter.shape, generator=generator).to(parameter)
        parameter.copy_(torch.nextafter(parameter, parameter + up))


def relative_differences(losses: Sequence[float], expected: Sequence[float]) -> list[float]:
    """|a - b| / |b| at each step; NaN where either is."""
    return [abs(a - b) / abs(b) for a, b in zip(losses, expected, strict=True)]


def bounds(control: Sequence[float]) -> list[float]:
    """The largest difference that rounding explains at each step, from the control's."""
    epsilon = torch.finfo(torch.float32).eps
    return [FACTOR * max(largest, epsilon) for largest in accumulate(control, max)]


def agree(differences: Sequence[float], control: Sequence[float]) -> bool:
    """Whether every difference is within its bound; a NaN is not."""
    pairs = zip(differences, bounds(control), strict=True)
    return all(difference <= bound for difference, bound in pairs)
