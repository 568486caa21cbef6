"""The specification of a scan, in plain PyTorch: a loop of a cell's `step` over time.

Every kernel is held against this. It is also a backend of its own, differentiable
any number of times, and what the kernels' double backward runs through.

Letters: ``S`` rows (``T*B``, or the sum of ``batch_sizes``), ``N`` independent
recurrences, ``B`` batch, ``H`` hidden size, ``P`` projection size, ``G`` gates,
``K`` the width of h: ``P`` with a projection, else ``H``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .cells import CellSpec, Clip, clip
from .options import GIVEN, INITIAL, PLAIN, Options

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
    weight_hh: Tensor | None,
    bias_hh: Tensor | None,
    weight_hr: Tensor | None,
    states: Sequence[Tensor],
    batch_sizes: Tensor | None,
    reverse: Sequence[bool],
    params: Sequence[Tensor] = (),
    options: Options = PLAIN,
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Run N recurrences over time.

    Args:
        gates_x: ``[S, N, G*H]``, the input side of the pre-activations, time-major.
        weight_hh: ``[N, G*H, K]``; None for a cell without a recurrent product.
        bias_hh: ``[N, G*H]``, added to the recurrent side.
        weight_hr: ``[N, P, H]``, the projection.
        states: the initial states, ``[N, B, K]`` and then ``[N, B, H]`` each.
        batch_sizes: int64 ``[T]``, descending: how many sequences reach each step,
            as in a `PackedSequence`. None: all of them reach every step.
        reverse: for each recurrence, whether it runs from the last step to the first.
        params: the cell's own parameters, ``[N, X]`` each.
        options: what else is done to the sequences.

    Returns:
        the outputs ``[S, N, K]``; the final states, shaped as the initial ones; and, where
        the options ask for all states, those beside h at every step, ``[S, N, H]`` each.
    """
    taps = _Taps(None if bias_hh is None else bias_hh.expand(gates_x.shape))
    out, finals, others, _ = _scan(
        spec, gates_x, weight_hh, weight_hr, states, batch_sizes, reverse, params, options, taps
    )
    return out, finals, others


def scan_backward(
    spec: CellSpec,
    gates_x: Tensor,
    weight_hh: Tensor | None,
    bias_hh: Tensor | None,
    weight_hr: Tensor | None,
    states: Sequence[Tensor],
    batch_sizes: Tensor | None,
    reverse: Sequence[bool],
    params: Sequence[Tensor],
    options: Options,
    grad_out: Tensor,
    grad_finals: Sequence[Tensor],
    grad_others: Sequence[Tensor],
) -> list[Tensor]:
    """What a backend's backward returns, by differentiating `scan`; itself differentiable.

    Returns ``[dgates_x]``, ``dgates_h`` if the cell has gates apart, the gradient of
    each initial state, of each state it is reset to and of each of the cell's parameters,
    and with a projection ``dh`` after and ``h`` before it; of a cell with a second product,
    its operand.
    """
    if bias_hh is None:
        add_gates_h = torch.zeros_like(gates_x)
    else:
        add_gates_h = bias_hh.expand(gates_x.shape)

    def run(
        gates_x: Tensor,
        add_gates_h: Tensor,
        states: list[Tensor],
        resets: list[Tensor],
        params: list[Tensor],
        add_h: Tensor,
    ) -> tuple[Any, Tensor]:
        out, finals, others, hidden = _scan(
            spec, gates_x, weight_hh, weight_hr, states, batch_sizes, reverse, params,
            replace(options, reset_states=resets), _Taps(add_gates_h, add_h),
        )  # fmt: skip
        return (out, finals, others), hidden

    _, pull, *hidden = torch.func.vjp(
        run,
        gates_x,
        add_gates_h,
        list(states),
        list(options.reset_states),
        list(params),
        torch.zeros_like(grad_out),
        has_aux=True,
    )
    dgates_x, dgates_h, grad_states, grad_resets, grad_params, dh = pull(
        (grad_out, list(grad_finals), list(grad_others))
    )
    gradients = [dgates_x, dgates_h] if spec.apart else [dgates_x]
    gradients += [*grad_states, *grad_resets, *grad_params]
    if spec.second:
        return [*gradients, *hidden]
    return gradients if weight_hr is None else [*gradients, dh, *hidden]


@dataclass(frozen=True)
class _Taps:
    """What is added at every step, so that its gradient is that of what it is added to.

    To the recurrent side of the gates, ``[S, N, G*H]``, and to h, ``[S, N, K]``, after the
    projection's product.
    """

    gates_h: Tensor | None = None
    h: Tensor | None = None


