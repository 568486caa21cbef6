"""The C++ backend of attention: hands tensors to the extension as addresses and strides."""

from __future__ import annotations

import torch
from torch import Tensor

from . import cpp, philox, precision
from .reference import accumulation_dtype
from .reference_attention import LOG_PROBABILITIES, Inputs

if cpp._missing is None:
    from . import _C

    _SCORES = frozenset(_C.attention_scores())

_NOTHING = (0, 0, 0, 0)
_ENOUGH_TASKS = 16  # for the gradients: more processors than that share few heads' work worse
_SLICE = 256  # keys at least
_TILE = 32  # queries, at least, of what is multiplied in terms: few ones are not


def why_not(kind: str, device: torch.device, dtype: torch.dtype) -> str | None:
    """The reason this backend cannot serve, None if it can."""
    reason = cpp.why_not_at_all(device, dtype)
    if reason is None and kind not in _SCORES:
        return f"it has no kernel for the score {kind!r}"
    return reason


def kind_of(dtype: torch.dtype) -> int:
    """The kernels' number for a dtype: for float32 that of the terms that products take it in.

    Where there are no matrix tiles for them all are float32's own products.
    """
    terms = precision.terms(_TILE) if dtype is torch.float32 else 0
    return 3 + terms if terms else cpp._DTYPES[dtype]


