"""The benchmark suite at tiny sizes: that it checks, measures and reports; never how fast."""

import importlib.util
import itertools
import json
import mmap
import os
import statistics
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import fastrnn
from fastrnn import _C
from fastrnn.cli import bench as bench_command

pytest.importorskip("pytest_benchmark", reason="needs requirements-bench.txt")
pytest.importorskip("matplotlib")

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT))

from bench import gate, goals, measure, providers, report, roof, tables, timing  # noqa: E402
from bench.cases import CASES, Case  # noqa: E402
from bench.limits import Limits  # noqa: E402
from bench.workload import draw  # noqa: E402

ONNX = all(importlib.util.find_spec(name) for name in ("onnx", "onnxruntime"))
PNG = b"\x89PNG\r\n\x1a\n"
LIMITS = Limits(
    threads=2,
    one_core={"float32": 1e9, "bfloat16": 2e9},
    all_cores={"float32": 2e9, "bfloat16": 4e9},
    l2=1e9,
    l3=1e8,
    copy=1e7,
    l2_bytes=1 << 16,
    l3_bytes=1 << 20,
)


@pytest.fixture(autouse=True)
def one_thread():
    """Tiny work gains nothing from two, and on a busy machine waits for the second."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tiny(case):
    steps = case.steps if case.steps == 1 else 12  # packed lengths are 10 at least
    return replace(case, steps=steps, batch=3, hidden=16)


TINY = sorted({tiny(case) for case in CASES.values()}, key=lambda case: case.name)


@pytest.mark.parametrize("case", TINY, ids=[case.name for case in TINY])
def test_every_kind_of_case(case):
    record = measure.measure(case, LIMITS, seconds=0.001, seed=0).record()
    peers = {"torch"}
    if ONNX and case.mode == "inference" and case.family in ("grid", "step"):
        peers |= {"onnxruntime"} if case.form == "layer" else set()
    assert set(record["ratios"]) == peers
    assert set(record["providers"]) == peers | {"fastrnn"}
    for provider in record["providers"].values():
        assert provider["median"] > 0
        assert provider["rounds"] >= timing.FEWEST_ROUNDS
        assert 0 <= provider["error"] < 0.1
    assert record["roof"]["share"] > 0


def test_the_cases():
    assert len({case.name for case in CASES.values()}) == len(CASES)
    assert sum(case.family == "grid" for case in CASES.values()) == 3 * 2 * 4 * 4
    packed = CASES["gru-training-packed-B32-H256"]
    assert packed.lengths == packed.lengths
    assert min(packed.lengths) >= 10
    assert max(packed.lengths) <= 100


# --- the gate -------------------------------------------------------------------------------


def calls_of(workload, names):
    return {name: providers.PROVIDERS[name].prepare(workload) for name in names}


@pytest.mark.parametrize("mode", ["inference", "training"])
def test_gate_refuses_what_is_a_little_off(mode):
    workload = draw(Case("lstm", mode, 3, 16, steps=5), 0)
    weights = dict(workload.weights)
    weights["weight_hh_l0"] = weights["weight_hh_l0"] * (1 + 1e-4)
    with torch.set_grad_enabled(mode == "training"):
        calls = calls_of(workload, ["torch", "fastrnn"])
        gate.check(workload, calls)
        calls["fastrnn"] = providers.layer_call(fastrnn, replace(workload, weights=weights))
        with pytest.raises(gate.CheckFailed, match=r"fastrnn: output: norm .*, allowed"):
            gate.check(workload, calls)


@pytest.mark.skipif(not ONNX, reason="needs onnx and onnxruntime")
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_gate_refuses_onnx_gates_in_torchs_order(cell, monkeypatch):
    workload = draw(Case(cell, "inference", 3, 16, steps=5), 0)
    monkeypatch.setitem(providers.onnx_peer.ORDER, cell, tuple(range(4 if cell == "lstm" else 3)))
    with torch.no_grad(), pytest.raises(gate.CheckFailed, match="onnxruntime: output"):
        gate.check(workload, calls_of(workload, ["torch", "fastrnn", "onnxruntime"]))


def test_gate_refuses_nan_and_other_shapes():
    workload = draw(Case("rnn", "inference", 3, 16, steps=5), 0)
    with torch.no_grad():
        calls = calls_of(workload, ["torch", "fastrnn"])
        output, state = calls["torch"]()
        for wrong in ((output * torch.nan, state), (output[1:], state), (output.double(), state)):
            with pytest.raises(gate.CheckFailed, match="fastrnn: "):
                gate.check(workload, calls | {"fastrnn": lambda wrong=wrong: wrong})


# --- timing, limits, goals --------------------------------------------------------------------


def test_providers_take_turns(monkeypatch):
    clock = itertools.count()
    monkeypatch.setattr(timing.time, "perf_counter", lambda: float(next(clock)))
    waits = []
    monkeypatch.setattr(timing, "settle", lambda: waits.append(len(order)))
    order = []
    calls = {name: lambda name=name: order.append(name) for name in "abc"}
    found = timing.interleave(calls, 0.0, {"a": "x", "b": "x", "c": "y"})
    # Two calls to learn the cost of each, then one a turn, since all are longer than a turn.
    rounds = ["".join(order[start : start + 3]) for start in range(6, len(order), 3)]
    assert rounds == ["abc", "cba", "abc", "cba", "abc"]
    assert [len(times) for times in found.rounds.values()] == [5, 5, 5]
    assert len(waits) == 5


def test_faults_are_those_of_the_turn():
    pages = 300

    def fresh():
        with mmap.mmap(-1, pages * mmap.PAGESIZE, flags=mmap.MAP_PRIVATE) as memory:
            if hasattr(mmap, "MADV_NOHUGEPAGE"):
                memory.madvise(mmap.MADV_NOHUGEPAGE)
            for page in range(pages):
                memory[page * mmap.PAGESIZE] = 1

    found = timing.interleave({"fresh": fresh, "none": int}, 0.0, {"fresh": "x", "none": "x"})
    assert statistics.median(found.faults["fresh"]) >= pages
    assert statistics.median(found.faults["none"]) < pages / 10


def test_ratio():
    found = timing.ratio([2.0, 4.0, 6.0, 8.0, 9.0], [1.0, 2.0, 2.0, 2.0, 3.0])
    assert found == {"median": 3.0, "q1": 2.0, "q3": 3.0}


def test_roof():
    case = Case("lstm", "inference", 2, 10, steps=3)
    numbers = 4 * 10 * 10
    assert roof.products_flop(case) == 2 * 3 * 2 * (numbers + numbers)
    assert roof.streamed_bytes(case) == 4 * (3 * numbers + numbers)
    found = roof.roof(case, LIMITS)
    assert found.products == roof.products_flop(case) / 2e9
    assert found.streams == roof.streamed_bytes(case) / 2e9  # two cores' L2
    training = replace(case, mode="training")
    assert roof.products_flop(training) == 3 * roof.products_flop(case)
    assert roof.stream_rate(replace(case, hidden=64), LIMITS) == 2e9
    assert roof.stream_rate(replace(case, hidden=128), LIMITS) == 1e8
    assert roof.stream_rate(replace(case, hidden=512), LIMITS) == 1e7
    stacked = replace(case, layers=2, bidirectional=True)
    assert roof.products_flop(stacked) == 2 * 3 * 2 * 2 * numbers * (1 + 1 + 2 + 1)
    assert roof.roof(case, replace(LIMITS, l2=None)).streams is None


@pytest.mark.parametrize(
    ("level", "peer", "name", "amx", "expected"),
    [
        ("first", "torch", "lstm-inference-B1-H256", False, 2.5),
        ("first", "torch", "lstm-inference-B1-H512", False, 0.95),
        ("first", "torch", "gru-inference-B1-H64", True, 4.0),
        ("first", "onnxruntime", "gru-inference-B1-H64", True, None),
        ("next", "onnxruntime", "lstm-inference-B32-H256", True, 2.5),
        ("next", "onnxruntime", "lstm-inference-B32-H256", False, 1.1),
        ("next", "torch", "gru-training-B32-H256", True, 3.5),
        ("next", "torch", "gru-training-B32-H256", False, 2.5),
        ("next", "torch", "gru-training-bfloat16-B1-H256", False, 4.0),
        ("next", "torch", "lstm-training-bfloat16-B1-H256", False, 1.0),
        ("next", "torch", "rnn-training-packed-B32-H256", False, 4.0),
        ("next", "onnxruntime", "gru-inference-step-layer-B1-H128", False, 2.0),
    ],
)
def test_goals(level, peer, name, amx, expected):
    assert goals.goal(level, peer, vars(CASES[name]), amx) == expected


def test_table_lines_up():
    lines = tables.table(["case", "x"], [["B 1", "1.00"], ["B 100", "–"]]).splitlines()
    assert lines == ["| case  |    x |", "| ----- | ---: |", "| B 1   | 1.00 |", "| B 100 |    – |"]


# --- a run ----------------------------------------------------------------------------------


def run(*command):
    """A command of Python's in the checkout; the process when it is done."""
    return subprocess.run(
        [sys.executable, "-m", *command],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.skipif("avx2" not in _C.cpu_features(), reason="no AVX2")
def test_both_sides_held_to_older_instructions(tmp_path, monkeypatch):
    environments = []
    monkeypatch.setattr(
        bench_command.subprocess, "call", lambda *a, env, **k: environments.append(env) or 0
    )
    argv = [f"--benchmark-json={tmp_path / 'result.json'}"]
    bench_command.main([*argv, "--isa", "avx2"])
    bench_command.main(argv)
    capped, plain = environments
    assert capped == plain | bench_command.CAPS["avx2"]
    code = (
        "from bench.machine import describe; found = describe();"
        "print(found['isa'], found['torch_isa'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=capped, capture_output=True, text=True
    )
    assert done.stdout.split() == ["avx2", "AVX2"], done.stderr


def test_run_and_report(tmp_path):
    result, out = tmp_path / "result.json", tmp_path / "report"
    done = run(
        *("fastrnn", "bench", "-k", "gru-inference-B1-H64", "--seconds=0.005", "--seed=1"),
        *(f"--benchmark-json={result}", "--out", str(out), "-p", "no:cacheprovider"),
    )
    assert done.returncode == 0, done.stdout + done.stderr

    raw = json.loads(result.read_text())
    names = {f"gru-inference-B1-H64-{name}" for name in ("torch", "fastrnn")}
    assert {entry["param"] for entry in raw["benchmarks"]} >= names
    for entry in raw["benchmarks"]:
        provider = entry["param"].rpartition("-")[2]
        # pytest-benchmark's own statistics are those of the turns.
        of_turns = entry["extra_info"]["providers"][provider]
        assert entry["stats"]["median"] == pytest.approx(of_turns["median"], rel=1e-12)
        assert entry["group"] == "gru-inference-B1-H64"

    results = json.loads((out / "results.json").read_text())
    assert results["machine"]["versions"]["torch"] == torch.__version__
    assert results["machine"]["threads"] >= 1
    assert results["seed"] == 1
    assert results["failed"] == []
    assert results["limits"]["all_cores"]["float32"] > 0
    (case,) = results["cases"]
    assert case["name"] == "gru-inference-B1-H64"
    assert {"median", "q1", "q3"} == set(case["ratios"]["torch"])
    assert case["goals"]["torch"]["first"] == 4.0

    text = (out / "README.md").read_text()
    ratio = case["ratios"]["torch"]["median"]
    assert f"{ratio:.2f} [" in text
    assert text.strip() in done.stdout
    for name in ("speedup-gru-inference.png", "roof.png"):
        assert f"]({name})" in text
        assert (out / name).read_bytes().startswith(PNG)


def test_failed_check_has_no_speed_and_fails_the_run(tmp_path, monkeypatch):
    (tmp_path / "faulty.py").write_text(
        "from fastrnn import inference\n"
        "right = inference.layers\n"
        "def wrong(spec, *args):\n"
        "    found = right(spec, *args)\n"
        "    if found and spec.name == 'gru':\n"
        "        found[0].mul_(1.001)\n"
        "    return found\n"
        "inference.layers = wrong\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    result, out = tmp_path / "result.json", tmp_path / "report"
    done = run(
        *("pytest", "bench", "-p", "faulty", "-k", "inference-B1-H64", "-m", "gru or lstm"),
        *("--seconds=0.005", f"--benchmark-json={result}", "-p", "no:cacheprovider"),
    )
    assert report.main([str(result), "--out", str(out)]) == 0
    assert done.returncode == 1
    assert "fastrnn: output: norm" in done.stdout
    raw = json.loads(result.read_text())
    assert not any("gru" in entry["name"] for entry in raw["benchmarks"])
    results = json.loads((out / "results.json").read_text())
    assert results["failed"] == ["gru-inference-B1-H64"]
    assert [case["name"] for case in results["cases"]] == ["lstm-inference-B1-H64"]
    assert "there is no speed, of: gru-inference-B1-H64" in (out / "README.md").read_text()


def test_report_refuses_other_results(tmp_path, capsys):
    other = tmp_path / "other.json"
    other.write_text('{"benchmarks": []}')
    assert report.main([str(other)]) == 1
    assert "not a result of the suite" in capsys.readouterr().err
