"""``python -m fastrnn demo``: one language model, two layers, the same loss curve, two speeds.

The same character language model is trained on the language reference that ships with Python, from
the same initial weights on the same batches, with ``torch.nn``'s recurrent layer and with
fastrnn's. Steps of the two alternate, so that noise of the machine meets both alike.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

import fastrnn
from fastrnn.cli import demo_report, rounding
from fastrnn.cli.corpus import Corpus
from fastrnn.models.language_model import EMBEDDING, LanguageModel
from fastrnn.models.sampling import sample

LAYERS: dict[str, tuple[Callable[..., nn.Module], Callable[..., nn.Module]]] = {
    "lstm": (nn.LSTM, fastrnn.LSTM),
    "gru": (nn.GRU, fastrnn.GRU),
    "rnn": (nn.RNN, fastrnn.RNN),
}
LEARNING_RATE = 1e-3
WARM_UP = 3  # first steps, not timed: they allocate and start threads
PROMPT = "The "
TEMPERATURE = 0.6


@dataclasses.dataclass(frozen=True)
class Options:
    """What to train; times in seconds, lengths in characters."""

    cell: str = "lstm"
    device: str = "cpu"
    steps: int = 400
    hidden: int = 256
    layers: int = 1
    batch: int = 32
    length: int = 100
    seed: int = 0
    sample: int = 600
    seconds: float = 100.0
    out: Path = Path("fastrnn-demo.png")


@dataclasses.dataclass(frozen=True)
class Run:
    """One model's training and sampling."""

    name: str
    losses: list[float]
    characters_per_second: float
    sampled_per_second: float
    text: str


@dataclasses.dataclass(frozen=True)
class Result:
    """Both runs, and how far apart they are beside what rounding alone does."""

    options: Options
    torch: Run
    fastrnn: Run
    ratios: list[float]
    differences: list[float]
    control: list[float]
    agree: bool

    @property
    def spread(self) -> tuple[float, float]:
        """Between which speed-ups the middle half of the pairs of steps lies."""
        if len(self.ratios) < 2:
            return self.ratios[0], self.ratios[0]
        lower, _, upper = statistics.quantiles(self.ratios, n=4, method="inclusive")
        return lower, upper

    @property
    def steps(self) -> int:
        """Steps taken: fewer than asked for where the time ran out."""
        return len(self.differences)

    @property
    def ratio(self) -> float:
        """Speed of fastrnn's training over torch's."""
        return self.fastrnn.characters_per_second / self.torch.characters_per_second


class Learner:
    """A model, its optimizer, and the record of its steps."""

    def __init__(self, model: LanguageModel) -> None:
        self.model = model
        self.device = next(model.parameters()).device
        self.losses: list[float] = []
        self.seconds: list[float] = []
        self._optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)

    def _timed(self, work: Callable[[], Tensor]) -> tuple[Tensor, float]:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        start = time.perf_counter()
        value = work()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return value, time.perf_counter() - start

    def step(self, inputs: Tensor, targets: Tensor) -> None:
        """One training step, timed whole: forward, backward and update."""

        def work() -> Tensor:
            logits, _ = self.model(inputs)
            loss = nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
            self._optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self._optimizer.step()
            return loss.detach()

        loss, seconds = self._timed(work)
        self.losses.append(loss.item())
        self.seconds.append(seconds)

    def warm_seconds(self) -> list[float]:
        """Times of the steps, warm-up left out where there are steps beyond it."""
        return self.seconds[WARM_UP:] or self.seconds

    def step_seconds(self) -> float:
        """Median time of a step."""
        return statistics.median(self.warm_seconds())

    def run(self, name: str, corpus: Corpus, options: Options) -> Run:
        """Sample a paragraph and sum up."""
        generator = torch.Generator().manual_seed(options.seed)
        prompt = corpus.encode(PROMPT)

        def work() -> Tensor:
            return sample(self.model, prompt, options.sample, TEMPERATURE, generator)

        tokens, seconds = self._timed(work)
        return Run(
            name=name,
            losses=self.losses,
            characters_per_second=options.batch * options.length / self.step_seconds(),
            sampled_per_second=options.sample / seconds,
            text=PROMPT + corpus.decode(tokens),
        )