def slices(batch: int, heads: int, keys: int) -> int:
    """Into how many parts the keys are cut for the gradients.

    By the sizes alone: each part has a sum of its own for the queries' gradients, and what
    is added in which order shall not depend on the machine.
    """
    return max(1, min(-(-_ENOUGH_TASKS // max(batch * heads, 1)), keys // _SLICE))


def _four(tensor: Tensor | None) -> tuple[int, ...]:
    """Address and strides of ``[B, H, T]`` or ``[B, H, T, X]``, X dense."""
    return _NOTHING if tensor is None else (tensor.data_ptr(), *tensor.stride()[:3])


def _vector(tensor: Tensor | None) -> tuple[int, ...]:
    return _NOTHING if tensor is None else (tensor.data_ptr(), *tensor.stride()[:2], 0)


def _dense(tensor: Tensor) -> Tensor:
    return tensor if tensor.stride(-1) == 1 or tensor.shape[-1] < 2 else tensor.contiguous()


def _mask(inputs: Inputs) -> tuple[Tensor | None, int, tuple[int, ...]]:
    """The mask to keep alive, its kind, its address and strides: 0 where it is broadcast."""
    mask = inputs.mask
    if mask is None:
        return None, 0, (0, 0, 0, 0, 0)
    if mask.dtype != torch.bool:
        mask = mask.to(inputs.query.dtype)
    mask = _dense(mask)
    strides = [
        0 if size == 1 else step for size, step in zip(mask.shape, mask.stride(), strict=True)
    ]
    return mask, 1 if mask.dtype == torch.bool else 2, (mask.data_ptr(), *strides)


class _Call:
    """The common arguments of a forward and a backward, and the tensors they point to."""

    def __init__(self, inputs: Inputs) -> None:
        query, key, value = (_dense(t) for t in (inputs.query, inputs.key, inputs.value))
        vector = None if inputs.vector is None else _dense(inputs.vector)
        mask, mask_kind, mask_layout = _mask(inputs)
        ranges = (inputs.first, inputs.last, inputs.centre, inputs.width)
        p = inputs.dropout_p
        seed = 0
        if p > 0:
            assert inputs.seed is not None
            seed = int(inputs.seed) & (2**64 - 1)
        batch, heads, queries, width = query.shape
        self.alive = (query, key, value, vector, mask, *ranges)
        self.sizes = (batch, heads, key.shape[1], queries, key.shape[2], width, value.shape[3])
        self.arguments = _C.AttentionCall(
            self.sizes,
            [_four(query), _four(key), _four(value)],
            _vector(vector),
            mask_kind,
            mask_layout,
            [_four(each) for each in ranges],
            seed,
            max(inputs.drawn_heads, 1),
            philox.threshold(p),
            1 / (1 - p) if p < 1 else 0.0,
            inputs.scale,
            inputs.softcap,
            inputs.extra,
        )


def results(inputs: Inputs) -> tuple[Tensor, Tensor, list[Tensor]]:
    """What `attention` returns, not yet filled."""
    query = inputs.query
    batch, heads, queries, _ = query.shape
    keys, width = inputs.key.shape[2], inputs.value.shape[3]
    out = query.new_empty(batch, heads, queries, width)
    lse = query.new_empty(batch, heads, queries, dtype=accumulation_dtype(query.dtype))
    found = [query.new_empty(batch, heads, queries, keys)] if inputs.extra else []
    return out, lse, found


def attention(inputs: Inputs) -> tuple[Tensor, Tensor, list[Tensor]]:
    """As `fastrnn.reference_attention.attention`."""
    out, lse, found = results(inputs)
    if lse.numel() == 0:
        return out, lse, found
    call = _Call(inputs)
    _C.attention_forward(
        inputs.kind,
        kind_of(inputs.query.dtype),
        torch.get_num_threads(),
        call.arguments,
        _four(out),
        _four(lse),
        _four(found[0] if found else None),
    )
    return out, lse, found


def gradients(inputs: Inputs, with_mask: bool) -> list[Tensor]:
    """What `attention_backward` returns, not yet filled.

    Gradients of query, key and value; of vector, of centre and width where there are such;
    of the mask where it is wanted.
    """
    query = inputs.query
    found = [query.new_empty(t.shape) for t in (query, inputs.key, inputs.value)]
    if inputs.vector is not None:
        found.append(query.new_empty(inputs.vector.shape))
    if inputs.centre is not None:
        wide = accumulation_dtype(query.dtype)
        found += [query.new_empty(query.shape[:3], dtype=wide) for _ in range(2)]
    if with_mask:
        assert inputs.mask is not None
        found.append(query.new_empty(inputs.mask.shape, dtype=inputs.mask.dtype))
    return found


def attention_backward(
    inputs: Inputs,
    out: Tensor,
    lse: Tensor,
    found: list[Tensor],
    grad_out: Tensor,
    grad_lse: Tensor | None,
    grad_found: list[Tensor],
    with_mask: bool,
) -> list[Tensor]:
    """The gradients of `gradients`."""
    grads = gradients(inputs, with_mask)
    if lse.numel() == 0:
        return [grad.zero_() for grad in grads]
    call = _Call(inputs)
    batch, heads, kv_heads, _, keys, width, _ = call.sizes
    wide, kind = lse.dtype, kind_of(inputs.query.dtype)
    out, grad_out = _dense(out), _dense(grad_out)
    grad_extra = _dense(grad_found[0]) if grad_found else None
    grad_row = None if grad_lse is None else grad_lse.to(wide)
    if grad_extra is not None:
        # The softmax takes a weighted mean off the gradients, of these as of the values'.
        pull = grad_extra.to(wide)
        if inputs.extra != LOG_PROBABILITIES:
            pull = pull * found[0]
        pull = pull.sum(-1)
        grad_row = -pull if grad_row is None else grad_row - pull
    parts = slices(batch, kv_heads, keys)
    grad_vector = grad_mask = None
    mask_sizes: tuple[int, ...] = (1, 1, 1, 1)
    if inputs.vector is not None:
        rows = _C.attention_vector_row(inputs.kind, kind, width)
        grad_vector = lse.new_empty(batch, heads, parts, rows)
    if with_mask:
        assert inputs.mask is not None
        mask_sizes = tuple(inputs.mask.shape)
        grad_mask = lse.new_empty(mask_sizes)
    per_query = grads[-3 if with_mask else -2 :][:2] if inputs.centre is not None else (None, None)
    _C.attention_backward(
        inputs.kind,
        kind,
        torch.get_num_threads(),
        call.arguments,
        _four(out),
        _four(lse),
        _four(grad_out),
        _four(grad_extra),
        _four(grad_row),
        [_four(grad) for grad in grads[:3]],
        [_four(grad) for grad in per_query],
        parts,
        0 if grad_vector is None else grad_vector.data_ptr(),
        0 if grad_mask is None else grad_mask.data_ptr(),
        mask_sizes,
    )
    if grad_vector is not None:
        grads[3].copy_(grad_vector.sum(2)[..., :width] * inputs.scale)
    if grad_mask is not None:
        grads[-1].copy_(grad_mask)
    return grads
