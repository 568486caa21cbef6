"""What all programs here share: arguments, training, the comparison with torch, the record.

A program is a function ``run(options) -> Result`` and one line, ``harness.main(run, …)``. It builds
its models with `build`, trains them with `fit`, measures them beside torch's layers with `compare`
and draws with `picture`; `main` parses, prints, and writes what ``make examples`` gathers.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import datetime
import inspect
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console
from rich.markdown import Markdown
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

import fastrnn
from fastrnn.cli import rounding
from fastrnn.cli.info import cpu_name

Model = TypeVar("Model", bound=nn.Module)
Batch = Any  # whatever a program's own batch() gives to its own loss()
# Of `compare`: steps at least and at most, those not timed, and those whose losses are compared.
LEAST, MOST, WARM_UP, CHECKED = 25, 100, 5, 15


@dataclasses.dataclass(frozen=True)
class Options:
    """How large a run is to be, and where its picture goes."""

    steps: int
    hidden: int
    layers: str = "fastrnn"
    device: str = "cpu"
    seed: int = 0
    picture: Path = Path("picture.png")


@dataclasses.dataclass(frozen=True)
class Metric:
    """A figure of a run beside its goal.

    Attributes:
        goal: None for a figure that is only told.
        higher: whether it has to be at least the goal, else at most.
        remark: why, should the goal not be reached.
    """

    name: str
    value: float
    goal: float | None = None
    higher: bool = True
    remark: str = ""

    @property
    def reached(self) -> bool | None:
        if self.goal is None:
            return None
        return self.value >= self.goal if self.higher else self.value <= self.goal

    def words(self) -> tuple[str, str, str]:
        """Value, goal and verdict."""
        goal = "" if self.goal is None else f"{'≥' if self.higher else '≤'} {self.goal:g}"
        verdict = {True: "yes", False: "**no**", None: ""}[self.reached]
        return f"{self.value:.4g}", goal, verdict


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The same training on both kinds of layers, from the same weights on the same batches.

    Attributes:
        ratio: time of a step on torch's layers over that on fastrnn's.
        difference: the losses' largest relative difference.
        agree: whether rounding explains it (`fastrnn.cli.rounding`).
        steps: how many steps of each kind were timed.
    """

    ratio: float
    difference: float
    agree: bool
    steps: int


@dataclasses.dataclass
class Result:
    """What a program found.

    Attributes:
        comparisons: by the name of the model compared.
        losses: training curves by model.
        details: blocks of Markdown: tables, sampled text.
    """

    metrics: list[Metric] = dataclasses.field(default_factory=list)
    comparisons: dict[str, Comparison] = dataclasses.field(default_factory=dict)
    losses: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    details: list[str] = dataclasses.field(default_factory=list)


def build(options: Options, make: Callable[[], Model]) -> Model:
    """A model of seeded weights, on the device and on the layers asked for."""
    torch.manual_seed(options.seed)
    model = make().to(options.device)
    return on_torch(model) if options.layers == "torch" else model


def on_torch(model: Model) -> Model:
    """Its layers as torch's, sharing weights; what torch lacks runs as plain operators of torch."""
    model = fastrnn.to_torch(model)  # type: ignore[assignment]
    for module in model.modules():
        if getattr(module, "backend", "") is None:
            module.backend = "reference"  # type: ignore[assignment]
    return model


def on_fastrnn(model: Model) -> Model:
    """The way back of `on_torch`."""
    model = fastrnn.convert(model)  # type: ignore[assignment]
    for module in model.modules():
        if getattr(module, "backend", "") == "reference":
            module.backend = None  # type: ignore[assignment]
    return model


class _Trainer:
    """Adam under one cycle of the learning rate (Smith & Topin 2018), gradients clipped."""

    def __init__(self, model: nn.Module, steps: int, rate: float, clip: float) -> None:
        self.model, self.clip = model.train(), clip
        self.optimizer = torch.optim.Adam(model.parameters(), lr=rate)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, rate, total_steps=max(steps, 10), pct_start=0.2
        )

    def step(self, loss: Tensor) -> float:
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        self.optimizer.step()
        self.schedule.step()
        return loss.item()


def fit(
    model: nn.Module,
    batch: Callable[[torch.Generator], Batch],
    loss: Callable[[Any, Batch], Tensor],
    options: Options,
    label: str,
    *,
    steps: int | None = None,
    rate: float = 3e-3,
    clip: float = 1.0,
) -> list[float]:
    """Train in place, with a progress bar; returns the loss of each step.

    Args:
        batch: draws a batch with a generator, which is seeded alike for every model.
        loss: of a model and a batch, a scalar.
        steps: other than the options'.
        rate: the highest learning rate.
    """
    steps = options.steps if steps is None else steps
    trainer, losses = _Trainer(model, steps, rate, clip), []
    generator = torch.Generator().manual_seed(options.seed)
    torch.manual_seed(options.seed)  # dropout
    columns = (
        TextColumn(f"{label:24.24}"), BarColumn(), MofNCompleteColumn(),
        TextColumn("{task.fields[state]}"), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=steps, state="")
        for _ in range(steps):
            losses.append(trainer.step(loss(model, batch(generator))))
            progress.update(task, advance=1, state=f"loss {losses[-1]:.4f}")
    model.eval()
    return losses


