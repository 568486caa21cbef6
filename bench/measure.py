"""One case: set up, check, time, and what comes out as a record for the results."""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass
from typing import Any

import torch

from . import gate, timing
from .cases import Case
from .limits import Limits
from .providers import PROVIDERS
from .roof import Roof, roof
from .workload import draw


@dataclass(frozen=True)
class Measured:
    """A case's timings.

    Attributes:
        case: what was measured.
        timings: of each provider that took part.
        errors: of each provider, against the reference in float64.
        absent: why each of the others took no part.
        roof: the least time that the machine allows.
    """

    case: Case
    timings: timing.Timings
    errors: dict[str, float]
    absent: dict[str, str]
    roof: Roof

    def record(self) -> dict[str, Any]:
        """Times in seconds a call; ratios are fastrnn's speed as a multiple of the provider's."""
        rounds = self.timings.rounds
        providers = {}
        for name, values in rounds.items():
            first, third = timing.quartiles(values)
            providers[name] = {
                "median": statistics.median(values),
                "q1": first,
                "q3": third,
                "rounds": len(values),
                "loops": self.timings.loops[name],
                "faults": statistics.median(self.timings.faults[name]),
                "error": self.errors[name],
            }
        ours = rounds["fastrnn"]
        return {
            "name": self.case.name,
            **asdict(self.case),
            "providers": providers,
            "ratios": {
                name: timing.ratio(values, ours)
                for name, values in rounds.items()
                if name != "fastrnn"
            },
            "roof": {
                "products": self.roof.products,
                "streams": self.roof.streams,
                "bound": self.roof.bound,
                "share": self.roof.seconds / statistics.median(ours),
            },
        }


def measure(case: Case, limits: Limits, seconds: float, seed: int) -> Measured:
    """Measure a case in about ``seconds``, after checking it.

    Raises:
        gate.CheckFailed: a provider computes something else; nothing was timed.
    """
    absent = {name: provider.why_not(case) for name, provider in PROVIDERS.items()}
    workload = draw(case, seed)
    with torch.set_grad_enabled(case.mode == "training"):
        calls = {
            name: PROVIDERS[name].prepare(workload)
            for name, reason in absent.items()
            if reason is None
        }
        errors = gate.check(workload, calls)
        pools = {name: PROVIDERS[name].pool for name in calls}
        timings = timing.interleave(calls, seconds, pools)
    reasons = {name: reason for name, reason in absent.items() if reason is not None}
    return Measured(case, timings, errors, reasons, roof(case, limits))
