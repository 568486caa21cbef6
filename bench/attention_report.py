"""``python -m bench.attention_report RESULT.json...``: the report of the suite of attention.

Several results, of parts of the suite run one after the other on one machine, make one report:
``attention.json``, ``attention.md`` and two figures, beside the report of the cells.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import parts
from .attention import CASES, KINDS
from .goals import has_amx
from .machine import slug
from .plots import COLORS, _figure
from .report import PARTIAL, RESULTS, _rounded
from .tables import MISSED, NOT_MEASURED, REACHED, _time, table

WHAT = {
    "dot": "scaled dot product, against torch's `scaled_dot_product_attention`",
    "causal": "the same with causality",
    "decode": "one query against T keys, against the same",
    "additive": "Tq = Tk = T, A = d, against the formula with torch's operators, and compiled",
    "local": "a Gaussian of window 64 among 1024 keys, against its masked form",
}
# The peak of memory of eager additive attention is to be at least so many times ours.
MEMORY_GOAL = 10.0


def goal(case: dict[str, Any], peer: str, amx: bool) -> float | None:
    """The ratio that a case is to reach, None where none is set."""
    kind, mode = case["kind"], case["mode"]
    if kind == "dot":
        if amx:
            return 2.0
        if mode == "backward":
            return 1.8 if case["heads"] == 1 else 1.2
        return 1.0
    if kind == "additive" and (mode, case["length"]) == ("both", 128):
        return {"torch": 5.0, "compiled": 3.0}[peer]
    return {"decode": 2.0, "local": 4.0}.get(kind)


def trim(raw: dict[str, Any]) -> dict[str, Any]:
    """What matters of pytest-benchmark's JSON."""
    return parts.trim(raw, CASES)


