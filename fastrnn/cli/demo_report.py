"""The demo's result as text and as a figure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from fastrnn.cli import rounding

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from fastrnn.cli.demo import Result

FEW = 30  # pairs of steps
WIDE = 1.3  # from the lower quartile of the ratio to the upper


def verdict(result: Result) -> str:
    """One sentence: do the curves agree to rounding?"""
    words = "agree to rounding" if result.agree else "DO NOT AGREE to rounding"
    return (
        f"The loss curves {words}: largest relative difference {max(result.differences):.1e}; "
        f"one unit in the last place of the initial weights makes {max(result.control):.1e}."
    )


def steadiness(result: Result) -> str:
    """One sentence, or two: how far the ratio of the training speeds can be relied on."""
    lower, upper = result.spread
    pairs = len(result.ratios)
    told = f"Half of {pairs} pairs of steps had a ratio from {lower:.2f} to {upper:.2f}."
    if pairs < FEW or upper > WIDE * lower:
        told += " Too few, or on too busy a machine, to rely on: run it again."
    return told


def show(result: Result, console: Console) -> None:
    """Print the speeds, the verdict, the sampled paragraph and where the figure is."""
    theirs, ours = result.torch, result.fastrnn
    table = Table("", theirs.name, ours.name, "ratio")
    for column in table.columns[1:]:
        column.justify = "right"
    for name, a, b in (
        ("training, characters/s", theirs.characters_per_second, ours.characters_per_second),
        ("sampling, characters/s", theirs.sampled_per_second, ours.sampled_per_second),
    ):
        table.add_row(name, f"{a:,.0f}", f"{b:,.0f}", f"{b / a:.2f}x")
    table.add_row(
        f"loss after {result.steps} steps", f"{theirs.losses[-1]:.6f}", f"{ours.losses[-1]:.6f}", ""
    )
    console.print(table)
    options = result.options
    if result.steps < options.steps:
        console.print(f"Stopped after {options.seconds:g} s, short of {options.steps} steps.")
    console.print(steadiness(result), highlight=False)
    console.print(verdict(result), style="green" if result.agree else "bold red", highlight=False)
    title = f"{ours.name}, a character at a time"
    console.print(Panel(Text(ours.text.strip()), title=title, width=min(console.width, 100)))
    console.print(f"Figure: {options.out}", highlight=False, soft_wrap=True)


def draw(result: Result) -> None:
    """Draw both curves, their difference and the speeds into ``result.options.out``."""
    options = result.options
    figure = Figure(figsize=(13, 4), layout="constrained")
    FigureCanvasAgg(figure)
    curves, differences, speeds = figure.subplots(1, 3, width_ratios=(5, 4, 3))
    _draw_curves(curves, result)
    _draw_differences(differences, result)
    _draw_speeds(speeds, result)
    figure.suptitle(
        f"{options.cell.upper()}, {options.layers} x {options.hidden} units, "
        f"batch {options.batch}, windows of {options.length} characters, {options.device}"
    )
    options.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.out, dpi=130, format="png")


def _draw_curves(axes: Axes, result: Result) -> None:
    # Wide under narrow: where the curves agree, both stay visible.
    axes.plot(result.torch.losses, color="tab:orange", linewidth=5, label=result.torch.name)
    axes.plot(result.fastrnn.losses, color="black", linewidth=1, label=result.fastrnn.name)
    axes.set(xlabel="step", ylabel="loss, nats a character", title="Training loss")
    axes.legend()


def _draw_differences(axes: Axes, result: Result) -> None:
    axes.plot(rounding.bounds(result.control), color="tab:red", label="bound")
    axes.plot(result.control, ".", color="tab:gray", label="torch.nn, weights nudged by 1 ulp")
    axes.plot(result.differences, ".", color="black", label=result.fastrnn.name)
    axes.set(xlabel="step", title="Relative difference from torch.nn")
    axes.set_yscale("log", nonpositive="mask")  # an equal loss leaves a gap
    axes.legend(fontsize="small")


def _draw_speeds(axes: Axes, result: Result) -> None:
    runs = (result.torch, result.fastrnn)
    speeds = [run.characters_per_second for run in runs]
    bars = axes.bar([run.name for run in runs], speeds, color=["tab:orange", "black"])
    axes.bar_label(bars, labels=[f"{speed:,.0f}" for speed in speeds])
    axes.margins(y=0.1)
    axes.set(ylabel="characters/s", title=f"Training speed: {result.ratio:.2f}x")
