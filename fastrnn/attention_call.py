"""A call of attention checked, and brought from the caller's shapes into the operator's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.attention.bias import CausalBias

from . import attention_checks as checks
from .ranges import key_ranges
from .reference import accumulation_dtype
from .reference_attention import Inputs
from .scores import ScoreSpec

_NARROW = (torch.float32, torch.float16, torch.bfloat16)
_ALIGNMENTS = {"UPPER_LEFT": "top_left", "LOWER_RIGHT": "bottom_right"}


class Call(NamedTuple):
    """A checked call: what the operator takes, and the way back to the caller's shapes."""

    spec: ScoreSpec
    inputs: Inputs
    shape: tuple[int, ...]  # [..., H, Tq, E] of the query, leading sizes broadcast

    def restore(self, tensor: Tensor) -> Tensor:
        """``[B, H, Tq, ...]`` as the caller has it."""
        return tensor.reshape(*self.shape[:-1], *tensor.shape[3:])


def prepare(
    query: Tensor,
    key: Tensor | None,
    value: Tensor,
    attn_mask: Tensor | None,
    dropout_p: float,
    is_causal: bool,
    scale: float | None,
    enable_gqa: bool,
    score: str,
    causal_alignment: str,
    window: Any,
    centre: Tensor | None,
    width: Tensor | float | None,
    lengths_q: Tensor | None,
    lengths_k: Tensor | None,
    cu_seqlens_q: Tensor | None,
    cu_seqlens_k: Tensor | None,
    softcap: float | None,
    operands: Mapping[str, Any],
    seed: int | Tensor | None,
    extra: int,
) -> Call:
    """Check the arguments of `attention` and bring them into the operator's form."""
    checks.check_tensors({
        "query": query, "key": key, "value": value, "attn_mask": attn_mask, "centre": centre,
        "lengths_q": lengths_q, "lengths_k": lengths_k, "cu_seqlens_q": cu_seqlens_q,
        "cu_seqlens_k": cu_seqlens_k,
    })  # fmt: skip
    bias_sizes = None
    if isinstance(attn_mask, CausalBias):  # it has sizes, and no numbers
        if is_causal:
            raise ValueError("CausalBias should not be used with causal=True")
        bias_sizes = (attn_mask.seq_len_q, attn_mask.seq_len_kv)
        causal_alignment = _ALIGNMENTS[attn_mask.variant.name]
        attn_mask, is_causal = None, True
    spec = checks.check_score(score, operands)
    checks.check_options(dropout_p, scale, softcap, causal_alignment, seed, is_causal)
    before, after = checks.check_window(window)
    if query is None or value is None or (key is None and spec.reads_keys):
        raise TypeError("attention(): query, key and value must be Tensor, not NoneType")
    if key is None:
        key = value.new_zeros(*value.shape[:-1], 0)
    query, key, value, attn_mask, operands = _autocast(query, key, value, attn_mask, operands)
    checks.check_inputs(query, key, value, enable_gqa)
    for name, operand in operands.items():
        if isinstance(operand, Tensor) and (operand.dtype, operand.device) != (
            query.dtype,
            query.device,
        ):
            raise RuntimeError(
                f"Expected {name} to have the query's dtype {query.dtype} and device "
                f"{query.device}, but got {operand.dtype} on {operand.device}"
            )
    packed = cu_seqlens_q is not None or cu_seqlens_k is not None
    if packed and (cu_seqlens_q is None or cu_seqlens_k is None):
        raise ValueError("cu_seqlens_q and cu_seqlens_k should be given together")
    if packed and (lengths_q is not None or lengths_k is not None):
        raise ValueError("cu_seqlens and lengths cannot be given together")
    if width is not None and centre is None:
        raise ValueError("width should be given only with a centre")
    if centre is not None and width is None and (before is None or before != after or not before):
        raise ValueError("centre without width needs a window of one positive number")

    if operands.get("location") is not None and max(query.dim(), key.dim()) == 3:
        if not (enable_gqa or packed) and operands["location"].dim() == 3:
            operands = {**operands, "location": operands["location"].unsqueeze(1)}
    query, key, value, heads_first = _four_dimensions(query, key, value, enable_gqa or packed)
    spec.check(query, key, operands)
    shape = query.shape
    query, key, vector = spec.prepare(query, key, operands)
    query, key, value = (t.flatten(0, -4) for t in (query, key, value))
    batch, heads, queries, size = query.shape
    keys = key.shape[2]
    if vector is not None:
        vector = vector.expand(batch, heads, size)

    leading = shape[:-2] if heads_first is None else heads_first
    full = (*leading, queries, keys)
    if bias_sizes not in (None, (queries, keys)):
        raise RuntimeError(
            f"Expected attn_mask of {queries} queries and {keys} keys, got a CausalBias of "
            f"{bias_sizes[0]} and {bias_sizes[1]}"
        )
    mask = None
    if attn_mask is not None:
        checks.check_mask(attn_mask, query, full)
        mask = _mask(attn_mask, full, shape[:-3], heads, packed or enable_gqa)
    if lengths_q is not None:
        checks.check_lengths("lengths_q", lengths_q, batch, queries, query)
    if lengths_k is not None:
        checks.check_lengths("lengths_k", lengths_k, batch, keys, query)
    if cu_seqlens_q is not None and cu_seqlens_k is not None:
        if batch != 1:
            raise RuntimeError(
                "cu_seqlens needs sequences packed into one, of size [H, T, E] or "
                f"[1, H, T, E], got a batch of {batch}"
            )
        checks.check_cu_seqlens("cu_seqlens_q", cu_seqlens_q, queries, query)
        checks.check_cu_seqlens("cu_seqlens_k", cu_seqlens_k, keys, query)
        if cu_seqlens_q.shape != cu_seqlens_k.shape:
            raise RuntimeError(
                "Expected cu_seqlens_q and cu_seqlens_k to have the same size, got "
                f"{list(cu_seqlens_q.shape)} and {list(cu_seqlens_k.shape)}"
            )
    centre, width = _gaussian(centre, width, before, (*leading, queries), query)
    first, last = key_ranges(
        queries, keys, query.device, is_causal=is_causal,
        bottom_right=causal_alignment == "bottom_right", window=(before, after), centre=centre,
        lengths_q=lengths_q, lengths_k=lengths_k, cu_seqlens_q=cu_seqlens_q,
        cu_seqlens_k=cu_seqlens_k,
    )  # fmt: skip
    if first is not None and last is not None:
        first, last = (each.expand(batch, heads, queries) for each in (first, last))
    if dropout_p > 0:
        seed = _seed(seed, query.device)
    inputs = Inputs(
        spec.kind, query, key, value, vector, mask, first, last, centre, width,
        seed if dropout_p > 0 and isinstance(seed, Tensor) else None,
        batch * heads,
        float(spec.scale(size) if scale is None else scale), float(softcap or 0.0),
        float(dropout_p), extra,
    )  # fmt: skip
    return Call(spec, inputs, (*leading, queries, size))


