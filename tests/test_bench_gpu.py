"""``make gpu``, every path of it, on the CPU."""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

import torch

from bench.gpu import behaviour, cases, checks, speed

ROOT = Path(__file__).resolve().parents[1]


def test_dry_run(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "bench.gpu", "--dry-run", "--out", str(tmp_path / "report")],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "report" / "results.json").read_text())
    assert report["checks"] == {"count": 3 + 7 + 2, "faults": []}
    assert len(report["results"]) == 8 and all("ratio" in each for each in report["results"])
    text = (tmp_path / "report" / "README.md").read_text()
    assert "the figures below mean nothing" in text
    assert (tmp_path / "report" / "speedup.png").exists()
    attention = json.loads((tmp_path / "report" / "attention.json").read_text())
    assert len(attention["results"]) == 4 and all("ratios" in each for each in attention["results"])
    assert "mean nothing" in (tmp_path / "report" / "attention.md").read_text()


def test_the_time_budget_is_kept(monkeypatch):
    """What is not done in time is left out, and counted."""
    clock = itertools.count()
    monkeypatch.setattr(speed.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(speed, "build", lambda *_: {})
    monkeypatch.setattr(speed, "medians", lambda *_: {"torch": 2.0, "fastrnn": 1.0})
    found = []
    left = speed.measure(cases.cases(), torch.device("cpu"), 9.5, found.append)
    assert len(found) == 10 and left == len(cases.cases()) - 5
    monkeypatch.setattr(checks, "run", lambda *_: ["wrong"])
    now = next(clock)
    count, faults = checks.run_all(checks.checks(), torch.device("cpu"), now + 4.5, lambda _: None)
    assert count == len(faults) == 4


def test_a_check_that_fails_is_a_fault(monkeypatch):
    def broken(device):
        raise ValueError("no")

    monkeypatch.setattr(behaviour, "CHECKS", (lambda device: "off by 1", broken))
    said = []
    count, faults = behaviour.run_all(torch.device("cpu"), float("inf"), said.append)
    assert count == 2 and faults == ["<lambda>: off by 1", "broken: ValueError: no"]
    assert all(line.startswith("fails") for line in said)
