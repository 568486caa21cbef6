"""The shortest way to the C++ kernels of attention, as `fastrnn.one_call` has it for layers.

The dot and the additive score on plain tensors, with causality and lengths of the keys but no
other options, are one call of the extension forwards and one backwards, which look at the tensors
themselves (`csrc/attention/one_call.cpp`): a step of a decoder, in training or not, takes less
than the general way needs to bring its arguments into form. What is not that simple is answered
with None and goes that way, which also has the words for what is wrong; so does what wants to see
operators pass, or to differentiate again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import linear

from . import attention_cpp, backends, cpp, inference
from .operators import PLAIN, differentiated, watched
from .reference import accumulation_dtype
from .reference_attention import WEIGHTS

_CPU = torch.device("cpu")
_KERNELS = {"dot": "dot", "scaled_dot": "dot", "additive": "additive"}

General = Callable[..., tuple[Tensor, ...]]
"""Query, key, value, vector or None, lengths of keys or None; to the output and, where they are
wanted, the weights."""


class _Options(NamedTuple):
    """A call beside its tensors."""

    kernel: str
    dtype: torch.dtype
    is_causal: bool
    enable_gqa: bool
    scale: float
    lengths: list[int] | None
    extra: int

    def read(self) -> Any:
        """As the extension takes it, with the threads and the precision in force."""
        return cpp._C.AttentionOptions(
            self.kernel, attention_cpp.kind_of(self.dtype), torch.get_num_threads(), *self[2:]
        )


def attention(
    query: Any,
    key: Any,
    value: Any,
    is_causal: Any,
    scale: Any,
    enable_gqa: Any,
    score: Any,
    lengths_k: Any,
    vector: Any,
    weight_query: Any,
    bias: Any,
    return_weights: Any,
    backend: str | None,
    general: General,
) -> tuple[Tensor, ...] | None:
    """Output and, if asked for, weights of `fastrnn.functional.attention`; or None."""
    kernel = _KERNELS.get(score) if type(score) is str else None
    if kernel is None or type(is_causal) is not bool or type(scale) not in (type(None), float):
        return None
    if (vector is None) != (kernel == "dot") or not inference.unobserved():
        return None
    tensors = [query, key, value]
    tensors += [tensor for tensor in (vector, weight_query, bias) if tensor is not None]
    if not all(type(tensor) in PLAIN and not tensor.is_nested for tensor in tensors):
        return None
    if not query.is_cpu or backends.requested(backend) not in (None, "cpp"):
        return None
    dtype = query.dtype
    if attention_cpp.why_not(kernel, _CPU, dtype) is not None:
        return None
    if weight_query is not None or bias is not None:
        query = _projected(query, weight_query, bias, vector)
        if query is None:
            return None
    if scale is None:
        width = query.shape[-1] if query.dim() else 0
        scale = width**-0.5 if score == "scaled_dot" and width else 1.0
    lengths = None
    if lengths_k is not None:
        if type(lengths_k) is not Tensor or lengths_k.dtype not in (torch.int32, torch.int64):
            return None
        if lengths_k.dim() != 1 or not lengths_k.is_cpu or watched((lengths_k,)):
            return None
        lengths = lengths_k.tolist()
    extra = WEIGHTS if return_weights else 0
    options = _Options(kernel, dtype, is_causal, bool(enable_gqa), float(scale), lengths, extra)
    if not differentiated(tensors):
        return cpp._C.attention_in_one_call(query, key, value, vector, options.read(), None)
    found: tuple[Tensor, ...] | None = _Run.apply(options, general, query, key, value, vector)
    return found


def _projected(
    query: Tensor, weight: Tensor | None, bias: Tensor | None, vector: Tensor | None
) -> Tensor | None:
    """The additive score's side of the query, or None where a size is wrong."""
    if vector is None or vector.dim() != 1 or not 3 <= query.dim() <= 4:
        return None
    if any(t is not None and t.dtype != query.dtype for t in (weight, bias)):
        return None
    if weight is not None:
        if weight.shape != (vector.shape[0], query.shape[-1]):
            return None
        query = linear(query, weight)
    if bias is not None:
        if bias.shape != vector.shape or query.shape[-1:] != bias.shape:
            return None
        query = query + bias
    return query


class _Run(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, options: _Options, general: General, *tensors: Any) -> Any:
        ctx.set_materialize_grads(False)
        wide = accumulation_dtype(options.dtype)
        keep = tensors[0] if options.dtype is wide else tensors[0].new_empty(0, dtype=wide)
        found = cpp._C.attention_in_one_call(*tensors, options.read(), keep)
        if found is None:
            return None
        out, lse, *weights = found
        ctx.options, ctx.general = options, general
        ctx.save_for_backward(*tensors, out, lse, *weights)
        return out, *weights

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        query, key, value, vector, out, lse, *weights = ctx.saved_tensors
        tensors = query, key, value, vector
        there = [grad for grad in grads if grad is not None]
        if not there:
            return (None,) * 6
        if torch.is_grad_enabled() or watched(there):
            return None, None, *_again(ctx, tensors, grads)
        grad, *of_weights = grads
        grad = torch.zeros_like(out) if grad is None else _dense(grad)
        of_found = of_row = None
        if of_weights and of_weights[0] is not None:
            # The softmax takes a weighted mean off the gradients, of these as of the values'.
            of_found = _dense(of_weights[0])
            of_row = -(of_found.to(lse.dtype) * weights[0]).sum(-1).view_as(lse)
        parts = attention_cpp.slices(
            key.shape[0], key.shape[1] if key.dim() == 4 else 1, key.shape[-2]
        )
        found = cpp._C.attention_gradients_in_one_call(
            *tensors, ctx.options.read(), out, lse, grad, of_found, of_row, parts
        )
        if found is None:  # hooks made other tensors of what was saved
            return None, None, *_again(ctx, tensors, grads)
        of_vector = None if vector is None else found[3].to(query.dtype)
        return None, None, *found[:3], of_vector


def _dense(tensor: Tensor) -> Tensor:
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def _again(ctx: Any, tensors: Sequence[Tensor | None], grads: Sequence[Tensor | None]) -> list[Any]:
    """The same by operators, which can be mapped and differentiated again; by aliases, since a
    tensor may be given twice and each place is to get its own part alone; in the forward's dtype.
    """
    needs = ctx.needs_input_grad[2:]
    with torch.enable_grad(), torch.autocast("cpu", enabled=False):
        aliases = [None if tensor is None else tensor.view_as(tensor) for tensor in tensors]
        results = ctx.general(*aliases, ctx.options.lengths)
        pairs = [(y, g) for y, g in zip(results, grads, strict=True) if g is not None]
        wanted = [t for t, need in zip(aliases, needs, strict=True) if t is not None and need]
        outputs, upstream = zip(*pairs, strict=True)
        found = iter(
            torch.autograd.grad(outputs, wanted, upstream, create_graph=True, allow_unused=True)
        )
    return [
        next(found) if tensor is not None and need else None
        for tensor, need in zip(aliases, needs, strict=True)
    ]
