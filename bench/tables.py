"""The report as Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from .cases import CASES, FAMILIES, GATES, MODES
from .goals import LEVELS, MEANS
from .limits import HOW
from .timing import FEWEST_ROUNDS, ROUNDS

NOT_MEASURED = "–"
REACHED, MISSED = "✓", "✗"


def markdown(results: dict[str, Any], figures: Sequence[str]) -> str:
    """The whole report; ``figures`` are names of files beside it."""
    blocks = [
        f"# Speed on {results['machine']['cpu']}, {results['machine']['isa']}",
        *_circumstances(results),
        "## Summary",
        *_summary(results),
        *(f"![{name.removesuffix('.png')}]({name})" for name in figures),
        "## Cases",
        _explanation(),
        *_case_tables(results),
        "## Limits of the machine",
        *_limits(results["limits"]),
    ]
    return "\n\n".join(blocks) + "\n"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Aligned, so that it reads in a terminal as well; all columns but the first to the right."""
    cells = [list(head), *(list(row) for row in rows)]
    widths = [max(3, *(len(row[i]) for row in cells)) for i in range(len(head))]

    def line(row: Sequence[str]) -> str:
        parts = [row[0].ljust(widths[0])]
        parts += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        return "| " + " | ".join(parts) + " |"

    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join([line(cells[0]), line(rule), *map(line, cells[1:])])


# --- what it is about ---------------------------------------------------------------------------


def _circumstances(results: dict[str, Any]) -> list[str]:
    machine = results["machine"]
    model = f" ({machine['cpu_model']})" if machine["cpu_model"] else ""
    cap = f", capped by FASTRNN_ISA={machine['isa_cap']}" if machine["isa_cap"] else ""
    theirs = f", torch's for {machine['torch_isa']}" if machine.get("torch_isa") else ""
    versions = ", ".join(f"{name} {v or 'absent'}" for name, v in machine["versions"].items())
    return [
        f"{results['date'][:10]}. {machine['cpu']}{model}, {machine['cores']} cores, "
        f"{machine['threads']} threads, fastrnn's kernels for {machine['isa']}{cap}{theirs} "
        f"(features: {' '.join(machine['cpu_features']) or 'none'}). {versions}. "
        f"Load average before the run: {results['load']:.2f}.",
        "T = 100 and I = H unless stated. All providers get the same weights and inputs and take "
        "turns in one process, on as many threads each; a case is timed only after its results "
        "were checked against the reference in float64. Training is forward and backward to the "
        "input and all weights.",
    ]


def _explanation() -> str:
    return (
        f"Times are medians of {FEWEST_ROUNDS} to {ROUNDS} rounds; × is fastrnn's speed as a "
        "multiple of the peer's: the ratio of medians, with the quartiles of the rounds' ratios in "
        f"brackets. After it the goals, {REACHED} reached, {MISSED} missed: the first ones, and "
        "the next ones. Roof is the share of the machine's own limit, the least time for the "
        "matrix products (p) or for streaming the weights (s), whichever is larger, over the time "
        "taken."
    )


# --- summary ------------------------------------------------------------------------------------


def _summary(results: dict[str, Any]) -> list[str]:
    cases = results["cases"]
    blocks = []
    if len(cases) + len(results["failed"]) < len(CASES):
        blocks.append(f"A part of the suite: {len(cases)} of {len(CASES)} cases.")
    if results["failed"]:
        names = ", ".join(results["failed"])
        blocks.append(f"**The check failed, so there is no speed, of: {names}.**")
    rows = [row for row in _mean_rows(cases) if row[1] != "0"]
    if rows:
        head = ["geometric mean over the grid", "shapes", "× torch", "goal", "least × torch"]
        blocks.append(table([*head, "× onnxruntime", "least × onnxruntime"], rows))
    for level in LEVELS:
        judged = [
            (case["ratios"][peer]["median"] >= levels[level], case["name"], peer)
            for case in cases
            for peer, levels in case["goals"].items()
            if levels[level] is not None
        ]
        if judged:
            missed = [f"{name} ({peer})" for reached, name, peer in judged if not reached]
            text = (
                f"{level.capitalize()} goals: {len(judged) - len(missed)} of {len(judged)} reached"
            )
            # Of the next level many are bound to be open: the tables mark them.
            named = missed and level == "first"
            blocks.append(f"{text}; missed: {', '.join(missed)}." if named else f"{text}.")
    return blocks


