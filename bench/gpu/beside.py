"""What users would do instead, and what they do with it: a compiled loop over a cell (without
biases), and a training step of a language model of two LSTM layers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import fastrnn

from ..loops import loop_of
from .clock import clear, medians

SECONDS = 1.0  # for one figure


@dataclass(frozen=True)
class Case:
    """``kind`` is "compiled loop" or "language model"."""

    kind: str
    cell: str
    hidden: int
    batch: int
    steps: int
    vocabulary: int = 10000

    def __str__(self) -> str:
        return f"{self.kind}: {self.cell} bfloat16 H{self.hidden} B{self.batch} T{self.steps}"


def cases() -> list[Case]:
    return [
        Case("language model", "LSTM", 1024, 64, 512),
        Case("compiled loop", "LSTM", 512, 64, 100),
        Case("compiled loop", "GRU", 256, 16, 100),
    ]


def for_a_dry_run() -> list[Case]:
    return [
        Case("language model", "LSTM", 5, 2, 3, 7),
        Case("compiled loop", "LSTM", 5, 2, 3),
    ]


def build(case: Case, device: torch.device, training: bool) -> dict[str, Callable[[], Any]]:
    """``fastrnn`` and its peer, called ``torch``."""
    torch.set_float32_matmul_precision("highest")
    torch.manual_seed(0)
    return (_loop if case.kind == "compiled loop" else _model)(case, device, training)


def _loop(case: Case, device: torch.device, training: bool) -> dict[str, Callable[[], Any]]:
    dtype = torch.bfloat16
    layer = getattr(fastrnn, case.cell)(case.hidden, case.hidden, bias=False, backend="triton")
    layer.to(device, dtype)
    loop = loop_of(layer, compiled=device.type == "cuda")
    x = torch.randn(case.steps, case.batch, case.hidden, device=device).to(dtype)
    x.requires_grad_(training)
    weights = list(layer.parameters())
    grad = torch.randn(case.steps, case.batch, case.hidden, device=device).to(dtype)

    def call(outputs: Callable[[], Tensor]) -> Callable[[], Any]:
        def forward() -> Any:
            with torch.no_grad():
                return outputs()

        return (
            (lambda: torch.autograd.grad(outputs(), [x, *weights], grad)) if training else forward
        )

    return {"fastrnn": call(lambda: layer(x)[0]), "torch": call(lambda: loop(x, *weights))}


class _Model(nn.Module):
    """Embedding, two layers, and a linear map back to the vocabulary."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.embedding = nn.Embedding(case.vocabulary, case.hidden)
        self.layers: nn.Module = getattr(nn, case.cell)(case.hidden, case.hidden, num_layers=2)
        self.last = nn.Linear(case.hidden, case.vocabulary)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.last(self.layers(self.embedding(tokens))[0])


def _model(case: Case, device: torch.device, training: bool) -> dict[str, Callable[[], Any]]:
    theirs = _Model(case)
    ours = _Model(case)
    ours.load_state_dict(theirs.state_dict())
    ours.layers = fastrnn.convert(ours.layers)
    tokens = torch.randint(0, case.vocabulary, (case.steps + 1, case.batch)).to(device)

    def call(model: nn.Module, backend: str | None) -> Callable[[], Any]:
        model.to(device, torch.bfloat16)
        optimiser = torch.optim.SGD(model.parameters(), lr=1e-3)

        def forward() -> Any:
            with torch.no_grad(), fastrnn.use_backend(backend):
                return model(tokens[:-1])

        def step() -> Any:
            optimiser.zero_grad()
            with fastrnn.use_backend(backend):
                scores = model(tokens[:-1]).flatten(0, 1)
            nn.functional.cross_entropy(scores, tokens[1:].flatten()).backward()
            optimiser.step()

        return step if training else forward

    return {"fastrnn": call(ours, "triton"), "torch": call(theirs, None)}


def measure(
    which: Sequence[Case],
    device: torch.device,
    deadline: float,
    keep: Callable[[dict[str, Any]], None],
    done: Container[tuple[str, bool]] = (),
) -> None:
    """Hand the result of each case that is not done to ``keep``, until the time is up."""
    for case in which:
        for training in (True, False):
            if (str(case), training) in done:
                continue
            if time.monotonic() > deadline:
                return
            result: dict[str, Any] = {
                "case": str(case), "cell": case.cell, "dtype": "bfloat16", "H": case.hidden,
                "B": case.batch, "T": case.steps, "kind": case.kind, "training": training,
            }  # fmt: skip
            try:
                found = medians(build(case, device, training), device, SECONDS)
                result["us"] = {n: seconds / case.steps * 1e6 for n, seconds in found.items()}
                result["ratio"] = found["torch"] / found["fastrnn"]
            except Exception as error:  # one case must not cost the others
                result["error"] = f"{type(error).__name__}: {error}"
                clear(device)
            keep(result)
