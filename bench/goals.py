"""How fast fastrnn is meant to be, as multiples of its peers' speed.

Two levels: "first" is what the layers have to reach to be worth having, "next" what they are to
reach by further work. Some of the latter hold only with AMX, or only without. Of several goals
that apply to a case the highest counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

LEVELS = ("first", "next")


@dataclass(frozen=True)
class Goal:
    """Cases with these properties are to be at least ``ratio`` times as fast as ``peer``."""

    level: str
    peer: str
    ratio: float
    family: str = "grid"
    cell: str | None = None
    mode: str | None = None
    batch: tuple[int, int] = (1, 1 << 30)
    hidden: tuple[int, int] = (1, 1 << 30)
    amx: bool | None = None

    def applies(self, case: dict[str, Any], amx: bool) -> bool:
        return (
            self.family == case["family"]
            and self.cell in (None, case["cell"])
            and self.mode in (None, case["mode"])
            and self.batch[0] <= case["batch"] <= self.batch[1]
            and self.hidden[0] <= case["hidden"] <= self.hidden[1]
            and self.amx in (None, amx)
        )


def _each(level: str, peer: str, ratios: dict[str, float], **properties: Any) -> list[Goal]:
    return [Goal(level, peer, ratio, cell=cell, **properties) for cell, ratio in ratios.items()]


def _single(level: str, peer: str, ratios: dict[str, float], **properties: Any) -> list[Goal]:
    return _each(level, peer, ratios, mode="inference", batch=(1, 1), **properties)


_SMALL, _LARGE, _MIDDLE = (64, 256), (512, 1024), (128, 512)
_FEW, _MANY = (4, 8), (16, 64)

GOALS: Sequence[Goal] = (
    Goal("first", "torch", 0.95),
    *_single("first", "torch", {"lstm": 2.5, "gru": 4.0}, hidden=_SMALL),
    Goal("next", "torch", 1.0),
    Goal("next", "torch", 1.0, "bfloat16"),
    *_single("next", "torch", {"lstm": 3.0, "gru": 6.0}, hidden=_SMALL),
    *_single("next", "onnxruntime", {"lstm": 1.4, "gru": 1.3}, hidden=_SMALL),
    *_single("next", "torch", {"lstm": 1.8, "gru": 1.5}, hidden=_LARGE),
    *_single("next", "onnxruntime", {"lstm": 1.2, "gru": 1.2}, hidden=_LARGE),
    *(
        goal
        for mode, batch, peer, amx, ratios in (
            ("inference", _FEW, "torch", None, {"lstm": 1.8, "gru": 2.5}),
            ("inference", _FEW, "onnxruntime", None, {"lstm": 1.2, "gru": 1.2}),
            ("inference", _MANY, "torch", True, {"lstm": 3.0, "gru": 3.5}),
            ("inference", _MANY, "torch", False, {"lstm": 1.3, "gru": 1.8}),
            ("inference", _MANY, "onnxruntime", True, {"lstm": 2.5, "gru": 2.5}),
            ("inference", _MANY, "onnxruntime", False, {"lstm": 1.1, "gru": 1.1}),
            ("training", _MANY, "torch", True, {"lstm": 2.5, "gru": 3.5, "rnn": 2.0}),
        )
        for goal in _each("next", peer, ratios, mode=mode, batch=batch, hidden=_MIDDLE, amx=amx)
    ),
    *(
        goal
        for amx, batch in ((True, (1, 8)), (False, (1, 1 << 30)))
        for goal in _each(
            "next",
            "torch",
            {"lstm": 1.3, "gru": 2.5, "rnn": 1.3},
            mode="training",
            batch=batch,
            amx=amx,
        )
    ),
    Goal("next", "torch", 2.5, "bfloat16", "lstm", "inference", batch=(16, 1 << 30)),
    Goal("next", "torch", 2.0, "bfloat16", "lstm", "training", batch=(16, 1 << 30)),
    Goal("next", "torch", 6.0, "bfloat16", "gru", "inference"),
    Goal("next", "torch", 4.0, "bfloat16", "gru", "training"),
    Goal("next", "torch", 4.0, "packed"),
    Goal("next", "torch", 3.0, "stacked"),
    Goal("next", "torch", 5.0, "step", hidden=_SMALL),
    Goal("next", "onnxruntime", 2.0, "step", hidden=_SMALL),
)

# Of the geometric mean over the grid's shapes, against torch; of the first level.
MEANS = {("lstm", "training"): 1.3, ("gru", "training"): 2.0}


def goal(level: str, peer: str, case: dict[str, Any], amx: bool) -> float | None:
    """The ratio that a case (a record of the results) is to reach, None where none is set."""
    found = [
        goal.ratio
        for goal in GOALS
        if goal.level == level and goal.peer == peer and goal.applies(case, amx)
    ]
    return max(found, default=None)


def has_amx(machine: dict[str, Any]) -> bool:
    """Whether goals for AMX hold: the processor has it, and no cap on instructions forbids it."""
    return any("amx" in name for name in machine["cpu_features"]) and machine["isa_cap"] is None
