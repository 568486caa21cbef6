"""The benchmark of attention and its example at tiny sizes: that they work; never how fast."""

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT))

from bench import attention, attention_report  # noqa: E402
from bench.gate import CheckFailed  # noqa: E402

MACHINE = {"cpu": "Some CPU", "threads": 2, "isa": "avx2", "versions": {"torch": "2"},
           "cpu_features": [], "isa_cap": None}  # fmt: skip


def tiny(kind, mode, length=24):
    return attention.Case(kind, mode, length, 2, 8)


def result(records, failed=()):
    """As pytest-benchmark writes it."""
    return {
        "datetime": "2026-01-01T00:00:00", "machine_info": {"fastrnn": MACHINE},
        "fastrnn": {
            "load": 0.5, "seed": 1, "seconds": 0.1, "limits": None, "failed": list(failed),
        },
        "benchmarks": [{"extra_info": record} for record in records],
    }  # fmt: skip


def test_every_kind_of_case_is_checked_measured_and_reported(tmp_path, monkeypatch):
    kinds = {(case.kind, case.mode) for case in attention.CASES.values()}
    cases = [tiny(*kind, length) for kind in sorted(kinds) for length in (24, 40)]
    monkeypatch.setattr(attention_report, "CASES", {case.name: case for case in cases})
    monkeypatch.setattr(attention.attention_memory, "peak", lambda case, name: 1 << 20)
    records = [attention.measure(case, 0.001, 0) for case in cases]
    parts = [attention_report.trim(result(part)) for part in (records[:5], records[4:])]
    text = attention_report.write(attention_report.merge(parts), tmp_path)
    for record in records:
        assert record["ratios"]["torch"]["median"] > 0
        assert f"{record['mode']} T {record['length']} BH 2 d 8" in text
    for name in ("attention-speed.png", "attention-memory.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_goals_and_failures_are_named():
    ratio = {"median": 2.5, "q1": 2, "q3": 3}
    names = [name for name, case in attention.CASES.items() if case.kind == "additive"]
    case = next(case for case in attention.CASES.values() if "compiled" in case.providers)
    record = {
        "name": case.name, "kind": "additive", "mode": "both", "length": 128, "heads": 16,
        "width": 256, "dtype": "float32", "seconds": dict.fromkeys(case.providers, 1.0),
        "ratios": {"torch": ratio, "compiled": ratio | {"median": 3.5}},
        "memory": {"torch": 100, "fastrnn": 9, "compiled": None},
    }  # fmt: skip
    found = attention_report.merge([attention_report.trim(result([record], names))])
    text = attention_report.markdown(found, [])
    assert "Goals: 2 of 3 reached" in text
    assert "≥ 5 ✗" in text
    assert "≥ 3 ✓" in text
    assert names[0] in text.split("check failed:")[1].split(".")[0]
    other = attention_report.trim(result([]) | {"machine_info": {"fastrnn": {}}})
    with pytest.raises(ValueError, match="different machines"):
        attention_report.merge([found, other])


def test_memory_is_that_of_the_call():
    """The eager formula writes its [BH, T, T, d] of float32 at least once, the kernel never."""
    case = attention.Case("additive", "both", 96, 4, 64)
    tensor = 4 * 96 * 96 * 64 * 4
    ours, theirs = (attention.attention_memory.peak(case, name) for name in ("fastrnn", "torch"))
    assert theirs > 2 * tensor
    assert 0 < ours < tensor / 2


def test_what_is_wrong_is_not_timed(monkeypatch):
    def wrong(case):
        run = attention._ours(case)
        return lambda *inputs: run(*inputs) * 1.001

    monkeypatch.setitem(attention.PROVIDERS, "fastrnn", wrong)
    with pytest.raises(CheckFailed, match="dot-forward"):
        attention.measure(tiny("dot", "forward"), 0.01, 0)


def test_names_of_cases_are_unique():
    assert all(name == case.name for name, case in attention.CASES.items())
    assert len(attention.CASES) == len(attention._cases())


def test_the_example_draws_its_alignment(tmp_path):
    picture = tmp_path / "alignment.png"
    command = [sys.executable, ROOT / "examples" / "alignment.py", "--steps", "2", "--size", "8"]
    subprocess.run([*command, "--output", picture], check=True, cwd=tmp_path, timeout=120)
    assert picture.read_bytes().startswith(b"\x89PNG")