def _learners(options: Options, vocabulary: int) -> tuple[Learner, Learner, Learner]:
    """torch's, fastrnn's and the control's, all from the same initial weights."""
    theirs, ours = LAYERS[options.cell]
    learners = []
    initial = None
    for layer in (theirs, ours, theirs):
        torch.manual_seed(options.seed)
        recurrent = layer(EMBEDDING, options.hidden, num_layers=options.layers)
        model = LanguageModel(vocabulary, recurrent, options.hidden)
        initial = initial or model.state_dict()
        model.load_state_dict(initial)
        learners.append(model)
    rounding.nudge(learners[2].recurrent, torch.Generator().manual_seed(options.seed))
    torch_, fastrnn_, control = (Learner(model.to(options.device)) for model in learners)
    return torch_, fastrnn_, control


def run(options: Options, console: Console | None = None) -> Result:
    """Train, sample, draw ``options.out``; progress goes to ``console`` (default: the terminal)."""
    corpus = Corpus()
    theirs, ours, control = _learners(options, len(corpus.characters))
    generator = torch.Generator().manual_seed(options.seed)
    progress = Progress(
        TextColumn("training"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[state]}"),
        TimeRemainingColumn(),
        console=console,
    )
    with progress:
        task = progress.add_task("", total=options.steps, state="")
        end = time.perf_counter() + options.seconds
        for step in range(options.steps):
            inputs, targets = corpus.batch(options.length, options.batch, generator)
            inputs, targets = inputs.to(options.device), targets.to(options.device)
            for learner in (theirs, ours) if step % 2 else (ours, theirs):
                learner.step(inputs, targets)
            control.step(inputs, targets)
            ratio = theirs.step_seconds() / ours.step_seconds()
            state = f"loss {theirs.losses[-1]:.3f} / {ours.losses[-1]:.3f}, {ratio:.2f}x"
            progress.update(task, advance=1, state=state)
            if time.perf_counter() > end:
                break

    theirs_run = theirs.run(f"torch.nn.{options.cell.upper()}", corpus, options)
    ours_run = ours.run(f"fastrnn.{options.cell.upper()}", corpus, options)
    differences = rounding.relative_differences(ours.losses, theirs.losses)
    nudged = rounding.relative_differences(control.losses, theirs.losses)
    result = Result(
        options=options,
        torch=theirs_run,
        fastrnn=ours_run,
        ratios=[a / b for a, b in zip(theirs.warm_seconds(), ours.warm_seconds(), strict=True)],
        differences=differences,
        control=nudged,
        agree=rounding.agree(differences, nudged),
    )
    demo_report.draw(result)
    return result


def _parse(argv: Sequence[str]) -> Options:
    default = Options()
    parser = argparse.ArgumentParser(
        prog="python -m fastrnn demo",
        description=(__doc__ or "").partition("\n\n")[2],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--cell", choices=LAYERS, default=default.cell, help="recurrent layer")
    parser.add_argument("--device", type=_device, default=default.device, help="torch device")
    for name, help in (
        ("steps", "training steps"),
        ("hidden", "units"),
        ("layers", "stacked layers"),
        ("batch", "windows of text a step"),
        ("length", "characters a window"),
        ("sample", "characters sampled at the end"),
    ):
        parser.add_argument(f"--{name}", type=_count, default=getattr(default, name), help=help)
    parser.add_argument("--seed", type=int, default=default.seed, help="of weights and batches")
    parser.add_argument(
        "--seconds", type=float, default=default.seconds, help="stop training after that time"
    )
    parser.add_argument("--out", type=Path, default=default.out, help="the figure, a PNG")
    return Options(**vars(parser.parse_args(argv)))


def _device(text: str) -> str:
    try:
        torch.empty(0, device=text)
    except (RuntimeError, AssertionError) as error:  # unknown, or not in this build or machine
        raise argparse.ArgumentTypeError(str(error).partition("\n")[0]) from error
    return text


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"should be at least 1, got {number}")
    return number


def main(argv: Sequence[str], console: Console | None = None) -> int:
    """Run and report; status 1 where the curves differ by more than rounding."""
    console = console or Console()
    result = run(_parse(argv), console)
    demo_report.show(result, console)
    return 0 if result.agree else 1
