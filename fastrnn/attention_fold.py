"""Attention under vmap: V calls become one, whose batch is V times as large."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .reference_attention import Inputs

_BATCHED = ("query", "key", "value", "vector", "first", "last", "centre", "width")


def _fold_one(tensor: Tensor, dim: int | None, size: int) -> Tensor:
    """``[V*B, ...]`` of V tensors ``[B, ...]`` or of one that all share."""
    if dim is None:
        spread = tensor.unsqueeze(0).expand(size, *tensor.shape)
    else:
        spread = tensor.movedim(dim, 0)
    return spread.flatten(0, 1)


def _fold(size: int, in_dims: Sequence[Any], arguments: Sequence[Any], batch: int) -> list[Any]:
    """The `Inputs` of one call."""
    inputs, dims = Inputs(*arguments), Inputs(*in_dims)  # dims: an int, or None, for each
    if dims.seed is not None:
        raise ValueError("vmap over the seed of dropout is not possible: one must serve all")
    folded: dict[str, Tensor] = {}
    for name in _BATCHED:
        tensor = getattr(inputs, name)
        if tensor is not None:
            folded[name] = _fold_one(tensor, getattr(dims, name), size)
    mask_dim: Any = dims.mask
    if inputs.mask is not None:
        mask = inputs.mask.unsqueeze(0) if mask_dim is None else inputs.mask.movedim(mask_dim, 0)
        folded["mask"] = mask.expand(size, batch, *mask.shape[2:]).flatten(0, 1)
    return list(inputs.replace(**folded))


def _batch(query: Tensor, dim: int | None) -> int:
    return next(size for d, size in enumerate(query.shape) if d != dim)


def _unfold(tensor: Tensor, size: int, batch: int) -> Tensor:
    return tensor.unflatten(0, (size, batch))


def attention(info: Any, in_dims: Sequence[Any], *arguments: Any) -> Any:
    """The rule of the operator ``fastrnn::attention``."""
    size, batch = info.batch_size, _batch(arguments[1], in_dims[1])
    out, lse, found = torch.ops.fastrnn.attention(*_fold(size, in_dims, arguments, batch))
    results = (
        _unfold(out, size, batch),
        _unfold(lse, size, batch),
        [_unfold(each, size, batch) for each in found],
    )
    return results, (0, 0, [0] * len(found))


def attention_backward(info: Any, in_dims: Sequence[Any], *arguments: Any) -> Any:
    """The rule of the operator ``fastrnn::attention_backward``."""
    count = len(Inputs._fields)
    size, batch = info.batch_size, _batch(arguments[1], in_dims[1])
    inputs = _fold(size, in_dims[:count], arguments[:count], batch)
    out, lse, found, grad_out, grad_lse, grad_found, with_mask = arguments[count:]
    out_dim, lse_dim, found_dims, grad_dim, grad_lse_dim, grad_found_dims, _ = in_dims[count:]

    def fold_all(tensors: Sequence[Tensor], dims: Sequence[Any] | None) -> list[Tensor]:
        dims = dims or [None] * len(tensors)
        return [_fold_one(t, dim, size) for t, dim in zip(tensors, dims, strict=True)]

    gradients = torch.ops.fastrnn.attention_backward(
        *inputs,
        _fold_one(out, out_dim, size),
        _fold_one(lse, lse_dim, size),
        fold_all(found, found_dims),
        _fold_one(grad_out, grad_dim, size),
        None if grad_lse is None else _fold_one(grad_lse, grad_lse_dim, size),
        fold_all(grad_found, grad_found_dims),
        with_mask,
    )
    results = [_unfold(gradient, size, batch) for gradient in gradients]
    if with_mask:
        mask, dim = arguments[Inputs._fields.index("mask")], in_dims[Inputs._fields.index("mask")]
        own = [s for d, s in enumerate(mask.shape) if d != dim]
        if own[0] == 1:  # one mask for the whole batch
            results[-1] = results[-1].sum(1, keepdim=True)
    return results, [0] * len(results)
