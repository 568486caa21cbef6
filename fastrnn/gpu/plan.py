"""Which form of the time loop serves a call, with which blocks, and why.

The only place where this is decided. What a form needs is counted here; that the compiler agrees
is checked ahead of time for each choice (`fastrnn.gpu.aot`).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch

_SCRATCH = 2 << 10  # shared memory of the compiler's own

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
    single: bool = False  # one step
    precision: str = "tf32x3"  # of float32 products
    plain: bool = True  # no resets, lengths, zoneout, nor parameters of the cell's own
    asked: int = 0  # how many of those, but for parameters
    recurrent: bool = True  # whether there is a recurrent product
    whole_row: bool = False  # whether a unit's result depends on its row
    second: bool = False  # whether a step has a second product


@dataclass(frozen=True)
class Plan:
    """A form, ``"rows"``, ``"grid"``, ``"stream"`` or ``"simple"``, its blocks, and the reason."""

    form: str
    why: str
    block_b: int = 0
    block_h: int = 0
    block_k: int = 0
    warps: int = 0
    held: bool = False  # weights in registers
    split: int = 1  # of the product's sum among warps
    stepwise: bool = False  # a launch for each step
    programs: int = 0  # where tiles are dealt out among them
    block_p: int = 0  # units of a projected h
    stages: int = 1  # tiles of a product on their way at once
    registers: int | None = 255  # that the assembler may use; None: as it likes


def power_of_2(size: int) -> int:
    """The least power of two that is no less."""
    return 1 << max(size - 1, 0).bit_length()


@functools.lru_cache(maxsize=1024)
def choose(problem: Problem, device: Device, backward: bool = False) -> Plan:
    """The plan for a problem; forward and backward may differ."""
    p = problem
    if not p.recurrent:
        return _alone(p, device)
    if p.dtype not in _BYTES:
        return Plan("simple", f"{p.dtype} has no products on matrix units here")
    if p.dtype == torch.float32 and p.precision == "ieee":
        return Plan("simple", "IEEE products in float32 are torch's")
    if p.G > 4:
        return Plan("simple", f"{p.G} gates are more than the other forms take")
    rows = _rows(p, device, backward)
    if rows.form == "rows":
        return rows
    if p.single:
        return Plan("simple", f"{rows.why}, and one step has nothing to wait for")
    if p.whole_row or p.second:
        return Plan("simple", f"{rows.why}, and a step wants more than a tile of one product")
    if p.projected:
        return _stream(p, device, backward, f"{rows.why}, and a projection takes two products")
    if not p.plain:
        return _stream(p, device, backward, f"{rows.why}, and the call wants more than torch has")
    grid = _grid(p, device, backward)
    return grid or _stream(
        p, device, backward, f"{rows.why}, nor do they fit {device.processors} at once"
    )


def _alone(p: Problem, device: Device) -> Plan:
    """Units that do not see one another: as many programs as there is work for, each with a number
    or more a thread."""
    block_h = min(max(power_of_2(p.H), 16), 128)
    block_b = 128 // block_h
    while block_b < min(8, p.B) and p.N * -(-p.B // (2 * block_b)) * -(-p.H // block_h) >= (
        2 * device.processors
    ):
        block_b *= 2
    return Plan(
        "rows", "the cell has no recurrent product: a program for some units and sequences",
        block_b=block_b, block_h=block_h, block_k=block_h, warps=4,
    )  # fmt: skip


def _rows(p: Problem, device: Device, backward: bool) -> Plan:
    """One program a sequence, or the reason why not."""
    block_h = max(16, power_of_2(p.H))
    block_k = max(16, power_of_2(p.K))
    matrices = p.G + (1 if p.projected else 0)
    weights = matrices * block_h * block_k * _bytes(p)
    # Beside them: h or the gates' gradients, and tiles that change their layout.
    tiles = 16 * max(block_h, block_k) * 4
    if weights + tiles > device.shared or max(block_h, block_k) > 128:
        return Plan("simple", f"weights of {weights >> 10} KB do not fit one program")
    if _full(p, device, block_h, backward):
        return Plan("simple", f"{weights >> 10} KB of weights leave no registers for the rest")
    warps = 4 if block_h <= 32 else 8
    # A thread has 255 registers; the rest of a step takes some 120, of the backward more.
    registers = weights // (4 * 32 * warps)
    # Blackwell's code for the same keeps a little more, and so does Ampere's for three gates.
    more = device.capability >= (10, 0) or (device.capability < (9, 0) and p.G == 3)
    few = backward or _split(p) or not p.plain or more
    held = registers <= (64 if few else 128)
    where = "registers" if held else "shared memory"
    return Plan(
        "rows", f"weights of {weights >> 10} KB fit one program, in {where}",
        block_b=16, block_h=block_h, block_k=block_k, warps=warps, held=held,
    )  # fmt: skip


def _full(p: Problem, device: Device, block_h: int, backward: bool) -> bool:
    """Whether a program of `_rows` would want more registers than there are, as the compiler found:
    beside a step's usual numbers it has those of normalisations, or of options."""
    if not p.whole_row:
        few = p.projected or (device.capability < (9, 0) and block_h > 64 and p.G > 3)
        return backward and ((few and p.asked > 1) or (_split(p) and p.asked > 0 and p.G > 3))
    if block_h > 64:
        return backward or p.G > 3 or p.dtype == torch.float32
    return p.asked > 0 and (_split(p) or (backward and p.G > 3 and p.asked > 1))


