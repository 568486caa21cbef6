"""The suite: each case measured once, its providers shown side by side.

Select by marker (``-m "grid and lstm and inference"``) or by words of a case's name
(``-k "B1 and H64"``). All providers of a case are measured together, whichever are selected.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from . import onnx_peer
from .cases import CASES, Case
from .measure import Measured
from .providers import PROVIDERS
from .replay import clock, replay


def _parameters() -> list[Any]:
    return [
        pytest.param(
            case,
            provider,
            id=f"{case.name}-{provider}",
            marks=[getattr(pytest.mark, kind) for kind in (case.family, case.cell, case.mode)],
        )
        for case in CASES.values()
        for provider in PROVIDERS
        # One that is not installed is skipped with a word, one that has no such thing is not here.
        if provider != "onnxruntime" or onnx_peer.why_not(case) is None
    ]


@pytest.mark.benchmark(timer=clock)
@pytest.mark.parametrize(("case", "provider"), _parameters())
def test_speed(
    benchmark: Any, measurer: Callable[[Case], Measured], case: Case, provider: str
) -> None:
    measured = measurer(case)
    if provider in measured.absent:
        pytest.skip(measured.absent[provider])
    benchmark.group = case.name
    benchmark.extra_info.update(measured.record())
    replay(benchmark, measured.timings.rounds[provider])
