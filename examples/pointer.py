"""Point at the corners of a convex hull, and at cities in the order of a short tour.

A pointer network reads random points of the unit square, in no order, and its answer is a list of
places in what it read. It learns from exact answers: hulls of 5 to 20 points (from the leftmost
corner, against the clock), shortest tours of 5 to 10 (by dynamic programming), and is judged on new
points:

    python examples/pointer.py [--steps 800 --hidden 128 --layers torch]
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastrnn.models import PointerNetwork, beam_search
from geometry import areas, hulls, lengths, points, simple, tours
from harness import Metric, Options, Result, build, compare, fit, main, picture, table

HULLS, TOURS = range(5, 21), range(5, 11)
TRAIN, TEST, BEAMS = 1000, 200, 4  # of each number of points
Answers = dict[int, tuple[Tensor, Tensor]]  # by number of points: points, and exact answers


def examples(
    sizes: range, solve: Callable[[Tensor], Tensor], each: int, seed: int, device: str
) -> Answers:
    found, generator = {}, torch.Generator().manual_seed(seed)
    for number in sizes:
        given = points(each, number, generator)
        found[number] = given.to(device), solve(given).to(device)
    return found


def batches(data: Answers) -> Callable[[torch.Generator], tuple[Tensor, Tensor]]:
    """64 sets of one number of points and their answers."""

    def draw(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        sizes = list(data)
        given, answers = data[sizes[int(torch.randint(len(sizes), (), generator=generator))]]
        rows = torch.randint(len(given), (64,), generator=generator).to(given.device)
        answers = answers[rows]
        longest = int((answers > 0).sum(1).max()) + 1
        return given[rows], answers[:, :longest]

    return draw


def counts(given: Tensor) -> Tensor:
    return torch.full((len(given),), given.shape[1])


def loss(model: PointerNetwork, batch: tuple[Tensor, Tensor]) -> Tensor:
    given, answers = batch
    return model(given, counts(given), answers)


@torch.no_grad()
def answer(model: PointerNetwork, given: Tensor, beams: int) -> Tensor:
    """Places from 1 on, ``[rows, T]``, 0 behind the last."""
    found = beam_search(
        model.step, model.start(given, counts(given)), 0, 0, rows=len(given), beams=beams,
        limit=given.shape[1] + 1, device=given.device,
    )  # fmt: skip
    return found.tokens[:, 0]


def judge_hulls(model: PointerNetwork, data: Answers) -> dict[int, tuple[float, float]]:
    """Of each number of points, the share of polygons without crossing, and of the area covered.

    What is no polygon covers nothing.
    """
    found = {}
    for number, (given, exact) in data.items():
        places = answer(model, given, BEAMS)
        valid = torch.tensor(
            [simple(row[at[at > 0] - 1]) for row, at in zip(given, places, strict=True)]
        ).to(given.device)
        covered = areas(given, places).abs() / areas(given, exact) * valid
        found[number] = valid.double().mean().item(), covered.double().mean().item()
    return found


def judge_tours(model: PointerNetwork, data: Answers, beams: int) -> dict[int, float]:
    """Of each number of points, the length of all tours over that of the shortest."""
    found = {}
    for number, (given, exact) in data.items():
        places = answer(model, given, beams)
        assert torch.equal(places.sort(1).values, exact.sort(1).values), "a city was left out"
        found[number] = (lengths(given, places).sum() / lengths(given, exact).sum()).item()
    return found


def nearest(given: Tensor) -> Tensor:
    """Tours that always go to the nearest city left: what to compare with."""
    far = torch.cdist(given, given)
    rows, at, found = torch.arange(len(given)), torch.zeros(len(given), dtype=torch.int64), []
    for _ in range(given.shape[1]):
        found.append(at + 1)
        far[rows, :, at] = torch.inf
        at = far[rows, at].argmin(1)
    return torch.stack(found, 1)


def draw(axis: Any, model: PointerNetwork, given: Tensor, exact: Tensor, title: str) -> None:
    """The first of the sets: points, the exact answer (broad) and the one found (thin)."""
    places = answer(model, given[:1], BEAMS)[0]
    for at, style in ((exact[0], {"lw": 5, "color": "0.8"}), (places, {"color": "tab:red"})):
        corners = given[0][at[at > 0] - 1].cpu()
        closed = torch.cat([corners, corners[:1]])
        axis.plot(*closed.T, **style)
    axis.plot(*given[0].cpu().T, "k.")
    axis.set_title(title, fontsize=9)
    axis.set(xticks=[], yticks=[], aspect="equal")


def run(options: Options) -> Result:
    result, models, tests = Result(), {}, {}
    for name, sizes, solve in (("hull", HULLS, hulls), ("tour", TOURS, tours)):
        train = examples(sizes, solve, TRAIN, 2 * options.seed, options.device)
        tests[name] = examples(sizes, solve, TEST, 2 * options.seed + 1, options.device)
        model = build(options, lambda n=name: PointerNetwork(2, options.hidden, all=n == "tour"))  # type: ignore[misc]
        batch = batches(train)
        result.comparisons[name] = compare(model, batch, loss, options, seconds=3.0)
        result.losses[name] = fit(model, batch, loss, options, name)
        models[name] = model

    hull = judge_hulls(models["hull"], tests["hull"])
    result.details.append(
        f"Convex hulls, {TEST} of each size, beam of {BEAMS}. What is no polygon covers nothing."
    )
    rows = [
        [str(n), f"{100 * valid:.1f}", f"{100 * area:.1f}"] for n, (valid, area) in hull.items()
    ]
    result.details.append(table(("points", "% valid polygons", "% of the area covered"), rows))
    valid, covered = (min(found[i] for found in hull.values()) for i in (0, 1))
    result.metrics.append(Metric("valid polygons, worst of 5 to 20 points", valid, 0.95))
    result.metrics.append(Metric("area covered, worst of 5 to 20 points", covered, 0.9))

    ways = {"greedy": judge_tours(models["tour"], tests["tour"], 1),
            f"beam of {BEAMS}": judge_tours(models["tour"], tests["tour"], BEAMS)}  # fmt: skip
    ways["nearest city first"] = {
        n: (lengths(given, nearest(given)).sum() / lengths(given, exact).sum()).item()
        for n, (given, exact) in tests["tour"].items()
    }
    result.details.append(f"Tours, {TEST} of each size: their length over the shortest's.")
    rows = [[str(n), *(f"{way[n]:.3f}" for way in ways.values())] for n in TOURS]
    result.details.append(table(("cities", *ways), rows))
    worst = max(ways[f"beam of {BEAMS}"].values())
    result.metrics.append(
        Metric("tour over the shortest, worst of 5 to 10 cities", worst, 1.1, False)
    )
    with picture(options, 2, 4, (11, 5.8)) as axes:
        for name, sizes, row in zip(models, (HULLS, TOURS), axes, strict=True):
            for i, axis in enumerate(row):
                n = sizes[i * (len(sizes) - 1) // 3]
                draw(axis, models[name], *tests[name][n], f"{name} of {n}")
    return result


if __name__ == "__main__":
    main(run, steps=800, hidden=128)
