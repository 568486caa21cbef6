"""Forecast a driven pendulum of which only the angle is seen, never the speed.

    angle'' = -stiffness sin(angle) - friction angle' + u(t)

Each run has a stiffness, a friction and a start of its own: the context. First without any
observation: the context left out, as the first state, beside each step, and both. Then without the
context, but with the first angles observed: the recurrence through the output, the state, or both,
trained by teacher forcing or running freely:

    python examples/forecasting.py [--steps 600 --hidden 64 --layers torch]
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor, nn

from fastrnn.models import StateSpace
from harness import Metric, Options, Result, build, compare, fit, main, picture, table

STEPS, OBSERVED, PERIOD = 80, 20, 0.2  # steps of a run, of them observed, and seconds of each
SHOWN = (1, 5, 10, 20, 40, 60)  # horizons in the table


@dataclasses.dataclass(frozen=True)
class Runs:
    """Of the pendulum: drive ``[N, T, 1]``, context ``[N, 5]``, cosine and sine ``[N, T, 2]``."""

    drive: Tensor
    context: Tensor
    angle: Tensor

    def take(self, rows: Tensor) -> Runs:
        return Runs(self.drive[rows], self.context[rows], self.angle[rows])


def simulate(rows: int, seed: int, device: str, fine: int = 8) -> Runs:
    """By the classical Runge-Kutta method, ``fine`` steps a sample, the drive held in between."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(low: float, high: float, *size: int) -> Tensor:
        return low + (high - low) * torch.rand(rows, *size, generator=generator)

    stiffness, friction = uniform(0.5, 2.0), uniform(0.05, 0.4)
    angle, speed = uniform(-2.0, 2.0), uniform(-1.0, 1.0)
    context = torch.stack([stiffness, 5 * friction, angle.cos(), angle.sin(), speed], 1)
    time = PERIOD * torch.arange(STEPS)
    pace, phase, height = uniform(0.3, 2.5, 3), uniform(0, 6.283, 3), uniform(0, 0.6, 3)
    waves = torch.sin(pace.unsqueeze(2) * time + phase.unsqueeze(2))
    drive = (height.unsqueeze(2) * waves).sum(1)

    def slope(state: Tensor, u: Tensor) -> Tensor:
        pull = -stiffness * state[0].sin() - friction * state[1] + u
        return torch.stack([state[1], pull])

    state, seen, h = torch.stack([angle, speed]), [], PERIOD / fine
    for t in range(STEPS):
        u = drive[:, t]
        for _ in range(fine):
            k1 = slope(state, u)
            k2 = slope(state + h / 2 * k1, u)
            k3 = slope(state + h / 2 * k2, u)
            k4 = slope(state + h * k3, u)
            state = state + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        seen.append(torch.stack([state[0].cos(), state[0].sin()], 1))
    found = drive.unsqueeze(2), context, torch.stack(seen, 1)
    return Runs(*(part.to(device) for part in found))


@dataclasses.dataclass(frozen=True)
class Variant:
    """A model and its training; ``told``: how many true outputs are told in training."""

    name: str
    conditioning: str = "none"
    recurrence: str = "state"
    told: int = 0

    def make(self, hidden: int) -> StateSpace:
        return StateSpace(
            1, 2, hidden, context=5, conditioning=self.conditioning, recurrence=self.recurrence
        )


CONTEXT = (
    Variant("no context"),
    Variant("context as first state", "initial"),
    Variant("context at each step", "step"),
    Variant("context both ways", "both"),
)
FEEDBACK = (
    Variant("state and output, free running", recurrence="both", told=OBSERVED),
    Variant("state and output, teacher forcing", recurrence="both", told=STEPS),
    Variant("output alone, teacher forcing", recurrence="output", told=STEPS),
    Variant("output alone, free running", recurrence="output", told=OBSERVED),
)


def loss(model: StateSpace, batch: tuple[Runs, int]) -> Tensor:
    """Mean squared error, with observations of the steps that are forecast."""
    runs, told = batch
    found = model(runs.drive, runs.context, runs.angle[:, :told])
    first = OBSERVED if told else 0
    return nn.functional.mse_loss(found[:, first:], runs.angle[:, first:])