def _autocast(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    operands: Mapping[str, Any],
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Mapping[str, Any]]:
    """Under autocast, as torch does for its own: everything in autocast's dtype."""
    device = query.device.type
    if device == "meta" or not torch.is_autocast_enabled(device):
        return query, key, value, mask, operands
    dtype = torch.get_autocast_dtype(device)

    def cast(value: Any) -> Any:
        return value.to(dtype) if isinstance(value, Tensor) and value.dtype in _NARROW else value

    cast_operands = {name: cast(operand) for name, operand in operands.items()}
    return cast(query), cast(key), cast(value), cast(mask), cast_operands


def _four_dimensions(
    query: Tensor, key: Tensor, value: Tensor, heads_first: bool
) -> tuple[Tensor, Tensor, Tensor, tuple[int, ...] | None]:
    """``[..., H, T, X]`` each with the same leading sizes, and the caller's leading sizes.

    The first of three dimensions is the batch, or the heads where it has to be them.
    """
    rank = max(query.dim(), key.dim(), value.dim())
    own: tuple[int, ...] | None = None
    tensors = []
    for tensor in (query, key, value):
        while tensor.dim() < min(rank, 4):
            tensor = tensor.unsqueeze(0)
        if rank == 2:
            tensor = tensor[None, None]
        elif rank == 3:
            tensor = tensor.unsqueeze(0 if heads_first else 1)
        while tensor.dim() < rank:
            tensor = tensor.unsqueeze(0)
        tensors.append(tensor)
    query, key, value = tensors
    grouped = heads_first and query.shape[-3] != key.shape[-3]
    if grouped or not query.shape[:-2] == key.shape[:-2] == value.shape[:-2]:
        query, key, value = _broadcast(query, key, value, grouped)
    if rank == 2:
        own = ()
    elif rank == 3:
        own = (query.shape[-3],) if heads_first else (query.shape[0],)
    return query, key, value, own


