"""Which tiles attention's kernels get, and why: the only place where this is decided.

What a choice needs in registers and shared memory was seen by compiling it (`fastrnn.gpu.aot`);
that it is the fastest was not, for want of a GPU.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

import torch

from .plan import Device, power_of_2

_PART = 32
PASSES = ("forward", "of_queries", "of_keys", "matrix", "mask_gradient")


@dataclass(frozen=True)
class Problem:
    """Letters as in `fastrnn.reference_attention`."""

    dtype: torch.dtype
    kind: str
    heads: int  # B * H
    groups: int  # H / Hk
    Tq: int
    Tk: int
    E: int
    Ev: int
    precision: str = "tf32x3"  # of float32 products
    extras: bool = False  # dropout, a Gaussian, or gradients of weights: more registers a number
    bent: bool = False  # a mask or a cap: some more


@dataclass(frozen=True)
class Tiles:
    """A tile of queries by keys, and how its program runs."""

    block_m: int
    block_n: int
    warps: int
    stages: int
    why: str
    together: bool = False  # all heads that share keys in one tile
    splits: int = 1  # programs that share a tile of queries
    part: int = 0  # of the sums over E and Ev, so much at a time; 0: all at once


def block(width: int) -> int:
    """The tile's width for that of a tensor; matrix units want 16."""
    return max(16, power_of_2(width))


@functools.lru_cache(maxsize=1024)
def choose(problem: Problem, device: Device, which: str) -> Tiles:
    """The tiles of a pass over a problem."""
    return _fit(_choose(problem, device, which), problem, device, which)


def _choose(p: Problem, device: Device, which: str) -> Tiles:
    if p.kind == "additive":
        return _additive(p, device, which)
    wide = max(block(p.E), block(p.Ev))
    if which == "forward":
        return _forward(p, device, wide)
    if which in ("matrix", "mask_gradient"):
        if _bytes(p) == 4 and wide > 64:
            return Tiles(32, 32, 4, 1, "a square to write or to sum, in parts", part=_PART)
        if wide > 64 and device.capability < (9, 0):
            return Tiles(32, 64, 8, 1, "half a square: operands in registers")
        return Tiles(64, 64, 4 if wide <= 64 else 8, 1, "a square to write or to sum")
    return _backward(p, device, wide, which)


def _forward(p: Problem, device: Device, wide: int) -> Tiles:
    rows = p.Tq * p.groups
    if rows <= 64:
        together = p.groups > 1
        m = 1 if rows == 1 else 64 if rows > 32 else 32 if rows > 16 else 16
        n = 64 if _bytes(p) == 2 and wide <= 128 else 32
        programs = p.heads // p.groups if together else p.heads
        why = "one query" if rows == 1 else f"{rows} queries of the heads that share keys"
        part = _PART if m > 1 and _split(p) and wide > 64 else 0
        number = splits(programs, p.Tk, n, device)
        return Tiles(m, n, 4, 1 if part else 2, why, together, number, part)
    if _bytes(p) == 2:
        if wide <= 64 and not p.extras:
            return Tiles(128, 128, 8, 3, "narrow: as many keys as queries")
        if wide <= 128:
            return Tiles(128, 64, 8, 3, "fewer keys, for three stages of them")
        if device.capability < (9, 0):
            return Tiles(64, 32, 8, 2, "256 wide, the queries in registers")
        if device.capability >= (10, 0):
            return Tiles(64, 64, 8, 2, "256 wide, sums read back into registers")
        return Tiles(128, 64, 8, 2, "256 wide: two stages of keys fill the shared memory")
    if wide <= 64:
        if _split(p) and device.capability < (9, 0):
            return Tiles(64, 32, 4, 1, "float32, narrow: sums in parts", part=_PART)
        return Tiles(64, 32, 4, 2, "float32, narrow")
    return _float32(p, wide, 32)


def _backward(p: Problem, device: Device, wide: int, which: str) -> Tiles:
    of_keys = which == "of_keys"
    if p.Tq == 1:
        return Tiles(1, 16 if wide > 128 else 32, 4, 1, "one query")
    if _bytes(p) == 4:
        in_registers = of_keys and device.capability < (9, 0)
        if wide <= 64 and not _split(p):
            return Tiles(32, 64, 4, 1, "float32, narrow", part=_PART if in_registers else 0)
        tiles = _float32(p, wide, 16 if of_keys else 32)
        return replace(tiles, warps=8) if in_registers else tiles
    if of_keys:
        return _of_keys(p, device, wide)
    # From Hopper on matrix units read both operands from shared memory; before, from registers.
    from_memory = device.capability >= (9, 0)
    if wide <= 64:
        if from_memory and not p.extras:
            return Tiles(64, 128, 8, 2, "narrow")
        queries = 64 if from_memory or not p.extras else 32
        keys = 64 if from_memory else 32
        return Tiles(queries, keys, 4, 2, "narrow, with more registers to a number")
    if wide <= 128:
        return Tiles(128 if from_memory and not p.extras else 64, 64, 8, 2, "128 wide")
    return Tiles(64, 32, 8, 2, "256 wide")


