"""Equality on the GPU: as near to a float64 reference as cuDNN is, by the rule of the tests.

``tests/equality.py`` states the rule; it needs the compiled extension, which this does without.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import fastrnn

# tests/equality.py has these from measurements on a CPU.
FLOOR_IN_ULPS = {torch.float32: 16, torch.bfloat16: 2, torch.float16: 2, torch.float64: 16}


@dataclass(frozen=True)
class Check:
    """A layer whose every result is compared."""

    cell: str
    dtype: torch.dtype
    hidden: int
    batch: int
    steps: int
    layers: int = 1
    bidirectional: bool = False
    packed: bool = False
    projection: int = 0
    precision: str = "highest"

    def __str__(self) -> str:
        parts = [self.cell, str(self.dtype).removeprefix("torch."), f"H{self.hidden}"]
        parts += [f"B{self.batch}", f"T{self.steps}"] + [f"P{self.projection}"] * bool(
            self.projection
        )
        parts += [f"{self.layers} layers"] * (self.layers > 1)
        parts += ["bidirectional"] * self.bidirectional + ["packed"] * self.packed
        return " ".join([*parts, self.precision] if self.dtype == torch.float32 else parts)


def checks() -> Iterator[Check]:
    """Each form, cell and dtype first; then what is long or odd."""
    bf16, f16, f32, f64 = torch.bfloat16, torch.float16, torch.float32, torch.float64
    for cell in ("LSTM", "GRU", "RNN"):
        for hidden in (64, 256):
            yield Check(cell, bf16, hidden, 16, 20)
            yield Check(cell, f32, hidden, 16, 20)
            yield Check(cell, f32, hidden, 16, 20, precision="high")
        yield Check(cell, f64, 33, 5, 7)
        yield Check(cell, f16, 100, 17, 9, layers=2, bidirectional=True, packed=True)
        yield Check(cell, bf16, 200, 33, 11, layers=2, bidirectional=True, packed=True)
        yield Check(cell, bf16, 1, 1, 1)
        yield Check(cell, bf16, 129, 1, 3)
    yield Check("LSTM", bf16, 120, 7, 9, projection=50)
    yield Check("LSTM", bf16, 300, 7, 9, projection=150, bidirectional=True)
    yield Check("LSTM", bf16, 1024, 64, 30)
    yield Check("GRU", bf16, 1024, 16, 30)
    yield Check("LSTM", bf16, 1500, 9, 6)
    yield Check("LSTM", bf16, 2048, 16, 8)
    yield Check("GRU", bf16, 1024, 200, 6, bidirectional=True)
    yield Check("LSTM", f32, 768, 70, 8, precision="high")
    yield Check("LSTM", bf16, 600, 20, 8, projection=300, bidirectional=True, packed=True)
    yield Check("LSTM", f32, 512, 16, 30)
    yield Check("LSTM", f32, 512, 64, 30, precision="high")
    yield Check("LSTM", bf16, 512, 256, 20)
    yield Check("LSTM", bf16, 64, 3, 2048)
    yield Check("GRU", f32, 256, 16, 2048, packed=True)


def for_a_dry_run() -> Iterator[Check]:
    yield Check("LSTM", torch.bfloat16, 5, 3, 4, layers=2, bidirectional=True, packed=True)
    yield Check("GRU", torch.float32, 5, 3, 4, precision="high")
    yield Check("LSTM", torch.float32, 5, 3, 4, projection=2)


def results(layer: Any, check: Check, x: Tensor, lengths: Tensor, seed: int) -> list[Tensor]:
    """Output, final states, and the gradients of all of them."""
    leaf = x.detach().clone().requires_grad_()
    given: Any = leaf
    if check.packed:
        given = nn.utils.rnn.pack_padded_sequence(leaf, lengths)
    output, states = layer(given)
    found = [output.data if check.packed else output]
    found += [states] if isinstance(states, Tensor) else list(states)
    generator = torch.Generator().manual_seed(seed)
    grads = [torch.randn(f.shape, generator=generator, dtype=torch.float64) for f in found]
    grads = [g.to(check.dtype).to(f) for g, f in zip(grads, found, strict=True)]
    gradients = torch.autograd.grad(found, [leaf, *layer.parameters()], grads)
    return [tensor.detach() for tensor in (*found, *gradients)]


def run(check: Check, device: torch.device, seed: int) -> list[str]:
    """The results that break the rule, in words."""
    torch.set_float32_matmul_precision(check.precision)
    torch.manual_seed(seed)
    options: dict[str, Any] = {"num_layers": check.layers, "bidirectional": check.bidirectional}
    if check.projection:
        options["proj_size"] = check.projection
    theirs = getattr(nn, check.cell)(24, check.hidden, **options).to(device, check.dtype)
    ours = fastrnn.convert(copy.deepcopy(theirs))
    exact = copy.deepcopy(ours).double()
    x = torch.randn(check.steps, check.batch, 24, device=device).to(check.dtype)
    lengths = torch.randint(1, check.steps + 1, (check.batch,)).sort(descending=True).values
    lengths[0] = check.steps
    with fastrnn.use_backend("reference"):
        expected = results(exact, check, x.double(), lengths, seed)
    with fastrnn.use_backend("triton"):
        found = results(ours, check, x, lengths, seed)
        again = results(ours, check, x, lengths, seed)
    peer = results(theirs, check, x, lengths, seed)
    floor = FLOOR_IN_ULPS[check.dtype] * torch.finfo(check.dtype).eps
    return breaches(found, again, peer, expected, floor)


def breaches(
    found: list[Tensor],
    again: list[Tensor],
    peer: list[Tensor],
    expected: list[Tensor],
    floor: float,
) -> list[str]:
    """Where results, of two equal calls, break the rule."""
    faults = []
    for index, (a, b, c, e) in enumerate(zip(found, peer, expected, again, strict=True)):
        for name, our, their in zip(("norm", "largest"), error(a, c), error(b, c), strict=True):
            if not our <= 2 * their + floor:
                faults.append(f"result {index}: {name} {our:.3g}, torch {their:.3g}")
        if not torch.equal(a, e):
            faults.append(f"result {index}: other bits the second time")
    return faults


def error(actual: Tensor, expected: Tensor) -> tuple[float, float]:
    """Relative, in the Frobenius norm, and largest to largest."""
    wrong = actual.double() - expected
    if not expected.any():
        return float(wrong.norm()), float(wrong.abs().max())
    return float(wrong.norm() / expected.norm()), float(wrong.abs().max() / expected.abs().max())


Found = dict[str, list[str]]
"""Of each check that was run, by name, its faults."""


def run_all(
    which: Iterable[Any],
    device: torch.device,
    deadline: float,
    say: Callable[[str], None],
    found: Found,
    after_fault: Callable[[], None],
    one: Callable[[Any, torch.device, int], list[str]] | None = None,
) -> None:
    """Run the checks that ``found`` lacks, each by ``one`` or `run`, until the time is up."""
    seed = int(time.time())
    for check in which:
        if str(check) in found:
            continue
        if time.monotonic() > deadline:
            break
        try:
            faults = (one or run)(check, device, seed)
        except Exception as problem:  # a check that cannot run is a fault, and others follow
            faults = [f"{type(problem).__name__}: {problem}"]
        found[str(check)] = [f"{check}, seed {seed}: {fault}" for fault in faults]
        say(f"{'fails' if faults else 'ok':6}{check}")
        for fault in faults[:4]:
            say(f"      {fault}")
        if faults:
            after_fault()


def soak(device: torch.device, seconds: float) -> str | None:
    """The barriers for a while: long sequences, two streams, one answer. None, or what is wrong.

    Both forms that have one: weights held in many programs, and weights streamed.
    """
    cuda = device.type == "cuda"
    for hidden, batch, steps in ((512, 64, 2048), (1024, 256, 512)) if cuda else ((5, 2, 3),):
        try:
            problem = _soak(device, hidden, batch, steps, seconds / 2)
        except Exception as error:  # a wait that was given up, say; the report goes on
            problem = f"{type(error).__name__}: {error}"
        if problem is not None:
            return f"H {hidden}: {problem}"
    return None


def _soak(device: torch.device, hidden: int, batch: int, steps: int, seconds: float) -> str | None:
    cuda = device.type == "cuda"
    dtype = torch.bfloat16
    torch.manual_seed(0)
    layer = fastrnn.LSTM(24, hidden, backend="triton").to(device, dtype)
    x = torch.randn(steps, batch, 24, device=device).to(dtype)
    streams = [torch.cuda.Stream(device) for _ in range(2)] if cuda else []
    end = time.monotonic() + seconds
    with torch.no_grad():
        expected = layer(x)[0]
        if cuda:
            torch.cuda.synchronize()
        while time.monotonic() < end:
            found = []
            if cuda:
                for stream in streams:
                    with torch.cuda.stream(stream):
                        found.append(layer(x)[0])
                torch.cuda.synchronize()
            else:
                found.append(layer(x)[0])
            if not all(torch.equal(each, expected) for each in found):
                return "other bits in another run"
    return None
