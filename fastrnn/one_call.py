"""One layer, with gradients or without, in one call of the kernels forwards and one backwards.

The general way writes the gates' input side of all steps to memory, to be read again by the
scan; here it is made a few steps ahead, where it stays in the cache (`csrc/layer.h`), and
backwards its products follow the scan at once (`csrc/gradients.cpp`). What wants to see
operators pass, or to differentiate again, goes the general way.

With ``recompute`` nothing is kept for the backward but the states after every step. From them one
step of all rows side by side makes again what the scan would have saved: a product of the size of
the input's, with no step waiting for another. Its sums are in the scan's order, so that the
gradients are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from . import backends, cpp, inference
from .cells import CellSpec
from .operators import check_dtypes, differentiated, watched
from .options import PLAIN, Options

_ALL_STATES = Options(all_states=True)

# As `cpp.layer` takes a direction's weights.
ORDER = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")

General = Callable[[Tensor, Sequence[Tensor], Sequence[Tensor]], tuple[Tensor, Sequence[Tensor]]]
"""Rows ``[S, I]``, states and weights, in the order of `ORDER`, to output and final states."""


@dataclass(frozen=True)
class Layer:
    """What a layer is beside its tensors; ``names`` are those of its weights, in `ORDER`."""

    spec: CellSpec
    names: tuple[str, ...]
    reverse: Sequence[bool]
    general: General
    recompute: bool = False

    def serves(self, backend: str | None, tensors: Sequence[Tensor]) -> bool:
        """Whether a call on these goes this way; the first are the rows."""
        rows = tensors[0]
        if (
            watched(tensors)  # first: what follows would be part of a trace, and bind its sizes
            or tuple(self.reverse) not in ((False,), (False, True))
            or rows.dtype not in cpp.PRODUCT_DTYPES
            or not inference.in_one_call(self.spec.name)
            or not rows.shape[0]
            or not all(tensor.is_contiguous() for tensor in tensors)
        ):
            return False
        requested = backends.requested(backend)
        return backends.choose(self.spec, rows.device, rows.dtype, requested) == "cpp"

    def by_direction(self, weights: Sequence[Any]) -> list[list[Any]]:
        """A direction's weights after the other's, each in the whole `ORDER`."""
        count = len(self.names)
        found = []
        for start in range(0, len(weights), count):
            of = dict(zip(self.names, weights[start : start + count], strict=True))
            found.append([of.get(name) for name in ORDER])
        return found


def run(
    layer: Layer, rows: Tensor, states: Sequence[Tensor], weights: Sequence[Tensor]
) -> tuple[Tensor, Sequence[Tensor]]:
    """Output ``[S, N, K]`` and final states ``[N, B, X]``; weights a direction after the other."""
    if not differentiated((rows, *states, *weights)):
        return _forward(layer, rows, states, weights, False)[:2]
    out, *finals = _Run.apply(layer, len(states), rows, *states, *weights)
    return out, finals


def _forward(
    layer: Layer, rows: Tensor, states: Sequence[Tensor], weights: Sequence[Tensor], save: bool
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    return cpp.layer(
        layer.spec, rows, _steps(rows, states), states, layer.by_direction(weights), save
    )


def _steps(rows: Tensor, states: Sequence[Tensor]) -> int:
    return rows.shape[0] // states[0].shape[1]


class _Run(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, layer: Layer, count: int, rows: Tensor, *tensors: Tensor) -> Any:
        ctx.set_materialize_grads(False)
        states, weights = tensors[:count], tensors[count:]
        if layer.recompute:
            out, finals, saved = _states_of_all_steps(layer, rows, states, weights)
        else:
            out, finals, saved = _forward(layer, rows, states, weights, True)
        ctx.layer, ctx.count = layer, count
        ctx.save_for_backward(rows, *tensors, out, *saved)
        return out, *finals

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor | None, *grad_finals: Tensor | None) -> Any:
        layer, count = ctx.layer, ctx.count
        given = 1 + count + len(layer.names) * len(layer.reverse)
        kept = ctx.saved_tensors  # once: hooks may have to fetch them
        tensors, (out, *saved) = kept[:given], kept[given:]
        grads = [grad for grad in (grad_out, *grad_finals) if grad is not None]
        needs = ctx.needs_input_grad[2:]
        if torch.is_grad_enabled() or watched(grads):
            found = _again(layer, count, tensors, needs, (grad_out, *grad_finals))
        else:
            if layer.recompute:
                saved = _saved_again(layer, count, tensors, out, saved)
            found = _gradients(layer, count, tensors, needs, out, saved, grad_out, grad_finals)
        return None, None, *found


def _states_of_all_steps(
    layer: Layer, rows: Tensor, states: Sequence[Tensor], weights: Sequence[Tensor]
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Output, final states, and the states beside h after every step, ``[S, N, H]`` each."""
    if len(states) == 1:
        return *_forward(layer, rows, states, weights, False)[:2], []
    batch = states[0].shape[1]
    _, w_hh, _, b_hh, w_hr = zip(*layer.by_direction(weights), strict=True)
    out, finals, others, _ = cpp.scan(
        layer.spec, _input_side(layer, rows, weights, batch), w_hh,
        b_hh if layer.spec.apart and b_hh[0] is not None else None,
        None if w_hr[0] is None else w_hr, states, None, layer.reverse, (), _ALL_STATES, False,
    )  # fmt: skip
    return out, finals, others


