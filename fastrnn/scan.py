"""The one boundary between PyTorch and the kernels.

A scan takes the input side of the gates for all time steps and returns outputs and
final states. Here it becomes a PyTorch operator: what it returns without running
(fake), its gradient, its vmap; and the products after the time loop. Shapes are
those of `fastrnn.reference.scan`, which says what is computed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from . import allocate, backends, cpp, fold, gpu, operators, reference, weight_gradients
from .cells import CELLS, CellSpec
from .options import FIELDS, PLAIN, SCHEMA, Options, unflat


def scan(
    spec: CellSpec,
    gates_x: Tensor,
    weight_hh: Sequence[Tensor] | None,
    bias_hh: Sequence[Tensor] | None,
    weight_hr: Sequence[Tensor] | None,
    states: Sequence[Tensor],
    batch_sizes: Tensor | None = None,
    reverse: Sequence[bool] = (False,),
    backend: str | None = None,
    params: Sequence[Sequence[Tensor]] = (),
    options: Options = PLAIN,
) -> tuple[Tensor, Sequence[Tensor], Sequence[Tensor]]:
    """Run the recurrences with the backend that serves them.

    Weights, biases and parameters are given one tensor for each recurrence, ``[G*H, K]``,
    ``[G*H]``, ``[P, H]`` and ``[X]``; everything else is as in `fastrnn.reference.scan`.

    Raises:
        RuntimeError: the backend asked for cannot serve; dtypes differ.
    """
    inputs = [gates_x, *(weight_hh or ()), *(bias_hh or ()), *(weight_hr or ()), *states]
    for param in params:
        inputs += param
    operators.check_dtypes(inputs)
    requested = backends.requested(backend)
    name = backends.choose(spec, gates_x.device, gates_x.dtype, requested, options)
    if name == "cpp":
        if options is not PLAIN:
            inputs += [value for value in _spilled(options.flat()) if isinstance(value, Tensor)]
        if not operators.watched(inputs) and not operators.differentiated(inputs):
            stacked = [_stack(param) for param in params]
            out, finals, others, _ = cpp.scan(
                spec, gates_x, weight_hh, bias_hh, weight_hr, states, batch_sizes, reverse,
                stacked, options, False,
            )  # fmt: skip
            return out, finals, others
    weights = (_stack(weight_hh), _stack(bias_hh), _stack(weight_hr))
    stacked = [_stack(param) for param in params]
    if name == "reference":
        return reference.scan(
            spec, gates_x, *weights, states, batch_sizes, reverse, stacked, options
        )
    # A trace is to serve with and without gradients.
    save = torch.is_grad_enabled() and not torch.jit.is_tracing()
    with gpu.interpreting(name == "triton"):
        out, finals, others, _ = _scan(
            spec.name, gates_x, *weights, states, batch_sizes, reverse, stacked,
            *options.flat(), save,
        )  # fmt: skip
    return out, finals, others


def _stack(tensors: Sequence[Tensor] | None) -> Any:
    if tensors is None:
        return None
    return tensors[0].unsqueeze(0) if len(tensors) == 1 else torch.stack(tuple(tensors))


def _spilled(values: Sequence[Any]) -> Iterator[Any]:
    for value in values:
        if isinstance(value, (list, tuple)):
            yield from value
        else:
            yield value


# --- the operators' kernels -----------------------------------------------------------


def _unstack(tensor: Tensor | None) -> Sequence[Tensor] | None:
    return None if tensor is None else tensor.unbind(0)


# The operators' arguments that are a scan's: those up to `params`, and the options.
_PARAMS = 8
_OPTIONS = slice(_PARAMS + 1, _PARAMS + 1 + FIELDS)
_STATES, _BATCH_SIZES, _REVERSE = 5, 6, 7
_RESET_STATES, _ZONEOUT = _PARAMS + 4, _PARAMS + 6


def _kernel(*arguments: Any) -> tuple[Tensor, list[Tensor], list[Tensor], list[Tensor]]:
    cell, gates_x, weight_hh, bias_hh, weight_hr = arguments[:5]
    rest = (*arguments[5 : _PARAMS + 1], unflat(arguments[_OPTIONS]), arguments[-1])
    if gpu.serves(gates_x):
        return gpu.scan(CELLS[cell], gates_x, weight_hh, bias_hh, weight_hr, *rest)
    unstacked = (_unstack(weight_hh), _unstack(bias_hh), _unstack(weight_hr))
    return cpp.scan(CELLS[cell], gates_x, *unstacked, *rest)


def _kernel_backward(*arguments: Any) -> list[Tensor]:
    cell, gates_x, weight_hh, _, weight_hr = arguments[:5]
    options = unflat(arguments[_OPTIONS])
    rest = (*arguments[5 : _PARAMS + 1], options, *arguments[_OPTIONS.stop :])
    if gpu.serves(gates_x):
        return gpu.scan_backward(CELLS[cell], gates_x, weight_hh, weight_hr, *rest)
    unstacked = (_unstack(weight_hh), _unstack(weight_hr))
    return cpp.scan_backward(CELLS[cell], gates_x, *unstacked, *rest)


def _fake(*arguments: Any) -> tuple[Tensor, list[Tensor], list[Tensor], list[Tensor]]:
    cell, gates_x, _, _, weight_hr, states = arguments[:6]
    options, save = unflat(arguments[_OPTIONS]), arguments[-1]
    return allocate.results(CELLS[cell], gates_x, weight_hr is not None, states, options, save)


def _fake_backward(*arguments: Any) -> list[Tensor]:
    cell, gates_x, _, _, weight_hr, states = arguments[:6]
    options = unflat(arguments[_OPTIONS])
    return allocate.gradients(
        CELLS[cell], gates_x, weight_hr is not None, states, arguments[_PARAMS], options
    )


# --- gradients ------------------------------------------------------------------------


def _keep(arguments: Sequence[Any], results: Sequence[Any]) -> list[Any]:
    out, _, _, saved = results
    return [*arguments[:-1], out, saved, gpu.interprets()]


def _backward(
    kept: Sequence[Any],
    needs: Sequence[Any],
    grad_out: Tensor | None,
    grad_finals: Sequence[Tensor | None],
    grad_others: Sequence[Tensor | None],
    _: object,
) -> list[Any]:
    *arguments, out, saved, interpreted = kept
    spec, states = CELLS[arguments[0]], arguments[_STATES]
    options = unflat(arguments[_OPTIONS])
    if not saved:
        # The forward was told not to save, as in a trace. One more mends it.
        with gpu.interpreting(interpreted):
            out, _, _, saved = _scan(*arguments, True)
    grad_out = torch.zeros_like(out) if grad_out is None else grad_out
    grad_finals = [
        torch.zeros_like(state) if grad is None else grad
        for grad, state in zip(grad_finals, states, strict=True)
    ]
    grad_others = [
        out.new_zeros(*out.shape[:2], state.shape[2]) if grad is None else grad
        for grad, state in zip(grad_others, states[1:], strict=False)
    ]
    with gpu.interpreting(interpreted):
        dgates_x, *rest = _scan_backward(*arguments, out, saved, grad_out, grad_finals, grad_others)
    gradients = list(rest)  # torch 2.6 unpacks into a tuple where it traces
    dgates_h = gradients.pop(0) if spec.apart else dgates_x

    def take(like: Sequence[Any]) -> list[Tensor]:
        return [gradients.pop(0) for _ in like]

    grad_states = take(states)
    grad_resets = take(options.reset_states)
    grad_params = take(arguments[_PARAMS])

    grad_weight_hh = grad_bias_hh = grad_weight_hr = None
    if needs[2]:
        grad_weight_hh, grad_bias_hh = weight_gradients.of_states(
            dgates_h, out, states[0], arguments[_BATCH_SIZES], arguments[_REVERSE], options
        )
        if spec.second:
            first = -len(spec.second) * states[0].shape[2]
            pairs = zip(dgates_h[..., first:].unbind(1), gradients.pop().unbind(1), strict=True)
            second = torch.stack([weight_gradients.of_rows(*pair)[0] for pair in pairs])
            grad_weight_hh = torch.cat([grad_weight_hh[:, :first], second], 1)
    elif needs[3]:
        grad_bias_hh = dgates_h.sum(0)
    if needs[4]:
        # Not the hidden that was saved, whose graph ends with the forward.
        dh, hidden = gradients
        pairs = zip(dh.unbind(1), hidden.unbind(1), strict=True)
        grad_weight_hr = torch.stack([weight_gradients.of_rows(*pair)[0] for pair in pairs])
    found: list[Any] = [None] * (len(arguments) + 1)
    found[1:_BATCH_SIZES] = [
        dgates_x, grad_weight_hh, grad_bias_hh if needs[3] else None, grad_weight_hr, grad_states,
    ]  # fmt: skip
    found[_PARAMS], found[_RESET_STATES] = grad_params, grad_resets
    found[_ZONEOUT] = [None] * len(options.zoneout)
    return found


def _keep_twice(arguments: Sequence[Any], results: object) -> Sequence[Any]:
    return arguments


def _backward_twice(
    kept: Sequence[Any], needs: Sequence[Any], grads: Sequence[Tensor | None]
) -> list[Any]:
    """Double backward, through the reference.

    What was saved counts as a function of the operator's other inputs, so the
    gradient goes to those alone.
    """
    cell, gates_x, weight_hh, bias_hh, weight_hr, *rest = kept[: _PARAMS + 1]
    states, batch_sizes, reverse, params = rest
    options = unflat(kept[_OPTIONS])
    _, saved, *upstream = kept[_OPTIONS.stop :]
    optional = {"weight_hh": weight_hh, "bias_hh": bias_hh, "weight_hr": weight_hr}

    def first(
        gates_x: Tensor,
        optional: dict[str, Tensor],
        states: Sequence[Tensor],
        params: Sequence[Tensor],
        resets: Sequence[Tensor],
        upstream: Sequence[Any],
    ) -> list[Tensor]:
        hh, b_hh, hr = (optional.get(name) for name in ("weight_hh", "bias_hh", "weight_hr"))
        to = replace(options, reset_states=resets)
        return reference.scan_backward(
            CELLS[cell], gates_x, hh, b_hh, hr, states, batch_sizes, reverse, params, to, *upstream
        )

    present = {name: tensor for name, tensor in optional.items() if tensor is not None}
    gradients, pull, *_ = torch.func.vjp(
        first, gates_x, present, states, params, options.reset_states, upstream
    )
    cotangents = [
        torch.zeros_like(gradient) if grad is None else grad
        for grad, gradient in zip(grads, gradients, strict=True)
    ]
    grad_gates_x, weights, grad_states, grad_params, grad_resets, grads_up = pull(cotangents)
    found: list[Any] = [None] * len(kept)
    found[1:_BATCH_SIZES] = [grad_gates_x, *(weights.get(name) for name in optional), grad_states]
    found[_PARAMS], found[_RESET_STATES] = grad_params, grad_resets
    found[_ZONEOUT] = [None] * len(options.zoneout)
    found[_OPTIONS.stop + 1] = [None] * len(saved)
    found[_OPTIONS.stop + 2 :] = grads_up
    return found


# Flags are int[]: `torch.jit.trace` knows no list of bool.
_ARGUMENTS = (
    "str cell, Tensor gates_x, Tensor? weight_hh, Tensor? bias_hh, Tensor? weight_hr,"
    " Tensor[] states, Tensor? batch_sizes, int[] reverse, Tensor[] params, " + SCHEMA
)
_scan = operators.define(
    f"scan({_ARGUMENTS}, bool save) -> (Tensor, Tensor[], Tensor[], Tensor[])",
    _kernel,
    _fake,
    _keep,
    _backward,
    fold.scan,
)
_scan_backward = operators.define(
    f"scan_backward({_ARGUMENTS}, Tensor out, Tensor[] saved, Tensor grad_out,"
    " Tensor[] grad_finals, Tensor[] grad_others) -> Tensor[]",
    _kernel_backward,
    _fake_backward,
    _keep_twice,
    _backward_twice,
    fold.scan_backward,
)
