"""What attention is measured on, and how: cases, providers, the check, the record.

As in the suite of the cells: a case is timed only where fastrnn, held against the reference in
float64, errs at most twice as much as the peer plus a floor; providers run in turn in one process,
and figures are ratios of medians. What the peaks of memory are: `bench.attention_memory`.
"""

from __future__ import annotations

import importlib
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from fastrnn import functional

from . import attention_memory
from .gate import CheckFailed, _rule
from .timing import interleave, ratio

Run = Callable[..., Tensor]


# Each a marker for `pytest -m`; decoding is one query against a memory of keys.
KINDS = ("dot", "causal", "decode", "additive", "local")
MODES = ("forward", "backward", "both")


@dataclass(frozen=True)
class Case:
    """One call: the forward without gradients, the backward to all inputs alone, or both."""

    kind: str
    mode: str
    length: int
    heads: int  # B * H
    width: int
    dtype: str = "float32"

    @property
    def name(self) -> str:
        """Unique, and made of words for `pytest -k`."""
        parts = ("attention", self.kind, self.mode, self.dtype, f"T{self.length}")
        return "-".join((*parts, f"BH{self.heads}", f"d{self.width}"))

    @property
    def queries(self) -> int:
        return 1 if self.kind == "decode" else self.length

    @property
    def providers(self) -> tuple[str, ...]:
        """torch.compile only where it is to be beaten: it takes half a minute to compile."""
        compiled = self.kind == "additive" and self.mode == "both" and self.length == 128
        return ("torch", "fastrnn") + ("compiled",) * compiled


def _cases() -> list[Case]:
    found = []
    for mode in ("forward", "backward"):
        for length, heads in ((128, 32), (512, 8), (1024, 4), (2048, 2)):
            for dtype in ("float32", "bfloat16"):
                found += [Case("dot", mode, length, heads, d, dtype) for d in (64, 128)]
            found.append(Case("causal", mode, length, heads, 64))
        found.append(Case("dot", mode, 2048, 1, 64))
    found += [Case("additive", "both", t, 16, 256) for t in (32, 64, 128)]
    found += [Case("additive", "forward", 128, 16, 256)]
    found += [Case("local", mode, 1024, 8, 64) for mode in ("forward", "both")]
    sizes = ((1024, 1, 64), (256, 32, 64), (1024, 8, 64), (1024, 32, 64), (4096, 32, 64))
    found += [Case("decode", "forward", *size) for size in (*sizes, (1024, 8, 128))]
    return [*found, Case("decode", "forward", 1024, 32, 64, "bfloat16")]


CASES = {case.name: case for case in _cases()}


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

    kinds: dict[str, Run] = {"additive": additive, "local": local}
    return kinds.get(case.kind, dot)


def _compiled(case: Case) -> Run:
    """The additive formula in the form whose largest tensor the compiler does not write."""

    def additive(q: Tensor, k: Tensor, v: Tensor, vector: Tensor) -> Tensor:
        score = (vector * torch.tanh(q.unsqueeze(3) + k.unsqueeze(2))).sum(-1)
        return torch.softmax(score, -1) @ v

    compiled: Run = torch.compile(additive, dynamic=False)
    return compiled


PROVIDERS: dict[str, Callable[[Case], Run]] = {
    "torch": _theirs,
    "fastrnn": _ours,
    "compiled": _compiled,
}

Call = Callable[[], list[Tensor]]


def call_of(run: Run, case: Case, drawn: list[Tensor]) -> Call:
    """The call that is timed; it returns output and gradients, or of them what is timed."""
    *inputs, grad = drawn
    if case.mode == "forward":

        @torch.no_grad()
        def forward() -> list[Tensor]:
            return [run(*inputs)]

        return forward
    leaves = [tensor.clone().requires_grad_() for tensor in inputs]
    if case.mode == "backward":
        out = run(*leaves)
        return lambda: list(torch.autograd.grad(out, leaves, grad, retain_graph=True))

    def both() -> list[Tensor]:
        out = run(*leaves)
        return [out.detach(), *torch.autograd.grad(out, leaves, grad)]

    return both


def check(case: Case, drawn: list[Tensor], calls: dict[str, Call]) -> None:
    """Raises CheckFailed unless fastrnn's results keep the rule."""
    rule = _rule()
    floor = importlib.import_module("test_attention_equality").FLOOR
    oracle = call_of(_theirs(case), case, [tensor.double() for tensor in drawn])()
    ours, theirs = (calls[name]() for name in ("fastrnn", "torch"))
    for i, right in enumerate(oracle):
        pairs = zip(rule.error([ours[i]], [right]), rule.error([theirs[i]], [right]), strict=True)
        for our, their in pairs:
            bound = 2 * their + floor[ours[i].dtype]
            if not our <= bound:
                raise CheckFailed(f"{case.name} result {i}: error {our:.3g}, allowed {bound:.3g}")


def measure(case: Case, seconds: float, seed: int) -> dict[str, Any]:
    """Check and time a case; the record, with each provider's rounds.

    Raises:
        CheckFailed: fastrnn computes something else; nothing was timed.
    """
    drawn = draw(case, seed)
    calls = {name: call_of(PROVIDERS[name](case), case, drawn) for name in case.providers}
    check(case, drawn, calls)
    rounds = interleave(calls, seconds, dict.fromkeys(calls, "openmp")).rounds
    return {
        "name": case.name,
        **asdict(case),
        "seconds": {name: statistics.median(values) for name, values in rounds.items()},
        "ratios": {
            name: ratio(values, rounds["fastrnn"])
            for name, values in rounds.items()
            if name != "fastrnn"
        },
        "memory": {name: attention_memory.peak(case, name) for name in calls},
        "rounds": rounds,
    }
