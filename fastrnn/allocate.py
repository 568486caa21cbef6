"""What a scan and its backward return, not yet filled: the shapes every backend agrees on."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from .cells import CellSpec
from .options import PLAIN, Options
from .reference import accumulation_dtype


def results(
    spec: CellSpec,
    gates_x: Tensor,
    projected: bool,
    states: Sequence[Tensor],
    options: Options,
    save: bool,
) -> tuple[Tensor, list[Tensor], list[Tensor], list[Tensor]]:
    """Outputs ``[S, N, K]``, final states, all states, and, with ``save``, what the backward needs.

    All states are those beside h, ``[S, N, H]`` each, or none. Saved are ``[S, N,
    len(spec.saved)*H]`` in the accumulation dtype where the cell saves anything, and with a
    projection the h before it, ``[S, N, H]``; never nothing, so that an empty list can mean
    that saving was not asked for. To the first, zoneout adds the states beside h as they are
    after it, and unless it is projected h as it is before it; clipping, which of its bounds
    were reached, a number for each unit and then for each unit of the projected h.
    """
    rows, recurrences, _ = gates_x.shape
    hidden = gates_x.shape[2] // spec.num_gates
    out = gates_x.new_empty(rows, recurrences, states[0].shape[2])
    finals = [gates_x.new_empty(state.shape) for state in states]
    others = []
    if options.all_states:
        others = [gates_x.new_empty(rows, recurrences, hidden) for _ in states[1:]]
    saved = []
    if save:
        kept = len(spec.saved)
        if options.zoneout or options.zoneout_p:
            kept += len(spec.states) - projected
        kept += min(options.cell_clip, options.gate_clip) < math.inf
        width = kept * hidden
        if projected and options.proj_clip < math.inf:
            width += out.shape[2]
        wide = accumulation_dtype(gates_x.dtype)
        saved.append(gates_x.new_empty(rows, recurrences, width, dtype=wide))
        if projected:
            saved.append(gates_x.new_empty(rows, recurrences, hidden))
    return out, finals, others, saved


def gradients(
    spec: CellSpec,
    gates_x: Tensor,
    projected: bool,
    states: Sequence[Tensor],
    params: Sequence[Tensor] = (),
    options: Options = PLAIN,
) -> list[Tensor]:
    """``dgates_x``, ``dgates_h`` if gates are apart, initial states', those of the states that
    are reset to, parameters'; if projected, dh and h; if there is a second product, its operand.

    They are the projection's gradient after it, ``[S, N, P]``, and the h before it,
    ``[S, N, H]``: the factors of its weight's gradient.
    """
    sides = 2 if spec.apart else 1
    found = [gates_x.new_empty(gates_x.shape) for _ in range(sides)]
    found += [gates_x.new_empty(like.shape) for like in (*states, *options.reset_states, *params)]
    rows, recurrences, width = gates_x.shape
    if spec.second:
        found.append(gates_x.new_empty(rows, recurrences, states[0].shape[2]))
    if projected:
        found.append(gates_x.new_empty(rows, recurrences, states[0].shape[2]))
        found.append(gates_x.new_empty(rows, recurrences, width // spec.num_gates))
    return found


def layer_gradients(
    input: Sequence[Tensor],
    states: Sequence[Tensor],
    weights: Sequence[Sequence[Tensor | None]],
) -> list[list[Tensor | None]]:
    """Of a whole layer: of its input, if it is there, its initial states, each direction's weights.

    None for a weight that is not there.
    """
    return [
        [None if tensor is None else tensor.new_empty(tensor.shape) for tensor in of]
        for of in (input, states, *weights)
    ]
