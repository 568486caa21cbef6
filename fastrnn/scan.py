"""The one boundary between PyTorch and the kernels.

A scan takes the input side of the gates for all time steps and returns outputs and
final states. Here it becomes a PyTorch operator: what it returns without running
(fake), its gradient, its vmap; and the products after the time loop. Shapes are
those of `fastrnn.reference.scan`, which says what is computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import allocate, backends, cpp, fold, gpu, operators, reference, weight_gradients
from .cells import CELLS, CellSpec


def scan(
    spec: CellSpec,
    gates_x: Tensor,
    weight_hh: Sequence[Tensor],
    bias_hh: Sequence[Tensor] | None,
    weight_hr: Sequence[Tensor] | None,
    states: Sequence[Tensor],
    batch_sizes: Tensor | None = None,
    reverse: Sequence[bool] = (False,),
    backend: str | None = None,
) -> tuple[Tensor, Sequence[Tensor]]:
    """Run the recurrences with the backend that serves them.

    Weights and biases are given one tensor for each recurrence, ``[G*H, K]``,
    ``[G*H]`` and ``[P, H]``; everything else is as in `fastrnn.reference.scan`.

    Raises:
        RuntimeError: the backend asked for cannot serve.
    """
    name = backends.choose(spec, gates_x.device, gates_x.dtype, backends.requested(backend))
    inputs = (gates_x, *weight_hh, *(bias_hh or ()), *(weight_hr or ()), *states)
    if name == "cpp" and not operators.watched(inputs) and not operators.differentiated(inputs):
        out, finals, _ = cpp.scan(
            spec, gates_x, weight_hh, bias_hh, weight_hr, states, batch_sizes, reverse, False
        )
        return out, finals
    stacked = (_stack(weight_hh), _stack(bias_hh), _stack(weight_hr))
    if name == "reference":
        return reference.scan(spec, gates_x, *stacked, states, batch_sizes, reverse)  # type: ignore[arg-type]
    # A trace is to serve with and without gradients.
    save = torch.is_grad_enabled() and not torch.jit.is_tracing()
    with gpu.interpreting(name == "triton"):
        out, finals, _ = _scan(spec.name, gates_x, *stacked, states, batch_sizes, reverse, save)
    return out, finals


def _stack(tensors: Sequence[Tensor] | None) -> Tensor | None:
    if tensors is None:
        return None
    return tensors[0].unsqueeze(0) if len(tensors) == 1 else torch.stack(tuple(tensors))


# --- the operators' kernels -----------------------------------------------------------


def _unstack(tensor: Tensor | None) -> Sequence[Tensor] | None:
    return None if tensor is None else tensor.unbind(0)


def _kernel(
    cell: str,
    gates_x: Tensor,
    weight_hh: Tensor,
    bias_hh: Tensor | None,
    weight_hr: Tensor | None,
    *rest: Any,
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    if gpu.serves(gates_x):
        return gpu.scan(CELLS[cell], gates_x, weight_hh, bias_hh, weight_hr, *rest)
    weights = (weight_hh.unbind(0), _unstack(bias_hh), _unstack(weight_hr))
    return cpp.scan(CELLS[cell], gates_x, *weights, *rest)


def _kernel_backward(
    cell: str,
    gates_x: Tensor,
    weight_hh: Tensor,
    bias_hh: Tensor | None,
    weight_hr: Tensor | None,
    *rest: Any,
) -> list[Tensor]:
    if gpu.serves(gates_x):
        return gpu.scan_backward(CELLS[cell], gates_x, weight_hh, weight_hr, *rest)
    return cpp.scan_backward(CELLS[cell], gates_x, weight_hh.unbind(0), _unstack(weight_hr), *rest)


def _fake(
    cell: str,
    gates_x: Tensor,
    weight_hh: Tensor,
    bias_hh: Tensor | None,
    weight_hr: Tensor | None,
    states: Sequence[Tensor],
    batch_sizes: Tensor | None,
    reverse: Sequence[bool],
    save: bool,
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    return allocate.results(CELLS[cell], gates_x, weight_hr is not None, states, save)


def _fake_backward(
    cell: str,
    gates_x: Tensor,
    weight_hh: Tensor,
    bias_hh: Tensor | None,
    weight_hr: Tensor | None,
    states: Sequence[Tensor],
    *_: Any,
) -> list[Tensor]:
    return allocate.gradients(CELLS[cell], gates_x, weight_hr is not None, states)


# --- gradients ------------------------------------------------------------------------


def _keep(arguments: Sequence[Any], results: Sequence[Any]) -> list[Any]:
    out, _, saved = results
    return [*arguments[:-1], out, saved, gpu.interprets()]


def _backward(
    kept: Sequence[Any],
    needs: Sequence[Any],
    grad_out: Tensor | None,
    grad_finals: Sequence[Tensor | None],
    _: object,
) -> list[Any]:
    *arguments, out, saved, interpreted = kept
    cell, _, _, _, _, states, batch_sizes, reverse = arguments
    spec = CELLS[cell]
    if not saved:
        # The forward was told not to save, as in a trace. One more mends it.
        with gpu.interpreting(interpreted):
            out, _, saved = _scan(*arguments, True)
    grad_out = torch.zeros_like(out) if grad_out is None else grad_out
    grad_finals = [
        torch.zeros_like(state) if grad is None else grad
        for grad, state in zip(grad_finals, states, strict=True)
    ]
    with gpu.interpreting(interpreted):
        dgates_x, *gradients = _scan_backward(*arguments, out, saved, grad_out, grad_finals)
    dgates_h = gradients.pop(0) if spec.apart else dgates_x
    grad_states, gradients = gradients[: len(states)], gradients[len(states) :]

    grad_weight_hh = grad_bias_hh = grad_weight_hr = None
    if needs[2]:
        grad_weight_hh, grad_bias_hh = weight_gradients.of_states(
            dgates_h, out, states[0], batch_sizes, reverse
        )
    elif needs[3]:
        grad_bias_hh = dgates_h.sum(0)
    if needs[4]:
        # Not the hidden that was saved, whose graph ends with the forward.
        dh, hidden = gradients
        pairs = zip(dh.unbind(1), hidden.unbind(1), strict=True)
        grad_weight_hr = torch.stack([weight_gradients.of_rows(*pair)[0] for pair in pairs])
    return [
        None, dgates_x, grad_weight_hh, grad_bias_hh if needs[3] else None, grad_weight_hr,
        grad_states, None, None, None,
    ]  # fmt: skip


def _keep_twice(arguments: Sequence[Any], results: object) -> Sequence[Any]:
    return arguments


def _backward_twice(
    kept: Sequence[Any], needs: Sequence[Any], grads: Sequence[Tensor | None]
) -> list[Any]:
    """Double backward, through the reference.

    What was saved counts as a function of the operator's other inputs, so the
    gradient goes to those alone.
    """
    cell, gates_x, weight_hh, bias_hh, weight_hr, states, batch_sizes, reverse = kept[:8]
    _, saved, grad_out, grad_finals = kept[8:]
    optional = {"bias_hh": bias_hh, "weight_hr": weight_hr}

    def first(
        gates_x: Tensor,
        weight_hh: Tensor,
        optional: dict[str, Tensor],
        states: Sequence[Tensor],
        grad_out: Tensor,
        grad_finals: Sequence[Tensor],
    ) -> list[Tensor]:
        weights = (weight_hh, optional.get("bias_hh"), optional.get("weight_hr"))
        return reference.scan_backward(
            CELLS[cell], gates_x, *weights, states, batch_sizes, reverse, grad_out, grad_finals
        )

    present = {name: tensor for name, tensor in optional.items() if tensor is not None}
    gradients, pull, *_ = torch.func.vjp(
        first, gates_x, weight_hh, present, states, grad_out, grad_finals
    )
    cotangents = [
        torch.zeros_like(gradient) if grad is None else grad
        for grad, gradient in zip(grads, gradients, strict=True)
    ]
    grad_gates_x, grad_weight_hh, found, grad_states, *grad_grads = pull(cotangents)
    return [
        None, grad_gates_x, grad_weight_hh, found.get("bias_hh"), found.get("weight_hr"),
        grad_states, None, None, None, [None] * len(saved), *grad_grads,
    ]  # fmt: skip


# Flags are int[]: `torch.jit.trace` knows no list of bool.
_scan = operators.define(
    "scan(str cell, Tensor gates_x, Tensor weight_hh, Tensor? bias_hh, Tensor? weight_hr,"
    " Tensor[] states, Tensor? batch_sizes, int[] reverse, bool save)"
    " -> (Tensor, Tensor[], Tensor[])",
    _kernel,
    _fake,
    _keep,
    _backward,
    fold.scan,
)
_scan_backward = operators.define(
    "scan_backward(str cell, Tensor gates_x, Tensor weight_hh, Tensor? bias_hh,"
    " Tensor? weight_hr, Tensor[] states, Tensor? batch_sizes, int[] reverse,"
    " Tensor out, Tensor[] saved, Tensor grad_out, Tensor[] grad_finals) -> Tensor[]",
    _kernel_backward,
    _fake_backward,
    _keep_twice,
    _backward_twice,
    fold.scan_backward,
)
