"""Making an operator of PyTorch that all of PyTorch's transforms accept.

`torch.library` does most of it. Two gaps are filled here: its autograd refuses
`torch.func`, and the vmap behind ``torch.autograd.grad(is_grads_batched=True)`` is an
older one that knows no lists of tensors. And where nobody watches, an operator is called
past PyTorch's dispatcher, which takes longer than a short sequence does. Nothing here
knows what an operator computes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._functorch.utils import enable_single_level_autograd_function

library = torch.library.Library("fastrnn", "DEF")
PLAIN = (Tensor, torch.nn.Parameter)
"""Classes of tensors that watch nothing."""


def transformed() -> bool:
    """Whether a transform of `torch.func` runs; while tracing, no."""
    if torch.compiler.is_compiling():
        return False
    return torch._C._functorch.peek_interpreter_stack() is not None


def watched(tensors: Iterable[Tensor]) -> bool:
    """Whether anyone wants to see operators pass: tracing, a transform, a mode, a tensor's class.

    The tensors that nobody watches are plain ones on the CPU, at whose numbers their
    addresses point.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return True
    if transformed():
        return True
    if torch._C._len_torch_dispatch_stack():
        return True
    for tensor in tensors:
        if type(tensor) not in PLAIN or not tensor.is_cpu or tensor.is_neg():
            return True
        if torch._C._functorch.is_legacy_batchedtensor(tensor) or tensor._is_zerotensor():
            return True
        if torch._is_functional_tensor(tensor):
            return True
    return False


def check_dtypes(tensors: Sequence[Tensor]) -> None:
    """Raises RuntimeError unless all have one dtype: kernels read memory as the first one's.

    The caller's tensors were checked before; hooks and callables can still make others of them.
    """
    for tensor in tensors:
        if tensor.dtype is not tensors[0].dtype:
            raise RuntimeError(
                "expected m1 and m2 to have the same dtype, but got: "
                f"{tensors[0].dtype} != {tensor.dtype}"
            )


def differentiated(tensors: Iterable[Tensor]) -> bool:
    """Whether autograd wants to know what becomes of the tensors."""
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def define(
    schema: str,
    kernel: Callable[..., Any],
    fake: Callable[..., Any],
    keep: Callable[..., Sequence[Any]],
    backward: Callable[..., Sequence[Any]],
    vmap: Callable[..., Any],
) -> Callable[..., Any]:
    """Make the operator ``fastrnn::name`` of a schema ``name(...) -> ...``; returns its call.

    Args:
        kernel: computes it, on plain tensors.
        fake: returns what the kernel returns, not filled.
        keep: ``(arguments, results)`` returns what the backward needs.
        backward: ``(kept, needs, *gradients)`` returns a gradient for each argument, None
            for what is no tensor. ``needs`` tells for each argument (a list for each list)
            whether its gradient is wanted; gradients of unused results are None.
        vmap: as in `torch.library.register_vmap`.
    """
    name = schema.partition("(")[0]
    library.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    operator = getattr(torch.ops.fastrnn, name).default
    single = len(operator._schema.returns) == 1
    differentiable = _differentiable(name, single, keep, backward)

    def autograd(keyset: Any, *arguments: Any) -> Any:
        below = keyset & torch._C._after_autograd_keyset
        grad = torch.is_grad_enabled()

        def continued(*arguments: Any) -> Any:
            # The engine switches gradients off, but the levels below may want theirs.
            with torch._C._AutoDispatchBelowAutograd(), torch.set_grad_enabled(grad):
                return operator.redispatch(below, *arguments)

        # `torch.func` comes by here once for each of its levels.
        with enable_single_level_autograd_function():
            return differentiable(continued, *_flatten(arguments))

    library.impl(name, kernel, "CompositeExplicitAutograd")
    library.impl(name, autograd, "Autograd", with_keyset=True)
    library.impl(name, _mapped(operator), "Batched")
    torch.library.register_fake(f"fastrnn::{name}", fake, lib=library)
    torch.library.register_vmap(f"fastrnn::{name}", vmap, lib=library)

    def call(*arguments: Any) -> Any:
        flat, lengths = _flatten(arguments)
        tensors = [value for value in flat if isinstance(value, Tensor)]
        if watched(tensors):
            return operator(*arguments)
        if differentiated(tensors):
            return differentiable(kernel, flat, lengths)
        return kernel(*arguments)

    return call


