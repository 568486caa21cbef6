"""Argument checks, run before any kernel: torch's words where torch has them.

Each error names the argument, what came and what was wanted. Shapes are read, data never
is, so the checks trace and cost no synchronisation.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from .cells import CellSpec

_COUNTS = ("no", "one", "two", "three")
_HIDDEN = ("hidden0", "hidden1", "hidden2")
# The dtypes that autocast casts to one another.
_AUTOCAST = (torch.float32, torch.float16, torch.bfloat16)


def check_flag(name: str, value: object) -> None:
    """Raises TypeError unless it is True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} should be of type bool, got: {type(value).__name__}")


def check_not_nested(title: str, tensor: Tensor) -> None:
    """Raises NotImplementedError if it is a nested tensor, as torch's LSTM does."""
    if tensor.is_nested:
        raise NotImplementedError(
            f"{title} does not support NestedTensor: pad the sequences and pass lengths"
        )


def check_cell(
    spec: CellSpec,
    input: Tensor,
    states: Sequence[Tensor],
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias_ih: Tensor | None = None,
    bias_hh: Tensor | None = None,
) -> None:
    """Check the arguments of one step of a cell: input ``[B, I]``, each state ``[B, H]``.

    Sizes come from the weights, ``weight_ih [G*H, I]`` and ``weight_hh [G*H, H]``, in
    ATen's order, so that a call with two faults reports the one that torch reports.

    Raises:
        RuntimeError: the number of states, a shape, a dtype or a device is wrong.
    """
    if len(states) != len(spec.states):
        raise RuntimeError(f"{spec.name}_cell expects {_COUNTS[len(spec.states)]} hidden states")
    if input.dim() != 2:
        raise RuntimeError(f"input must have 2 dimensions, got {input.dim()}")
    for name, weight in (("weight_ih", weight_ih), ("weight_hh", weight_hh)):
        if weight.dim() != 2:
            raise RuntimeError(f"{name} must have 2 dimensions, got {weight.dim()}")
    batch, input_size = input.shape
    rows, expected_input = weight_ih.shape
    hidden = weight_hh.shape[1]
    if input_size != expected_input:
        raise RuntimeError(
            f"input has inconsistent input_size: got {input_size} expected {expected_input}"
        )
    for index, state in enumerate(states):
        _check_cell_state(index, state, batch, hidden)

    if rows != spec.num_gates * hidden:
        raise RuntimeError(
            f"weight_ih must have {spec.num_gates}*{hidden} rows for weight_hh with {hidden} "
            f"columns, got {list(weight_ih.shape)}"
        )
    check_shape("weight_hh", weight_hh, (rows, hidden))
    if bias_ih is not None:
        check_shape("bias_ih", bias_ih, (rows,))
    if bias_hh is not None:
        check_shape("bias_hh", bias_hh, (rows,))
    check_agreement(
        input,
        (*_HIDDEN[: len(states)], "weight_ih", "weight_hh", "bias_ih", "bias_hh"),
        (*states, weight_ih, weight_hh, bias_ih, bias_hh),
    )


def _check_cell_state(index: int, state: Tensor, batch: int, hidden: int) -> None:
    shape = state.shape
    # A state that lacks the batch dimension, or has one too many, is told in ATen's words
    # as far as these go; ATen itself reads only the first two dimensions.
    if len(shape) > 0 and shape[0] != batch:
        raise RuntimeError(
            f"Input batch size {batch} doesn't match hidden{index} batch size {shape[0]}"
        )
    if len(shape) > 1 and shape[1] != hidden:
        raise RuntimeError(
            f"hidden{index} has inconsistent hidden_size: got {shape[1]}, expected {hidden}"
        )
    if len(shape) != 2:
        raise RuntimeError(f"hidden{index} must have 2 dimensions, got {len(shape)}")


def check_shape(name: str, tensor: Tensor, expected: tuple[int, ...]) -> None:
    """Raises RuntimeError unless ``tensor`` has exactly the ``expected`` shape."""
    if tensor.shape != expected:
        raise RuntimeError(f"Expected {name} size {expected}, got {list(tensor.shape)}")


def check_agreement(input: Tensor, names: Iterable[str], tensors: Iterable[Tensor | None]) -> None:
    """Check that each tensor has the input's device and dtype; under autocast, a dtype it casts.

    Raises:
        RuntimeError: one does not; the text names it.
    """
    device, dtype = input.device, input.dtype
    for name, tensor in zip(names, tensors, strict=True):
        if tensor is None:
            continue
        if tensor.device != device:
            raise RuntimeError(
                "Expected all tensors to be on the same device, but "
                f"input is on {device} and {name} is on {tensor.device}"
            )
        if tensor.dtype != dtype and not _autocast_unites(device, dtype, tensor.dtype):
            raise RuntimeError(
                "Expected all tensors to have the same dtype, but "
                f"input has {dtype} and {name} has {tensor.dtype}"
            )


def _autocast_unites(device: torch.device, *dtypes: torch.dtype) -> bool:
    return (
        device.type != "meta"
        and torch.is_autocast_enabled(device.type)
        and all(dtype in _AUTOCAST for dtype in dtypes)
    )
