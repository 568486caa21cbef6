"""Attention on the GPU: scaled dot beside torch's fused kernels, the additive score beside its sum.

The peers of scaled dot are cuDNN's and the flash kernel, each by its name, for the default is not
the fastest of them; that of the additive score is ``torch.compile`` of the formula.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from fastrnn import functional

from .clock import clear, medians

SECONDS = 0.12  # for one figure
# Length, width and causality where FlexAttention is measured as well: it takes seconds to compile.
FLEX = {(4096, 64, False), (4096, 128, True), (20, 8, False)}
BACKENDS = {"cuDNN": SDPBackend.CUDNN_ATTENTION, "flash": SDPBackend.FLASH_ATTENTION}
# Special functions a second: 16 a cycle and multiprocessor; the clock is an H200's at its highest.
_SPECIAL = 16 * 1.98e9


@dataclass(frozen=True)
class Case:
    """Queries as many as keys; ``width`` of a head, or of the additive score's sum."""

    score: str
    dtype: str
    batch: int
    heads: int
    length: int
    width: int
    causal: bool = False

    def __str__(self) -> str:
        sizes = f"B{self.batch} H{self.heads} T{self.length} E{self.width}"
        return f"{self.score} {self.dtype} {sizes}" + " causal" * self.causal

    def products(self, training: bool) -> float:
        """Multiplications and additions: two products, and five more in the backward."""
        pairs = self.batch * self.heads * self.length**2 * (0.5 if self.causal else 1.0)
        return 2 * pairs * self.width * (2 + 5 * training)

    def tanhs(self) -> float:
        return float(self.batch * self.heads * self.length**2 * self.width)


