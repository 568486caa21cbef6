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


def packed_positions(batch_sizes: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """The time step and the sequence of each row of packed data, ``[S]`` each."""
    steps = torch.arange(batch_sizes.shape[0], device=batch_sizes.device)
    step = torch.repeat_interleave(steps, batch_sizes, output_size=rows)
    starts = batch_sizes.cumsum(0) - batch_sizes
    return step, torch.arange(rows, device=batch_sizes.device) - starts[step]


def scan(
    spec: CellSpec,
    gates_x: Tensor,
    weight_hh: Tensor,
    bias_hh: Tensor | None,
    weight_hr: Tensor | None,
    states: Sequence[Tensor],
    batch_sizes: Tensor | None,
    reverse: Sequence[bool],
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

    Returns:
        the outputs ``[S, N, K]`` and the final states, shaped as the initial ones.
    """
    add_gates_h = None if bias_hh is None else bias_hh.expand(gates_x.shape)
    out, finals, _ = _scan(
        spec, gates_x, weight_hh, add_gates_h, weight_hr, None, states, batch_sizes, reverse
    )
    return out, finals


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
    each initial state, and with a projection ``dh`` after and ``h`` before it.
    """
    if bias_hh is None:
        add_gates_h = torch.zeros_like(gates_x)
    else:
        add_gates_h = bias_hh.expand(gates_x.shape)

    def run(
        gates_x: Tensor, add_gates_h: Tensor, states: list[Tensor], add_h: Tensor
    ) -> tuple[tuple[Tensor, list[Tensor]], Tensor]:
        out, finals, hidden = _scan(
            spec, gates_x, weight_hh, add_gates_h, weight_hr, add_h, states, batch_sizes, reverse
        )
        return (out, finals), hidden

    _, pull, *hidden = torch.func.vjp(
        run, gates_x, add_gates_h, list(states), torch.zeros_like(grad_out), has_aux=True
    )
    dgates_x, dgates_h, grad_states, dh = pull((grad_out, list(grad_finals)))
    gradients = [dgates_x, dgates_h] if spec.apart else [dgates_x]
    gradients += grad_states
    return gradients if weight_hr is None else [*gradients, dh, *hidden]


def _scan(
    spec: CellSpec,
    gates_x: Tensor,
    weight_hh: Tensor,
    add_gates_h: Tensor | None,
    weight_hr: Tensor | None,
    add_h: Tensor | None,
    states: Sequence[Tensor],
    batch_sizes: Tensor | None,
    reverse: Sequence[bool],
) -> tuple[Tensor, list[Tensor], Tensor]:
    """`scan`, and h before the projection, ``[S, N, H]``.

    What is added to the recurrent side of the gates, ``[S, N, G*H]``, and to h, ``[S, N, K]``,
    has a row for each step, so that its gradient is that of what it is added to.
    """
    dtype = gates_x.dtype
    wide = accumulation_dtype(dtype)
    rows, batch = gates_x.shape[0], states[0].shape[1]
    positions = present = None
    if batch_sizes is None:
        steps = rows // batch if batch else 1
    else:
        # Sequences are padded to the longest. No size is read, so that this traces;
        # and padding is zeros, by which no number of a neighbour can come in.
        batch_sizes = batch_sizes.to(gates_x.device)
        steps = batch_sizes.shape[0]
        positions = packed_positions(batch_sizes, rows)
        present = torch.arange(batch, device=gates_x.device) < batch_sizes.unsqueeze(1)

    def by_step(tensor: Tensor) -> Tensor:
        tensor = tensor.to(wide)
        if positions is None:
            return tensor.unflatten(0, (steps, batch))
        return tensor.new_zeros(steps, batch, tensor.shape[1]).index_put(positions, tensor)

    def by_row(tensor: Tensor) -> Tensor:
        return (tensor.flatten(0, 1) if positions is None else tensor[positions]).to(dtype)

    outputs, hiddens, finals = [], [], []
    for n, backwards in enumerate(reverse):
        out, hidden, last = _recurrence(
            spec,
            by_step(gates_x[:, n]),
            weight_hh[n].to(wide),
            None if add_gates_h is None else by_step(add_gates_h[:, n]),
            None if weight_hr is None else weight_hr[n].to(wide),
            None if add_h is None else by_step(add_h[:, n]),
            [state[n].to(wide) for state in states],
            present,
            backwards,
        )
        outputs.append(by_row(out))
        hiddens.append(by_row(hidden))
        finals.append([state.to(dtype) for state in last])
    last = [torch.stack(each) for each in zip(*finals, strict=True)]
    return torch.stack(outputs, 1), last, torch.stack(hiddens, 1)


def _recurrence(
    spec: CellSpec,
    gates_x: Tensor,
    weight_hh: Tensor,
    add_gates_h: Tensor | None,
    weight_hr: Tensor | None,
    add_h: Tensor | None,
    states: Sequence[Tensor],
    present: Tensor | None,
    backwards: bool,
) -> tuple[Tensor, Tensor, Sequence[Tensor]]:
    """One of them, over ``gates_x [T, B, G*H]`` where ``present [T, B]`` holds.

    Returns ``h [T, B, K]``, before the projection ``[T, B, H]``, and the final states.
    """
    hs, befores = [], []
    steps = range(gates_x.shape[0])
    for t in reversed(steps) if backwards else steps:
        gates_h = states[0] @ weight_hh.t()
        if add_gates_h is not None:
            gates_h = gates_h + add_gates_h[t]
        h, *others = spec.step(gates_x[t], gates_h, tuple(states))
        befores.append(h)
        if weight_hr is not None:
            h = h @ weight_hr.t()
        if add_h is not None:
            h = h + add_h[t]
        hs.append(h)
        new = [h, *others]
        if present is not None:
            here = present[t].unsqueeze(1)
            new = [torch.where(here, a, b) for a, b in zip(new, states, strict=True)]
        states = new
    if backwards:
        hs.reverse()
        befores.reverse()
    return torch.stack(hs), torch.stack(befores), states