def _of_keys(p: Problem, device: Device, wide: int) -> Tiles:
    """Both sums of a key are held; many keys beside them, only narrow ones."""
    hopper = device.capability[0] == 9  # others' numbers of a key are more, or lie in registers
    if p.extras:
        many = 64 if wide <= 128 and hopper else 32
        return Tiles(32 if wide <= 128 else 16, many, 8, 2, "few of both")
    if wide <= 64:
        return Tiles(32, 128, 8, 2, "narrow: many keys")
    if wide <= 128:
        return Tiles(32, 64 if hopper or not p.bent else 32, 8, 2, "128 wide: few queries")
    return Tiles(16, 64 if hopper else 32, 8, 2, "256 wide: few of both")


def _float32(p: Problem, wide: int, queries: int) -> Tiles:
    """Products of float32 keep operands in registers, in three as two numbers each."""
    warps = 4 if wide <= 128 else 8
    if _split(p) or wide > 128:
        return Tiles(queries, 32, warps, 1, "float32, wide: sums in parts", part=_PART)
    return Tiles(queries, 32, warps, 1, "float32, wide")


def _additive(p: Problem, device: Device, which: str) -> Tiles:
    wide = block(p.Ev)
    if which in PASSES[:3] and p.Tq <= 8:
        n = 64 if wide <= 128 else 8 if which == "of_keys" else 32
        divide = splits(p.heads * p.Tq, p.Tk, n, device) if which == "forward" else 1
        warps = 8 if which == "of_keys" and wide > 128 else 4
        return Tiles(1, n, warps, 1, "few queries: tanh for no others", splits=divide)
    if which == "of_keys":
        # Both products' operands in registers, and beside them each column's addresses.
        keys = 16 if wide > (64 if _bytes(p) == 4 else 128) else 32
        part = _PART // 2 if _bytes(p) == 4 else 0
        return Tiles(16, keys, 8, 1, "few of both, for want of registers", part=part)
    if _bytes(p) == 4:
        part = _PART if which == "forward" else _PART // 2
        queries = 16 if wide > 128 and which == "of_queries" else 32
        return Tiles(queries, 32, 8, 1, "float32: sums in parts", part=part)
    warps = 8 if wide > 64 or p.extras else 4
    keys = 32 if wide > 128 and which == "mask_gradient" else 64
    return Tiles(32, keys, warps, 1, "tanh bounds it: any tile that fills the matrix units")


def shared(tiles: Tiles, p: Problem, which: str) -> int:
    """Bytes of shared memory, as the compiler was seen to take them, or somewhat more.

    What a program keeps lies there once, what its loop reads once for each stage.
    """
    of_pair = block(p.E) if p.kind == "dot" else 0
    both = of_pair + block(p.Ev)
    kept, read = tiles.block_m * both, tiles.block_n * both
    if which == "forward":
        kept = tiles.block_m * of_pair
    elif which == "of_keys":
        kept, read = read, kept
    return _bytes(p) * (kept + tiles.stages * read) + (6 << 10)


def _fit(tiles: Tiles, p: Problem, device: Device, which: str) -> Tiles:
    """The tiles with fewer stages, then smaller, until the device has the memory."""
    while shared(tiles, p, which) > device.shared:
        if tiles.stages > 1:
            tiles = replace(tiles, stages=tiles.stages - 1)
        elif tiles.block_n > 32:
            tiles = replace(tiles, block_n=tiles.block_n // 2)
        elif tiles.block_m > 16:
            tiles = replace(tiles, block_m=tiles.block_m // 2)
        else:
            break
    return tiles


def splits(programs: int, keys: int, block_n: int, device: Device) -> int:
    """How many programs share the keys of one tile of queries, so that all processors have some."""
    tiles = -(-keys // block_n)
    wanted = 2 * device.processors // max(programs, 1)
    # Four tiles of keys at least: less is not worth its part of the combination.
    return max(1, min(wanted, tiles // 4, 64))


def parts(own: int, shared: int) -> int:
    """In how many parts a mask's gradient is summed: by its tiles and the heads that share them."""
    return max(1, min(shared, 512 // max(own, 1)))


def _bytes(p: Problem) -> int:
    return 4 if p.dtype == torch.float32 else 2


def _split(p: Problem) -> bool:
    """Whether each number of a product is two."""
    return p.dtype == torch.float32 and p.precision == "tf32x3"
