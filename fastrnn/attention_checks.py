"""Checks of an attention call, run before any kernel: torch's words where torch has them.

Shapes are always checked. Numbers (lengths, starts of sequences) only where they lie at hand,
on the CPU and outside of tracing; a kernel cuts what it is given to the keys there are.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .checks import check_not_nested
from .operators import watched
from .scores import SCORES, ScoreSpec

_LARGEST = int(torch.finfo(torch.float64).max)
_NO_LIMIT = 2**31  # more keys than there can be
_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def check_score(name: Any, operands: Mapping[str, Any]) -> ScoreSpec:
    """The score of that name, given what belongs to it.

    Raises:
        ValueError: there is no such score, or it lacks an operand.
        TypeError: it was given what it does not take.
    """
    if not isinstance(name, str) or name not in SCORES:
        raise ValueError(f"score should be one of {', '.join(SCORES)}, got: {name!r}")
    spec = SCORES[name]
    for operand, value in operands.items():
        if value is None:
            continue
        if operand not in spec.operands:
            raise TypeError(f"score {name!r} takes no argument {operand!r}")
        number = operand in ("temperature", "gain") and isinstance(value, (int, float))
        if not isinstance(value, Tensor) and not number:
            raise TypeError(
                f"attention(): argument '{operand}' must be Tensor, not {type(value).__name__}"
            )
    for operand in spec.required:
        if operands.get(operand) is None:
            raise ValueError(f"score {name!r} needs the argument {operand!r}")
    return spec


def check_tensors(tensors: Mapping[str, Any]) -> None:
    """Raises TypeError unless each is a Tensor or None, NotImplementedError for nested ones."""
    for name, tensor in tensors.items():
        if tensor is None:
            continue
        if not isinstance(tensor, Tensor):
            raise TypeError(
                f"attention(): argument '{name}' must be Tensor, not {type(tensor).__name__}"
            )
        check_not_nested("attention()", tensor)


def check_inputs(query: Tensor, key: Tensor, value: Tensor, enable_gqa: bool) -> None:
    """Check ``query [..., H, Tq, E], key [..., Hk, Tk, E], value [..., Hk, Tk, Ev]``.

    Raises:
        RuntimeError: they do not go together.
    """
    named = {"query": query, "key": key, "value": value}
    ranks = {name: tensor.dim() for name, tensor in named.items()}
    if min(ranks.values()) < 2:
        raise RuntimeError(
            "Expected query, key, and value to all be  at least 2 dimensional, but got query.dim: "
            f"{ranks['query']} key.dim: {ranks['key']} and value.dim: {ranks['value']} instead."
        )
    if len({tensor.device for tensor in named.values()}) > 1:
        raise RuntimeError(
            "Expected query, key, and value to have the same device type, but got "
            f"query.device: {query.device} key.device: {key.device} and "
            f"value.device: {value.device} instead."
        )
    if len({tensor.dtype for tensor in named.values()}) > 1:
        raise RuntimeError(
            "Expected query, key, and value to have the same dtype, but got "
            f"query.dtype: {_name(query)} key.dtype: {_name(key)} and "
            f"value.dtype: {_name(value)} instead."
        )
    if len({tensor.layout for tensor in named.values()} | {torch.strided}) > 1:
        raise RuntimeError(
            "Expected query, key, and value to be strided, but got "
            f"{query.layout}, {key.layout} and {value.layout}"
        )
    if query.dtype not in _DTYPES:
        raise RuntimeError(
            f"Expected query, key, and value to be floating point, but got {_name(query)}"
        )
    if key.shape[-2] != value.shape[-2]:
        raise RuntimeError(
            "Expected key and value to have the same sequence length, but got "
            f"key: {list(key.shape)} and value: {list(value.shape)}"
        )
    if enable_gqa:
        if min(ranks.values()) < 3:
            raise RuntimeError("enable_gqa needs query, key and value of at least 3 dimensions")
        heads = [tensor.shape[-3] for tensor in named.values()]
        if heads[1] != heads[2] or not heads[1] or heads[0] % heads[1]:
            raise RuntimeError(
                "Number of heads in key and value must divide the number of heads in query, "
                f"and be the same, got query: {heads[0]}, key: {heads[1]}, value: {heads[2]}"
            )


def _name(tensor: Tensor) -> str:
    name = str(tensor.dtype).removeprefix("torch.")
    return {"float32": "float", "float64": "double", "int32": "int", "int64": "long"}.get(
        name, name
    )


def check_mask(mask: Tensor, query: Tensor, shape: tuple[int, ...]) -> None:
    """Check a mask that is to be broadcast to ``shape``, ``[..., Tq, Tk]``.

    Raises:
        RuntimeError: it cannot, or is of another kind or device than the query.
    """
    if mask.dtype not in (torch.bool, torch.float32, query.dtype):
        raise RuntimeError(
            "Expected attn_mask dtype to be bool or float or to match query dtype, but got "
            f"attn_mask.dtype: {_name(mask)} and  query.dtype: {_name(query)} instead."
        )
    if mask.device != query.device:
        raise RuntimeError(
            "Expected all tensors to be on the same device, but "
            f"query is on {query.device} and attn_mask is on {mask.device}"
        )
    extra = mask.dim() - len(shape)
    if extra > 0 and any(size != 1 for size in mask.shape[:extra]):
        raise RuntimeError(
            f"Expected attn_mask broadcastable to {list(shape)}, got {list(mask.shape)}"
        )
    for i in range(1, min(mask.dim(), len(shape)) + 1):
        if mask.shape[-i] not in (1, shape[-i]):
            raise RuntimeError(
                f"The size of tensor a ({shape[-i]}) must match the size of tensor b "
                f"({mask.shape[-i]}) at non-singleton dimension {len(shape) - i}: expected "
                f"attn_mask broadcastable to {list(shape)}, got {list(mask.shape)}"
            )


def check_options(
    dropout_p: Any, scale: Any, softcap: Any, alignment: Any, seed: Any, is_causal: Any
) -> None:
    """Check what is no tensor.

    Raises:
        ValueError, TypeError: it is out of range, or of the wrong kind.
    """
    check_number("dropout_p", dropout_p)
    for name, value in (("scale", scale), ("softcap", softcap)):
        if value is not None:
            check_number(name, value)
    if not 0 <= dropout_p <= 1:
        raise RuntimeError(f"dropout probability has to be between 0 and 1, but got {dropout_p}")
    if softcap is not None and not 0 < softcap < math.inf:
        raise ValueError(f"softcap should be a positive number or None, got: {softcap}")
    if alignment not in ("top_left", "bottom_right"):
        raise ValueError(
            f"causal_alignment should be 'top_left' or 'bottom_right', got: {alignment!r}"
        )
    if not isinstance(is_causal, bool):
        raise TypeError(
            f"attention(): argument 'is_causal' must be bool, not {type(is_causal).__name__}"
        )
    if seed is not None and not isinstance(seed, int):
        if not isinstance(seed, Tensor) or seed.dtype != torch.int64 or seed.numel() != 1:
            raise TypeError("attention(): argument 'seed' must be int or a Tensor of one int64")


def check_number(name: str, value: Any) -> None:
    """Raises TypeError unless it is a number, ValueError where no float is as large."""
    if isinstance(value, bool) or not isinstance(value, (int, float, torch.SymFloat, torch.SymInt)):
        raise TypeError(f"attention(): argument '{name}' must be float, not {type(value).__name__}")
    if isinstance(value, int) and abs(value) > _LARGEST:
        raise ValueError(
            f"{name} should be a number that a float can hold, got about 2**{value.bit_length()}"
        )


def check_window(window: Any) -> tuple[int | None, int | None]:
    """``(before, after)`` of a window given as one number or two, at most 2^31 each.

    Raises:
        ValueError: negative numbers, or not two.
        TypeError: no whole numbers.
    """
    pair = (window, window) if window is None or isinstance(window, int) else window
    if not isinstance(pair, (tuple, list)):
        raise TypeError(
            "attention(): argument 'window' must be int or a tuple of two, "
            f"not {type(window).__name__}"
        )
    if len(pair) != 2:
        raise ValueError(f"window should be one number or two, got: {window!r}")
    for side in pair:
        if side is not None and (isinstance(side, bool) or not isinstance(side, int)):
            raise TypeError(f"window should be of whole numbers or None, got: {window!r}")
        if side is not None and side < 0:
            raise ValueError(f"window should not be negative, got: {window!r}")
    before, after = (None if side is None else min(side, _NO_LIMIT) for side in pair)
    return before, after


def check_lengths(name: str, lengths: Tensor, batch: int, limit: int, query: Tensor) -> None:
    """Check ``[B]`` lengths of padded sequences, between 0 and ``limit``.

    Raises:
        RuntimeError: wrong shape, dtype or device.
        ValueError: a length is out of range.
    """
    _check_counts(name, lengths, query)
    if lengths.shape != (batch,):
        raise RuntimeError(f"Expected {name} size [{batch}], got {list(lengths.shape)}")
    if lengths.numel() and _at_hand(lengths):
        low, high = int(lengths.min()), int(lengths.max())
        if low < 0 or high > limit:
            raise ValueError(
                f"{name} should be between 0 and the sequence length {limit}, got "
                f"{low if low < 0 else high}"
            )


def check_cu_seqlens(name: str, starts: Tensor, limit: int, query: Tensor) -> None:
    """Check ``[sequences + 1]`` bounds of packed sequences: 0, ascending, at most ``limit``.

    Raises:
        RuntimeError: wrong shape, dtype or device.
        ValueError: they do not start at 0, descend, or reach over the end.
    """
    _check_counts(name, starts, query)
    if starts.dim() != 1 or starts.shape[0] < 1:
        raise RuntimeError(f"Expected {name} of one dimension and at least one number, "
                           f"got {list(starts.shape)}")  # fmt: skip
    if _at_hand(starts):
        numbers = starts.tolist()
        if numbers[0] != 0:
            raise ValueError(f"{name} should start with 0, got {numbers[0]}")
        if any(a > b for a, b in itertools.pairwise(numbers)):
            raise ValueError(f"{name} should be in ascending order, got {numbers}")
        if numbers[-1] > limit:
            raise ValueError(
                f"{name} should end at the sequence length {limit} at most, got {numbers[-1]}"
            )


def _check_counts(name: str, tensor: Tensor, query: Tensor) -> None:
    if tensor.dtype not in (torch.int32, torch.int64):
        raise RuntimeError(f"Expected {name} to be int32 or int64, got {_name(tensor)}")
    if tensor.device != query.device:
        raise RuntimeError(
            "Expected all tensors to be on the same device, but "
            f"query is on {query.device} and {name} is on {tensor.device}"
        )


def _at_hand(tensor: Tensor) -> bool:
    return not watched((tensor,))
