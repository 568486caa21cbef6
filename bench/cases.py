"""What is measured: the grid of shapes and a few other forms of a call."""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import product

GATES = {"lstm": 4, "gru": 3, "rnn": 1}
MODES = ("inference", "training")
BATCHES = (1, 8, 32, 64)
HIDDENS = (64, 128, 256, 512)

# Each a marker for `pytest -m`.
FAMILIES = {
    "grid": "every cell, mode, batch and width; float32, T = 100",
    "bfloat16": "LSTM and GRU in bfloat16",
    "packed": "packed sequences, lengths uniform in 10 to 100",
    "stacked": "two bidirectional layers",
    "step": "a single step with a given state, by layers and by cells",
}


@dataclass(frozen=True)
class Case:
    """One call of a layer or cell; I = H throughout."""

    cell: str
    mode: str
    batch: int
    hidden: int
    family: str = "grid"
    steps: int = 100
    dtype: str = "float32"
    layers: int = 1
    bidirectional: bool = False
    packed: bool = False
    form: str = "layer"  # or "cell"

    @property
    def name(self) -> str:
        """Unique, and made of words for `pytest -k`."""
        parts = [self.cell, self.mode]
        parts += [self.family] * (self.family != "grid") + [self.form] * (self.family == "step")
        return "-".join([*parts, f"B{self.batch}", f"H{self.hidden}"])

    @property
    def directions(self) -> int:
        return 2 if self.bidirectional else 1

    @property
    def lengths(self) -> tuple[int, ...]:
        """Steps of each sequence of the batch; the same in every run, so that runs compare."""
        if not self.packed:
            return (self.steps,) * self.batch
        draw = random.Random(self.batch)
        return tuple(draw.randint(10, self.steps) for _ in range(self.batch))

    @property
    def given_state(self) -> bool:
        """Whether a call gets an initial state: one that goes step by step always does."""
        return self.steps == 1


def _grid() -> list[Case]:
    return [Case(*chosen) for chosen in product(GATES, MODES, BATCHES, HIDDENS)]


def _others() -> list[Case]:
    shapes = ((1, 256), (32, 128), (32, 256), (32, 512))
    found = [
        Case(cell, mode, *shape, "bfloat16", dtype="bfloat16")
        for cell, mode, shape in product(("lstm", "gru"), MODES, shapes)
    ]
    found += [
        Case(cell, mode, 32, 256, "packed", packed=True) for cell, mode in product(GATES, MODES)
    ]
    found += [
        Case(cell, mode, 32, 256, "stacked", layers=2, bidirectional=True)
        for cell, mode in product(GATES, MODES)
    ]
    found += [
        Case(cell, "inference", 1, hidden, "step", steps=1, form=form)
        for cell, form, hidden in product(("lstm", "gru"), ("layer", "cell"), (64, 128, 256))
    ]
    return found


CASES = {case.name: case for case in (*_grid(), *_others())}
