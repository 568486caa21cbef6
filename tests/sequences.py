"""Scans with options, drawn at random; and what they are to give, one sequence at a time.

`by_hand` is written from the equations and shares nothing with `fastrnn.reference`: it loops over
recurrences, sequences and steps, and a sequence's loop knows of no other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace

import torch
from torch.nn.functional import hardtanh

from fastrnn.cells import CELLS
from fastrnn.options import PLAIN, Options


@dataclass(frozen=True)
class Scan:
    """The arguments of `fastrnn.reference.scan`, and the gradients that come back."""

    cell: str
    gates_x: torch.Tensor
    weight_hh: torch.Tensor | None
    bias_hh: torch.Tensor | None
    weight_hr: torch.Tensor | None
    states: list[torch.Tensor]
    batch_sizes: torch.Tensor | None
    reverse: list[bool]
    params: list[torch.Tensor]
    options: Options
    seed: int

    @property
    def leaves(self):
        """Everything that has a gradient."""
        given = [self.gates_x, self.weight_hh, self.bias_hh, self.weight_hr, *self.states]
        given += self.params
        return [t for t in (*given, *self.options.reset_states) if t is not None]

    def to(self, dtype):
        return self._map(lambda t: t.to(dtype) if t.is_floating_point() else t)

    def fresh(self):
        """With leaves of its own that want gradients."""
        return self._map(
            lambda t: t.detach().clone().requires_grad_() if t.is_floating_point() else t
        )

    def _map(self, change):
        def changed(value):
            if isinstance(value, torch.Tensor):
                return change(value)
            if isinstance(value, (list, tuple)):
                return [changed(v) for v in value]
            if isinstance(value, Options):
                found = {f.name: changed(getattr(value, f.name)) for f in fields(value)}
                return replace(value, **found)
            return value

        return replace(self, **{f.name: changed(getattr(self, f.name)) for f in fields(self)})


FEATURES = (
    "lengths", "reset zero", "reset initial", "reset given", "dropout", "zoneout", "zoneout_p",
    "cell_clip", "proj_clip", "gate_clip", "grad_clip", "all_states",
)  # fmt: skip


def draw_scan(
    cell,
    features=(),
    *,
    steps=4,
    batch=3,
    hidden=5,
    projection=0,
    bias=True,
    packed=False,
    reverse=(False,),
    dtype=torch.float64,
    seed=0,
):
    """A scan with these of `FEATURES`."""
    spec, generator = CELLS[cell], torch.Generator().manual_seed(seed)
    n, width, k = len(reverse), spec.num_gates * hidden, projection or hidden

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    def coin(*shape, p=0.4):
        return torch.rand(shape, generator=generator) < p

    def state(name, *shape):
        drawn = normal(*shape)
        return drawn.abs() + 0.5 if name == "n" else drawn  # by which sLSTM divides

    lengths = torch.randint(0, steps + 1, (batch,), generator=generator)
    batch_sizes = None
    if packed:
        batch_sizes = (lengths.clamp(min=1) > torch.arange(steps).unsqueeze(1)).sum(1)
        batch_sizes[0] = batch
    rows = steps * batch if batch_sizes is None else int(batch_sizes.sum())
    sizes = [k, *[hidden] * (len(spec.states) - 1)]
    options = {"all_states": "all_states" in features}
    if "lengths" in features:
        options["lengths"] = lengths
    for to in ("zero", "initial", "given"):
        if f"reset {to}" in features:
            options |= {"reset": coin(rows, n), "reset_to": to}
            if to == "given":
                options["reset_states"] = [
                    state(name, rows, n, size)
                    for name, size in zip(spec.states, sizes, strict=True)
                ]
    if "dropout" in features:
        options["dropout"] = coin(n, batch, k, p=0.7).to(dtype) * 1.5
    if "zoneout" in features:
        options["zoneout"] = [coin(rows, n, size) for size in sizes]
    if "zoneout_p" in features:
        options["zoneout_p"] = [0.25, 0.375, 0.5, 0.125][: len(sizes)]
    bounds = {"cell_clip": 0.3, "proj_clip": 0.2, "gate_clip": 0.6, "grad_clip": 0.25}
    options["clips"] = [b if name in features else math.inf for name, b in bounds.items()]
    scale = hidden**-0.5
    return Scan(
        cell,
        normal(rows, n, width),
        normal(n, width, k) * scale if spec.recurrent else None,
        normal(n, width) * scale if bias else None,
        normal(n, projection, hidden) * scale if projection else None,
        [state(name, n, batch, size) for name, size in zip(spec.states, sizes, strict=True)],
        batch_sizes,
        list(reverse),
        [normal(n, size * hidden) for size in spec.param_widths],
        Options(**options) if features else PLAIN,
        seed,
    )


def results(run, scan):
    """Results and gradients by name; ``run`` returns output, final states and all states."""
    scan = scan.fresh()
    out, finals, others = run(scan)
    tensors = [out, *finals, *others]
    generator = torch.Generator().manual_seed(scan.seed + 1)
    upstream = [
        torch.randn(t.shape, generator=generator, dtype=torch.float64).to(t.dtype) for t in tensors
    ]
    # By hand, nothing leads to the output of sequences that have all ended.
    attached = [(t, up) for t, up in zip(tensors, upstream, strict=True) if t.requires_grad]
    gradients = (
        torch.autograd.grad(
            [t for t, _ in attached], scan.leaves, [up for _, up in attached], allow_unused=True
        )
        if attached
        else [None] * len(scan.leaves)
    )
    names = ["out", *(f"final{i}" for i in range(len(finals)))]
    names += [f"all{i}" for i in range(len(others))]
    found = dict(zip(names, tensors, strict=True))
    for i, (leaf, grad) in enumerate(zip(scan.leaves, gradients, strict=True)):
        found[f"grad{i}"] = torch.zeros_like(leaf) if grad is None else grad
    return {name: tensor.detach() for name, tensor in found.items()}


class _Limit(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, bound):
        ctx.bound = bound
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad.clamp(-ctx.bound, ctx.bound), None


def by_hand(scan):
    """Output, final states, all states."""
    batch, n = scan.states[0].shape[1], len(scan.reverse)
    if scan.batch_sizes is None:
        steps = scan.gates_x.shape[0] // batch
        row = {(t, b): t * batch + b for t in range(steps) for b in range(batch)}
        lengths = [steps] * batch
        if scan.options.lengths is not None:
            lengths = scan.options.lengths.tolist()
    else:
        sizes = scan.batch_sizes.tolist()
        row = {(t, b): sum(sizes[:t]) + b for t in range(len(sizes)) for b in range(sizes[t])}
        lengths = [sum(b < size for size in sizes) for b in range(batch)]
    every = [
        [[torch.zeros_like(s[0, 0]) for _ in range(n)] for _ in row] for s in scan.states
    ]  # state, row, recurrence
    finals = [[[None] * batch for _ in range(n)] for _ in scan.states]
    for i in range(n):
        for b in range(batch):
            states = initial = [s[i, b] for s in scan.states]
            order = range(lengths[b])
            for t in reversed(order) if scan.reverse[i] else order:
                states = _step_by_hand(scan, i, b, row[t, b], states, initial)
                for s, state in enumerate(states):
                    every[s][row[t, b]][i] = state
            for s, state in enumerate(states):
                finals[s][i][b] = state
    stacked = [torch.stack([torch.stack(r) for r in rows]) for rows in every]
    others = stacked[1:] if scan.options.all_states else []
    return stacked[0], [torch.stack([torch.stack(r) for r in f]) for f in finals], others


def _step_by_hand(scan, i, b, row, states, initial):
    options = scan.options
    if options.reset is not None and options.reset[row, i]:
        if options.reset_to == "zero":
            states = [0 * state for state in states]
        elif options.reset_to == "initial":
            states = initial
        else:
            states = [given[row, i] for given in options.reset_states]
    h = states[0] if options.dropout is None else states[0] * options.dropout[i, b]
    x = _Limit.apply(scan.gates_x[row, i], options.grad_clip)

    def recurrent(h, rows=slice(None)):
        a = h.new_zeros(x[rows].shape)
        if scan.weight_hh is not None:
            a = scan.weight_hh[i, rows] @ h
        if scan.bias_hh is not None:
            a = a + scan.bias_hh[i, rows]
        return _Limit.apply(a, options.grad_clip)

    def limit(tensor, bound):
        return tensor if bound == math.inf else hardtanh(tensor, -bound, bound)

    gate = options.gate_clip
    a = recurrent(h)
    if scan.cell == "lstm":
        i_, f, g, o = limit(x + a, gate).chunk(4)
        c = limit(f.sigmoid() * states[1] + i_.sigmoid() * g.tanh(), options.cell_clip)
        new = [o.sigmoid() * c.tanh(), c]
    elif scan.cell == "gru":
        (r_x, z_x, n_x), (r_h, z_h, n_h) = x.chunk(3), a.chunk(3)
        r, z = limit(r_x + r_h, gate).sigmoid(), limit(z_x + z_h, gate).sigmoid()
        new = [(1 - z) * limit(n_x + r * n_h, gate).tanh() + z * states[0]]
    elif scan.cell == "gru_reset_before":
        rz, n = slice(2 * len(h)), slice(2 * len(h), None)
        r, z = limit(x[rz] + recurrent(h, rz), gate).sigmoid().chunk(2)
        new_h = limit(x[n] + recurrent(r * h, n), gate).tanh()
        new = [(1 - z) * new_h + z * states[0]]
    elif scan.cell.startswith("indrnn"):
        total = limit(x + a + scan.params[0][i] * states[0], gate)
        new = [getattr(total, scan.cell.removeprefix("indrnn_"))()]
    else:
        new = [getattr(limit(x + a, gate), scan.cell.removeprefix("rnn_"))()]
    if scan.weight_hr is not None:
        new[0] = limit(scan.weight_hr[i] @ new[0], options.proj_clip)
    if options.zoneout:
        pairs = zip(options.zoneout, states, new, strict=True)
        new = [torch.where(mask[row, i], old, fresh) for mask, old, fresh in pairs]
    elif options.zoneout_p:
        pairs = zip(options.zoneout_p, states, new, strict=True)
        new = [p * old + (1 - p) * fresh for p, old, fresh in pairs]
    return new
