"""Attention beside its peers: speed and peak memory against length.

    python -m bench.attention --output DIR [--words dot inference] [--seconds 1.5] [--compiled]

Results already in DIR are kept, but for the cases measured anew: a machine that is shared can be
measured in parts. ``--compiled`` adds torch.compile of the formula to the additive cases.

As in the suite of the cells: a case is timed only where fastrnn, held against the reference in
float64, errs at most twice as much as the peer plus a floor; providers run in turn in one process,
and figures are ratios of medians. Peak memory is what the process grew by during one call.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastrnn import functional

from . import machine
from .gate import CheckFailed, _rule
from .timing import interleave, ratio

Run = Callable[..., Tensor]


@dataclass(frozen=True)
class Case:
    """One call; in training also the backward to query, key and value."""

    kind: str  # "dot", "causal", "decode", "additive", "local"
    mode: str
    length: int
    heads: int  # B * H
    width: int
    dtype: str = "float32"

    @property
    def name(self) -> str:
        parts = (self.kind, self.mode, self.dtype, f"T{self.length}", f"BH{self.heads}")
        return "-".join((*parts, f"d{self.width}"))

    @property
    def queries(self) -> int:
        return 1 if self.kind == "decode" else self.length


def cases() -> list[Case]:
    found = []
    for mode in ("inference", "training"):
        for length, heads in ((128, 32), (512, 8), (1024, 4), (2048, 2)):
            for dtype in ("float32", "bfloat16"):
                found += [Case("dot", mode, length, heads, d, dtype) for d in (64, 128)]
            found.append(Case("causal", mode, length, heads, 64))
        found.append(Case("dot", mode, 2048, 1, 64))
        found += [Case("additive", mode, t, 16, 256) for t in (32, 64, 128)]
        found.append(Case("local", mode, 1024, 8, 64))
    return found + [Case("decode", "inference", t, 32, 64) for t in (256, 1024, 4096)]


def draw(case: Case, seed: int) -> list[Tensor]:
    """Query, key, value; for the additive score its vector; a gradient of the output."""
    generator = torch.Generator().manual_seed(seed)
    dtype = getattr(torch, case.dtype)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(dtype)

    shapes = [(1, case.heads, t, case.width) for t in (case.queries, case.length, case.length)]
    found = [normal(*shape) for shape in shapes]
    if case.kind == "additive":
        found.append(normal(case.width))
    return [*found, normal(*shapes[0])]


def _centres(case: Case, like: Tensor) -> Tensor:
    return torch.linspace(0, case.length - 1, case.queries, dtype=like.dtype).expand(like.shape[:3])


def _ours(case: Case) -> Run:
    def run(q: Tensor, k: Tensor, v: Tensor, *vector: Tensor) -> Tensor:
        options: dict[str, Any] = {}
        if case.kind == "additive":
            options = {"score": "additive", "vector": vector[0]}
        elif case.kind == "local":
            options = {"window": 32, "centre": _centres(case, q)}
        return functional.attention(q, k, v, is_causal=case.kind == "causal", **options)

    return run


def _theirs(case: Case) -> Run:
    """torch's operator where it has one, else the formula with torch's operators."""

    def dot(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return torch.nn.functional.scaled_dot_product_attention(
            q, k, v, is_causal=case.kind == "causal"
        )

    def additive(q: Tensor, k: Tensor, v: Tensor, vector: Tensor) -> Tensor:
        score = torch.tanh(q.unsqueeze(3) + k.unsqueeze(2)) @ vector
        return torch.softmax(score, -1) @ v

    def local(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        distance = torch.arange(case.length) - _centres(case, q).unsqueeze(-1)
        score = (q @ k.transpose(2, 3)) * case.width**-0.5
        weights = torch.softmax(score.masked_fill(distance.abs() > 32, -torch.inf), -1)
        return (weights * torch.exp(-distance * distance / (2 * 16.0**2))) @ v

    return {"additive": additive, "local": local}.get(case.kind, dot)


def _compiled() -> Run:
    """The additive formula in the form whose largest tensor the compiler does not write."""

    def additive(q: Tensor, k: Tensor, v: Tensor, vector: Tensor) -> Tensor:
        score = (vector * torch.tanh(q.unsqueeze(3) + k.unsqueeze(2))).sum(-1)
        return torch.softmax(score, -1) @ v

    return torch.compile(additive, dynamic=False)


def call_of(run: Run, case: Case, drawn: list[Tensor]) -> Callable[[], list[Tensor]]:
    *inputs, grad = drawn
    if case.mode == "inference":

        @torch.no_grad()
        def infer() -> list[Tensor]:
            return [run(*inputs)]

        return infer
    leaves = [tensor.clone().requires_grad_() for tensor in inputs]

    def train() -> list[Tensor]:
        out = run(*leaves)
        return [out.detach(), *torch.autograd.grad(out, leaves, grad)]

    return train


def check(case: Case, drawn: list[Tensor], calls: dict[str, Callable[[], list[Tensor]]]) -> None:
    """Raises CheckFailed unless fastrnn's results keep the rule."""
    rule = _rule()
    oracle = call_of(_theirs(case), case, [tensor.double() for tensor in drawn])()
    ours, theirs = (calls[name]() for name in ("fastrnn", "torch"))
    for i, right in enumerate(oracle):
        pairs = zip(rule.error([ours[i]], [right]), rule.error([theirs[i]], [right]), strict=True)
        for our, their in pairs:
            bound = 2 * their + rule.FLOOR[ours[i].dtype]
            if not our <= bound:
                raise CheckFailed(f"{case.name} result {i}: error {our:.3g}, allowed {bound:.3g}")


