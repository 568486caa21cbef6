"""The shortest way to the C++ kernels, for layers and cells where nothing watches.

Without gradients, traces, transforms or modes, and with plain contiguous tensors of the
right shapes, a layer is one call of the extension: for a short sequence the general way,
through `fastrnn.functional`, takes longer than the computation. What is not as simple as
that is answered with None and goes the general way, which also has the words for what is wrong.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd import forward_ad

from . import backends, cpp
from .cells import CellSpec


def unwatched() -> bool:
    """Whether a call may go this way as far as the process is concerned."""
    return not (
        torch.is_grad_enabled()
        or torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or torch._C._functorch.peek_interpreter_stack() is not None
        or torch._C._len_torch_dispatch_stack()
        or torch._C._is_any_autocast_enabled()
        or forward_ad._current_level >= 0
    )


def layers(
    spec: CellSpec,
    input: Tensor,
    hx: Sequence[Tensor],
    weights: Sequence[Tensor],
    hidden_size: int,
    proj_size: int,
    bias: bool,
    num_layers: int,
    directions: int,
    backend: str | None,
) -> tuple[Tensor, list[Tensor]] | None:
    """A stack of layers over ``input [T, B, I]``; arguments as `fastrnn.functional` takes them.

    Returns:
        the output ``[T, B, D*K]`` and the final states, or None if it is not that simple.
    """
    dtype = input.dtype
    steps, batch, features = input.shape
    if not (steps and batch) or not _simple(spec):
        return None
    # Only a single step is computed in other dtypes, and a projection takes no such step.
    if (steps > 1 or proj_size) and dtype not in cpp.PRODUCT_DTYPES:
        return None
    k, width = proj_size or hidden_size, spec.num_gates * hidden_size
    count = num_layers * directions
    sizes = [k] + [hidden_size] * (len(spec.states) - 1)
    shapes: list[Sequence[int]] = [(count, batch, size) for size in sizes] if hx else []
    of_layer: list[tuple[int, ...]] = [(width, features), (width, k)]
    if bias:
        of_layer += [(width,), (width,)]
    if proj_size:
        of_layer.append((k, hidden_size))
    for layer in range(num_layers):
        if layer:
            of_layer[0] = (width, directions * k)
        shapes += of_layer * directions
    found = _addresses(spec, dtype, backend, [input, *hx, *weights], [input.shape, *shapes])
    if found is None:
        return None

    finals = [input.new_empty(count, batch, size) for size in sizes]
    ends = [state.data_ptr() for state in finals]
    begins, found = found[1 : 1 + len(hx)], found[1 + len(hx) :]
    per_layer = directions * len(of_layer)
    strides = [directions * batch * size * input.itemsize for size in sizes]
    for layer in range(num_layers):
        out = input.new_empty(steps, batch, directions * k)
        start = layer * per_layer
        cpp.layer(
            spec,
            input,
            (steps, batch, directions, input.shape[2], hidden_size, k),
            bias,
            found[start : start + per_layer],
            [address + layer * stride for address, stride in zip(begins, strides, strict=False)],
            out,
            [address + layer * stride for address, stride in zip(ends, strides, strict=True)],
        )
        input = out
    return input, finals


def cell(
    spec: CellSpec,
    input: Tensor,
    states: Sequence[Tensor],
    weights: Sequence[Tensor],
    hidden_size: int,
    backend: str | None,
) -> list[Tensor] | None:
    """One step of a cell: input ``[B, I]``, states ``[B, H]`` (or none), weights as torch has them.

    Returns:
        the new states, or None if it is not that simple.
    """
    batch, features = input.shape
    if not batch or not _simple(spec):
        return None
    width, state = spec.num_gates * hidden_size, (batch, hidden_size)
    shapes: list[Sequence[int]] = [
        input.shape,
        *[state] * len(states),
        (width, features),
        (width, hidden_size),
    ]
    bias = len(weights) == 4
    if bias:
        shapes += [(width,), (width,)]
    found = _addresses(spec, input.dtype, backend, [input, *states, *weights], shapes)
    if found is None:
        return None
    finals = [input.new_empty(batch, hidden_size) for _ in spec.states]
    first = 1 + len(states)
    cpp.layer(
        spec,
        input,
        (1, batch, 1, features, hidden_size, hidden_size),
        bias,
        found[first:],
        found[1:first],
        finals[0],
        [state.data_ptr() for state in finals],
    )
    return finals


def _addresses(
    spec: CellSpec,
    dtype: torch.dtype,
    backend: str | None,
    tensors: list[Tensor],
    shapes: list[Sequence[int]],
) -> list[int] | None:
    """Those of the tensors, if they are as simple as that and the kernels take them."""
    if backends.requested(backend) not in (None, "cpp") or cpp.why_not(spec, _CPU, dtype):
        return None
    return cpp.addresses(dtype, tensors, shapes)


def _simple(spec: CellSpec) -> bool:
    """Whether the extension takes all of such a layer's weights in one call."""
    return spec.recurrent and not (spec.params or spec.whole_row or spec.second)


_CPU = torch.device("cpu")