def _grid(p: Problem, device: Device, backward: bool) -> Plan | None:
    """As few sequences and units a program as all programs still run at once."""
    rows_per_unit = 4 if p.G == 3 else p.G  # forward: a power of two
    # Matrix units of Hopper take 64 rows from shared memory; a split product 16 from anywhere.
    units = [(16, 8), (8, 8)] if backward else [(64 // rows_per_unit, 1)]
    if not backward and (p.G == 1 or _split(p)):
        units = [(16, 8), (8, 8), *([] if _split(p) else units)]
    for block_b in (16, 32) if backward or _split(p) else (16, 32, 64):
        for block_h, split in units:
            programs = p.N * -(-p.B // block_b) * -(-p.H // block_h)
            if programs > device.processors:
                continue
            short = backward or block_b == 64 or device.capability >= (10, 0)
            block_k, padded = _block_k(p.H, 256 if short else 1024)
            per_unit = p.G if backward else rows_per_unit
            weights = per_unit * block_h * padded * _bytes(p)
            tile = block_k * block_b * _BYTES[p.dtype]
            if weights + tile + _SCRATCH > device.shared:
                continue
            if _crowded(p, device, backward, block_b, block_h, padded, weights):
                continue
            held = split > 1 and block_b == 16 and weights <= 64 << 10 and not _split(p)
            return Plan(
                "grid", f"weights of {weights >> 10} KB a program in {programs} programs",
                block_b=block_b, block_h=block_h, block_k=block_k, warps=8, held=held, split=split,
                registers=_registers(p, device, backward, padded, block_b),
            )  # fmt: skip
    return None


def _registers(p: Problem, device: Device, backward: bool, padded: int, block_b: int) -> int | None:
    """With which the assembler parks nothing in memory, or nothing that a loop wants.

    Without a bound it aims at two programs a multiprocessor, where there is one, and parks what is
    not wanted within the loop. With one it fetches more at a time, and may overdo that.
    """
    if not backward:
        return 255
    if p.G == 3 and padded > 512 and block_b > 16:
        return None
    if device.capability < (9, 0) and p.G == 4:
        if p.dtype == torch.float32:
            return None
        return 200 if padded > 768 else 240
    return None if padded > 768 and p.G > 1 else 240


def _crowded(
    p: Problem,
    device: Device,
    backward: bool,
    block_b: int,
    block_h: int,
    padded: int,
    weights: int,
) -> bool:
    """Whether a thread would want more registers than there are, as the compiler found.

    Such a call streams its weights.
    """
    if _split(p):
        return block_b > 16 or (backward and (weights > 160 << 10 or (p.G == 4 and padded > 384)))
    if backward:
        wide = padded > 512 and p.dtype == torch.float32
        return wide and (device.capability < (9, 0) or (p.G == 4 and block_b > 16))
    if p.dtype == torch.float32:
        return padded > (512 if block_b == 16 else 256)
    if block_b == 64:
        return p.H > (256 if device.capability < (9, 0) and block_h == 64 else 512)
    return block_b == 32 and 512 < padded < 1024


def _stream(p: Problem, device: Device, backward: bool, why: str) -> Plan:
    """Tiles that read least, counting the turns that a program with several takes."""
    rows_per_unit = 1 if backward else 4 if p.G == 3 else p.G

    def read(block_h: int, block_b: int) -> tuple[int, int]:
        tiles = p.N * -(-p.B // block_b) * -(-p.H // block_h)
        rows = block_h * rows_per_unit + block_b
        return -(-tiles // device.processors) * rows, tiles * rows

    # Hopper's matrix units take 64 rows; a few sequences are better served by fewer.
    least = 16 if backward else 64
    heights = [
        h for h in (16, 32, 64, 128) if least <= h * rows_per_unit <= (64 if backward else 128)
    ]
    widest = 64 if backward else 128  # by registers
    if backward and p.G == 4 and device.capability < (9, 0):
        widest = 32
    widths = [w for w in (16, 32, 64, 128) if w < 2 * max(16, p.B) and w <= widest]
    sizes = [(h, w) for h in heights for w in widths]
    block_h, block_b = min(sizes, key=lambda size: read(*size))
    tiles = p.N * -(-p.B // block_b) * -(-p.H // block_h)
    tall = block_h * rows_per_unit
    # The addresses of tiles on their way take registers, which large ones of four gates lack.
    few = p.G == 4 or (p.G == 1 and device.capability >= (10, 0))
    stages = 2 if backward and few and block_b * block_h >= 2048 else 4
    return Plan(
        "stream", f"{why}: {tiles} tiles of {tall} x {block_b} read from the L2 cache each step",
        block_b=block_b, block_h=block_h, block_k=128 // _BYTES[p.dtype], block_p=64, warps=8,
        stages=stages, programs=min(tiles, device.processors),
        registers=255 if not backward or p.G == 1 or p.asked else None,
    )  # fmt: skip


def _split(p: Problem) -> bool:
    """Whether each number of a product is two."""
    return p.dtype == torch.float32 and p.precision == "tf32x3"


def _bytes(p: Problem) -> int:
    """Of a weight on chip."""
    return _BYTES[p.dtype] * (2 if _split(p) else 1)


def _block_k(size: int, most: int) -> tuple[int, int]:
    """The part of a sum that is loaded at once, and the sum's length in whole parts."""
    blocks = [block for block in (128, 256, 512, 1024) if block <= most]
    padded, block = min((-(-size // block) * block, -block) for block in blocks)
    return -block, padded
