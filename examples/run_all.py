"""``make examples``: run every program here, then gather their records into RESULTS.md.

python examples/run_all.py [NAME …]    these programs, or all
python examples/run_all.py --gather    no program, only the page
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness import Metric

HERE = Path(__file__).resolve().parent
RECORDS = HERE / "results"
# In the order of docs/systems.md.
PROGRAMS = (
    "gradients", "language_model", "digits", "tagging", "classification", "seq2seq", "pointer",
    "captioning", "tree", "transformer", "forecasting", "policy", "streaming", "distributed",
)  # fmt: skip


def metrics(record: dict[str, Any]) -> list[Metric]:
    return [Metric(**metric) for metric in record["metrics"]]


def page(records: Sequence[dict[str, Any]], missing: Sequence[str] = ()) -> str:
    """RESULTS.md: one table of all figures, what is missing, then what each program found."""
    lines = [
        "# What the programs reached",
        "",
        "Written by `make examples`, never by hand. × torch: how many times as long a training",
        "step (of `streaming`: a character) takes on torch's layers, from the same weights on the",
        "same batches, both in turn in one process, and in brackets of how many steps that is the",
        "ratio of medians. What each program is: [docs/systems.md](../docs/systems.md). Speed is",
        "measured elsewhere, over many shapes: [docs/performance.md](../docs/performance.md).",
        "",
        "| program | figure | value | goal | reached | × torch | core seconds | date | machine |",
        "| --- | --- | ---: | --- | --- | --- | ---: | --- | --- |",
    ]
    for found in records:
        machine = f"{found['machine']}, {found['threads']} thread{'s' * (found['threads'] > 1)}"
        ratios = ", ".join(
            f"{n} {c['ratio']:.2f} ({c.get('steps', '?')})" for n, c in found["comparisons"].items()
        )
        seconds = found.get("core_seconds")  # not in records that predate it
        once = [ratios, "" if seconds is None else f"{seconds:.0f}", found["date"], machine]
        name = f"[{found['program']}](#{found['program']})"
        for metric in metrics(found):
            lines.append(f"| {' | '.join([name, metric.name, *metric.words(), *once])} |")
            name, once = "", [""] * 4
    if missing:
        lines += ["", f"No record yet of: {', '.join(missing)}."]
    for found in records:
        lines += ["", f"## {found['program']}", ""]
        options = " ".join(f"--{key} {value}" for key, value in found["options"].items())
        lines += [f"`python examples/{found['program']}.py {options}`", ""]
        for metric in metrics(found):
            if metric.reached is False and metric.remark:
                lines += [f"Not reached, {metric.name}: {metric.remark}", ""]
        for name, c in found["comparisons"].items():
            if not c["agree"]:
                lines += [f"{name}: losses differ from torch's by {c['difference']:.1e}, more than "
                          "rounding explains.", ""]  # fmt: skip
        for block in found["details"]:
            lines += [block, ""]
        lines.append(f"![{found['program']}](results/{found['program']}.png)")
    return "\n".join(lines) + "\n"


def gather() -> None:
    """Write RESULTS.md from the records that are there."""
    paths = [RECORDS / f"{name}.json" for name in PROGRAMS]
    records = [json.loads(path.read_text()) for path in paths if path.exists()]
    missing = [path.stem for path in paths if not path.exists()]
    (HERE / "RESULTS.md").write_text(page(records, missing))
    if missing:
        print(f"no record yet of: {', '.join(missing)}", file=sys.stderr)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("programs", nargs="*", help="names of programs; none: all")
    parser.add_argument("--gather", action="store_true", help="only write the page")
    options = parser.parse_args()
    unknown = set(options.programs) - set(PROGRAMS)
    if unknown:
        parser.error(f"no such program: {', '.join(sorted(unknown))}")
    RECORDS.mkdir(exist_ok=True)
    failed = []
    for name in () if options.gather else options.programs or PROGRAMS:
        print(f"── {name}", flush=True)
        command = [sys.executable, str(HERE / f"{name}.py"), "--record", str(RECORDS)]
        if subprocess.run(command).returncode:
            failed.append(name)
    gather()
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
