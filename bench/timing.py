"""Timing in turns: what disturbs the machine disturbs all providers alike.

A round gives each provider one turn, in alternating order; a turn is some calls in a row, timed
together. Figures are medians over the rounds, and a ratio is one of medians; how sure it is,
the quartiles of the rounds' own ratios tell.
"""

from __future__ import annotations

import gc
import resource
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

ROUNDS = 15
FEWEST_ROUNDS = 5

# An idle thread of OpenMP or onnxruntime spins for some milliseconds before it sleeps.
_TICK = 0.002
_MOST_TICKS = 25


@dataclass(frozen=True)
class Timings:
    """What each round found.

    Attributes:
        rounds: seconds a call.
        loops: how many calls were timed together.
        faults: pages of memory a call that the system had to supply. A library whose large
            buffers go back to it after every call pays for them anew: a third of torch's time
            in some cases, and by what else the process holds it does or does not.
    """

    rounds: dict[str, list[float]]
    loops: dict[str, int]
    faults: dict[str, list[float]]


def interleave(
    calls: Mapping[str, Callable[[], Any]], seconds: float, pools: Mapping[str, str]
) -> Timings:
    """Time the calls in turns, for about ``seconds`` in all but never less than a few rounds.

    ``pools`` names for each call the threads that it runs on. Before a turn on other threads
    than the last one's, there is a wait until those sleep.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        costs = {name: _cost(call) for name, call in calls.items()}
        pause = 4 * _TICK if len(set(pools.values())) > 1 else 0.0
        turn = max(seconds / ROUNDS - pause, 0.0) / len(calls)
        # One call of each turn goes untimed, to bring back caches and threads, unless a
        # single one is long enough for that not to matter.
        loops = {name: max(1, int(turn / cost) - 1) for name, cost in costs.items()}
        warm = {name: cost < turn for name, cost in costs.items()}
        a_round = pause + sum((loops[name] + warm[name]) * cost for name, cost in costs.items())
        count = min(max(int(seconds / a_round), FEWEST_ROUNDS), ROUNDS)
        rounds: dict[str, list[float]] = {name: [] for name in calls}
        faults: dict[str, list[float]] = {name: [] for name in calls}
        awake = None
        for index in range(count):
            for name in list(calls)[:: 1 if index % 2 == 0 else -1]:
                if awake not in (None, pools[name]):
                    settle()
                awake = pools[name]
                if warm[name]:
                    calls[name]()
                before = _faults()
                rounds[name].append(_timed(calls[name], loops[name]))
                faults[name].append((_faults() - before) / loops[name])
    finally:
        if enabled:
            gc.enable()
    return Timings(rounds, loops, faults)


def _timed(call: Callable[[], Any], loops: int) -> float:
    """Seconds a call, over ``loops`` of them."""
    repeat = range(loops)
    start = time.perf_counter()
    for _ in repeat:
        call()
    return (time.perf_counter() - start) / loops


def _faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def _cost(call: Callable[[], Any]) -> float:
    """A first idea of a call's time."""
    call()
    once = _timed(call, 1)
    return min(once, _timed(call, 20)) if once < 1e-3 else once


def settle() -> None:
    """Wait until this process's idle threads sleep."""
    for _ in range(_MOST_TICKS):
        before = time.process_time()
        time.sleep(_TICK)
        if time.process_time() - before < _TICK / 4:
            return


def quartiles(values: Sequence[float]) -> tuple[float, float]:
    """The first and the third quartile."""
    if len(values) < 2:
        return values[0], values[0]
    first, _, third = statistics.quantiles(values, method="inclusive")
    return first, third


def ratio(slow: Sequence[float], fast: Sequence[float]) -> dict[str, float]:
    """How many times as fast: the ratio of medians, and the quartiles of the rounds' ratios."""
    first, third = quartiles([s / f for s, f in zip(slow, fast, strict=True)])
    median = statistics.median(slow) / statistics.median(fast)
    return {"median": median, "q1": first, "q3": third}