def cases() -> list[Case]:
    """16,384 queries of 2,048 numbers in all, as is usual; the telling ones first."""
    found = [
        Case("additive", "float32", 16, 1, 128, 256),
        Case("additive", "bfloat16", 16, 1, 512, 256),
    ]
    for length in (4096, 16384, 1024, 2048, 8192):
        for width in (64, 128):
            for causal in (False, True):
                batch = max(1, 16384 // length)
                found.append(
                    Case("scaled_dot", "bfloat16", batch, 2048 // width, length, width, causal)
                )
    return found


def for_a_dry_run() -> list[Case]:
    return [
        Case("scaled_dot", "bfloat16", 1, 1, 20, 8, True),
        Case("scaled_dot", "float32", 1, 1, 20, 8),
        Case("additive", "float32", 1, 1, 12, 4),
    ]


def build(case: Case, device: torch.device, training: bool) -> dict[str, Callable[[], Any]]:
    """``fastrnn`` and its peers: calls of a forward, or of a forward and backward."""
    torch.manual_seed(0)
    dtype = getattr(torch, case.dtype)
    shape = (case.batch, case.heads, case.length, case.width)
    q, k, v = (torch.randn(shape, device=device).to(dtype).requires_grad_(training) for _ in "qkv")
    grad = torch.randn(shape, device=device).to(dtype)
    leaves = [q, k, v]

    def call(function: Callable[[], Tensor]) -> Callable[[], Any]:
        def forward() -> Any:
            with torch.no_grad():
                return function()

        return (lambda: torch.autograd.grad(function(), leaves, grad)) if training else forward

    if case.score == "additive":
        vector = torch.randn(case.width, device=device).to(dtype).requires_grad_(training)
        leaves.append(vector)

        def formula(q: Tensor, k: Tensor, v: Tensor, vector: Tensor) -> Tensor:
            score = (vector * torch.tanh(q.unsqueeze(3) + k.unsqueeze(2))).sum(-1)
            return score.softmax(-1) @ v

        compiled = torch.compile(formula) if device.type == "cuda" else formula
        return {
            "fastrnn": call(
                lambda: functional.attention(
                    q, k, v, score="additive", vector=vector, backend="triton"
                )
            ),
            "compiled": call(lambda: compiled(q, k, v, vector)),
        }
    found = {
        "fastrnn": call(
            lambda: functional.attention(q, k, v, is_causal=case.causal, backend="triton")
        )
    }
    peers = BACKENDS if device.type == "cuda" else {"math": SDPBackend.MATH}

    def peer(backend: SDPBackend) -> Callable[[], Any]:
        def function() -> Tensor:
            with sdpa_kernel(backend):
                return torch.nn.functional.scaled_dot_product_attention(
                    q, k, v, is_causal=case.causal
                )

        return call(function)

    for name, backend in peers.items():
        try:
            peer(backend)()
        except RuntimeError:  # not in this build, or not for this GPU
            continue
        found[name] = peer(backend)
    # On a CPU it has no gradients.
    if (case.length, case.width, case.causal) in FLEX and not (training and device.type == "cpu"):
        try:
            flex = _flex(case, device)
            flex(q, k, v)
            found["flex"] = call(lambda: flex(q, k, v))
        except Exception as error:  # the other peers are worth measuring
            print(f"FlexAttention: {type(error).__name__}: {str(error)[:200]}", flush=True)
    return found


def _flex(case: Case, device: torch.device) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """FlexAttention, compiled as it is meant to be; a CPU takes it as it stands."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    def before(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return q >= k

    T = case.length
    mask = create_block_mask(before, None, None, T, T, device.type) if case.causal else None
    function = torch.compile(flex_attention) if device.type == "cuda" else flex_attention
    return lambda q, k, v: function(q, k, v, block_mask=mask)


def measure(
    which: Sequence[Case],
    device: torch.device,
    deadline: float,
    say: Callable[[str], None],
    results: list[dict[str, Any]],
    after_fault: Callable[[], None],
) -> None:
    """Append a result for each case and way that ``results`` lacks, until the time is up; one that
    fails tells so."""
    done = {(each["case"], each["training"]) for each in results}
    for case in which:
        for training in (False, True):
            if (str(case), training) in done:
                continue
            if time.monotonic() > deadline:
                return
            result: dict[str, Any] = {"case": str(case), "training": training}
            try:
                found = medians(build(case, device, training), device, SECONDS)
                ours = found["fastrnn"]
                result["us"] = {name: seconds * 1e6 for name, seconds in found.items()}
                result["ratios"] = {n: s / ours for n, s in found.items() if n != "fastrnn"}
                if case.score == "additive":
                    processors = 132
                    if device.type == "cuda":
                        processors = torch.cuda.get_device_properties(device).multi_processor_count
                    # Forward once; backward twice more, for queries and for keys.
                    tanhs = case.tanhs() * (5 if training else 1)
                    result["of_special"] = tanhs / ours / (processors * _SPECIAL)
                else:
                    result["tflops"] = case.products(training) / ours / 1e12
            except Exception as error:  # one case must not cost the others
                result["error"] = f"{type(error).__name__}: {error}"
            say(f"{case}{' training' * training}: {result.get('error') or result['ratios']}")
            results.append(result)
            if "error" in result:
                clear(device)
                after_fault()


def write(folder: Path, machine: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> None:
    """``attention.json`` and ``attention.md``."""
    folder.mkdir(parents=True, exist_ok=True)
    everything = {"machine": machine, "results": results}
    (folder / "attention.json").write_text(json.dumps(everything, indent=1) + "\n")
    lines = [f"# Attention on {machine['device']}", ""]
    if machine["dry_run"]:
        lines += ["**A dry run on a CPU: the figures below mean nothing.**", ""]
    lines += [
        "How many times as fast as each peer; TFLOP/s by the least products that do; for the",
        "additive score the tanh a second, as a share of the special functions' rate.",
        "",
        "| case | way | us | as fast as | TFLOP/s | of special functions |",
        "|---|---|---|---|---|---|",
    ]
    for result in results:
        way = "forward and backward" if result["training"] else "forward"
        if "error" in result:
            lines.append(f"| {result['case']} | {way} | {result['error'][:120]} | | | |")
            continue
        ratios = ", ".join(f"{name} {ratio:.2f}" for name, ratio in result["ratios"].items())
        rate = f"{result['tflops']:.0f}" if "tflops" in result else ""
        share = f"{result['of_special']:.0%}" if "of_special" in result else ""
        lines.append(
            f"| {result['case']} | {way} | {result['us']['fastrnn']:.1f} | {ratios} | {rate} "
            f"| {share} |"
        )
    (folder / "attention.md").write_text("\n".join(lines) + "\n")
