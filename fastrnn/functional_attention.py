"""Attention without modules: one call of the operator, and what pointers make of it.

The public names are those of `fastrnn.functional`.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from . import attention_checks as checks
from . import attention_one_call
from .attention import attention as run
from .attention_call import Call, prepare
from .reference import accumulation_dtype
from .reference_attention import LOG_PROBABILITIES, WEIGHTS, Inputs

__all__ = ["attention", "pointer_log_probs", "pointer_nll"]

# Of `attention`'s options those that bear on the weights.
_POINTER_OPTIONS = (
    "attn_mask", "is_causal", "scale", "enable_gqa", "score", "causal_alignment", "window",
    "lengths_q", "lengths_k", "cu_seqlens_q", "cu_seqlens_k", "softcap",
)  # fmt: skip


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
    options = (
        attn_mask, window, centre, width, lengths_q, cu_seqlens_q, cu_seqlens_k, softcap, weight,
        temperature, weight_key, gain, location, seed,
    )  # fmt: skip
    plain = all(option is None for option in options) and not return_lse
    if plain and type(dropout_p) in (float, int) and not dropout_p:
        if causal_alignment == "top_left":
            general = partial(
                _in_general, is_causal=is_causal, scale=scale, enable_gqa=enable_gqa, score=score,
                return_weights=return_weights, backend=backend,
            )  # fmt: skip
            simple = attention_one_call.attention(
                query, key, value, is_causal, scale, enable_gqa, score, lengths_k, vector,
                weight_query, bias, return_weights, backend, general,
            )  # fmt: skip
            if simple is not None:
                return simple if return_weights else simple[0]
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


def _in_general(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    vector: Tensor | None,
    lengths: list[int] | None,
    **options: Any,
) -> tuple[Tensor, ...]:
    """What `attention_one_call` computes, by the operator."""
    operands = {} if vector is None else {"vector": vector}
    call = prepare(
        query, key, value, None, 0.0, options["is_causal"], options["scale"],
        options["enable_gqa"], options["score"], "top_left", None, None, None, None,
        None if lengths is None else torch.tensor(lengths), None, None, None, operands, None,
        WEIGHTS if options["return_weights"] else 0,
    )  # fmt: skip
    out, _, found = run(call.spec, call.inputs, options["backend"])
    return call.restore(out), *map(call.restore, found)


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
    checks.check_tensors({"target": target})
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


def _pointer(query: Tensor, key: Tensor, extra: int, options: dict[str, Any]) -> Call:
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
    if not key.shape[2]:
        return query.new_zeros(target.shape)  # nothing to point at: no target counts
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
