"""The shortest way to the C++ kernels, for layers and cells where nothing watches.

Without gradients, traces, transforms or modes, and with plain contiguous tensors of the
right shapes, a stack of layers is one call of the extension (`csrc/inference.cpp`), which also
looks at the tensors and makes the results: for a short sequence the general way, through
`fastrnn.functional`, takes longer than the computation. What is not as simple as that is
answered with None and goes the general way, which also has the words for what is wrong.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from . import backends, cpp
from .cells import CELLS, CellSpec


def unwatched() -> bool:
    """Whether a call may go this way as far as the process is concerned."""
    return not torch.is_grad_enabled() and unobserved()


def unobserved() -> bool:
    """The same, whether gradients are wanted or not."""
    return not (
        torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or torch._C._functorch.peek_interpreter_stack() is not None
        or torch._C._len_torch_dispatch_stack()
        or torch._C._is_any_autocast_enabled()
        or forward_ad._current_level >= 0
    )


def layers(
    spec: CellSpec,
    input: Tensor,
    hx: Any,
    weights: list[Tensor],
    hidden_size: int,
    proj_size: int,
    bias: bool,
    num_layers: int,
    directions: int,
    backend: str | None,
    step: bool = False,
) -> tuple[Tensor, ...] | None:
    """A stack of layers over ``input [T, B, I]``; arguments as `fastrnn.functional` takes them.

    With ``step`` one step of a cell instead: input ``[B, I]``, states ``[B, H]``.

    Returns:
        the output ``[T, B, D*K]`` (not with ``step``) and the final states, or None if it is
        not that simple.
    """
    if backends.requested(backend) not in (None, "cpp") or not in_one_call(spec.name):
        return None
    if hx is None:
        hx = ()
    elif len(spec.states) == 1:
        hx = (hx,)
    elif not isinstance(hx, (tuple, list)) or len(hx) != len(spec.states):
        return None
    return cpp.layers(
        spec, input, tuple(hx), weights, hidden_size, proj_size, bias, num_layers, directions, step
    )


@functools.cache
def in_one_call(cell: str) -> bool:
    """Whether the extension takes all of such a layer's weights in one call."""
    spec = CELLS[cell]
    simple = spec.recurrent and not (spec.params or spec.whole_row or spec.second)
    return simple and cpp.why_not(spec, torch.device("cpu"), torch.float32) is None
