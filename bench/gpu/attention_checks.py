"""Attention's equality on the GPU, by the rule of the tests.

The reference in float64 is the oracle; torch's own is the same formula with each operator at the
dtype, as a user would write it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from fastrnn import functional, reference_attention

from .checks import Found, breaches
from .checks import run_all as checks_of_all

# tests/test_attention_equality.py has these from measurements on a CPU.
FLOOR_IN_ULPS = {torch.float32: 24, torch.bfloat16: 3, torch.float16: 2}


@dataclass(frozen=True)
class Check:
    """A call whose every result and gradient is compared."""

    score: str
    dtype: torch.dtype
    queries: int
    keys: int
    width: int
    value_width: int
    heads: int = 4
    kv_heads: int = 4
    options: dict[str, Any] = field(default_factory=dict, hash=False)
    mask: tuple[int, ...] = ()

    def __str__(self) -> str:
        dtype = str(self.dtype).removeprefix("torch.")
        sizes = f"Tq{self.queries} Tk{self.keys} E{self.width} Ev{self.value_width}"
        heads = f"H{self.heads}" + f"/{self.kv_heads}" * (self.heads != self.kv_heads)
        parts = [self.score, dtype, sizes, heads, *self.options]
        return " ".join([*parts, f"mask {self.mask}"] if self.mask else parts)


def checks() -> Iterator[Check]:
    """Every tile of the plan, then every option."""
    bf16, f16, f32 = torch.bfloat16, torch.float16, torch.float32
    for dtype in (bf16, f32):
        for width in (64, 128, 256):
            yield Check("scaled_dot", dtype, 500, 700, width, width)
            yield Check("scaled_dot", dtype, 513, 513, width, width, options={"is_causal": True})
    yield Check("scaled_dot", f16, 257, 300, 96, 40, 8, 2, {"window": (100, 3), "softcap": 3.0})
    yield Check("scaled_dot", bf16, 300, 300, 64, 64, mask=(2, 1, 300, 300))
    yield Check("scaled_dot", f32, 300, 300, 64, 64, mask=(1, 1, 1, 300))
    yield Check("scaled_dot", f32, 300, 300, 64, 64, mask=(1, 4, 300, 1))
    yield Check("scaled_dot", bf16, 300, 400, 64, 64, options={"dropout_p": 0.2, "seed": 5})
    yield Check("scaled_dot", bf16, 1, 3000, 128, 128)
    yield Check("scaled_dot", bf16, 4, 3000, 128, 128, 16, 2)
    yield Check("scaled_dot", f32, 129, 200, 64, 64, options={"return_weights": True})
    for dtype in (f32, bf16):
        yield Check("additive", dtype, 130, 200, 100, 64)
        yield Check("additive", dtype, 1, 500, 256, 128)
        yield Check("additive", dtype, 65, 65, 64, 64, 4, 2, {"is_causal": True})


def for_a_dry_run() -> Iterator[Check]:
    yield Check("additive", torch.float32, 9, 10, 4, 4, 1, 1)
    yield Check("scaled_dot", torch.bfloat16, 17, 20, 8, 4, 2, 1, {"is_causal": True})


def run(check: Check, device: torch.device, seed: int) -> list[str]:
    """The results that break the rule, in words."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        drawn = torch.randn(shape, generator=generator, dtype=torch.float64)
        return drawn.to(check.dtype).to(device)

    given = {
        "query": normal(2, check.heads, check.queries, check.width),
        "key": normal(2, check.kv_heads, check.keys, check.width),
        "value": normal(2, check.kv_heads, check.keys, check.value_width),
    }
    if check.score == "additive":
        given["vector"] = normal(check.heads, check.width)
    if check.mask:
        given["attn_mask"] = normal(*check.mask)
    options = dict(check.options)
    grad = normal(2, check.heads, check.queries, check.value_width)

    def results(dtype: torch.dtype, backend: str) -> list[Tensor]:
        leaves = {n: t.detach().to(dtype).requires_grad_() for n, t in given.items()}
        found = functional.attention(
            **leaves, score=check.score, enable_gqa=check.heads != check.kv_heads,
            return_lse=True, backend=backend, **options,
        )  # fmt: skip
        gradients = torch.autograd.grad(found[0], list(leaves.values()), grad.to(dtype))
        return [tensor.detach() for tensor in (*found, *gradients)]

    expected = results(torch.float64, "reference")
    found, again = (results(check.dtype, "triton") for _ in range(2))
    with mock.patch.object(reference_attention, "_to", lambda tensor, dtype: tensor):
        peer = results(check.dtype, "reference")  # without its wider sums
    floor = FLOOR_IN_ULPS[check.dtype] * torch.finfo(check.dtype).eps
    return breaches(found, again, peer, expected, floor)


def run_all(
    which: Iterator[Check],
    device: torch.device,
    deadline: float,
    say: Callable[[str], None],
    found: Found,
    after_fault: Callable[[], None],
) -> None:
    """As layers are checked."""
    torch.set_float32_matmul_precision("highest")
    checks_of_all(which, device, deadline, say, found, after_fault, run)
