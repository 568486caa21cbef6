"""The benchmark's grid, until the time is up."""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Sequence
from typing import Any

import torch

from .cases import Case
from .clock import clear, medians
from .layers import build
from .limits import of_a_step

SECONDS = 0.12  # for one figure


def chains(case: Case) -> int:
    """Scans that run one after the other: what a step's time is to be divided by."""
    return case.steps * (2 if case.kind.startswith("2") else 1)


def measure(
    cases: Sequence[Case],
    device: torch.device,
    deadline: float,
    keep: Callable[[dict[str, Any]], None],
    done: Container[tuple[str, bool]] = (),
) -> int:
    """Time the cases that are not done, hand each result to ``keep``; returns how many were left
    out."""
    for index, case in enumerate(cases):
        for training in (False, True):
            if (str(case), training) in done:
                continue
            if time.monotonic() > deadline:
                return len(cases) - index
            result: dict[str, Any] = {
                "case": str(case), "cell": case.cell, "dtype": case.dtype, "H": case.hidden,
                "B": case.batch, "T": case.steps, "kind": case.kind, "training": training,
            }  # fmt: skip
            try:
                calls = build(case, device, training)
                found = medians(calls, device, SECONDS)
                step = {name: seconds / chains(case) * 1e6 for name, seconds in found.items()}
                result |= {
                    "us": step,
                    "ratio": step["torch"] / step["fastrnn"],
                    "limit_us": of_a_step(case, training) * 1e6,
                }
            except Exception as error:  # one case must not cost the others
                result["error"] = f"{type(error).__name__}: {error}"
            calls = {}
            if "error" in result:  # memory that ran out is given back before the next
                clear(device)
            keep(result)
    return 0
