"""``python -m fastrnn bench``: the benchmark suites, which lie beside the package in a checkout."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import fastrnn

SUITES = Path(fastrnn.__file__).resolve().parents[1] / "bench"


def main(argv: Sequence[str]) -> int:
    """Run pytest on ``bench/`` with ``argv`` added; return its exit status."""
    if not any(SUITES.glob("*.py")):
        print(
            "The benchmarks are not part of the installed package: they lie in bench/ of a source "
            "checkout,\nwhere `make bench` runs them (or `pip install -e '.[bench]'` and this "
            "command).",
            file=sys.stderr,
        )
        return 1
    command = [sys.executable, "-m", "pytest", str(SUITES), "--rootdir", str(SUITES.parent), *argv]
    return subprocess.call(command, cwd=SUITES.parent)