def compare(
    model: nn.Module,
    batch: Callable[[torch.Generator], Batch],
    loss: Callable[[Any, Batch], Tensor],
    options: Options,
    *,
    seconds: float = 6.0,
    rate: float = 3e-3,
    clip: float = 1.0,
) -> Comparison:
    """Train copies of ``model`` in turn on both kinds of layers; ``model`` itself stays.

    The ratio is that of the median times, of `LEAST` to `MOST` steps as ``seconds`` allow, but
    no more than the options'. The losses of the first `CHECKED` steps have to agree: a third
    copy, on torch's layers with weights nudged by one unit in the last place, tells how far
    rounding alone takes them apart.
    """
    ours, theirs = on_fastrnn(copy.deepcopy(model)), on_torch(copy.deepcopy(model))
    control = copy.deepcopy(theirs)
    rounding.nudge(control, torch.Generator().manual_seed(options.seed))
    trainers = [_Trainer(m, 2 * MOST, rate, clip) for m in (ours, theirs, control)]
    losses: list[list[float]] = [[], [], []]
    times: list[list[float]] = [[], [], []]
    generator = torch.Generator().manual_seed(options.seed)
    end = time.perf_counter() + seconds
    for step in range(min(MOST, options.steps)):
        if step >= LEAST and time.perf_counter() > end:
            break
        drawn = batch(generator)
        for which in (0, 1) if step % 2 else (1, 0):  # neither is always first
            torch.manual_seed(options.seed + step)  # the same dropout for all
            start = time.perf_counter()
            losses[which].append(trainers[which].step(loss(trainers[which].model, drawn)))
            times[which].append(time.perf_counter() - start)
        if step < CHECKED:
            torch.manual_seed(options.seed + step)
            losses[2].append(trainers[2].step(loss(trainers[2].model, drawn)))
    timed = [taken[WARM_UP:] or taken for taken in times]
    checked, wanted = losses[0][:CHECKED], losses[1][:CHECKED]
    differences = rounding.relative_differences(checked, wanted)
    nudged = rounding.relative_differences(losses[2], wanted)
    return Comparison(
        statistics.median(timed[1]) / statistics.median(timed[0]), max(differences),
        rounding.agree(differences, nudged), len(timed[0]),
    )  # fmt: skip


@contextmanager
def picture(
    options: Options, rows: int = 1, columns: int = 1, size: tuple[float, float] = (9, 3.6)
) -> Iterator[Any]:
    """An array ``[rows, columns]`` of axes; saved as ``options.picture`` at the end."""
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    yield figure.subplots(rows, columns, squeeze=False)
    options.picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.picture, dpi=80, format="png")


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, the first column of words and the others of numbers."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def show(result: Result, console: Console) -> None:
    """Figures beside their goals, then ratios, then details."""
    for metric in result.metrics:
        value, goal, _ = metric.words()
        state = {None: "", True: "[green]reached[/]", False: "[red]NOT REACHED[/]"}[metric.reached]
        goal = f"goal {goal}: {state}" if goal else ""
        console.print(f"{metric.name:48} {value:>9}  {goal}", highlight=False, soft_wrap=True)
    for name, found in result.comparisons.items():
        words = "as rounding explains" if found.agree else "MORE THAN ROUNDING EXPLAINS"
        console.print(
            f"{name}: torch's layers take {found.ratio:.2f}x as long; "
            f"results differ by {found.difference:.1e}, {words}",
            highlight=False, soft_wrap=True,
        )  # fmt: skip
    for block in result.details:
        console.print(Markdown(block))


def record(name: str, options: Options, result: Result, seconds: float) -> dict[str, Any]:
    """All of a run that ``make examples`` gathers, as JSON knows it.

    Seconds are those of all cores and processes, which others at work on the machine do not change.
    """
    return {
        "program": name,
        "date": datetime.date.today().isoformat(),
        "machine": cpu_name() if options.device == "cpu" else torch.cuda.get_device_name(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "core_seconds": round(seconds, 1),
        "options": {key: str(value) for key, value in vars(options).items() if key != "picture"},
        "metrics": [vars(metric) for metric in result.metrics],
        "comparisons": {name: vars(found) for name, found in result.comparisons.items()},
        "details": result.details,
    }


def main(
    run: Callable[[Options], Result], *, steps: int, hidden: int, argv: Sequence[str] | None = None
) -> None:
    """Parse, run, print; with ``--record FOLDER`` also write FOLDER/NAME.json and NAME.png."""
    name = Path(inspect.getfile(run)).stem
    parser = argparse.ArgumentParser(
        prog=f"examples/{name}.py",
        description=inspect.getdoc(inspect.getmodule(run)),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--steps", type=int, default=steps, help=f"of training ({steps})")
    parser.add_argument("--hidden", type=int, default=hidden, help=f"units ({hidden})")
    parser.add_argument("--layers", choices=("fastrnn", "torch"), default="fastrnn")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--picture", type=Path, help=f"a PNG ({name}.png)")
    parser.add_argument("--record", type=Path, help="folder for the picture and the figures")
    arguments = vars(parser.parse_args(argv))
    folder = arguments.pop("record")
    arguments["picture"] = arguments["picture"] or (folder or Path()) / f"{name}.png"
    options = Options(**arguments)
    if options.steps < 1 or options.hidden < 1:
        parser.error(
            f"steps and hidden should be at least 1, got {options.steps}, {options.hidden}"
        )
    start = sum(os.times()[:4])
    result = run(options)
    seconds = sum(os.times()[:4]) - start
    console = Console()
    show(result, console)
    console.print(f"{seconds:.0f} core seconds; {options.picture}", highlight=False, soft_wrap=True)
    if folder is not None:
        found = json.dumps(record(name, options, result, seconds), indent=1, ensure_ascii=False)
        (folder / f"{name}.json").write_text(found + "\n")