def peak_memory(call: Callable[[], Any]) -> int | None:
    """Bytes by which this process grew at most during a call; None where that is not known."""
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")

    def read(field: str) -> int:
        line = next(line for line in status.read_text().splitlines() if line.startswith(field))
        return int(line.split()[1]) * 1024

    try:
        reset.write_text("5")  # the peak starts anew
        before = read("VmRSS")
    except (OSError, StopIteration):
        return None
    call()
    return max(0, read("VmHWM") - before)


def measure(case: Case, seconds: float, seed: int, compiled: bool = False) -> dict[str, Any]:
    drawn = draw(case, seed)
    calls = {name: call_of(run(case), case, drawn) for name, run in _PROVIDERS.items()}
    if compiled and case.kind == "additive":
        calls["compiled"] = call_of(_compiled(), case, drawn)
    check(case, drawn, calls)
    memory = {name: peak_memory(call) for name, call in calls.items()}
    rounds = interleave(calls, seconds, dict.fromkeys(calls, "openmp")).rounds
    return {
        "name": case.name,
        **asdict(case),
        "seconds": {name: statistics.median(values) for name, values in rounds.items()},
        "ratio": ratio(rounds["torch"], rounds["fastrnn"]),
        "ratio_compiled": ratio(rounds["compiled"], rounds["fastrnn"])
        if "compiled" in rounds
        else None,
        "memory": memory,
    }


_PROVIDERS: dict[str, Callable[[Case], Run]] = {"torch": _theirs, "fastrnn": _ours}


def table(records: list[dict[str, Any]]) -> str:
    lines = ["| case | torch ms | fastrnn ms | × torch (quartiles) | × torch.compile | "
             "peak MiB, torch / fastrnn |", "|---|---|---|---|---|---|"]  # fmt: skip
    for r in records:
        both = [f"{1e3 * r['seconds'][name]:.3g}" for name in _PROVIDERS]
        memory = [
            "?" if r["memory"][name] is None else f"{r['memory'][name] / 2**20:.1f}"
            for name in _PROVIDERS
        ]
        times = f"{r['ratio']['median']:.2f} ({r['ratio']['q1']:.2f}-{r['ratio']['q3']:.2f})"
        compiled = f"{r['ratio_compiled']['median']:.2f}" if r["ratio_compiled"] else ""
        cells = (r["name"], *both, times, compiled, " / ".join(memory))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _in_plot(record: dict[str, Any]) -> bool:
    return (record["dtype"], record["mode"]) == ("float32", "training") and record["width"] != 128


def plot(records: list[dict[str, Any]], path: Path) -> None:
    """Time and peak memory against length, a line a kind."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(11, 4.2))
    lines: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for record in records:
        if _in_plot(record):
            lines.setdefault((record["kind"], record["mode"]), []).append(record)
    for (kind, _), rows in lines.items():
        for name, style in (("torch", "--"), ("fastrnn", "-")):
            lengths = [row["length"] for row in rows]
            per_head = [1e3 * row["seconds"][name] / row["heads"] for row in rows]
            grown = [max(row["memory"][name] or 0, 4096) / 2**20 / row["heads"] for row in rows]
            axes[0].plot(lengths, per_head, f"o{style}", label=f"{kind}, {name}")
            axes[1].plot(lengths, grown, f"o{style}", label=f"{kind}, {name}")
    for each, what in zip(axes, ("ms a head", "peak MiB a head"), strict=True):
        each.set(xscale="log", yscale="log", xlabel="length", ylabel=what)
        each.grid(alpha=0.3)
    axes[0].legend(fontsize=7)
    figure.suptitle("Forward and backward, float32")
    figure.savefig(path, dpi=150, bbox_inches="tight")
    plt.close(figure)


def _kept(path: Path) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """The records and failures of an earlier run on a machine like this, by name."""
    if not path.exists():
        return {}, {}
    facts = json.loads(path.read_text())
    if facts["machine"]["cpu"] != machine.describe()["cpu"]:
        raise SystemExit(f"{path} is of another machine")
    failed = {text.split()[0]: text for text in facts["failed"]}
    return {record["name"]: record for record in facts["records"]}, failed


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.attention", description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--words", nargs="*", default=[], help="cases whose name has all of these")
    parser.add_argument("--seconds", type=float, default=1.5, help="a case")
    parser.add_argument("--seed", type=int, default=torch.seed() % 2**31)
    parser.add_argument("--compiled", action="store_true", help="torch.compile as well")
    args = parser.parse_args(argv)
    args.output.mkdir(parents=True, exist_ok=True)
    kept, failed = _kept(args.output / "attention.json")
    for case in cases():
        if not all(word in case.name.split("-") for word in args.words):
            continue
        kept.pop(case.name, None)
        failed.pop(case.name, None)
        try:
            kept[case.name] = measure(case, args.seconds, args.seed, args.compiled)
            print(f"{case.name}: {kept[case.name]['ratio']['median']:.2f} times torch", flush=True)
        except CheckFailed as error:
            failed[case.name] = str(error)
            print(f"not timed: {error}", flush=True)
    records = [kept[case.name] for case in cases() if case.name in kept]
    facts = {
        "machine": machine.describe(),
        "seed": args.seed,
        "records": records,
        "failed": list(failed.values()),
    }
    (args.output / "attention.json").write_text(json.dumps(facts, indent=1))
    (args.output / "attention.md").write_text(table(records) + "\n")
    if any(_in_plot(record) for record in records):
        plot(records, args.output / "attention.png")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
