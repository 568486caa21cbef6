"""The least time that a case could take on this machine, by two of its limits.

Arithmetic: every multiplication and addition of the matrix products, at the rate of the machine's
product on all cores. Streams: a recurrent weight is read once a step (in training once more a
step, going back), at the read rate of the cache that holds it. The larger of the two is the roof;
what the gates' own functions cost is not in it.
"""

from __future__ import annotations

from dataclasses import dataclass

from .cases import GATES, Case
from .limits import Limits


@dataclass(frozen=True)
class Roof:
    """Least times of a call in seconds; None where a rate is missing."""

    products: float
    streams: float | None

    @property
    def seconds(self) -> float:
        return max(self.products, self.streams or 0.0)

    @property
    def bound(self) -> str:
        """Which of the two it is."""
        return "products" if self.products >= (self.streams or 0.0) else "streams"


def roof(case: Case, limits: Limits) -> Roof:
    rate = stream_rate(case, limits)
    products = products_flop(case) / limits.all_cores[case.dtype]
    return Roof(products, None if rate is None else streamed_bytes(case) / rate)


def _weights(case: Case) -> list[tuple[int, int]]:
    """Numbers in the input and in the recurrent weights of each layer, directions together."""
    rows = case.directions * GATES[case.cell] * case.hidden
    widths = [case.hidden] + [case.directions * case.hidden] * (case.layers - 1)
    return [(rows * width, rows * case.hidden) for width in widths]


def products_flop(case: Case) -> int:
    """Two operations for each weight and row; going back the input's and the weight's gradient."""
    passes = 3 if case.mode == "training" else 1
    return passes * 2 * sum(case.lengths) * sum(map(sum, _weights(case)))


def streamed_bytes(case: Case) -> int:
    """The recurrent weights once a step, the input weights once for all steps."""
    passes = 2 if case.mode == "training" else 1
    numbers = sum(input + max(case.lengths) * recurrent for input, recurrent in _weights(case))
    return passes * numbers * _itemsize(case)


def stream_rate(case: Case, limits: Limits) -> float | None:
    """Of the nearest cache that holds what a step reads; all cores together."""
    input, recurrent = _weights(case)[0]
    held = (recurrent + (input if case.steps == 1 else 0)) * _itemsize(case)
    if limits.l2 is None or limits.l2_bytes is None:
        return None
    if held <= limits.l2_bytes * limits.threads:
        return limits.l2 * limits.threads
    if limits.l3_bytes is None or held <= limits.l3_bytes:
        return limits.l3
    return limits.copy


def _itemsize(case: Case) -> int:
    return {"float32": 4, "bfloat16": 2}[case.dtype]
