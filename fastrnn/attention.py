"""The one boundary between PyTorch and the kernels of attention.

Here attention becomes a PyTorch operator: what it returns without running (fake), its
gradient, its vmap. What is computed, and in which shapes, says
`fastrnn.reference_attention`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import attention_cpp, attention_fold, backends, gpu, operators, reference_attention
from .reference_attention import Inputs
from .scores import ScoreSpec


def attention(
    spec: ScoreSpec, inputs: Inputs, backend: str | None = None
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Compute it with the backend that serves; as `fastrnn.reference_attention.attention`.

    Raises:
        RuntimeError: the backend asked for cannot serve.
    """
    query = inputs.query
    widths = (query.shape[3], inputs.value.shape[3])
    name = backends.choose(
        spec, query.device, query.dtype, backends.requested(backend), widths=widths
    )
    if name == "reference":
        return reference_attention.attention(inputs)
    with gpu.interpreting(name == "triton"):
        out, lse, found = _attention(*inputs)
    return out, lse, found


# --- the operators' kernels -----------------------------------------------------------


def _kernel(*arguments: Any) -> tuple[Tensor, Tensor, list[Tensor]]:
    inputs = Inputs(*arguments)
    if gpu.serves(inputs.query):
        from .gpu import attention as gpu_attention

        return gpu_attention.attention(inputs)
    return attention_cpp.attention(inputs)


def _fake(*arguments: Any) -> tuple[Tensor, Tensor, list[Tensor]]:
    return attention_cpp.results(Inputs(*arguments))


_INPUTS = len(Inputs._fields)


def _kernel_backward(*arguments: Any) -> list[Tensor]:
    inputs = Inputs(*arguments[:_INPUTS])
    if gpu.serves(inputs.query):
        from .gpu import attention as gpu_attention

        return gpu_attention.attention_backward(inputs, *arguments[_INPUTS:])
    return attention_cpp.attention_backward(inputs, *arguments[_INPUTS:])


def _fake_backward(*arguments: Any) -> list[Tensor]:
    return attention_cpp.gradients(Inputs(*arguments[:_INPUTS]), arguments[-1])


# --- gradients ------------------------------------------------------------------------


def _keep(arguments: Sequence[Any], results: Sequence[Any]) -> list[Any]:
    out, lse, found = results
    return [*arguments, out, lse, found, gpu.interprets()]


def _backward(
    kept: Sequence[Any],
    needs: Sequence[Any],
    grad_out: Tensor | None,
    grad_lse: Tensor | None,
    grad_found: Sequence[Tensor | None],
) -> list[Any]:
    *arguments, out, lse, found, interpreted = kept
    inputs = Inputs(*arguments)
    if grad_out is None:
        grad_out = torch.zeros_like(out)
    extra = [grad for grad in grad_found if grad is not None]
    with_mask = bool(needs[Inputs._fields.index("mask")])
    with gpu.interpreting(interpreted):
        gradients = _attention_backward(
            *inputs, out, lse, found, grad_out, grad_lse, extra, with_mask
        )
    return _place(inputs, gradients, with_mask)


def _names(inputs: Inputs, with_mask: bool) -> list[str]:
    """Whose gradients a backward returns, in order."""
    names = ["query", "key", "value"]
    names += ["vector"] * (inputs.vector is not None)
    names += ["centre", "width"] * (inputs.centre is not None)
    return names + ["mask"] * with_mask


def _place(inputs: Inputs, gradients: Sequence[Tensor], with_mask: bool) -> list[Any]:
    """The gradients, each where its argument stands, and None elsewhere."""
    placed = dict(zip(_names(inputs, with_mask), gradients, strict=True))
    return [placed.get(name) for name in Inputs._fields]


def _keep_twice(arguments: Sequence[Any], results: object) -> Sequence[Any]:
    return arguments


def _backward_twice(
    kept: Sequence[Any], needs: Sequence[Any], grads: Sequence[Tensor | None]
) -> list[Any]:
    """Double backward, through the reference.

    What was saved counts as a function of the operator's other inputs, so the gradient goes
    to those alone.
    """
    inputs = Inputs(*kept[:_INPUTS])
    _, _, found, grad_out, grad_lse, grad_found, with_mask = kept[_INPUTS:]
    names = [name for name in _names(inputs, True) if _is_number(getattr(inputs, name))]
    upstream = {"out": grad_out, "found": list(grad_found)}
    if grad_lse is not None:
        upstream["lse"] = grad_lse

    def first(values: dict[str, Tensor], upstream: dict[str, Any]) -> list[Tensor]:
        return _reference_backward(inputs.replace(**values), upstream, with_mask)

    values = {name: getattr(inputs, name) for name in names}
    gradients, pull, *_ = torch.func.vjp(first, values, upstream)
    cotangents = [
        torch.zeros_like(gradient) if grad is None else grad
        for grad, gradient in zip(grads, gradients, strict=True)
    ]
    of_values, of_upstream = pull(cotangents)
    return [
        *(of_values.get(name) for name in Inputs._fields), None, None, [None] * len(found),
        of_upstream["out"], of_upstream.get("lse"), of_upstream["found"], None,
    ]  # fmt: skip


def _is_number(tensor: Tensor | None) -> bool:
    return tensor is not None and tensor.is_floating_point()


def _reference_backward(inputs: Inputs, upstream: dict[str, Any], with_mask: bool) -> list[Tensor]:
    """What a backend's backward returns, by differentiating the reference."""
    names = _names(inputs, with_mask)

    def run(values: dict[str, Tensor]) -> dict[str, Any]:
        out, lse, found = reference_attention.attention(inputs.replace(**values))
        results: dict[str, Any] = {"out": out, "found": found if upstream["found"] else []}
        return results | {"lse": lse} if "lse" in upstream else results

    _, pull, *_ = torch.func.vjp(run, {name: getattr(inputs, name) for name in names})
    gradients = pull(upstream)[0]
    return [gradients[name] for name in names]


_ARGUMENTS = (
    "str kind, Tensor query, Tensor key, Tensor value, Tensor? vector, Tensor? mask,"
    " Tensor? first, Tensor? last, Tensor? centre, Tensor? width, Tensor? seed,"
    " int drawn_heads, float scale, float softcap, float dropout_p, int extra"
)
_attention = operators.define(
    f"attention({_ARGUMENTS}) -> (Tensor, Tensor, Tensor[])",
    _kernel,
    _fake,
    _keep,
    _backward,
    attention_fold.attention,
)
_attention_backward = operators.define(
    f"attention_backward({_ARGUMENTS}, Tensor out, Tensor lse, Tensor[] found, Tensor grad_out,"
    " Tensor? grad_lse, Tensor[] grad_found, bool with_mask) -> Tensor[]",
    _kernel_backward,
    _fake_backward,
    _keep_twice,
    _backward_twice,
    attention_fold.attention_backward,
)
