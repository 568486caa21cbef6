"""The suite of attention, as `bench_speed` is that of the cells.

Select by marker (``-m "additive or decode"``) or by words of a case's name (``-k "T128 and d64"``).
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

import pytest

from .attention import CASES, Case, measure
from .conftest import failed
from .gate import CheckFailed
from .replay import clock, replay

Measure = Callable[[Case], dict[str, Any]]


@pytest.fixture(scope="module")
def measured(pytestconfig: pytest.Config) -> Measure:
    """Measures a case when the first of its providers asks, and keeps that for the others."""
    last: dict[str, dict[str, Any] | CheckFailed] = {}

    def measured(case: Case) -> dict[str, Any]:
        if case.name not in last:
            last.clear()
            seed = zlib.crc32(f"{case.name} {pytestconfig.getoption('--seed')}".encode())
            try:
                last[case.name] = measure(case, pytestconfig.getoption("--seconds"), seed)
            except CheckFailed as error:
                failed(pytestconfig).append(case.name)
                last[case.name] = error
        outcome = last[case.name]
        if isinstance(outcome, CheckFailed):
            raise outcome
        return outcome

    return measured


@pytest.mark.benchmark(timer=clock)
@pytest.mark.parametrize(
    ("case", "provider"),
    [
        pytest.param(case, provider, id=f"{name}-{provider}", marks=getattr(pytest.mark, case.kind))
        for name, case in CASES.items()
        for provider in case.providers
    ],
)
def test_attention(benchmark: Any, measured: Measure, case: Case, provider: str) -> None:
    record = measured(case)
    benchmark.group = case.name
    benchmark.extra_info.update({key: value for key, value in record.items() if key != "rounds"})
    replay(benchmark, record["rounds"][provider])
