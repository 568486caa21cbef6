"""Options, markers and fixtures of the suite, and what it adds to pytest-benchmark's JSON."""

from __future__ import annotations

import os
import random
import zlib
from dataclasses import asdict
from typing import Any

import pytest

from . import attention, machine
from . import limits as machine_limits
from .cases import FAMILIES, GATES, MODES, Case
from .gate import CheckFailed
from .limits import Limits
from .measure import Measured, measure

_limits = pytest.StashKey[Limits]()
_failed = pytest.StashKey[list[str]]()
_load = pytest.StashKey[float]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("fastrnn")
    group.addoption(
        "--seconds", type=float, default=1.5, help="time to measure a case (default: 1.5)"
    )
    group.addoption(
        "--seed",
        type=int,
        default=random.SystemRandom().randrange(2**31),
        help="of weights and inputs (default: a fresh one, noted in the results)",
    )


def pytest_configure(config: pytest.Config) -> None:
    kinds = {kind: f"cases of {kind}" for kind in (*GATES, *MODES)}
    kinds |= {kind: f"attention: {kind}" for kind in attention.KINDS}
    for name, text in (FAMILIES | kinds).items():
        config.addinivalue_line("markers", f"{name}: {text}")
    config.stash[_failed] = []
    # Before this process adds to it: how busy the machine was with other things.
    config.stash[_load] = os.getloadavg()[0]


def failed(config: pytest.Config) -> list[str]:
    """Names of the cases whose check failed."""
    return config.stash[_failed]


@pytest.fixture(scope="session")
def limits(pytestconfig: pytest.Config) -> Limits:
    """What the machine can do, measured before the first case."""
    found = machine_limits.measure(min(0.3, pytestconfig.getoption("--seconds")))
    pytestconfig.stash[_limits] = found
    return found


class Measurer:
    """Measures a case when the first of its providers asks, and keeps the outcome for the others.

    One case at a time: the tests of a case stand together.
    """

    def __init__(self, config: pytest.Config, limits: Limits) -> None:
        self._config = config
        self._limits = limits
        self._case: Case | None = None
        self._outcome: Measured | CheckFailed

    def __call__(self, case: Case) -> Measured:
        if case != self._case:
            self._outcome, self._case = self._measure(case), case
        if isinstance(self._outcome, CheckFailed):
            raise self._outcome
        return self._outcome

    def _measure(self, case: Case) -> Measured | CheckFailed:
        option = self._config.getoption
        seed = zlib.crc32(f"{case.name} {option('--seed')}".encode())
        try:
            return measure(case, self._limits, option("--seconds"), seed)
        except CheckFailed as failed:
            self._config.stash[_failed].append(case.name)
            return failed


@pytest.fixture(scope="session")
def measurer(pytestconfig: pytest.Config, limits: Limits) -> Measurer:
    return Measurer(pytestconfig, limits)


# --- into the JSON ----------------------------------------------------------------------------


def pytest_benchmark_update_machine_info(machine_info: dict[str, Any]) -> None:
    """So that a comparison of runs warns where one of these differs."""
    machine_info["fastrnn"] = machine.describe()


def pytest_benchmark_update_json(config: pytest.Config, output_json: dict[str, Any]) -> None:
    limits = config.stash.get(_limits, None)  # measured for the cells alone
    output_json["fastrnn"] = {
        "limits": asdict(limits) if limits else None,
        "seed": config.getoption("--seed"),
        "seconds": config.getoption("--seconds"),
        "load": config.stash[_load],
        "failed": config.stash[_failed],
    }
