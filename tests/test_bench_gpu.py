"""``make gpu``, every path of it, on the CPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

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
    assert report["checks"] == {"count": 5, "faults": []}
    assert len(report["results"]) == 8 and all("ratio" in each for each in report["results"])
    text = (tmp_path / "report" / "README.md").read_text()
    assert "the figures below mean nothing" in text
    assert (tmp_path / "report" / "speedup.png").exists()
    attention = json.loads((tmp_path / "report" / "attention.json").read_text())
    assert len(attention["results"]) == 4 and all("ratios" in each for each in attention["results"])
    assert "mean nothing" in (tmp_path / "report" / "attention.md").read_text()
