"""``python -m bench.gpu --tune``: other plans than the chosen ones, timed in turns, in one table.

For each shape the candidates are the plan's own choice and its neighbours: half and twice the
sequences and units a program, other warps, other stages, and the form that would serve if this one
did not. A candidate counts only if its results are near those of the choice; one that does not
compile, spills out of its device or is refused is told with its reason. The table is what
`fastrnn.gpu.plan` is to be changed by.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastrnn.gpu import forms
from fastrnn.gpu.plan import Device, Plan, Problem

from . import report
from .cases import Case
from .clock import clear, lost, medians
from .layers import build

SECONDS = 0.06  # for one figure
# Of the largest number: what bfloat16 sums in two orders may differ by.
NEAR = 0.05
_SHOWN = ("form", "block_b", "block_h", "block_k", "warps", "held", "split", "stages", "registers")


def cases() -> list[Case]:
    """Around the boundaries of the forms, the usual shapes first."""
    sizes = [(512, 64), (1024, 64), (256, 64), (128, 64), (1024, 16), (512, 256), (1024, 256)]
    sizes += [(768, 64), (192, 16), (2048, 16)]
    return [Case(cell, "bfloat16", h, b, steps=128) for h, b in sizes for cell in ("LSTM", "GRU")]


def for_a_dry_run() -> list[Case]:
    return [Case("LSTM", "bfloat16", 5, 2, steps=3)]


def neighbours(problem: Problem, device: Device, plan: Plan) -> Iterator[Plan]:
    """Other plans that might serve the problem; not all of them can."""
    if plan.form == "simple":
        return
    for name, values in (
        ("block_b", (plan.block_b // 2, plan.block_b * 2)),
        ("block_h", (plan.block_h // 2, plan.block_h * 2)),
        ("warps", (4, 8)),
        ("stages", (1, 2, 3, 4) if plan.form == "stream" else ()),
        ("held", (not plan.held,) if plan.form != "stream" else ()),
    ):
        if plan.form == "rows" and name == "block_h":
            continue  # it has all units
        for value in values:
            if name.startswith("block") and value < 16 // (1 + (name == "block_h")):
                continue
            changed = replace(plan, **{name: value})
            if changed != plan:
                yield dealt(problem, device, changed)
    if plan.form != "stream" and problem.H >= 64:
        yield dealt(problem, device, replace(
            plan, form="stream", block_b=16, block_h=16, block_k=64, block_p=64, warps=8,
            held=False, split=1, stages=4, registers=None,
        ))  # fmt: skip
    yield Plan("simple", "tried")


def dealt(problem: Problem, device: Device, plan: Plan) -> Plan:
    """With the programs that its tiles are dealt out to."""
    if plan.form != "stream":
        return plan
    p = problem
    tiles = p.N * -(-p.B // plan.block_b) * -(-p.H // plan.block_h)
    return replace(plan, programs=min(tiles, device.processors))


def name_of(plan: Plan) -> str:
    kept = {key: value for key, value in asdict(plan).items() if key in _SHOWN}
    return " ".join(str(kept.pop("form")).split() + [f"{k}={v}" for k, v in kept.items()])


@contextmanager
def serving(backward: bool, plan: Plan | None) -> Iterator[list[tuple[Problem, Device, Plan]]]:
    """Within this context a plan serves one of the two ways; yields what was asked for."""
    choose = forms.choose
    asked: list[tuple[Problem, Device, Plan]] = []

    def chosen(problem: Problem, device: Device, way: bool = False) -> Plan:
        found = choose(problem, device, way)
        if way is not backward:
            return found
        asked.append((problem, device, found))
        return found if plan is None else plan

    forms.choose = chosen  # type: ignore[assignment]
    try:
        yield asked
    finally:
        forms.choose = choose


def served(call: Callable[[], Any], backward: bool, plan: Plan) -> Callable[[], Any]:
    """A call with its plan."""

    def with_it() -> Any:
        with serving(backward, plan):
            return call()

    return with_it


def _numbers(result: Any) -> list[Tensor]:
    tensors = result if isinstance(result, (list, tuple)) else [result]
    return [tensor.detach().double() for tensor in tensors if isinstance(tensor, Tensor)]


def near(found: list[Tensor], expected: list[Tensor]) -> bool:
    """Whether results are those of the choice, up to rounding."""
    return all(
        bool(((a - b).abs().max() <= NEAR * b.abs().max().clamp(min=1e-6)).item())
        for a, b in zip(found, expected, strict=True)
        if a.numel()
    )


def of_case(case: Case, device: torch.device, backward: bool) -> Iterator[dict[str, Any]]:
    """A row for the choice and each neighbour of it."""
    call: Callable[[], Any] = build(case, device, backward)["fastrnn"]
    with serving(backward, None) as asked:
        expected = _numbers(call())
    problem, described, plan = asked[0]
    seconds = medians({"chosen": call}, device, SECONDS)["chosen"]
    way = "training" if backward else "inference"
    row = {"case": str(case), "way": way, "us": seconds / case.steps * 1e6}
    yield {**row, "plan": name_of(plan), "chosen": True, "ratio": 1.0}
    for other in dict.fromkeys(neighbours(problem, described, plan)):
        row = {"case": str(case), "way": way, "plan": name_of(other), "chosen": False}
        try:
            with serving(backward, other):
                if not near(_numbers(call()), expected):
                    raise ArithmeticError("gives other numbers than the choice")
            found = medians({"chosen": served(call, backward, plan),
                             "other": served(call, backward, other)}, device, SECONDS)  # fmt: skip
            row |= {
                "us": found["other"] / case.steps * 1e6,
                "ratio": found["chosen"] / found["other"],
            }
        except Exception as error:  # the others are worth measuring
            row["error"] = f"{type(error).__name__}: {error}"
            clear(device)
        yield row


def main(options: argparse.Namespace, device: torch.device, start: float) -> int:
    """Measure until the time is up; ``tuning.json`` and ``tuning.md``, written case by case."""
    dry = options.dry_run
    name = "dry run" if dry else torch.cuda.get_device_name(device)
    out = options.out or Path(__file__).resolve().parents[1] / "results" / report.slug(name)
    out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for case in for_a_dry_run() if dry else cases():
        for backward in (False, True):
            if time.monotonic() > start + options.seconds or lost(device):
                print(f"not done: {case}", flush=True)
                continue
            try:
                for row in of_case(case, device, backward):
                    rows.append(row)
                    print(row, flush=True)
            except Exception as error:
                row = {"case": str(case), "way": "training" if backward else "inference"}
                told = f"{type(error).__name__}: {error}"
                rows.append({**row, "plan": "chosen", "chosen": True, "error": told})
                clear(device)
            write(out, name, dry, rows)
    return 1 if lost(device) else 0


def write(folder: Path, device: str, dry: bool, rows: list[dict[str, Any]]) -> None:
    """Per case the choice, then what beats it by 3 % or more, then what failed."""
    found = {"device": device, "dry_run": dry, "torch": torch.__version__, "rows": rows}
    (folder / "tuning.json").write_text(json.dumps(found, indent=1) + "\n")
    lines = [f"# Plans on {device}", ""]
    if dry:
        lines += ["**A dry run on a CPU: the figures below mean nothing.**", ""]
    lines += ["Microseconds a step, and how many times as fast as the choice.", ""]
    lines += ["| case | way | plan | us | ratio |", "|---|---|---|---|---|"]
    for row in rows:
        if row["chosen"] or "error" in row or row["ratio"] >= 1.03:
            figures = f"{row['us']:.2f} | {row['ratio']:.2f}" if "us" in row else " | "
            told = row["plan"] + (f": {row['error'][:100]}" if "error" in row else "")
            mark = " (chosen)" if row["chosen"] else ""
            told = told.replace("|", "/").replace("\n", " ")
            lines.append(f"| {row['case']} | {row['way']} | {told}{mark} | {figures} |")
    (folder / "tuning.md").write_text("\n".join(lines) + "\n")