def _input_side(layer: Layer, rows: Tensor, weights: Sequence[Tensor], batch: int) -> Tensor:
    """``gates_x [S, N, G*H]`` as that batch has it, biases as in `stack.input_product`."""
    w_ih, _, b_ih, b_hh, _ = zip(*layer.by_direction(weights), strict=True)
    width, bias = w_ih[0].shape[0], None
    if b_ih[0] is not None:
        both = not layer.spec.apart and b_hh[0] is not None
        bias = torch.cat([x + h for x, h in zip(b_ih, b_hh, strict=True)] if both else b_ih)
    weight = w_ih[0] if len(w_ih) == 1 else torch.cat(w_ih)
    return cpp.linear(rows, weight, bias, like=batch).view(rows.shape[0], len(w_ih), width)


def _saved_again(
    layer: Layer,
    count: int,
    tensors: Sequence[Tensor],
    out: Tensor,
    others: Sequence[Tensor],
) -> list[Tensor]:
    """What the forward would have saved: one step from the states before every step."""
    if not layer.spec.saved and "weight_hr" not in layer.names:
        return [out.new_empty(*out.shape[:2], 0)]
    rows, states = tensors[0], tensors[1 : 1 + count]
    weights = tensors[1 + count :]
    batch = states[0].shape[1]

    def before(initial: Tensor, after: Tensor) -> Tensor:
        """States before every step, ``[N, S, X]``, of ``[N, B, X]`` and those after it."""
        by_direction = [
            torch.cat(
                [after[batch:, n], initial[n]] if backwards else [initial[n], after[:-batch, n]]
            )
            for n, backwards in enumerate(layer.reverse)
        ]
        return by_direction[0].unsqueeze(0) if len(by_direction) == 1 else torch.stack(by_direction)

    previous = [before(*pair) for pair in zip(states, (out, *others), strict=True)]
    _, w_hh, _, b_hh, w_hr = zip(*layer.by_direction(weights), strict=True)
    *_, saved = cpp.scan(
        layer.spec, _input_side(layer, rows, weights, batch), w_hh,
        b_hh if layer.spec.apart and b_hh[0] is not None else None,
        None if w_hr[0] is None else w_hr, previous, None,
        (False,) * len(layer.reverse), (), PLAIN, True, like=batch,
    )  # fmt: skip
    return saved


def _gradients(
    layer: Layer,
    count: int,
    tensors: Sequence[Tensor],
    needs: Sequence[bool],
    out: Tensor,
    saved: Sequence[Tensor],
    grad_out: Tensor | None,
    grad_finals: Sequence[Tensor | None],
) -> list[Tensor | None]:
    # Hooks may have made others of what was saved.
    check_dtypes([*(g for g in (grad_out, *grad_finals) if g is not None), *tensors, out, *saved])
    rows, *given = (tensor.contiguous() for tensor in tensors)
    states, weights = given[:count], layer.by_direction(given[count:])
    of_weights = any(needs[1 + count :])
    grad_rows, grad_states, of = cpp.layer_backward(
        layer.spec, rows, _steps(rows, states), states, weights, out.contiguous(),
        [tensor.contiguous() for tensor in saved], grad_out, grad_finals, needs[0], of_weights,
    )  # fmt: skip
    if not of_weights:
        return [grad_rows, *grad_states] + [None] * len(given[count:])
    there = [ORDER.index(name) for name in layer.names]
    return [grad_rows, *grad_states, *(grads[i] for grads in of for i in there)]


def _again(
    layer: Layer,
    count: int,
    tensors: Sequence[Tensor],
    needs: Sequence[bool],
    grads: Sequence[Tensor | None],
) -> list[Tensor | None]:
    """The same by operators, which can be mapped and differentiated again.

    By aliases: a tensor may be given twice, or another one be made of it, and each place is to
    get its own part alone. In the dtype of the forward, whatever autocast is on by now.
    """
    with torch.enable_grad(), torch.autocast(tensors[0].device.type, enabled=False):
        tensors = [tensor.view_as(tensor) for tensor in tensors]
        out, finals = layer.general(tensors[0], tensors[1 : 1 + count], tensors[1 + count :])
        pairs = [(y, g) for y, g in zip((out, *finals), grads, strict=True) if g is not None]
        if not pairs:
            return [None] * len(tensors)
        wanted = [tensor for tensor, need in zip(tensors, needs, strict=True) if need]
        outputs, upstream = zip(*pairs, strict=True)
        found = iter(
            torch.autograd.grad(outputs, wanted, upstream, create_graph=True, allow_unused=True)
        )
    return [next(found) if need else None for need in needs]
