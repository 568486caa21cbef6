"""The specification of a scan, in plain PyTorch: a loop of a cell's `step` over time.

Every kernel is held against this. It is also a backend of its own, differentiable
any number of times, and what the kernels' double backward runs through.

Letters: ``S`` rows (``T*B``, or the sum of ``batch_sizes``), ``N`` independent
recurrences, ``B`` batch, ``H`` hidden size, ``P`` projection size, ``G`` gates,
``K`` the width of h: ``P`` with a projection, else ``H``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .cells import CellSpec

_WIDER = {torch.float16: torch.float32, torch.bfloat16: torch.float32}


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which states and sums are kept: float32, or float64 for float64."""
    return _WIDER.get(dtype, dtype)


def row_sizes(rows: int, batch: int, batch_sizes: Tensor | None) -> list[int]:
    """How many rows each time step has."""
    if batch_sizes is not None:
        sizes: list[int] = batch_sizes.tolist()
        return sizes
    return [batch] * (rows // batch) if batch else []


def scan(
    spec: CellSpec,
    gates_x: Tensor,
    weight_hh: Tensor,
    bias_hh: Tensor | None,
    weight_hr: Tensor | None,
    states: Sequence[Tensor],
    batch_sizes: Tensor | None,
    reverse: Sequence[bool],
    add_gates_h: Tensor | None = None,
    add_h: Tensor | None = None,
) -> tuple[Tensor, list[Tensor]]:
    """Run N recurrences over time.

    Args:
        gates_x: ``[S, N, G*H]``, the input side of the pre-activations, time-major.
        weight_hh: ``[N, G*H, K]``.
        bias_hh: ``[N, G*H]``, added to the recurrent side.
        weight_hr: ``[N, P, H]``, the projection.
        states: the initial states, ``[N, B, K]`` and then ``[N, B, H]`` each.
        batch_sizes: int64 ``[T]``, descending: how many sequences reach each step,
            as in a `PackedSequence`. None: all of them reach every step.
        reverse: for each recurrence, whether it runs from the last step to the first.
        add_gates_h: ``[S, N, G*H]`` added to the recurrent side; its gradient is that side's.
        add_h: ``[S, N, K]`` added to a projected h; its gradient is the projection's.

    Returns:
        the outputs ``[S, N, K]`` and the final states, shaped as the initial ones.
    """
    dtype = gates_x.dtype
    wide = accumulation_dtype(dtype)
    sizes = row_sizes(gates_x.shape[0], states[0].shape[1], batch_sizes)
    starts = [0]
    for size in sizes:
        starts.append(starts[-1] + size)

    outputs, finals = [], []
    for n, backwards in enumerate(reverse):
        w_hh = weight_hh[n].to(wide)
        w_hr = None if weight_hr is None else weight_hr[n].to(wide)
        current = tuple(state[n].to(wide) for state in states)
        rows: list[Tensor] = [gates_x.new_empty(0)] * len(sizes)
        order = range(len(sizes))
        for t in reversed(order) if backwards else order:
            here = slice(starts[t], starts[t + 1])
            active = tuple(state[: sizes[t]] for state in current)
            gates_h = active[0] @ w_hh.t()
            if bias_hh is not None:
                gates_h = gates_h + bias_hh[n].to(wide)
            if add_gates_h is not None:
                gates_h = gates_h + add_gates_h[here, n].to(wide)
            h, *rest = spec.step(gates_x[here, n].to(wide), gates_h, active)
            if w_hr is not None:
                h = h @ w_hr.t()
                if add_h is not None:
                    h = h + add_h[here, n].to(wide)
            rows[t] = h
            current = tuple(
                torch.cat([new, old[sizes[t] :]]) if sizes[t] < old.shape[0] else new
                for new, old in zip((h, *rest), current, strict=True)
            )
        empty = states[0].new_empty(0, states[0].shape[2]).to(wide)
        outputs.append(torch.cat(rows) if rows else empty)
        finals.append(current)
    out = torch.stack(outputs, dim=1).to(dtype)
    return out, [torch.stack(each).to(dtype) for each in zip(*finals, strict=True)]


def scan_backward(
    spec: CellSpec,
    gates_x: Tensor,
    weight_hh: Tensor,
    bias_hh: Tensor | None,
    weight_hr: Tensor | None,
    states: Sequence[Tensor],
    batch_sizes: Tensor | None,
    reverse: Sequence[bool],
    grad_out: Tensor,
    grad_finals: Sequence[Tensor],
) -> list[Tensor]:
    """What a backend's backward returns, by differentiating `scan`; itself differentiable.

    Returns ``[dgates_x]``, ``dgates_h`` if the cell has gates apart, the gradient of
    each initial state, and ``dh`` before the projection's product if there is one.
    """
    with torch.enable_grad():
        # A view makes a leaf's own gradient and the graph behind it two things.
        gates_x = _differentiable(gates_x)
        states = [_differentiable(state) for state in states]
        wanted = [gates_x]
        add_gates_h = add_h = None
        if spec.apart:
            add_gates_h = _differentiable(torch.zeros_like(gates_x))
            wanted.append(add_gates_h)
        wanted.extend(states)
        if weight_hr is not None:
            add_h = _differentiable(torch.zeros_like(grad_out))
            wanted.append(add_h)
        out, finals = scan(
            spec,
            gates_x,
            weight_hh,
            bias_hh,
            weight_hr,
            states,
            batch_sizes,
            reverse,
            add_gates_h,
            add_h,
        )
        return list(
            torch.autograd.grad(
                [out, *finals],
                wanted,
                [grad_out, *grad_finals],
                create_graph=True,
                allow_unused=True,
                materialize_grads=True,
            )
        )


def _differentiable(tensor: Tensor) -> Tensor:
    return tensor.view_as(tensor) if tensor.requires_grad else tensor.detach().requires_grad_()
