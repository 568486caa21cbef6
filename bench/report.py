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

from . import plots, tables
from .cases import CASES
from .goals import LEVELS, goal, has_amx
from .machine import slug

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "results"
# Out of git's sight: a part of the suite must not take the place of the whole.
PARTIAL = ROOT / ".benchmarks" / "partial"


def trim(raw: dict[str, Any]) -> dict[str, Any]:
    """What matters of pytest-benchmark's JSON: each case once, and on what it was measured.

    Raises:
        ValueError: these are not results of this suite.
    """
    try:
        run, machine = raw["fastrnn"], raw["machine_info"]["fastrnn"]
        records = {bench["extra_info"]["name"]: bench["extra_info"] for bench in raw["benchmarks"]}
        # Attention's have a report of their own.
        records = {name: record for name, record in records.items() if name in CASES}
    except KeyError as error:
        raise ValueError(f"not a result of the suite in bench/: no {error}") from None
    amx = has_amx(machine)
    for record in records.values():
        record["goals"] = {
            peer: {level: goal(level, peer, record, amx) for level in LEVELS}
            for peer in record["ratios"]
        }
    return {
        "date": raw["datetime"],
        "machine": machine,
        "load": run["load"],
        "seed": run["seed"],
        "seconds": run["seconds"],
        "limits": run["limits"],
        "failed": [name for name in run["failed"] if name in CASES],
        "cases": [records[name] for name in CASES if name in records],
    }


def merge(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Several trimmed results as one; of a case measured twice the last counts.

    Raises:
        ValueError: they come of different machines or libraries.
    """
    if any(part["machine"] != parts[0]["machine"] for part in parts):
        raise ValueError("results of different machines make no report")
    cases = {case["name"]: case for part in parts for case in part["cases"]}
    failed = {name for part in parts for name in part["failed"]} - set(cases)
    return {
        **parts[-1],
        "load": max(part["load"] for part in parts),
        "limits": _best([part["limits"] for part in parts]),
        "failed": sorted(failed),
        "cases": [cases[name] for name in CASES if name in cases],
    }


def _best(limits: Sequence[Any]) -> Any:
    """Of rates the highest, since everything that disturbs makes them smaller."""
    if isinstance(limits[0], dict):
        return {key: _best([each[key] for each in limits]) for key in limits[0]}
    return max((each for each in limits if each is not None), default=None)


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
    parts = []
    for path in options.results:
        try:
            parts.append(trim(json.loads(path.read_text())))
        except (OSError, ValueError) as error:
            print(f"{path}: {error}", file=sys.stderr)
            return 1
    try:
        results = merge(parts)
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
