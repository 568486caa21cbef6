"""Attention without modules: checks, the score's own products, one call of the operator.

The public names are those of `fastrnn.functional`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import attention_checks as checks
from .attention import attention as run
from .ranges import key_ranges
from .reference import accumulation_dtype
from .reference_attention import LOG_PROBABILITIES, WEIGHTS, Inputs
from .scores import ScoreSpec

__all__ = ["attention", "pointer_log_probs", "pointer_nll"]

# Of `attention`'s options those that bear on the weights.
_POINTER_OPTIONS = (
    "attn_mask", "is_causal", "scale", "enable_gqa", "score", "causal_alignment", "window",
    "lengths_q", "lengths_k", "cu_seqlens_q", "cu_seqlens_k", "softcap",
)  # fmt: skip
_NARROW = (torch.float32, torch.float16, torch.bfloat16)


def attention(
    query: Tensor,
    key: Tensor | None,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    *,
    score: str = "scaled_dot",
    causal_alignment: str = "top_left",
    window: int | tuple[int | None, int | None] | None = None,
    centre: Tensor | None = None,
    width: Tensor | float | None = None,
    lengths_q: Tensor | None = None,
    lengths_k: Tensor | None = None,
    cu_seqlens_q: Tensor | None = None,
    cu_seqlens_k: Tensor | None = None,
    softcap: float | None = None,
    weight: Tensor | None = None,
    temperature: Tensor | float | None = None,
    vector: Tensor | None = None,
    weight_query: Tensor | None = None,
    weight_key: Tensor | None = None,
    bias: Tensor | None = None,
    gain: Tensor | float | None = None,
    location: Tensor | None = None,
    seed: int | Tensor | None = None,
    return_weights: bool = False,
    return_lse: bool = False,
    backend: str | None = None,
) -> Any:
    r"""``softmax_s(score(q_t, k_s)) v_s``, for `scaled_dot_product_attention` and many others.

    Shapes: query ``[..., H, Tq, E]``, key ``[..., Hk, Tk, E]``, value ``[..., Hk, Tk, Ev]``;
    two or three dimensions as in torch, the first of three being batch. float32, float64,
    bfloat16, float16. Memory is linear in the lengths unless the weights are asked for.

    ============ ================================================= =========================
    score        of a pair                                         arguments
    ============ ================================================= =========================
    scaled_dot   :math:`q \cdot k / \sqrt{E}`
    dot          :math:`q \cdot k`
    general      :math:`q W k`                                     ``weight [E, K]`` or
                                                                   ``[H, E, K]``
    cosine       :math:`\beta \cos(q, k)`                          ``temperature``, 1 or a
                                                                   number a head
    additive     :math:`v \cdot \tanh(W_q q + W_k k + b + l)`      ``vector [A]`` or
                                                                   ``[H, A]``;
                                                                   ``weight_query [A, E]``,
                                                                   ``weight_key [A, K]``,
                                                                   ``bias``, ``location
                                                                   [..., Tk, A]``, ``gain``
    location     :math:`W_s q`, the key unused                     ``weight [>= Tk, E]``
    ============ ================================================= =========================

    Without ``weight_query`` or ``weight_key`` queries or keys are taken as projected. With
    ``gain`` g the vector is ``g v / |v|``.

    Args:
        attn_mask: broadcastable to ``[..., H, Tq, Tk]``; bool: False excludes; numbers, of
            float32 or the query's dtype, are added to the scores and may be differentiated.
        dropout_p: probability of dropping a weight, whatever the mode of any module.
        is_causal: query t sees keys ``s <= t``; with ``causal_alignment="bottom_right"``
            those up to ``t + Tk - Tq``.
        scale: of the scores; None: ``1/sqrt(E)`` for scaled_dot, else 1.
        enable_gqa: H may be a multiple of Hk; each key head serves as many in a row.
        window: D: keys from ``p - D`` to ``p + D``, p the query's position (aligned as
            ``causal_alignment`` says), or ``(before, after)``, None being no limit. Tiles
            outside are skipped.
        centre: ``[..., H, Tq]``, broadcastable: p, where it is predicted (local-p). Then the
            weights are also multiplied by ``exp(-(s - p)^2 / (2 width^2))``, and not
            normalised again.
        width: of that Gaussian, a number or as ``centre``; None: half the window.
        lengths_q, lengths_k: ``[B]``, int: how much of each padded sequence counts.
        cu_seqlens_q, cu_seqlens_k: ``[sequences + 1]``, int: sequences packed one behind the
            other along Tq and Tk of ``[H, T, E]`` (or ``[1, H, T, E]``), from
            ``cu_seqlens[i]`` to ``cu_seqlens[i+1]``.
        softcap: c: scores become ``c tanh(score / c)`` before the mask.
        seed: of the dropout; the same seed drops the same weights, on any backend. None: one
            is drawn from torch's generator.
        return_weights: also ``[..., H, Tq, Tk]``, what the values were multiplied with.
        return_lse: also ``[..., H, Tq]``, the scores' log-sum-exp, float32 (or float64).
        backend: who shall compute it; None: the first that can.

    Returns:
        output ``[..., H, Tq, Ev]``, or a tuple of it and what else was asked for, in the
        order of the arguments. A query that sees no key gives 0, and gradients of 0.

    Raises:
        ValueError, TypeError: options out of range, or that do not go together.
        RuntimeError: shapes, dtypes, devices; a requested backend that cannot serve.

    (Vaswani et al. 2017; Luong et al. 2015; Bahdanau et al. 2015; Graves et al. 2014.)
    """
    operands = {
        "weight": weight, "temperature": temperature, "vector": vector,
        "weight_query": weight_query, "weight_key": weight_key, "bias": bias, "gain": gain,
        "location": location,
    }  # fmt: skip
    call = prepare(
        query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa, score,
        causal_alignment, window, centre, width, lengths_q, lengths_k, cu_seqlens_q,
        cu_seqlens_k, softcap, operands, seed, WEIGHTS if return_weights else 0,
    )  # fmt: skip
    out, lse, found = run(call.spec, call.inputs, backend)
    results = [call.restore(out)]
    if return_weights:
        results.append(call.restore(found[0]))
    if return_lse:
        results.append(call.restore(lse))
    return results[0] if len(results) == 1 else tuple(results)


def pointer_log_probs(query: Tensor, key: Tensor, **options: Any) -> Tensor:
    """Logarithms of the softmax over the keys, ``[..., H, Tq, Tk]``: a pointer's distribution.

    Options are those of `attention`, less what is about values and returns (dropout, Gaussian,
    ``return_weights``, ``return_lse``). Keys that are not seen have -inf; so have all keys of
    a query that sees none. (Vinyals et al., *Pointer networks*, 2015.)
    """
    backend = options.pop("backend", None)
    call = _pointer(query, key, LOG_PROBABILITIES, options)
    _, _, found = run(call.spec, call.inputs, backend)
    return call.restore(found[0])


def pointer_nll(
    query: Tensor,
    key: Tensor,
    target: Tensor,
    *,
    reduction: str = "mean",
    ignore_index: int = -100,
    **options: Any,
) -> Tensor:
    """Negative log-likelihood of pointing at ``target``, without the matrix of all weights.

    Args:
        query, key, options: as for `pointer_log_probs`.
        target: int64 ``[..., H, Tq]``, without H where query and key have none: positions of
            keys. Queries whose target is ``ignore_index`` count for nothing.
        reduction: ``"mean"`` over the queries that count, ``"sum"`` or ``"none"``.

    Raises:
        ValueError: unknown reduction.
        IndexError: a target is out of range.
        RuntimeError: its shape or dtype is wrong.
    """
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"{reduction} is not a valid value for reduction")
    backend = options.pop("backend", None)
    call = _pointer(query, key, 0, options)
    if target.dtype != torch.int64 or target.shape != call.shape[:-1]:
        raise RuntimeError(
            f"Expected target to be int64 of size {list(call.shape[:-1])}, got "
            f"{target.dtype} of size {list(target.shape)}"
        )
    flat = target.reshape(call.inputs.query.shape[:3])
    counts = flat != ignore_index
    keys = call.inputs.key.shape[2]
    if checks._at_hand(target) and bool(((flat < 0) | (flat >= keys))[counts].any()):
        wrong = flat[counts & ((flat < 0) | (flat >= keys))][0]
        raise IndexError(f"Target {int(wrong)} is out of bounds.")
    _, lse, _ = run(call.spec, call.inputs, backend)
    at = _score_at(call.inputs, torch.where(counts, flat, 0).clamp(0, max(keys - 1, 0)))
    loss = torch.where(counts, lse - at, 0).to(query.dtype)
    if reduction == "sum":
        return loss.sum()
    if reduction == "mean":
        return loss.sum() / counts.sum()
    return call.restore(loss)


def _pointer(query: Tensor, key: Tensor, extra: int, options: dict[str, Any]) -> _Call:
    given = {name: options.pop(name) for name in _POINTER_OPTIONS if name in options}
    checks.check_tensors({"query": query, "key": key})
    value = key.new_empty(*key.shape[:-1], 0)  # nothing is summed: the scores alone count
    return prepare(
        query, key, value, given.get("attn_mask"), 0.0, given.get("is_causal", False),
        given.get("scale"), given.get("enable_gqa", False), given.get("score", "additive"),
        given.get("causal_alignment", "top_left"), given.get("window"), None, None,
        given.get("lengths_q"), given.get("lengths_k"), given.get("cu_seqlens_q"),
        given.get("cu_seqlens_k"), given.get("softcap"), options, None, extra,
    )  # fmt: skip


def _score_at(inputs: Inputs, target: Tensor) -> Tensor:
    """The score of each query with one key, mask included: ``[B, H, Tq]``, linear memory."""
    wide = accumulation_dtype(inputs.query.dtype)
    query, key = inputs.query.to(wide), inputs.key.to(wide)
    groups = query.shape[1] // key.shape[1] if key.shape[1] else 1
    key = key.repeat_interleave(groups, 1) if groups > 1 else key
    # One query and one key each, as a batch of its own.
    chosen = key.gather(2, target.unsqueeze(-1).expand(*target.shape, key.shape[3]))
    if inputs.vector is not None:
        vector = inputs.vector.to(wide).unsqueeze(2)
        score = (torch.tanh(query + chosen) * vector).sum(-1)
    else:
        score = (query * chosen).sum(-1)
    score = score * inputs.scale
    if inputs.softcap:
        score = torch.tanh(score / inputs.softcap) * inputs.softcap
    if inputs.mask is not None:
        mask = inputs.mask.expand(*query.shape[:3], key.shape[2])
        here = mask.gather(3, target.unsqueeze(-1)).squeeze(-1)
        if here.dtype == torch.bool:
            score = score.masked_fill(~here, -torch.inf)
        else:
            score = score + here
    if inputs.first is not None and inputs.last is not None:
        seen = (inputs.first <= target) & (target < inputs.last)
        score = score.masked_fill(~seen, -torch.inf)
    return score


# --- the form of the operator -----------------------------------------------------------


class _Call(NamedTuple):
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
) -> _Call:
    """Check the arguments of `attention` and bring them into the operator's form."""
    checks.check_tensors({
        "query": query, "key": key, "value": value, "attn_mask": attn_mask, "centre": centre,
        "lengths_q": lengths_q, "lengths_k": lengths_k, "cu_seqlens_q": cu_seqlens_q,
        "cu_seqlens_k": cu_seqlens_k,
    })  # fmt: skip
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
    return _Call(spec, inputs, (*leading, queries, size))


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