def _scan(
    spec: CellSpec,
    gates_x: Tensor,
    weight_hh: Tensor | None,
    weight_hr: Tensor | None,
    states: Sequence[Tensor],
    batch_sizes: Tensor | None,
    reverse: Sequence[bool],
    params: Sequence[Tensor],
    options: Options,
    taps: _Taps,
) -> tuple[Tensor, list[Tensor], list[Tensor], Tensor]:
    """`scan`, and what enters the last product: h before the projection, or the operand of the
    second product, ``[S, N, H]``."""
    dtype = gates_x.dtype
    wide = accumulation_dtype(dtype)
    rows, batch = gates_x.shape[0], states[0].shape[1]
    positions = present = None
    if batch_sizes is None:
        steps = rows // batch if batch else 1
        if options.lengths is not None:
            present = torch.arange(steps, device=gates_x.device).unsqueeze(1) < options.lengths
            # What lies past a sequence's end is nobody's number, be it NaN.
            gates_x = gates_x.where(present.view(-1, 1, 1), 0)
    else:
        # Sequences are padded to the longest. No size is read, so that this traces;
        # and padding is zeros, by which no number of a neighbour can come in.
        batch_sizes = batch_sizes.to(gates_x.device)
        steps = batch_sizes.shape[0]
        positions = packed_positions(batch_sizes, rows)
        present = torch.arange(batch, device=gates_x.device) < batch_sizes.unsqueeze(1)

    def by_step(tensor: Tensor) -> Tensor:
        tensor = tensor if tensor.dtype == torch.bool else tensor.to(wide)
        if positions is None:
            return tensor.unflatten(0, (steps, batch))
        return tensor.new_zeros(steps, batch, tensor.shape[1]).index_put(positions, tensor)

    def by_row(tensor: Tensor) -> Tensor:
        if options.lengths is not None and present is not None:
            tensor = tensor.where(present.unsqueeze(2), 0)
        return (tensor.flatten(0, 1) if positions is None else tensor[positions]).to(dtype)

    def of(n: int, tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else by_step(tensor[:, n])

    outputs, finals, alls, hiddens = [], [], [], []
    for n, backwards in enumerate(reverse):
        recurrence = _Recurrence(
            spec,
            None if weight_hh is None else weight_hh[n].to(wide),
            None if weight_hr is None else weight_hr[n].to(wide),
            tuple(param[n].to(wide) for param in params),
            options,
            add_gates_h=of(n, taps.gates_h),
            add_h=of(n, taps.h),
            present=present,
            reset=None if options.reset is None else by_step(options.reset[:, n : n + 1]),
            reset_states=[by_step(state[:, n]) for state in options.reset_states],
            dropout=None if options.dropout is None else options.dropout[n].to(wide),
            zoneout=[by_step(mask[:, n]) for mask in options.zoneout],
        )
        initial = [state[n].to(wide) for state in states]
        each, hidden, last = recurrence.run(by_step(gates_x[:, n]), initial, backwards)
        outputs.append(by_row(each[0]))
        alls.append([by_row(state) for state in each[1:]] if options.all_states else [])
        hiddens.append(by_row(hidden))
        finals.append([state.to(dtype) for state in last])
    return (
        torch.stack(outputs, 1),
        [torch.stack(each) for each in zip(*finals, strict=True)],
        [torch.stack(each, 1) for each in zip(*alls, strict=True)],
        torch.stack(hiddens, 1),
    )


@dataclass
class _Recurrence:
    """One of them, everything in time as ``[T, B, X]``; ``present`` is ``[T, B]``."""

    spec: CellSpec
    weight_hh: Tensor | None
    weight_hr: Tensor | None
    params: tuple[Tensor, ...]
    options: Options
    add_gates_h: Tensor | None
    add_h: Tensor | None
    present: Tensor | None
    reset: Tensor | None
    reset_states: Sequence[Tensor]
    dropout: Tensor | None
    zoneout: Sequence[Tensor]

    def run(
        self, gates_x: Tensor, initial: Sequence[Tensor], backwards: bool
    ) -> tuple[list[Tensor], Tensor, Sequence[Tensor]]:
        """Each state at every step, h before the projection at every step, the final states."""
        states = initial
        each, befores = [], []
        steps = range(gates_x.shape[0])
        for t in reversed(steps) if backwards else steps:
            before = self._before(t, states, initial)
            hidden, new = self._step(t, gates_x[t], before)
            if self.present is not None:
                here = self.present[t].unsqueeze(1)
                # What comes before a step that is not there is not replaced either.
                new = [torch.where(here, a, b) for a, b in zip(new, states, strict=True)]
            states = new
            each.append(states)
            befores.append(hidden)
        if backwards:
            each.reverse()
            befores.reverse()
        return [torch.stack(kind) for kind in zip(*each, strict=True)], torch.stack(befores), states

    def _before(
        self, t: int, states: Sequence[Tensor], initial: Sequence[Tensor]
    ) -> Sequence[Tensor]:
        """The states that a step begins with."""
        if self.reset is None:
            return states
        reset, to = self.reset[t], self.options.reset_to
        if to == INITIAL:
            others = initial
        elif to == GIVEN:
            others = [state[t] for state in self.reset_states]
        else:
            others = [torch.zeros_like(state) for state in states]
        return [torch.where(reset, a, b) for a, b in zip(others, states, strict=True)]

    def _step(
        self, t: int, gates_x: Tensor, states: Sequence[Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        """h before the projection, and the new states."""
        options = self.options
        clips = Clip(options.cell_clip, options.gate_clip)
        gates_x = _clip_gradient(gates_x, options.grad_clip)
        operand = None
        if self.weight_hh is not None:
            h = states[0] if self.dropout is None else states[0] * self.dropout
            first = (
                self.weight_hh.shape[0]
                // self.spec.num_gates
                * (self.spec.num_gates - len(self.spec.second))
            )
            gates_h = h @ self.weight_hh[:first].t()
            if self.add_gates_h is not None:
                gates_h = gates_h + self.add_gates_h[t, :, :first]
            gates_h = _clip_gradient(gates_h, options.grad_clip)
            if self.spec.operand is not None:
                operand = self.spec.operand(gates_x[:, :first], gates_h, h, clips)
                second = operand @ self.weight_hh[first:].t()
                if self.add_gates_h is not None:
                    second = second + self.add_gates_h[t, :, first:]
                gates_h = torch.cat([gates_h, _clip_gradient(second, options.grad_clip)], 1)
        elif self.add_gates_h is not None:
            gates_h = _clip_gradient(self.add_gates_h[t], options.grad_clip)
        else:
            gates_h = torch.zeros_like(gates_x)
        hidden, *others = self.spec.step(gates_x, gates_h, tuple(states), self.params, clips)
        h = hidden
        if self.weight_hr is not None:
            h = h @ self.weight_hr.t()
        if self.add_h is not None:
            h = h + self.add_h[t]
        if self.weight_hr is not None:
            h = clip(h, options.proj_clip)
        new = [h, *others]
        if self.zoneout:
            masks = [mask[t] for mask in self.zoneout]
            new = [torch.where(*each) for each in zip(masks, states, new, strict=True)]
        elif options.zoneout_p:
            kept = zip(options.zoneout_p, states, new, strict=True)
            new = [b + p * (a - b) if p else b for p, a, b in kept]
        return hidden if operand is None else operand, new


def _clip_gradient(x: Tensor, bound: float) -> Tensor:
    """The same, whose gradient is kept between -bound and bound."""
    clipped: Tensor = x if bound == math.inf else _ClipGradient.apply(x, bound)
    return clipped


class _ClipGradient(torch.autograd.Function):
    """The same, with its gradient between -bound and bound."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, bound: float) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.bound = inputs[1]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return grad.clamp(-ctx.bound, ctx.bound), None


def previous_h(
    out: Tensor,
    h_0: Tensor,
    batch_sizes: Tensor | None,
    reverse: Sequence[bool],
    options: Options,
) -> Tensor:
    """The h that entered each step's recurrent product, ``[S, N, K]``, from the outputs.

    What it is at steps past a sequence's end means nothing, but is finite.
    """
    rows, batch = out.shape[0], h_0.shape[1]
    if batch_sizes is not None:
        batch_sizes = batch_sizes.to(out.device, non_blocking=out.is_cuda)
        sequence = packed_positions(batch_sizes, rows)[1]
    else:
        sequence = torch.arange(batch, device=out.device).repeat(rows // batch if batch else 0)
    found = []
    for n, backwards in enumerate(reverse):
        first = h_0[n][sequence]
        if batch_sizes is not None:
            source = _previous_rows(batch_sizes, rows, backwards)
            h = torch.cat([out[:, n], h_0[n]])[source]
        elif backwards:
            h = torch.cat([out[batch:, n], h_0[n]])
            if options.lengths is not None:
                step = torch.arange(rows, device=out.device) // max(batch, 1)
                last = step + 1 >= options.lengths[sequence]
                h = torch.where(last.unsqueeze(1), first, h)
        else:
            h = torch.cat([h_0[n], out[: rows - batch, n]])
        if options.reset is not None:
            reset = options.reset[:, n : n + 1]
            if options.reset_to == INITIAL:
                h = torch.where(reset, first, h)
            elif options.reset_to == GIVEN:
                h = torch.where(reset, options.reset_states[0][:, n], h)
            else:
                h = h.masked_fill(reset, 0)
        if options.dropout is not None:
            h = h * options.dropout[n][sequence]
        found.append(h)
    return torch.stack(found, 1)


def _previous_rows(batch_sizes: Tensor, rows: int, backwards: bool) -> Tensor:
    """For each packed row, the row its state came from; ``rows + b`` means the initial state b."""
    step, sequence = packed_positions(batch_sizes, rows)
    row = torch.arange(rows, device=batch_sizes.device)
    if backwards:
        following = torch.cat([batch_sizes[1:], batch_sizes.new_zeros(1)])
        first = sequence >= following[step]
        previous = row + batch_sizes[step]
    else:
        first = step == 0
        previous = row - batch_sizes[(step - 1).clamp(min=0)]
    return torch.where(first, rows + sequence, previous)
