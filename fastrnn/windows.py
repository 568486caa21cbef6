"""A scan whose activations are kept for a window of steps at a time, and computed once more.

What a backward needs of a step is many times as large as its output. With windows of k steps, k
steps' worth of it is alive at a time, and of all other steps the output and T/k states: least
where k is the square root of T (Chen et al., *Training deep nets with sublinear memory cost*,
2016). The gradients are the same, to the bit where the kernels are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .options import GIVEN, INITIAL, Options

Run = Callable[
    [Tensor, Sequence[Tensor], Options], tuple[Tensor, Sequence[Tensor], Sequence[Tensor]]
]
"""One recurrence over rows of inputs ``[S, I]``, from these states: what `scan` returns."""


def scan_in_windows(
    run: Run, rows: Tensor, states: Sequence[Tensor], reverse: bool, options: Options, every: int
) -> tuple[Tensor, Sequence[Tensor], Sequence[Tensor]]:
    """As ``run(rows, states, options)``, in windows of ``every`` steps; nothing packed."""
    batch = states[0].shape[1]
    if not batch:  # no rows to tell the steps by, and nothing to keep
        return run(rows, states, options)
    steps = rows.shape[0] // batch
    initial = states
    found: list[Any] = []
    starts = range(0, steps, every)
    for start in reversed(starts) if reverse else starts:
        window = slice(start * batch, min(steps, start + every) * batch)
        part = _cut(options, window, start, min(every, steps - start), initial)
        out, states, others = checkpoint(run, rows[window], list(states), part, use_reentrant=False)
        found.append([out, *others])
    if reverse:
        found.reverse()
    out, *others = [torch.cat(kind) for kind in zip(*found, strict=True)]
    return out, states, others


def _cut(
    options: Options, window: slice, start: int, steps: int, initial: Sequence[Tensor]
) -> Options:
    """The options of a window."""
    changes: dict[str, Any] = {"zoneout": [mask[window] for mask in options.zoneout]}
    if options.lengths is not None:
        changes["lengths"] = (options.lengths - start).clamp(0, steps)
    if options.reset is not None:
        changes["reset"] = options.reset[window]
        changes["reset_states"] = [state[window] for state in options.reset_states]
        if options.reset_to == INITIAL:
            # A window's initial states are not the scan's.
            changes["reset_to"] = GIVEN
            changes["reset_states"] = [
                state.transpose(0, 1).repeat(steps, 1, 1) for state in initial
            ]
    return replace(options, **changes)
