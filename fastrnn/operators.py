"""Making an operator of PyTorch that all of its transforms accept.

`torch.library` registers most of it. Two gaps are filled here: its autograd refuses
`torch.func`, and the vmap behind ``torch.autograd.grad(is_grads_batched=True)`` is an
older one that knows no lists of tensors. Nothing here knows what an operator computes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._functorch.utils import enable_single_level_autograd_function
from torch.autograd.function import _SingleLevelFunction

_library = torch.library.Library("fastrnn", "DEF")


def define(
    schema: str,
    kernel: Callable[..., Any],
    fake: Callable[..., Any],
    keep: Callable[..., Sequence[Any]],
    backward: Callable[..., Sequence[Any]],
    vmap: Callable[..., Any],
) -> Any:
    """Make the operator ``fastrnn::name`` of a schema ``name(...) -> ...`` and return it.

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
    _library.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    operator = getattr(torch.ops.fastrnn, name).default
    _library.impl(name, kernel, "CompositeExplicitAutograd")
    torch.library.register_fake(f"fastrnn::{name}", fake, lib=_library)
    differentiable = _differentiable(name, operator, keep, backward)
    _library.impl(name, differentiable, "Autograd", with_keyset=True)
    torch.library.register_vmap(f"fastrnn::{name}", vmap, lib=_library)
    _library.impl(name, _mapped(operator), "Batched")
    return operator


def _flatten(values: Iterable[Any]) -> tuple[list[Any], list[int | None]]:
    """The values with lists of tensors spilled out, and the lengths to gather them again."""
    flat: list[Any] = []
    lengths: list[int | None] = []
    for value in values:
        if isinstance(value, (list, tuple)) and all(isinstance(v, Tensor) for v in value):
            flat.extend(value)
            lengths.append(len(value))
        else:
            flat.append(value)
            lengths.append(None)
    return flat, lengths


def _unflatten(flat: Iterable[Any], lengths: Iterable[int | None]) -> list[Any]:
    rest = iter(flat)
    return [
        next(rest) if length is None else [next(rest) for _ in range(length)]
        for length in lengths
    ]


def _differentiable(
    name: str,
    operator: Any,
    keep: Callable[..., Sequence[Any]],
    backward: Callable[..., Sequence[Any]],
) -> Callable[..., Any]:
    """What runs in autograd's turn: at each level of `torch.func`, that level's own.

    Hence a function of a single level, which calls the operator anew for what is below.
    """

    single = len(operator._schema.returns) == 1

    class Scope(_SingleLevelFunction):
        @staticmethod
        def forward(ctx: Any, keyset: Any, grad: bool, layouts: list[Any], *flat: Any) -> Any:
            # Without this, zeros would be made for every result that was not used.
            ctx.set_materialize_grads(False)
            arguments = _unflatten(flat, layouts[0])
            # The levels below differentiate too, but the engine has switched gradients off.
            with torch._C._AutoDispatchBelowAutograd(), torch.set_grad_enabled(grad):
                results = operator.redispatch(keyset, *arguments)
            if single:
                results = (results,)
            kept, ctx.kept_lengths = _flatten(keep(arguments, results))
            ctx.save_for_backward(*(v if isinstance(v, Tensor) else None for v in kept))
            ctx.constants = [None if isinstance(v, Tensor) else v for v in kept]
            flat, lengths = _flatten(results)
            layouts.append(lengths)
            ctx.layouts = layouts
            return tuple(flat)

        @staticmethod
        def backward(ctx: Any, *grads: Any) -> Any:
            of_arguments, of_results = ctx.layouts
            flat = [
                constant if tensor is None else tensor
                for tensor, constant in zip(ctx.saved_tensors, ctx.constants, strict=True)
            ]
            kept = _unflatten(flat, ctx.kept_lengths)
            needs = _unflatten(ctx.needs_input_grad[3:], of_arguments)
            gradients = backward(kept, needs, *_unflatten(grads, of_results))
            flat: list[Any] = [None, None, None]
            for gradient, length in zip(gradients, of_arguments, strict=True):
                flat.extend([gradient] if length is None else gradient or ())
            return tuple(flat)

    Scope.__name__ = Scope.__qualname__ = name

    def differentiable(keyset: Any, *arguments: Any) -> Any:
        flat, lengths = _flatten(arguments)
        layouts = [lengths]
        below = keyset & torch._C._after_autograd_keyset
        with enable_single_level_autograd_function():
            flat = Scope.apply(below, torch.is_grad_enabled(), layouts, *flat)
        results = _unflatten(flat, layouts[1])
        return results[0] if single else tuple(results)

    return differentiable


def _mapped(operator: Any) -> Callable[..., Any]:
    """The rule for the older vmap: hands over to today's."""

    def level() -> int:
        torch._C._vmapmode_increment_nesting()
        return torch._C._vmapmode_decrement_nesting()

    def unwrap(value: Any) -> tuple[Any, int | None]:
        if isinstance(value, Tensor) and torch._C._functorch.is_legacy_batchedtensor(value):
            # The size counts only where a tensor lacks the dimension of this level.
            return torch._remove_batch_dim(value, level(), 1, 0), 0
        return value, None

    def mapped(*arguments: Any) -> Any:
        flat, lengths = _flatten(arguments)
        values, in_dims = zip(*map(unwrap, flat), strict=True)
        results = torch.func.vmap(operator, tuple(_unflatten(in_dims, lengths)))(
            *_unflatten(values, lengths)
        )
        flat, lengths = _flatten(results)
        return type(results)(_unflatten((torch._add_batch_dim(t, 0, level()) for t in flat), lengths))

    return mapped
