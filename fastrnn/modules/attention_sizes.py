"""Checks of what is given to the attentions of recurrent models, by the names they have there."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..attention_checks import check_lengths as check_numbers


def _tensor(name: str, value: Any) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"argument '{name}' must be Tensor, not {type(value).__name__}")


def check_memory(memory: Any, size: int, weight: Tensor | None) -> None:
    """Raises RuntimeError unless ``[B, Tk, M]`` of the dtype of the weights, if there are any."""
    _tensor("memory", memory)
    if memory.dim() != 3 or memory.shape[2] != size:
        raise RuntimeError(f"Expected memory size [B, Tk, {size}], got {list(memory.shape)}")
    if weight is not None and not torch.is_autocast_enabled(memory.device.type):
        if memory.dtype != weight.dtype:
            raise RuntimeError(f"Expected memory of {weight.dtype}, got {memory.dtype}")


def check_query(query: Any, size: int, memory: Tensor) -> None:
    """Raises RuntimeError unless ``[B, Tq, Q]`` or ``[B, Q]``, as many as there are memories."""
    _tensor("query", query)
    if query.dim() not in (2, 3) or query.shape[-1] != size:
        raise RuntimeError(
            f"Expected query size [B, Tq, {size}] or [B, {size}], got {list(query.shape)}"
        )
    batches = query.shape[0], memory.shape[0]
    if batches[0] != batches[1] and 1 not in batches:
        raise RuntimeError(
            f"Expected query and memory to have the same batch size, got {list(query.shape)} "
            f"and {list(memory.shape)}"
        )
    if query.dtype != memory.dtype and not torch.is_autocast_enabled(query.device.type):
        raise RuntimeError(
            f"Expected query and memory to have the same dtype, got {query.dtype} and "
            f"{memory.dtype}"
        )


def check_lengths(lengths: Any, memory: Tensor) -> None:
    """Raises RuntimeError or ValueError unless ``[B]`` numbers between 0 and Tk."""
    if lengths is not None:
        _tensor("lengths", lengths)
        check_numbers("lengths", lengths, memory.shape[0], memory.shape[1], memory)


def check_previous(weights: Any, memory: Tensor) -> None:
    """Raises RuntimeError unless ``[B, Tk]`` of the memory's dtype."""
    _tensor("previous_weights", weights)
    if weights.shape != memory.shape[:2] or weights.dtype != memory.dtype:
        raise RuntimeError(
            f"Expected previous_weights size {list(memory.shape[:2])} of {memory.dtype}, got "
            f"{list(weights.shape)} of {weights.dtype}"
        )


def check_target(target: Any, query: Tensor) -> None:
    """Raises RuntimeError unless int64, one for each query ``[B, Tq, Q]`` or ``[B, Q]``."""
    _tensor("target", target)
    if target.shape != query.shape[:-1] or target.dtype != torch.int64:
        raise RuntimeError(
            f"Expected target to be int64 of size {list(query.shape[:-1])}, got {target.dtype} "
            f"of size {list(target.shape)}"
        )
