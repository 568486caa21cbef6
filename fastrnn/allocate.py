"""What a scan and its backward return, not yet filled: the shapes every backend agrees on."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from .cells import CellSpec
from .reference import accumulation_dtype


def results(
    spec: CellSpec, gates_x: Tensor, projected: bool, states: Sequence[Tensor], save: bool
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Outputs ``[S, N, K]``, final states, and, with ``save``, what the backward needs.

    Saved are ``[S, N, len(spec.saved)*H]`` in the accumulation dtype where the cell
    saves anything, and with a projection the h before it, ``[S, N, H]``; never
    nothing, so that an empty list can mean that saving was not asked for.
    """
    rows, recurrences, _ = gates_x.shape
    hidden = gates_x.shape[2] // spec.num_gates
    out = gates_x.new_empty(rows, recurrences, states[0].shape[2])
    finals = [gates_x.new_empty(state.shape) for state in states]
    saved = []
    if save:
        width = len(spec.saved) * hidden
        wide = accumulation_dtype(gates_x.dtype)
        saved.append(gates_x.new_empty(rows, recurrences, width, dtype=wide))
        if projected:
            saved.append(gates_x.new_empty(rows, recurrences, hidden))
    return out, finals, saved


def gradients(
    spec: CellSpec, gates_x: Tensor, projected: bool, states: Sequence[Tensor]
) -> list[Tensor]:
    """``dgates_x``, ``dgates_h`` if gates are apart, initial states'; if projected, dh and h.

    They are the projection's gradient after it, ``[S, N, P]``, and the h before it,
    ``[S, N, H]``: the factors of its weight's gradient.
    """
    sides = 2 if spec.apart else 1
    found = [gates_x.new_empty(gates_x.shape) for _ in range(sides)]
    found += [gates_x.new_empty(state.shape) for state in states]
    if projected:
        rows, recurrences, width = gates_x.shape
        found.append(gates_x.new_empty(rows, recurrences, states[0].shape[2]))
        found.append(gates_x.new_empty(rows, recurrences, width // spec.num_gates))
    return found
