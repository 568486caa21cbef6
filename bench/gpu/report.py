"""Results as JSON, Markdown and, where matplotlib is installed, PNG."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

Result = Mapping[str, Any]


def slug(name: str) -> str:
    """A device's name as the name of a folder."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def geometric_mean(values: Iterable[float]) -> float:
    logs = [math.log(value) for value in values]
    return math.exp(sum(logs) / len(logs)) if logs else math.nan


def write(
    folder: Path, machine: Mapping[str, Any], checks: Result, results: Sequence[Result]
) -> None:
    """Everything into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    everything = {"machine": machine, "checks": checks, "results": results}
    (folder / "results.json").write_text(json.dumps(everything, indent=1) + "\n")
    (folder / "README.md").write_text("\n".join(_markdown(machine, checks, results)) + "\n")
    try:
        import matplotlib

        matplotlib.use("Agg")
    except ImportError:
        return
    try:
        _plot(folder / "speedup.png", machine, results)
    except Exception as error:  # the figures are written, and more are to come
        print(f"no picture: {type(error).__name__}: {error}", flush=True)


def _summary(results: Sequence[Result]) -> list[tuple[str, list[Result]]]:
    groups: dict[str, list[Result]] = {}
    for result in results:
        if "ratio" in result:
            way = "training" if result["training"] else "inference"
            key = f"{result['cell']} {result['dtype']}, {result['kind']}, {way}"
            groups.setdefault(key, []).append(result)
    return list(groups.items())


def _markdown(
    machine: Mapping[str, Any], checks: Result, results: Sequence[Result]
) -> Iterable[str]:
    yield f"# {machine['device']}"
    yield ""
    yield ", ".join(f"{key} {value}" for key, value in machine.items() if key != "device")
    yield ""
    yield f"{checks['count']} equality checks, {len(checks['faults'])} faults."
    yield from (f"- {fault}" for fault in checks["faults"])
    if checks["faults"]:
        yield ""
        yield "**Figures of a backend that fails its checks mean nothing.**"
    if machine["dry_run"]:
        yield ""
        yield "**A dry run on a CPU: the figures below mean nothing.**"
    yield ""
    yield "How many times as fast as cuDNN through `torch.nn`: geometric mean, least and most."
    yield "The peer of a compiled loop is `torch.compile` of the cell's step; a language model's"
    yield "training step is all of it, layers of torch against these."
    yield ""
    yield "| | mean | least | most | shapes |"
    yield "|---|---|---|---|---|"
    for name, group in _summary(results):
        ratios = [result["ratio"] for result in group]
        mean = geometric_mean(ratios)
        yield f"| {name} | {mean:.2f} | {min(ratios):.2f} | {max(ratios):.2f} | {len(ratios)} |"
    yield ""
    yield "Microseconds a step, and the share of the derived limit (`bench/gpu/limits.py`) reached."
    yield ""
    yield "| case | | fastrnn | torch | ratio | of limit |"
    yield "|---|---|---|---|---|---|"
    for result in results:
        way = "training" if result["training"] else "inference"
        if "error" in result:
            yield f"| {result['case']} | {way} | {result['error'][:120]} | | | |"
            continue
        ours, theirs = result["us"]["fastrnn"], result["us"]["torch"]
        share = f"{result['limit_us'] / ours:.0%}" if "limit_us" in result else ""
        yield (
            f"| {result['case']} | {way} | {ours:.2f} | {theirs:.2f} | {result['ratio']:.2f} "
            f"| {share} |"
        )


def _plot(path: Path, machine: Mapping[str, Any], results: Sequence[Result]) -> None:
    from matplotlib import pyplot

    groups = _summary(results)
    if not groups:
        return
    columns = min(3, len(groups))
    rows = -(-len(groups) // columns)
    figure, axes = pyplot.subplots(
        rows, columns, figsize=(4 * columns, 2.8 * rows), squeeze=False, layout="constrained"
    )
    for axis, (name, group) in zip(axes.flat, groups, strict=False):
        for batch in sorted({result["B"] for result in group}):
            line = sorted((r["H"], r["ratio"]) for r in group if r["B"] == batch)
            axis.plot(*zip(*line, strict=True), marker="o", label=f"B {batch}")
        axis.axhline(1, color="grey", linewidth=0.8)
        axis.set(title=name, xlabel="H", xscale="log", yscale="log")
        axis.title.set_fontsize(8)
        axis.legend(fontsize=6)
    figure.suptitle(f"times as fast as cuDNN, {machine['device']}")
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
