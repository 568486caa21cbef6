"""The specification of attention, in plain PyTorch.

Every kernel is held against this. It is also a backend of its own, differentiable any
number of times, and what the kernels' double backward runs through. It holds all weights,
``[B, H, Tq, Tk]``, and the additive score the tensor ``[B, H, Tq, Tk, E]``; kernels do not.

Letters: ``B`` batch, ``H`` query heads, ``Hk`` heads of keys and values (H a multiple of
it), ``Tq`` queries, ``Tk`` keys, ``E`` the width of queries and keys, ``Ev`` of values.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import philox
from .reference import accumulation_dtype

WEIGHTS, LOG_PROBABILITIES = 1, 2


class Inputs(NamedTuple):
    """What attention is a function of, in the form that all backends take.

    Attributes:
        kind: ``"dot"``: ``q . k``; ``"additive"``: ``sum_e vector_e tanh(q_e + k_e)``.
        query, key, value: ``[B, H, Tq, E]``, ``[B, Hk, Tk, E]``, ``[B, Hk, Tk, Ev]``.
        vector: ``[B, H, E]``, for the additive score.
        mask: four-dimensional, each size 1 or that of ``[B, H, Tq, Tk]``: bool, where False
            excludes, or numbers to be added to the scores.
        first, last: int32 ``[B, H, Tq]``: a query sees the keys ``first <= s < last``; None:
            all. What lies outside the keys is cut.
        centre, width: ``[B, H, Tq]`` in the accumulation dtype: the weights are multiplied,
            after the softmax, by ``exp(-(s - centre)^2 / (2 width^2))``.
        seed: int64 scalar, for dropout (see `fastrnn.philox`).
        drawn_heads: dropout draws for heads ``b*H + h`` modulo this, so that of many calls made
            into one, by vmap, each draws as it would alone.
        scale: of the scores.
        softcap: c > 0: the score becomes ``c tanh(score / c)``, before the mask; 0: not.
        dropout_p: the probability with which a weight is dropped.
        extra: what to return beside the output: nothing (0), the weights (1), the
            log-probabilities (2).
    """

    kind: str
    query: Tensor
    key: Tensor
    value: Tensor
    vector: Tensor | None
    mask: Tensor | None
    first: Tensor | None
    last: Tensor | None
    centre: Tensor | None
    width: Tensor | None
    seed: Tensor | None
    drawn_heads: int
    scale: float
    softcap: float
    dropout_p: float
    extra: int

    def replace(self, **values: Any) -> Inputs:
        return self._replace(**values)


def attention(inputs: Inputs) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Output, log-sum-exp of the scores, and what ``extra`` asks for.

    Returns:
        ``out [B, H, Tq, Ev]``; ``lse [B, H, Tq]`` in the accumulation dtype; a list that is
        empty or holds ``[B, H, Tq, Tk]``: the weights by which the values were multiplied
        (dropout and Gaussian included), or the logarithms of the softmax (without them). A
        query that sees no key has output 0, weights 0, lse and log-probabilities -inf.
    """
    dtype = inputs.query.dtype
    wide = accumulation_dtype(dtype)
    out, lse, found = formula(
        inputs.replace(**{name: _to(getattr(inputs, name), wide) for name in _NUMBERS})
    )
    return out.to(dtype), lse, [tensor.to(dtype) for tensor in found]


_NUMBERS = ("query", "key", "value", "vector", "mask")


def _to(tensor: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return tensor.to(dtype) if tensor is not None and tensor.is_floating_point() else tensor


def formula(inputs: Inputs) -> tuple[Tensor, Tensor, list[Tensor]]:
    """`attention` in the dtype of its tensors.

    Where a key that some queries see is not finite, its zero weight brings NaN to the others
    here, as a product does. Kernels keep it from those out of whose range it lies.
    """
    query, value = inputs.query, inputs.value
    seen = _seen(inputs)
    key = inputs.key
    if seen is not None:
        # What nobody sees, padding, may hold anything, and must not come in as 0 * NaN.
        by_key = seen.any(2).unflatten(1, (key.shape[1], -1)).any(2).unsqueeze(-1)
        key, value = key.where(by_key, 0), value.where(by_key, 0)
        query = query.where(seen.any(3).unsqueeze(-1), 0)
    score = scores(inputs.replace(query=query, key=key))
    if inputs.mask is not None:
        if inputs.mask.dtype == torch.bool:
            score = score.masked_fill(~inputs.mask, -torch.inf)
        else:
            score = score + inputs.mask
    if seen is not None:
        score = score.masked_fill(~seen, -torch.inf)

    # Nothing flows through the shift, which cancels; without keys it has to be finite.
    if score.shape[-1]:
        largest = score.detach().amax(-1, keepdim=True)
    else:
        largest = score.new_full((*score.shape[:-1], 1), -torch.inf)
    shift = largest.masked_fill(largest == -torch.inf, 0)
    exps = torch.exp(score - shift)
    total = exps.sum(-1, keepdim=True)
    empty = total == 0
    total = total.masked_fill(empty, 1)
    lse = (shift + total.log()).masked_fill(empty, -torch.inf)
    weights = exps / total
    if inputs.centre is not None and inputs.width is not None:
        position = torch.arange(score.shape[-1], device=score.device)
        distance = (position - inputs.centre.unsqueeze(-1)) / inputs.width.unsqueeze(-1)
        weights = weights * torch.exp(-0.5 * distance * distance).to(weights.dtype)
    if inputs.dropout_p > 0:
        assert inputs.seed is not None
        kept = philox.kept(inputs.seed, inputs.dropout_p, tuple(score.shape), inputs.drawn_heads)  # type: ignore[arg-type]
        rescale = 1 / (1 - inputs.dropout_p) if inputs.dropout_p < 1 else 0.0
        weights = torch.where(kept, weights * rescale, 0)
    out = weights @ _spread(value, query.shape[1])
    extra = []
    if inputs.extra == WEIGHTS:
        extra.append(weights)
    elif inputs.extra == LOG_PROBABILITIES:
        extra.append(score - lse.masked_fill(empty, 0))
    return out, lse.squeeze(-1), extra


def scores(inputs: Inputs) -> Tensor:
    """Scaled and capped scores, before any mask: ``[B, H, Tq, Tk]``."""
    query, key = inputs.query, _spread(inputs.key, inputs.query.shape[1])
    if inputs.kind == "additive":
        assert inputs.vector is not None
        hidden = torch.tanh(query.unsqueeze(3) + key.unsqueeze(2))
        score = torch.einsum("bhtse,bhe->bhts", hidden, inputs.vector)
    else:
        score = query @ key.transpose(-1, -2)
    score = score * inputs.scale
    return torch.tanh(score / inputs.softcap) * inputs.softcap if inputs.softcap else score


def _spread(tensor: Tensor, heads: int) -> Tensor:
    """``[B, Hk, ...]`` with each head as often as query heads share it."""
    groups = heads // tensor.shape[1] if tensor.shape[1] else 1
    return tensor if groups == 1 else tensor.repeat_interleave(groups, 1)


def _seen(inputs: Inputs) -> Tensor | None:
    """``[B, H, Tq, Tk]``: the keys between ``first`` and ``last``."""
    if inputs.first is None or inputs.last is None:
        return None
    position = torch.arange(inputs.key.shape[2], device=inputs.key.device)
    return (position >= inputs.first.unsqueeze(-1)) & (position < inputs.last.unsqueeze(-1))