def _mean_rows(cases: Sequence[dict[str, Any]]) -> Iterable[list[str]]:
    for cell in GATES:
        for mode in MODES:
            chosen = [
                case
                for case in cases
                if (case["family"], case["cell"], case["mode"]) == ("grid", cell, mode)
            ]
            ratios = {
                peer: [case["ratios"][peer]["median"] for case in chosen if peer in case["ratios"]]
                for peer in ("torch", "onnxruntime")
            }
            mean = {peer: statistics.geometric_mean(r) for peer, r in ratios.items() if r}
            yield [
                f"{cell.upper()} {mode}",
                str(len(chosen)),
                _times(mean.get("torch")),
                _judged(mean.get("torch"), MEANS.get((cell, mode))),
                _times(min(ratios["torch"], default=None)),
                _times(mean.get("onnxruntime")),
                _times(min(ratios["onnxruntime"], default=None)),
            ]


# --- cases --------------------------------------------------------------------------------------


def _case_tables(results: dict[str, Any]) -> Iterable[str]:
    for family, what in FAMILIES.items():
        cases = [case for case in results["cases"] if case["family"] == family]
        if cases:
            yield f"### {family.capitalize()}: {what}"
        for cell in GATES:
            for mode in MODES:
                chosen = [case for case in cases if (case["cell"], case["mode"]) == (cell, mode)]
                if chosen:
                    yield f"**{cell.upper()}, {mode}**"
                    yield _case_table(chosen)


def _case_table(cases: Sequence[dict[str, Any]]) -> str:
    peers = [
        peer for peer in ("torch", "onnxruntime") if any(peer in case["ratios"] for case in cases)
    ]
    head = ["case", "fastrnn"]
    for peer in peers:
        head += [f"× {peer}", "first", "next"] if peer == "torch" else [f"× {peer}", "next"]
    return table([*head, "roof"], [_case_row(case, peers) for case in cases])


def _case_row(case: dict[str, Any], peers: Sequence[str]) -> list[str]:
    form = f"{case['form']} " if case["family"] == "step" else ""
    row = [f"{form}B {case['batch']} H {case['hidden']}"]
    row.append(_time(case["providers"]["fastrnn"]["median"]))
    for peer in peers:
        ratio = case["ratios"].get(peer)
        row.append(
            f"{ratio['median']:.2f} [{ratio['q1']:.2f}, {ratio['q3']:.2f}]"
            if ratio
            else NOT_MEASURED
        )
        for level in LEVELS if peer == "torch" else LEVELS[1:]:
            wanted = case["goals"].get(peer, {}).get(level)
            row.append(_judged(ratio["median"] if ratio else None, wanted))
    roof = case["roof"]
    return [*row, f"{roof['share']:.0%} {roof['bound'][0]}"]


def _time(seconds: float) -> str:
    for unit, factor in (("s", 1.0), ("ms", 1e3)):
        if seconds * factor >= 1:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds * 1e6:.3g} µs"


def _times(ratio: float | None) -> str:
    return NOT_MEASURED if ratio is None else f"{ratio:.2f}"


def _judged(ratio: float | None, wanted: float | None) -> str:
    if wanted is None:
        return ""
    if ratio is None:
        return f"≥ {wanted:g}"
    return f"≥ {wanted:g} {REACHED if ratio >= wanted else MISSED}"


# --- limits -------------------------------------------------------------------------------------


def _limits(limits: dict[str, Any]) -> list[str]:
    rows = []
    for dtype, rate in limits["one_core"].items():
        rows.append([f"product, {dtype}, one core", _rate(rate, "FLOP/s")])
        rate = limits["all_cores"][dtype]
        rows.append([f"product, {dtype}, {limits['threads']} threads", _rate(rate, "FLOP/s")])
    rows.append([f"read from L2{_size(limits['l2_bytes'])}, one core", _rate(limits["l2"], "B/s")])
    rows.append(
        [
            f"read from L3{_size(limits['l3_bytes'])}, {limits['threads']} threads",
            _rate(limits["l3"], "B/s"),
        ]
    )
    rows.append([f"copy, {limits['threads']} threads", _rate(limits["copy"], "B/s")])
    how = "\n".join(f"- {name}: {text}." for name, text in HOW.items())
    return [
        "Measured before the cases, each the best of many repetitions.",
        table(["limit", "rate"], rows),
        how,
    ]


def _rate(rate: float | None, unit: str) -> str:
    return NOT_MEASURED if rate is None else f"{rate / 1e9:.1f} G{unit}"


def _size(size: int | None) -> str:
    return "" if size is None else f" ({size >> 10} KiB)"
