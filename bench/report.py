"""``python -m bench.report RESULT.json...``: from pytest-benchmark's JSON to a report.

Several results, of parts of the suite run one after the other, make one report.

Writes ``results.json`` (what matters, trimmed), ``README.md`` (tables) and figures into a folder
named after the machine, and prints the tables.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import parts, plots, tables
from .cases import CASES
from .goals import LEVELS, goal, has_amx
from .machine import slug

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "results"
# Out of git's sight: a part of the suite must not take the place of the whole.
PARTIAL = ROOT / ".benchmarks" / "partial"


def trim(raw: dict[str, Any]) -> dict[str, Any]:
    """What matters of pytest-benchmark's JSON, with the goals; attention has a report of its own.

    Raises:
        ValueError: these are not results of this suite.
    """
    found = parts.trim(raw, CASES)
    amx = has_amx(found["machine"])
    for record in found["cases"]:
        record["goals"] = {
            peer: {level: goal(level, peer, record, amx) for level in LEVELS}
            for peer in record["ratios"]
        }
    return found


def merge(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Several trimmed results as one: see `bench.parts.merge`."""
    return parts.merge(results, CASES)


def is_whole(results: dict[str, Any]) -> bool:
    """Whether every case was tried, be it that its check failed."""
    return {case["name"] for case in results["cases"]} | set(results["failed"]) == set(CASES)


def write(results: dict[str, Any], folder: Path) -> str:
    """Write all files of the report; return its text."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.png"):
        if not old.name.startswith("attention-"):  # those of attention's report
            old.unlink()
    figures = plots.draw(results, folder)
    text = tables.markdown(results, figures)
    (folder / "results.json").write_text(json.dumps(_rounded(results), indent=1) + "\n")
    (folder / "README.md").write_text(text, encoding="utf-8")
    return text


def _rounded(value: Any) -> Any:
    """Numbers to six digits: more would be noise, and every one a change to look at."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list) else value


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.report", description=__doc__)
    parser.add_argument(
        "results", type=Path, nargs="+", metavar="RESULT.json", help="of --benchmark-json"
    )
    parser.add_argument(
        "--out",
        type=Path,
        help="folder (default: bench/results/MACHINE; for a part of the suite "
        ".benchmarks/partial/MACHINE)",
    )
    options = parser.parse_args(argv)
    measured = []
    for path in options.results:
        try:
            measured.append(trim(json.loads(path.read_text())))
        except (OSError, ValueError) as error:
            print(f"{path}: {error}", file=sys.stderr)
            return 1
    try:
        results = merge(measured)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    if not results["cases"] and not results["failed"]:
        return 0  # attention's alone
    whole = is_whole(results)
    folder = options.out or (RESULTS if whole else PARTIAL) / slug(results["machine"])
    text = write(results, folder)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal without ✓ and × is no reason to fail
    print(text)
    part = "" if whole else " (a part of the suite)"
    print(f"Report{part}: {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
