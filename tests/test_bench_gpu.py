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

from bench.gpu import behaviour, cases, checks, speed, state, tune

CPU = torch.device("cpu")
ROOT = Path(__file__).resolve().parents[1]


def dry_run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "bench.gpu", "--dry-run", *arguments],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=500,
    )


def test_dry_run(tmp_path):
    done = dry_run("--out", str(tmp_path / "report"))
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "report" / "results.json").read_text())
    assert report["checks"] == {"count": 3 + 8 + 2 + 2, "faults": []}
    assert len(report["results"]) == 8 + 4 and all("ratio" in each for each in report["results"])
    text = (tmp_path / "report" / "README.md").read_text()
    assert "the figures below mean nothing" in text and "language model: LSTM" in text
    assert (tmp_path / "report" / "speedup.png").exists()
    attention = json.loads((tmp_path / "report" / "attention.json").read_text())
    assert len(attention["results"]) == 6 and all("ratios" in each for each in attention["results"])
    assert any("flex" in each["ratios"] for each in attention["results"])
    assert "mean nothing" in (tmp_path / "report" / "attention.md").read_text()
    assert not (tmp_path / "report" / "unfinished.json").exists()


def test_dry_run_of_tuning(tmp_path):
    done = dry_run("--tune", "--out", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads((tmp_path / "tuning.json").read_text())["rows"]
    chosen = [row for row in rows if row["chosen"]]
    assert [row["way"] for row in chosen] == ["inference", "training"]
    others = [row for row in rows if not row["chosen"]]
    assert any(row["plan"].startswith("simple") and "ratio" in row for row in others)
    assert "mean nothing" in (tmp_path / "tuning.md").read_text()


def test_the_time_budget_is_kept(monkeypatch):
    """What is not done in time is left out, and counted."""
    clock = itertools.count()
    monkeypatch.setattr(speed.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(speed, "build", lambda *_: {})
    monkeypatch.setattr(speed, "medians", lambda *_: {"torch": 2.0, "fastrnn": 1.0})
    found = []
    left = speed.measure(cases.cases(), CPU, 9.5, found.append)
    assert len(found) == 10 and left == len(cases.cases()) - 5
    done = {(each["case"], each["training"]) for each in found}
    speed.measure(cases.cases(), CPU, next(clock) + 2.5, found.append, done)
    assert len({(each["case"], each["training"]) for each in found}) == len(found) == 12
    monkeypatch.setattr(checks, "run", lambda *_: ["wrong"])
    now, faults, met = next(clock), {}, []
    checks.run_all(
        checks.checks(), CPU, now + 4.5, lambda _: None, faults, lambda: met.append(len(faults))
    )
    assert met == [1, 2, 3, 4] and all("wrong" in each[0] for each in faults.values())


def test_a_lost_device_costs_no_more_than_its_case(monkeypatch, tmp_path):
    """What was found goes to a new process, which does what is left."""
    found = state.State.begin(tmp_path, 1.5, None)
    found.checks["first"] = ["first: wrong"]
    found.speed.append({"case": "a", "training": False, "error": "illegal memory access"})
    ran = []
    monkeypatch.setattr(os, "execv", lambda *command: ran.append(command))
    monkeypatch.setattr(sys, "argv", ["x", "--seconds", "9", "--resume=/elsewhere"])
    found.after_fault(CPU, [])
    assert not ran  # it is not lost
    monkeypatch.setattr(state, "lost", lambda device: True)
    found.after_fault(CPU, [])
    path = tmp_path / "unfinished.json"
    assert ran[0][1][2:] == ["bench.gpu", "--seconds", "9", f"--resume={path}"]
    again = state.State.begin(tmp_path, 7.0, path)
    assert again == found and again.resumed and again.start == 1.5
    assert again.all_faults() == ["first: wrong", "a: illegal memory access"]
    again.restarts = state.MOST_RESTARTS
    with pytest.raises(SystemExit, match="was lost 7 times"):
        again.after_fault(CPU, [])


def test_tuning_believes_no_wrong_numbers():
    right = [torch.tensor([1.0, 2.0]).double()]
    assert tune.near(right, right) and not tune.near([right[0] * 1.2], right)


def test_a_check_that_fails_is_a_fault(monkeypatch):
    def wrong(device):
        return "off by 1"

    def broken(device):
        raise ValueError("no")

    monkeypatch.setattr(behaviour, "CHECKS", (wrong, broken))
    said, found, met = [], {}, []
    behaviour.run_all(CPU, float("inf"), said.append, found, lambda: met.append(1))
    assert found == {"wrong": ["wrong: off by 1"], "broken": ["broken: ValueError: no"]}
    assert len(met) == 2 and sum(line.startswith("fails") for line in said) == 2
    behaviour.run_all(CPU, float("inf"), said.append, found, lambda: met.append(1))
    assert len(met) == 2  # what is done is not done again