def _broadcast(query: Tensor, key: Tensor, value: Tensor, grouped: bool) -> tuple[Tensor, ...]:
    """With leading sizes broadcast to one another, but for heads that are grouped."""
    tensors = (query, key, value)
    try:
        batch = torch.broadcast_shapes(*(t.shape[:-3] for t in tensors))
        heads = torch.broadcast_shapes(*(t.shape[-3:-2] for t in (tensors[grouped:])))
    except RuntimeError:
        for other in (key, value):
            pairs = zip(query.shape[:-2], other.shape[:-2], strict=True)
            for dim, (a, b) in enumerate(pairs):
                if a != b and 1 not in (a, b):
                    raise RuntimeError(
                        f"The size of tensor a ({a}) must match the size of tensor b ({b}) at "
                        f"non-singleton dimension {dim}"
                    ) from None
        raise RuntimeError("The leading sizes of key and value do not match") from None
    own = query.shape[-3:-2] if grouped else heads
    return tuple(
        t.expand(*batch, *h, *t.shape[-2:])
        for t, h in zip(tensors, (own, heads, heads), strict=True)
    )


def _mask(
    mask: Tensor, full: tuple[int, ...], batch: tuple[int, ...], heads: int, heads_first: bool
) -> Tensor:
    """A mask broadcastable to ``full`` as one that is to ``[B, H, Tq, Tk]``, sizes 1 kept."""
    while mask.dim() > len(full):
        mask = mask.squeeze(0)
    while mask.dim() < len(full):
        mask = mask.unsqueeze(0)
    if len(full) == 2:
        return mask[None, None]
    if len(full) == 3:
        return mask.unsqueeze(0 if heads_first else 1)
    if len(full) > 4:
        if all(size == 1 for size in mask.shape[:-3]):
            return mask.flatten(0, -4)
        mask = mask.expand(*batch, *mask.shape[-3:]).flatten(0, -4)
    return mask


def _gaussian(
    centre: Tensor | None,
    width: Tensor | float | None,
    window: int | None,
    shape: tuple[int, ...],
    query: Tensor,
) -> tuple[Tensor | None, Tensor | None]:
    """Centre and width as ``[B, H, Tq]`` in the accumulation dtype."""
    if centre is None:
        return None, None
    wide = accumulation_dtype(query.dtype)
    if width is None:
        assert window is not None
        width = window / 2
    if not isinstance(width, Tensor):
        checks.check_number("width", width)
        if not width > 0:
            raise ValueError(f"width should be positive, got: {width}")
        width = torch.full((), float(width), dtype=wide, device=query.device)
    found = []
    for name, tensor in (("centre", centre), ("width", width)):
        if not tensor.is_floating_point():
            raise RuntimeError(f"Expected {name} to be floating point, got {tensor.dtype}")
        try:
            spread = tensor.to(wide).expand(shape)
        except RuntimeError:
            raise RuntimeError(
                f"Expected {name} broadcastable to {list(shape)}, got {list(tensor.shape)}"
            ) from None
        found.append(spread.reshape(query.shape[:3]))
    return found[0], found[1]


def _seed(seed: int | Tensor | None, device: torch.device) -> Tensor:
    if isinstance(seed, Tensor):
        return seed.reshape(())
    if seed is None:
        return torch.randint(2**62, (), dtype=torch.int64, device=device)
    return torch.tensor(_wrap(seed), dtype=torch.int64, device=device)


def _wrap(seed: int) -> int:
    """Any number as the int64 of the same 64 bits."""
    seed &= 2**64 - 1
    return seed - 2**64 if seed >= 2**63 else seed
