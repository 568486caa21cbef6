"""``python -m fastrnn bench``: the benchmark suites, which lie beside the package in a checkout."""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import fastrnn

SUITES = Path(fastrnn.__file__).resolve().parents[1] / "bench"

# An older processor's instructions for both sides, by name: what holds fastrnn to them, and torch's
# own kernels, oneDNN and MKL. Read when a process begins. onnxruntime has no such switch.
CAPS = {
    "avx2": {
        "FASTRNN_ISA": "avx2",
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    }
}


def main(argv: Sequence[str]) -> int:
    """Run pytest on ``bench/`` with ``argv`` added, then the report; return the exit status."""
    if not any(SUITES.glob("*.py")):
        print(
            "The benchmarks are not part of the installed package: they lie in bench/ of a source "
            "checkout,\nwhere `make bench` runs them (or `pip install -e '.[bench]'` and this "
            "command).",
            file=sys.stderr,
        )
        return 1
    root = SUITES.parent
    parser = argparse.ArgumentParser(
        prog="python -m fastrnn bench",
        description="Run the suites in bench/, then write the report.",
        epilog="All other arguments go to pytest, as -k 'lstm and inference'.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--benchmark-json",
        type=Path,
        default=root / ".benchmarks" / "latest.json",
        help="where the measurements go (%(default)s)",
    )
    parser.add_argument("--out", help="folder of the report")
    parser.add_argument(
        "--isa",
        choices=sorted(CAPS),
        help="hold fastrnn and torch to these instructions; onnxruntime cannot be held",
    )
    options, rest = parser.parse_known_args(argv)
    if importlib.util.find_spec("pytest_benchmark") is None:
        print("pytest-benchmark is not installed: pip install 'fastrnn[bench]'", file=sys.stderr)
        return 1
    result = options.benchmark_json.resolve()
    result.parent.mkdir(parents=True, exist_ok=True)
    before = _written(result)

    environment = os.environ | CAPS.get(options.isa, {})

    def run(*command: str) -> int:
        return subprocess.call([sys.executable, "-m", *command], cwd=root, env=environment)

    status = run(
        *("pytest", str(SUITES), "--rootdir", str(root)),
        *("--benchmark-columns=median,iqr,rounds", "--benchmark-sort=name"),
        *(f"--benchmark-json={result}", *rest),
    )
    # A failed check fails the run; what passed is reported all the same, the failures named.
    if _written(result) != before:
        out = () if options.out is None else ("--out", str(Path(options.out).resolve()))
        for report in ("bench.report", "bench.attention_report"):
            status = max(status, run(report, str(result), *out))
    return status


def _written(path: Path) -> int | None:
    return path.stat().st_mtime_ns if path.exists() else None
