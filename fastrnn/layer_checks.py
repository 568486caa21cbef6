"""Checks of a whole stack of layers' arguments, run before any kernel."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from .cells import CellSpec
from .checks import check_not_nested, check_shape
from .forms import Bias, check_heads, weight_names, weight_shapes
from .operators import watched


def check_layers(
    spec: CellSpec,
    input: Tensor,
    hx: Sequence[Tensor],
    weights: Sequence[Tensor],
    bias: Bias,
    num_layers: int,
    directions: int,
    batch_first: bool,
    batch_sizes: Tensor | None,
    num_heads: int = 1,
) -> None:
    """Check input, initial states (none, or one for each of the cell's) and flat weights.

    Raises:
        RuntimeError: a number of dimensions, size, dtype or device is wrong, or there
            are no time steps.
        ValueError: ``batch_sizes`` is not what a `PackedSequence` holds, or the number
            of weights fits no stack.
    """
    _check_tensors("input", (input,))
    _check_tensors("hidden", hx)
    _check_tensors("weights", weights)
    if num_layers < 1:
        raise ValueError("num_layers must be greater than zero")
    rank = 3 if batch_sizes is None else 2
    if input.dim() != rank:
        raise RuntimeError(f"input must have {rank} dimensions, got {input.dim()}")
    if hx and len(hx) != len(spec.states):
        raise RuntimeError(
            f"{spec.name} has the states {', '.join(spec.states)}: expected {len(spec.states)} "
            f"initial states, got {len(hx)}"
        )
    each = len(weights) // (num_layers * directions)  # no divmod: torch 2.6 does not trace it
    remainder = len(weights) % (num_layers * directions)
    plain = len(weight_names(spec, bias))
    projects = spec.projects and num_heads == 1
    if remainder or not plain <= each <= plain + projects:
        more = " (one more with a projection)" if projects else ""
        raise ValueError(
            f"expected {plain} weights{more} for each of {num_layers} "
            f"layers and {directions} directions, got {len(weights)} in all"
        )
    projected = each > plain
    if batch_sizes is None:
        steps, batch = (1, 0) if batch_first else (0, 1)
        if input.shape[steps] == 0:
            raise RuntimeError("Expected sequence length to be larger than 0 in RNN")
        batch = input.shape[batch]
    else:
        _check_batch_sizes(batch_sizes, input)
        batch = hx[0].shape[1] if hx and hx[0].dim() == 3 else int(batch_sizes[0])

    _check_same(input, "hidden", hx)
    _check_same(input, "parameter", weights)
    if weights[0].dim() != 2:
        raise RuntimeError(f"weight_ih_l0 must have 2 dimensions, got {weights[0].dim()}")
    if projected and weights[each - 1].dim() != 2:
        raise RuntimeError(f"weight_hr_l0 must have 2 dimensions, got {weights[each - 1].dim()}")
    hidden = weights[0].shape[0] // spec.num_gates
    k = weights[each - 1].shape[0] if projected else hidden
    check_heads(num_heads, hidden)
    shapes = [
        weight_shapes(spec, bias, features, hidden, k if projected else 0, num_heads)
        for features in (input.shape[-1], directions * k)
    ]
    _check_weights(shapes, weights, directions)
    for index, state in enumerate(hx):
        expected = (num_layers * directions, batch, hidden if index else k)
        check_shape(f"hidden[{index}]" if len(hx) > 1 else "hidden", state, expected)


def _check_tensors(what: str, values: Sequence[object]) -> None:
    for value in values:
        if not isinstance(value, Tensor):
            raise TypeError(f"{what} should be a tensor, got {type(value).__name__}")
        check_not_nested(what, value)


def _check_same(input: Tensor, what: str, others: Sequence[Tensor]) -> None:
    """Same device and dtype as the input; in ATen's words."""
    device, dtype = input.device, input.dtype
    for other in others:
        if other.device != device:
            raise RuntimeError(
                f"Input and {what} tensors are not at the same device, found input tensor at "
                f"{input.device} and {what} tensor at {other.device}"
            )
        if other.dtype != dtype:
            raise RuntimeError(
                f"Input and {what} tensors are not the same dtype, found input tensor with "
                f"{input.dtype} and {what} tensor with {other.dtype}"
            )


def _check_weights(
    shapes: Sequence[dict[str, tuple[int, ...]]], weights: Sequence[Tensor], directions: int
) -> None:
    """Those of the first layer, and of all others."""
    each = len(shapes[0])
    for start in range(0, len(weights), each):
        layer, backwards = divmod(start // each, directions)
        for i, (name, shape) in enumerate(shapes[min(layer, 1)].items()):
            if weights[start + i].shape != shape:
                name = f"{name}_l{layer}" + ("_reverse" if backwards else "")
                check_shape(name, weights[start + i], shape)


def _check_batch_sizes(batch_sizes: Tensor, input: Tensor) -> None:
    _check_tensors("batch_sizes", (batch_sizes,))
    if batch_sizes.device.type != "cpu" or batch_sizes.dtype != torch.int64:
        raise ValueError(
            "batch_sizes should be an int64 tensor on the CPU, "
            f"got {batch_sizes.dtype} on {batch_sizes.device}"
        )
    if batch_sizes.dim() != 1:
        raise ValueError(f"batch_sizes should have 1 dimension, got {batch_sizes.dim()}")
    if batch_sizes.shape[0] == 0:
        raise RuntimeError("Expected sequence length to be larger than 0 in RNN")
    if watched((batch_sizes,)) or input.device.type == "meta":
        return  # values are not there to be read; the kernel reads them before it runs
    sizes = batch_sizes.tolist()
    if sizes[-1] < 0 or any(a < b for a, b in pairwise(sizes)):
        raise ValueError(f"batch_sizes should be non-negative and in decreasing order, got {sizes}")
    if sum(sizes) != input.shape[0]:
        raise ValueError(
            f"batch_sizes should sum to the number of rows of the input, {input.shape[0]}, "
            f"got {sum(sizes)}"
        )
