"""The report's figures: speed-up against width, and the share of the roof."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from .cases import GATES, MODES

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLORS = ("tab:blue", "tab:orange", "tab:green", "tab:red", "tab:purple", "tab:brown")
STYLES = {"torch": ("-", "o"), "onnxruntime": ("--", "s")}


def draw(results: dict[str, Any], folder: Path) -> list[str]:
    """Draw what the results hold of the grid; return the names of the files."""
    grid = [case for case in results["cases"] if case["family"] == "grid"]
    where = f"{results['machine']['cpu']}, {results['machine']['threads']} threads"
    names = []
    for cell in GATES:
        for mode in MODES:
            chosen = [case for case in grid if (case["cell"], case["mode"]) == (cell, mode)]
            if chosen:
                names.append(f"speedup-{cell}-{mode}.png")
                figure = _figure(8, 4.2)
                _draw_speedup(figure.subplots(), chosen)
                figure.suptitle(f"{cell.upper()} {mode}, float32, T = 100\n{where}", fontsize=10)
                figure.savefig(folder / names[-1], dpi=110)
    if grid:
        names.append("roof.png")
        figure = _figure(12, 6.5)
        colors = dict(_batches(grid))
        panels = figure.subplots(len(MODES), len(GATES), sharex=True, sharey=True)
        for row, mode in zip(panels, MODES, strict=True):
            for axes, cell in zip(row, GATES, strict=True):
                chosen = [case for case in grid if (case["cell"], case["mode"]) == (cell, mode)]
                axes.set_title(f"{cell.upper()} {mode}", fontsize=10)
                _draw_roof(axes, chosen, colors)
        lines = {line.get_label(): line for axes in figure.axes for line in axes.get_lines()}
        labels = [f"B {batch}" for batch in colors]
        figure.legend([lines[b] for b in labels], labels, loc="outside right center")
        figure.suptitle(f"fastrnn's share of the machine's limit, float32, T = 100\n{where}")
        figure.savefig(folder / names[-1], dpi=110)
    return names


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _batches(cases: Sequence[dict[str, Any]]) -> list[tuple[int, str]]:
    found = sorted({case["batch"] for case in cases})
    return [(batch, COLORS[index % len(COLORS)]) for index, batch in enumerate(found)]


def _draw_speedup(axes: Axes, cases: Sequence[dict[str, Any]]) -> None:
    batches = _batches(cases)
    for index, (batch, color) in enumerate(batches):
        # A little aside, so that the bars of one width do not cover each other.
        shift = 1.04 ** (index - (len(batches) - 1) / 2)
        for peer, (line, marker) in STYLES.items():
            points = [c for c in cases if c["batch"] == batch and peer in c["ratios"]]
            if not points:
                continue
            ratios = [case["ratios"][peer] for case in points]
            middles = [ratio["median"] for ratio in ratios]
            # The median ratio is that of medians: it can lie outside the rounds' quartiles.
            below = [max(r["median"] - r["q1"], 0.0) for r in ratios]
            above = [max(r["q3"] - r["median"], 0.0) for r in ratios]
            axes.errorbar(
                [case["hidden"] * shift for case in points],
                middles,
                yerr=(below, above),
                color=color,
                linestyle=line,
                marker=marker,
                markersize=4,
                capsize=2,
                label=f"B {batch}, {peer}",
            )
    axes.axhline(1.0, color="black", linewidth=0.8)
    axes.set_yscale("log", base=2)
    axes.yaxis.set_major_locator(LogLocator(base=2, subs=(1.0, 1.5)))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}×")
    _widths(axes, cases)
    axes.set(ylabel="fastrnn's speed over the peer's")
    axes.figure.legend(loc="outside right center", fontsize="small")


def _draw_roof(axes: Axes, cases: Sequence[dict[str, Any]], colors: dict[int, str]) -> None:
    for batch, color in colors.items():
        points = [case for case in cases if case["batch"] == batch]
        shares = [case["roof"]["share"] for case in points]
        widths = [case["hidden"] for case in points]
        axes.plot(widths, shares, color=color, marker="o", markersize=4, label=f"B {batch}")
    axes.axhline(1.0, color="black", linewidth=0.8)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    if cases:
        _widths(axes, cases)


def _widths(axes: Axes, cases: Sequence[dict[str, Any]]) -> None:
    widths = sorted({case["hidden"] for case in cases})
    axes.set_xscale("log", base=2)
    axes.set_xticks(widths, [str(width) for width in widths])
    axes.set_xlabel("H")
    axes.grid(alpha=0.3)