def _flatten(values: Iterable[Any]) -> tuple[list[Any], list[int | None]]:
    """The values with lists of tensors spilled out, and the lengths to gather them again."""
    flat: list[Any] = []
    lengths: list[int | None] = []
    for value in values:
        if isinstance(value, (list, tuple)) and (not value or isinstance(value[0], Tensor)):
            flat.extend(value)
            lengths.append(len(value))
        else:
            flat.append(value)
            lengths.append(None)
    return flat, lengths


def _unflatten(flat: Iterable[Any], lengths: Iterable[int | None]) -> list[Any]:
    rest = iter(flat)
    return [
        next(rest) if length is None else [next(rest) for _ in range(length)] for length in lengths
    ]


def _differentiable(
    name: str,
    single: bool,
    keep: Callable[..., Sequence[Any]],
    backward: Callable[..., Sequence[Any]],
) -> Callable[..., Any]:
    """``differentiable(function, flat, lengths)``: a call whose gradient is ``backward``."""

    def forward(ctx: Any, function: Callable[..., Any], both: list[Any], *flat: Any) -> Any:
        # Else zeros would be made for every result that was not used.
        ctx.set_materialize_grads(False)
        arguments = _unflatten(flat, both[0])
        results = function(*arguments)
        results = (results,) if single else results
        kept, ctx.of_kept = _flatten(keep(arguments, results))
        ctx.save_for_backward(*(v if isinstance(v, Tensor) else None for v in kept))
        ctx.constants = [None if isinstance(v, Tensor) else v for v in kept]
        spilled, lengths = _flatten(results)
        both.append(lengths)
        ctx.both = both
        return tuple(spilled)

    def pull(ctx: Any, *grads: Any) -> Any:
        of_arguments, of_results = ctx.both
        kept = [
            constant if tensor is None else tensor
            for tensor, constant in zip(ctx.saved_tensors, ctx.constants, strict=True)
        ]
        gradients = backward(
            _unflatten(kept, ctx.of_kept),
            _unflatten(ctx.needs_input_grad[2:], of_arguments),
            *_unflatten(grads, of_results),
        )
        flat: list[Any] = [None, None]
        for gradient, length in zip(gradients, of_arguments, strict=True):
            flat.extend([gradient] if length is None else gradient or ())
        return tuple(flat)

    function_class: Any = type(
        f"fastrnn_{name}",
        (torch.autograd.Function,),
        {"forward": staticmethod(forward), "backward": staticmethod(pull)},
    )

    def differentiable(
        function: Callable[..., Any], flat: list[Any], lengths: list[int | None]
    ) -> Any:
        both = [lengths]  # the results' lengths join them
        # Not `Function.apply`, which would hand over to `torch.func` what comes from there.
        results = super(torch.autograd.Function, function_class).apply(function, both, *flat)
        results = _unflatten(results, both[1])
        return results[0] if single else tuple(results)

    return differentiable


def _mapped(operator: Any) -> Callable[..., Any]:
    """The rule for the older vmap: hands over to today's."""

    def level() -> int:
        torch._C._vmapmode_increment_nesting()
        return torch._C._vmapmode_decrement_nesting()

    def unwrap(value: Any) -> tuple[Any, int | None]:
        if isinstance(value, Tensor) and torch._C._functorch.is_legacy_batchedtensor(value):
            # The size, 1, would count only if the tensor were not mapped at this level.
            return torch._remove_batch_dim(value, level(), 1, 0), 0
        return value, None

    def mapped(*arguments: Any) -> Any:
        flat, lengths = _flatten(arguments)
        values, in_dims = zip(*map(unwrap, flat), strict=True)
        results = torch.func.vmap(operator, tuple(_unflatten(in_dims, lengths)))(
            *_unflatten(values, lengths)
        )
        flat, lengths = _flatten(results)
        wrapped = (torch._add_batch_dim(tensor, 0, level()) for tensor in flat)
        return type(results)(_unflatten(wrapped, lengths))

    return mapped
