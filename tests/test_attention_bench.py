"""The benchmark of attention and its example at tiny sizes: that they work; never how fast."""

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT))

from bench import attention  # noqa: E402
from bench.gate import CheckFailed  # noqa: E402


@pytest.mark.parametrize("kind", ["dot", "causal", "decode", "additive", "local"])
def test_a_case_is_checked_and_measured(kind, tmp_path):
    mode = "inference" if kind == "decode" else "training"
    record = attention.measure(attention.Case(kind, mode, 24, 2, 8), 0.01, 0)
    assert record["ratio"]["median"] > 0
    assert kind in attention.table([record])
    if mode == "training":
        attention.plot([record], tmp_path / "plot.png")
        assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_what_is_wrong_is_not_timed(monkeypatch):
    def wrong(case):
        run = attention._ours(case)
        return lambda *inputs: run(*inputs) * 1.001

    monkeypatch.setitem(attention._PROVIDERS, "fastrnn", wrong)
    with pytest.raises(CheckFailed, match="dot-inference"):
        attention.measure(attention.Case("dot", "inference", 24, 2, 8), 0.01, 0)


def test_names_of_cases_are_unique():
    names = [case.name for case in attention.cases()]
    assert len(names) == len(set(names))


def test_the_example_draws_its_alignment(tmp_path):
    picture = tmp_path / "alignment.png"
    command = [sys.executable, ROOT / "examples" / "alignment.py", "--steps", "2", "--size", "8"]
    subprocess.run([*command, "--output", picture], check=True, cwd=tmp_path, timeout=120)
    assert picture.read_bytes().startswith(b"\x89PNG")