def batches(runs: Runs, told: int) -> Callable[[torch.Generator], tuple[Runs, int]]:
    def draw(generator: torch.Generator) -> tuple[Runs, int]:
        rows = torch.randint(len(runs.drive), (64,), generator=generator)
        return runs.take(rows.to(runs.drive.device)), told

    return draw


@torch.no_grad()
def errors(model: StateSpace, runs: Runs, told: int) -> Tensor:
    """Root mean square of the distance on the circle, by step."""
    found = model(runs.drive, runs.context, runs.angle[:, :told])
    return (found - runs.angle).square().sum(2).mean(0).sqrt().cpu()


def run(options: Options) -> Result:
    train = simulate(4000, 2 * options.seed, options.device)
    test = simulate(500, 2 * options.seed + 1, options.device)
    result, curves, forced = Result(), dict[str, Tensor](), dict[str, Tensor]()
    models = {}
    for variant in (*CONTEXT, *FEEDBACK):
        name = variant.name
        model = build(options, lambda v=variant: v.make(options.hidden))  # type: ignore[misc]
        batch = batches(train, variant.told)
        if name in ("context both ways", "state and output, free running"):
            result.comparisons[name] = compare(model, batch, loss, options, seconds=3.0, rate=1e-2)
        # Steps told are one call, steps run freely one call each.
        result.losses[name] = fit(model, batch, loss, options, name, rate=1e-2)
        seen = OBSERVED if variant.told else 0
        curves[name] = errors(model, test, seen)[seen:]
        if variant.told:
            forced[name] = errors(model, test, STEPS)[seen:]
        models[name] = model
    still = (test.angle[:, OBSERVED:] - test.angle[:, OBSERVED - 1 : OBSERVED]).cpu()
    curves["the last angle seen"] = still.square().sum(2).mean(0).sqrt()

    def rows(names: dict[str, Tensor]) -> list[list[str]]:
        return [
            [name, *(f"{found[h - 1]:.3f}" if h <= len(found) else "" for h in SHOWN)]
            for name, found in names.items()
        ]

    result.details.append(
        "Error (distance on the unit circle, root mean square) by horizon, in steps of "
        f"{PERIOD} s. With a context nothing is observed; without, the {OBSERVED} steps before."
    )
    told = {f"{name}; told the truth up to the step before": f for name, f in forced.items()}
    header = ("horizon", *map(str, SHOWN))
    result.details.append(table(header, rows(curves) + rows(told)))
    last = {name: found[SHOWN[-1] - 1].item() for name, found in curves.items()}
    none, free, taught = (
        last[v.name] for v in (CONTEXT[0], FEEDBACK[0], FEEDBACK[1])
    )  # fmt: skip
    both = last["context both ways"]
    result.metrics += [
        Metric(f"error at {SHOWN[-1]} steps, both ways over no context", both / none, 0.5, False),
        Metric(
            f"error at {SHOWN[-1]} steps, free running over teacher forcing", free / taught, 1.0,
            False,
        ),
    ]  # fmt: skip

    with picture(options, 1, 3, (15, 4)) as axes:
        for axis, variants in zip(axes[0], (CONTEXT, FEEDBACK), strict=False):
            for variant in variants:
                found = curves[variant.name]
                axis.plot(range(1, len(found) + 1), found, label=variant.name)
            axis.set(xlabel="horizon, steps", ylabel="error", ylim=(0, None))
        axes[0, 0].set_title("nothing observed")
        axes[0, 1].plot(
            range(1, STEPS - OBSERVED + 1),
            curves["the last angle seen"],
            "k:",
            label="the last angle",
        )
        axes[0, 1].set_title(f"{OBSERVED} steps observed, no context")
        one = test.take(torch.tensor([0], device=test.drive.device))
        axes[0, 2].plot(one.angle[0, :, 1].cpu(), "k", lw=3, alpha=0.3, label="the pendulum")
        for name, seen in ((CONTEXT[3].name, 0), (FEEDBACK[0].name, OBSERVED)):
            with torch.no_grad():
                found = models[name](one.drive, one.context, one.angle[:, :seen])
            axes[0, 2].plot(found[0, :, 1].cpu(), label=name)
        axes[0, 2].set(xlabel="step", ylabel="sine of the angle")
        for axis in axes[0]:
            axis.legend(fontsize=7)
    return result


if __name__ == "__main__":
    main(run, steps=600, hidden=64)
