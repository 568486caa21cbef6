"""Timings taken elsewhere, handed to pytest-benchmark.

pytest-benchmark times one function after another, and providers must take turns (`timing`). So
each provider's rounds are played back to it: a clock that stands still except when the "function"
sets it to the recorded duration. Tables, JSON and comparisons are then pytest-benchmark's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_now = 0.0


def clock() -> float:
    """The timer to give to ``pytest.mark.benchmark``."""
    return _now


def _set(now: float) -> None:
    global _now
    _now = now


def replay(benchmark: Any, rounds: Sequence[float]) -> None:
    """Let the ``benchmark`` fixture, timed by `clock`, see these durations in seconds."""
    durations = iter(rounds)
    # From zero each time: the difference is then the duration, to the last bit.
    benchmark.pedantic(
        lambda: _set(next(durations)), setup=lambda: _set(0.0), rounds=len(rounds), iterations=1
    )
