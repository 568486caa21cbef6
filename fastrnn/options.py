"""What a scan does to its sequences beside running a cell over them.

One bundle that every backend gets, and its form as the operators' arguments. Letters as in
`fastrnn.reference`; a recurrence that runs in reverse meets the last step first, and "before"
and "previous" are meant in the order in which it meets the steps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

ZERO, INITIAL, GIVEN = "zero", "initial", "given"
"""What a state can be reset to."""


@dataclass(frozen=True, eq=False)
class Options:
    """Everything that is off by default.

    Attributes:
        lengths: int64 ``[B]`` between 0 and T, in any order, on the scan's device: how many
            steps of each sequence are there. A sequence's final state is that after its last
            step, a reversed recurrence starts there; outputs past it are zero. Not together
            with ``batch_sizes``.
        reset: bool ``[S, N]``: where the states before the step are replaced.
        reset_to: by what: ``"zero"``, ``"initial"`` (the initial state) or ``"given"``.
        reset_states: given, one for each of the cell's states, ``[S, N, K]`` and then
            ``[S, N, H]``: what the states before the step become.
        dropout: ``[N, B, K]``, by which h is multiplied on its way into the recurrent
            product, at every step alike. A constant: it gets no gradient.
        zoneout: bool, for each of the cell's states ``[S, N, K]`` and then ``[S, N, H]``:
            where a step leaves the state as it was; or none.
        zoneout_p: for each of the cell's states the part of the previous one that a step
            keeps; or none.
        clips: bounds of the cell state, of the projected h, of the pre-activations, and of the
            pre-activations' gradients; infinity: none. No gradient passes where a bound is
            reached.
        all_states: whether the states beside h are returned for every step.
    """

    lengths: Tensor | None = None
    reset: Tensor | None = None
    reset_to: str = ZERO
    reset_states: Sequence[Tensor] = ()
    dropout: Tensor | None = None
    zoneout: Sequence[Tensor] = ()
    zoneout_p: Sequence[float] = ()
    clips: Sequence[float] = (math.inf, math.inf, math.inf, math.inf)
    all_states: bool = False

    @property
    def cell_clip(self) -> float:
        return self.clips[0]

    @property
    def proj_clip(self) -> float:
        return self.clips[1]

    @property
    def gate_clip(self) -> float:
        return self.clips[2]

    @property
    def grad_clip(self) -> float:
        return self.clips[3]

    @property
    def moves_states(self) -> bool:
        """Whether a step may begin with another h than the step before it returned."""
        return not (self.lengths is None and self.reset is None and self.dropout is None)

    def asked(self) -> list[str]:
        """What is asked for, in the words by which a backend says that it lacks it."""
        if self is PLAIN:
            return []
        found = {
            "lengths": self.lengths is not None,
            "resets": self.reset is not None,
            "recurrent dropout": self.dropout is not None,
            "zoneout": bool(self.zoneout or self.zoneout_p),
            "clipping of the cell state": self.cell_clip < math.inf,
            "clipping of the projection": self.proj_clip < math.inf,
            "clipping of pre-activations": self.gate_clip < math.inf,
            "clipping of gradients": self.grad_clip < math.inf,
            "the states of all steps": self.all_states,
        }
        return [name for name, wanted in found.items() if wanted]

    def of(self, part: slice) -> Options:
        """Those of some of the recurrences."""
        if self is PLAIN:
            return self
        return replace(
            self,
            reset=None if self.reset is None else self.reset[:, part],
            reset_states=[state[:, part] for state in self.reset_states],
            dropout=None if self.dropout is None else self.dropout[part],
            zoneout=[mask[:, part] for mask in self.zoneout],
        )

    def flat(self) -> tuple[Any, ...]:
        """As the operators take them: `SCHEMA`."""
        return (
            self.lengths, self.reset, self.reset_to, list(self.reset_states), self.dropout,
            list(self.zoneout), list(self.zoneout_p), list(self.clips), self.all_states,
        )  # fmt: skip


PLAIN = Options()
"""Nothing asked for."""


def unflat(values: Sequence[Any]) -> Options:
    """The way back of `Options.flat`; `PLAIN` itself where nothing is asked for."""
    lengths, reset, _, _, dropout, zoneout, parts, clips, all_states = values
    tensors_there = any(tensor is not None for tensor in (lengths, reset, dropout))
    if not (tensors_there or zoneout or parts or all_states) and min(clips) == math.inf:
        return PLAIN
    return Options(*values)


SCHEMA = (
    "Tensor? lengths, Tensor? reset, str reset_to, Tensor[] reset_states, Tensor? dropout,"
    " Tensor[] zoneout, float[] zoneout_p, float[] clips, bool all_states"
)
FIELDS = 9
"""How many arguments they are."""


def why_not(options: Options, served: frozenset[str]) -> str | None:
    """The reason a backend that serves only those cannot, None if it can."""
    lacks = [name for name in options.asked() if name not in served]
    return f"it has no kernel with {', '.join(lacks)}" if lacks else None
