"""Which form of the time loop serves a call, with which blocks, and why.

The only place where this is decided. What a form needs is counted here; that the compiler agrees
is checked ahead of time for each choice (`fastrnn.gpu.aot`).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch

_BYTES = {torch.float32: 4, torch.bfloat16: 2, torch.float16: 2}


@dataclass(frozen=True)
class Device:
    """What a choice depends on."""

    capability: tuple[int, int]
    processors: int
    shared: int  # bytes a program may have


A100 = Device((8, 0), 108, 163 << 10)
H200 = Device((9, 0), 132, 227 << 10)
B200 = Device((10, 0), 148, 227 << 10)


@dataclass(frozen=True)
class Problem:
    """Letters as in `fastrnn.reference`; G gates."""

    dtype: torch.dtype
    G: int
    N: int
    B: int
    H: int
    K: int
    projected: bool = False
    precision: str = "tf32x3"  # of float32 products


@dataclass(frozen=True)
class Plan:
    """A form, ``"rows"``, ``"grid"`` or ``"simple"``, its blocks, and the reason in words."""

    form: str
    why: str
    block_b: int = 0
    block_h: int = 0
    block_k: int = 0
    warps: int = 0


def power_of_2(size: int) -> int:
    """The least power of two that is no less."""
    return 1 << max(size - 1, 0).bit_length()


@functools.lru_cache(maxsize=1024)
def choose(problem: Problem, device: Device, backward: bool = False) -> Plan:
    """The plan for a problem; forward and backward may differ."""
    p = problem
    if p.dtype not in _BYTES:
        return Plan("simple", f"{p.dtype} has no products on matrix units here")
    if p.dtype == torch.float32 and p.precision == "ieee":
        return Plan("simple", "IEEE products in float32 are torch's")
    plan = _rows(p, device)
    return plan


def _rows(p: Problem, device: Device) -> Plan:
    block_h = max(16, power_of_2(p.H))
    block_k = max(16, power_of_2(p.K))
    matrices = p.G + (1 if p.projected else 0)
    weights = matrices * block_h * block_k * _BYTES[p.dtype]
    # Beside them: h or the gates' gradients, and tiles that change their layout.
    room = device.shared - 16 * max(block_h, block_k) * 8
    if p.dtype == torch.float32 and p.precision == "tf32x3":
        room //= 2  # a split number is two
    if weights > room or max(block_h, block_k) > 128:
        return Plan("simple", f"weights of {weights >> 10} KB do not fit one program")
    return Plan(
        "rows",
        f"weights of {weights >> 10} KB fit one program",
        block_b=16,
        block_h=block_h,
        block_k=block_k,
        warps=4 if block_h <= 32 else 8,
    )