def merge(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Several trimmed results as one: see `bench.parts.merge`."""
    return parts.merge(results, CASES)


def markdown(results: dict[str, Any], figures: Sequence[str]) -> str:
    machine = results["machine"]
    versions = ", ".join(f"{name} {v}" for name, v in machine["versions"].items() if v)
    blocks = [
        f"# Attention on {machine['cpu']}, {machine['isa']}",
        f"{results['date'][:10]}, {machine['threads']} threads, {versions}. Load average before "
        f"the run: {results['load']:.2f}. Times are medians of rounds in turn; × is fastrnn's "
        "speed as a multiple of the peer's, the ratio of medians with the quartiles of the rounds' "
        "ratios, after it the goal. Each case was checked against the reference in float64 before. "
        "Memory is the peak of a call (forward and backward but in cases of the forward) in a "
        "process of its own, peers first and fastrnn last. BH is batch times heads.",
    ]
    if results["failed"]:
        blocks.append(f"Not timed, for the check failed: {', '.join(results['failed'])}.")
    judged = [row for case in results["cases"] for row in _judged(case, machine)]
    reached = sum(ratio >= wanted for _, ratio, wanted in judged)
    blocks.append(f"Goals: {reached} of {len(judged)} reached.")
    blocks += [f"![{name.removesuffix('.png')}]({name})" for name in figures]
    for kind in KINDS:
        cases = [case for case in results["cases"] if case["kind"] == kind]
        if cases:
            blocks.append(f"## {kind.capitalize()}: {WHAT[kind]}")
            head = ["case", "fastrnn", "× torch", "goal"]
            compiled = any("compiled" in case["ratios"] for case in cases)
            head += ["× torch.compile", "goal"] * compiled + ["peak MiB"]
            rows = [_row(case, compiled, has_amx(machine)) for case in cases]
            blocks.append(table(head, rows))
    return "\n\n".join(blocks) + "\n"


def _judged(case: dict[str, Any], machine: dict[str, Any]) -> list[tuple[str, float, float]]:
    """Peer, ratio and goal of what a case is to reach, its memory among it."""
    found = []
    for peer, ratio in case["ratios"].items():
        wanted = goal(case, peer, has_amx(machine))
        if wanted is not None:
            found.append((peer, ratio["median"], wanted))
    memory = memory_ratio(case)
    if memory is not None:
        found.append(("memory", memory, MEMORY_GOAL))
    return found


def memory_ratio(case: dict[str, Any]) -> float | None:
    """Eager's peak as a multiple of ours, where there is a goal for it."""
    if (case["kind"], case["mode"], case["length"]) != ("additive", "both", 128):
        return None
    ours, theirs = case["memory"]["fastrnn"], case["memory"]["torch"]
    return theirs / ours if ours and theirs else None


def _row(case: dict[str, Any], compiled: bool, amx: bool) -> list[str]:
    dtype = "" if case["dtype"] == "float32" else f" {case['dtype']}"
    name = f"{case['mode']}{dtype} T {case['length']} BH {case['heads']} d {case['width']}"
    row = [name, _time(case["seconds"]["fastrnn"])]
    for peer in ("torch", "compiled") if compiled else ("torch",):
        ratio = case["ratios"].get(peer)
        if ratio is None:
            row += [NOT_MEASURED, ""]
            continue
        row.append(f"{ratio['median']:.2f} [{ratio['q1']:.2f}, {ratio['q3']:.2f}]")
        row.append(_mark(ratio["median"], goal(case, peer, amx)))
    memory = " / ".join(
        NOT_MEASURED if case["memory"][name] is None else f"{case['memory'][name] / 2**20:.1f}"
        for name in sorted(case["memory"], key=lambda name: name == "fastrnn")
    )
    ratio = memory_ratio(case)
    return [*row, memory + (f" {_mark(ratio, MEMORY_GOAL)}" if ratio else "")]


def _mark(ratio: float, wanted: float | None) -> str:
    return "" if wanted is None else f"≥ {wanted:g} {REACHED if ratio >= wanted else MISSED}"


def draw(results: dict[str, Any], folder: Path) -> list[str]:
    """Speed and peak of memory against length; the names of the files."""
    lines: dict[str, list[dict[str, Any]]] = {}
    for case in results["cases"]:
        if case["kind"] == "decode" or case["heads"] == 1 or case["kind"] == "local":
            continue
        label = f"{case['kind']} {case['mode']} d {case['width']}"
        label += "" if case["dtype"] == "float32" else f" {case['dtype']}"
        lines.setdefault(label, []).append(case)
    lines = {label: cases for label, cases in lines.items() if len(cases) > 1}
    if not lines:
        return []
    where = f"{results['machine']['cpu']}, {results['machine']['threads']} threads"
    figure = _figure(9, 5)
    axes = figure.subplots()
    for index, (label, cases) in enumerate(lines.items()):
        lengths = [case["length"] for case in cases]
        ratios = [case["ratios"]["torch"]["median"] for case in cases]
        color, line = COLORS[index % len(COLORS)], ("-", "--", ":")[index // 6 % 3]
        axes.plot(
            lengths, ratios, marker="o", markersize=4, label=label, color=color, linestyle=line
        )
    axes.axhline(1.0, color="black", linewidth=0.8)
    axes.set(xscale="log", yscale="log", xlabel="T", ylabel="fastrnn's speed over torch's")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}×")
    figures = {"attention-speed.png": figure}

    figure = _figure(9, 5)
    axes = figure.subplots()
    shown = {label: cases for label, cases in lines.items() if "forward" not in label}
    shown = {label: cases for label, cases in shown.items() if "bfloat16" not in label}
    for index, (label, cases) in enumerate(shown.items()):
        for provider, linestyle in (("torch", "--"), ("fastrnn", "-")):
            points = [case for case in cases if case["memory"][provider]]
            axes.plot(
                [case["length"] for case in points],
                [case["memory"][provider] / 2**20 / case["heads"] for case in points],
                color=COLORS[index % len(COLORS)],
                linestyle=linestyle,
                marker="o",
                markersize=4,
                label=f"{label.replace('backward', 'both')}, {provider}",
            )
    axes.set(xscale="log", yscale="log", xlabel="T", ylabel="peak MiB a head, forward and backward")
    figures["attention-memory.png"] = figure
    for name, figure in figures.items():
        lengths = sorted({case["length"] for cases in lines.values() for case in cases})
        figure.axes[0].set_xticks(lengths, [str(length) for length in lengths], minor=False)
        figure.axes[0].minorticks_off()
        figure.axes[0].grid(alpha=0.3)
        figure.legend(loc="outside right center", fontsize="small")
        figure.suptitle(f"Attention on {where}", fontsize=10)
        figure.savefig(folder / name, dpi=110)
    return list(figures)


def write(results: dict[str, Any], folder: Path) -> str:
    """Write all files of the report; return its text."""
    folder.mkdir(parents=True, exist_ok=True)
    text = markdown(results, draw(results, folder))
    (folder / "attention.json").write_text(json.dumps(_rounded(results), indent=1) + "\n")
    (folder / "attention.md").write_text(text, encoding="utf-8")
    return text


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.attention_report", description=__doc__)
    parser.add_argument("results", type=Path, nargs="+", metavar="RESULT.json")
    parser.add_argument("--out", type=Path, help="folder (default as for bench.report)")
    options = parser.parse_args(argv)
    try:
        results = merge([trim(json.loads(path.read_text())) for path in options.results])
    except (OSError, ValueError, KeyError) as error:
        print(f"not a result of the suite in bench/: {error}", file=sys.stderr)
        return 1
    names = {case["name"] for case in results["cases"]} | set(results["failed"])
    if names:
        # A part of the suite must not take the place of the whole.
        folder = RESULTS if names == set(CASES) else PARTIAL
        print(write(results, options.out or folder / slug(results["machine"])))
    return 0


if __name__ == "__main__":
    sys.exit(main())
