"""The loop of a cell's own step that is written where there is no kernel, of any layer here.

It takes the input product of all steps at once, as a careful writer's does, and calls the step that
the cell's file states in PyTorch, compiled (`torch.compile`) or as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastrnn.cells import CellSpec
from fastrnn.forms import weight_names

Loop = Callable[..., Tensor]


def loop_of(layer: Any, compiled: bool = True) -> Loop:
    """``loop(x, *layer.parameters())``: the outputs ``[T, B, H]`` of one direction from zeros."""
    spec: CellSpec = layer._spec()
    names = weight_names(spec, layer.bias)
    normalise, heads = layer._normalise() if hasattr(layer, "_normalise") else (), layer.num_heads
    step = torch.compile(_step, dynamic=False) if compiled else _step

    def loop(x: Tensor, *weights: Tensor) -> Tensor:
        of = dict(zip(names, weights, strict=False))
        gates = x @ of["weight_ih"].t()
        if normalise:
            gates = normalise[0](gates.flatten(0, 1)).view(gates.shape)
        if "bias_ih" in of:
            gates = gates + of["bias_ih"]
        # Heads are a batch of recurrences: [T, heads, B, G*H].
        gates = gates.unflatten(2, (heads, -1)).transpose(1, 2)
        w_hh = None
        if spec.recurrent:
            w_hh = of["weight_hh"].unflatten(0, (heads, -1)).transpose(1, 2)
        params = tuple(of[name] for name in spec.params)
        zeros = x.new_zeros(heads, x.shape[1], layer.hidden_size // heads)
        states: tuple[Tensor, ...] = (zeros,) * len(spec.states)
        out = []
        for of_step in gates:
            states = step(spec, of_step, w_hh, states, params)
            out.append(states[0])
        return torch.stack(out).transpose(1, 2).flatten(2)

    return loop


def _step(
    spec: CellSpec,
    gates_x: Tensor,
    w_hh: Tensor | None,
    states: tuple[Tensor, ...],
    params: tuple[Tensor, ...],
) -> tuple[Tensor, ...]:
    if w_hh is None:
        return spec.step(gates_x, torch.zeros_like(gates_x), states, params)
    if spec.operand is None:
        return spec.step(gates_x, states[0] @ w_hh, states, params)
    first = states[0].shape[-1] * (spec.num_gates - len(spec.second))
    gates_h = states[0] @ w_hh[..., :first]
    operand = spec.operand(gates_x[..., :first], gates_h, states[0])
    return spec.step(gates_x, torch.cat([gates_h, operand @ w_hh[..., first:]], -1), states, params)
