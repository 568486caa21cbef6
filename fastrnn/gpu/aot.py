"""Compiles ahead of time what a GPU would be given, on a machine that has none.

A scan is run on tensors without memory, for a device that is merely described; the launches that
it would make are recorded and compiled. So nothing is compiled here that a user would not get, and
a user gets nothing that was not seen to fit.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from .. import gpu
from ..cells import CELLS
from ..kernels.cells import NAMES
from ..options import GIVEN, INITIAL, PLAIN, ZERO, Options
from . import INTERPRETED, forms
from .machine_code import Resources, resources
from .plan import A100, B200, H200, Device

TARGETS = {"sm_80": A100, "sm_90": H200, "sm_100": B200}

_TYPES = {
    torch.float32: "*fp32", torch.float64: "*fp64", torch.float16: "*fp16",
    torch.bfloat16: "*bf16", torch.int32: "*i32", torch.int64: "*i64", torch.uint8: "*u8",
}  # fmt: skip
_MATRIX = re.compile(r"\b(mma\.sync|wgmma\.mma_async|tcgen05\.mma)\b")
_REGISTERS, _THREADS = 65536, 2048  # of a multiprocessor, on every target


@dataclass(frozen=True)
class Shape:
    """A layer, as far as its kernels depend on it."""

    cell: str
    dtype: torch.dtype
    hidden: int
    batch: int
    recurrences: int = 1
    projection: int = 0
    packed: bool = False
    precision: str = "tf32x3"  # of float32 products
    options: str = ""  # of `OPTIONS`

    def __str__(self) -> str:
        dtype = str(self.dtype).removeprefix("torch.")
        if self.dtype == torch.float32:
            dtype = self.precision
        parts = [self.cell, dtype, f"H{self.hidden}", f"B{self.batch}"]
        parts += [f"N{self.recurrences}"] * (self.recurrences > 1)
        parts += [f"P{self.projection}"] * bool(self.projection) + ["packed"] * self.packed
        parts += [self.options] * bool(self.options)
        return " ".join(parts)


@dataclass(frozen=True)
class Launch:
    """A kernel with what its launch fixes."""

    kernel: Any
    grid: tuple[int, ...]
    signature: tuple[tuple[str, str], ...]
    constants: tuple[tuple[str, Any], ...]
    options: tuple[tuple[str, Any], ...]
    aligned: tuple[str, ...]  # what is a multiple of 16, as far as the launcher looks


@dataclass(frozen=True)
class Report:
    """What became of a launch."""

    name: str
    programs: int
    warps: int
    registers: int
    stack: int  # bytes a thread: registers parked or spilt
    spills: int  # instructions in loops that touch the stack
    shared: int  # bytes
    matrix: str  # instructions of the matrix units, and how many are in the code
    occupancy: int  # programs that a multiprocessor holds at once
    faults: tuple[str, ...]


_OPTIONS = ("num_warps", "num_stages", "maxnreg", "enable_fp_fusion", "launch_cooperative_grid")


@contextmanager
def _recorded() -> Iterator[list[Launch]]:
    """Within this context kernels are not launched but listed."""
    launches: list[Launch] = []
    run = JITFunction.run

    def record(self: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        options = {name: kwargs.pop(name) for name in _OPTIONS if name in kwargs}
        given = dict(zip(self.arg_names, args, strict=False)) | kwargs
        signature, constants, aligned = [], [], []
        for parameter in self.params:
            name, value = parameter.name, given[parameter.name]
            if parameter.is_constexpr:
                signature.append((name, "constexpr"))
                constants.append((name, value))
            elif isinstance(value, Tensor):
                # Torch's memory is aligned, and so are the rows that matter.
                signature.append((name, _TYPES[value.dtype]))
                aligned.append(name)
            elif isinstance(value, float):
                signature.append((name, "fp32"))
            elif value == 1 and not parameter.do_not_specialize:
                signature.append((name, "constexpr"))
                constants.append((name, value))
            else:
                signature.append((name, "i32"))
                if value % 16 == 0 and not parameter.do_not_specialize:
                    aligned.append(name)
        fixed = (tuple(each) for each in (signature, constants, options.items(), aligned))
        launches.append(Launch(self, grid, *fixed))

    JITFunction.run = record
    try:
        yield launches
    finally:
        JITFunction.run = run


# What is done to sequences, by name.
OPTIONS = ("lengths", "reset", "dropout", "zoneout", "clips", "all states", "everything")


def _options(shape: Shape) -> Options:
    """Those of a shape's name."""
    spec, name = CELLS[shape.cell], shape.options
    rows, n, k = 2 * shape.batch, shape.recurrences, shape.projection or shape.hidden
    widths = [k, *[shape.hidden] * (len(spec.states) - 1)]

    def meta(*sizes: int, dtype: torch.dtype = torch.bool) -> Tensor:
        return torch.empty(sizes, dtype=dtype, device="meta")

    def wants(*names: str) -> bool:
        return name in (*names, "everything")

    clipped = wants("clips")
    states = [meta(rows, n, width, dtype=shape.dtype) for width in widths]
    return Options(
        lengths=meta(shape.batch, dtype=torch.int64) if wants("lengths") else None,
        reset=meta(rows, n) if wants("reset") else None,
        # Each of the two costs registers of its own.
        reset_to=GIVEN if name == "everything" else INITIAL if name == "reset" else ZERO,
        reset_states=states if name == "everything" else [],
        dropout=meta(n, shape.batch, k, dtype=shape.dtype) if wants("dropout") else None,
        zoneout=[meta(rows, n, width) for width in widths] if wants("zoneout") else [],
        clips=[
            3.0 if clipped and spec.clipped else math.inf,
            *[3.0 if clipped else math.inf] * 3,
        ],
        all_states=wants("all states"),
    )


def launches(shape: Shape, device: Device) -> list[Launch]:
    """The launches of a forward, one with and one without saving, and a backward; each once."""
    if INTERPRETED:
        raise RuntimeError("TRITON_INTERPRET is set, and the interpreter compiles nothing")
    spec = CELLS[shape.cell]
    G, H, N, B = spec.num_gates, shape.hidden, shape.recurrences, shape.batch
    K = shape.projection or H

    def meta(*sizes: int) -> Tensor:
        return torch.empty(sizes, dtype=shape.dtype, device="meta")

    steps = 2
    gates_x = meta(steps * B, N, G * H)
    weight_hh = meta(N, G * H, K) if spec.recurrent else None
    bias_hh = meta(N, G * H) if spec.apart else None
    weight_hr = meta(N, K, H) if shape.projection else None
    states = [meta(N, B, K), *(meta(N, B, H) for _ in spec.states[1:])]
    batch_sizes = torch.full((steps,), B) if shape.packed else None
    reverse = [n % 2 == 1 for n in range(N)]
    options = _options(shape) if shape.options else PLAIN
    forms.planned_for = (device, shape.precision)
    try:
        with _recorded() as found:
            params = [meta(N, width * H) for width in spec.param_widths]
            rest = (weight_hr, states, batch_sizes, reverse, params, options)
            gpu.scan(spec, gates_x, weight_hh, bias_hh, *rest, False)
            out, finals, others, saved = gpu.scan(spec, gates_x, weight_hh, bias_hh, *rest, True)
            gpu.scan_backward(spec, gates_x, weight_hh, *rest, out, saved, out, finals, others)
    finally:
        forms.planned_for = None
    return list(dict.fromkeys(found))


@dataclass(frozen=True)
class _Binary:
    found: Resources
    shared: int
    matrix: str


@functools.cache
def _binary(launch: Launch, device: Device) -> _Binary:
    kernel = launch.kernel
    index = {name: i for i, name in enumerate(kernel.arg_names)}
    constants = {(index[name],): value for name, value in launch.constants}
    aligned = {(index[name],): [["tt.divisibility", 16]] for name in launch.aligned}
    source = ASTSource(kernel, dict(launch.signature), constants, aligned)
    major, minor = device.capability
    target = GPUTarget("cuda", 10 * major + minor, 32)
    binary = triton.compile(source, target=target, options=dict(launch.options))
    found = _MATRIX.findall(binary.asm["ptx"])
    matrix = ", ".join(f"{found.count(name)} {name}" for name in dict.fromkeys(found))
    return _Binary(resources(binary.asm["cubin"]), binary.metadata.shared, matrix)


def compiled(launch: Launch, device: Device) -> Report:
    """Compile a launch for a device, and hold it against the device's limits.

    The machine code does not depend on how many programs there are, so it is made once.
    """
    options = dict(launch.options)
    binary = _binary(replace(launch, grid=()), device)
    registers, shared, warps = binary.found.registers, binary.shared, options["num_warps"]
    # Registers are dealt out to warps in units of 256, shared memory with 1 KB for the system.
    of_warp = -(-registers * 32 // 256) * 256
    occupancy = min(_REGISTERS // (of_warp * warps), _THREADS // (32 * warps))
    occupancy = min(occupancy, (device.shared + 1024) // (shared + 1024))
    programs = math.prod(launch.grid)
    faults = []
    if binary.found.spills:
        faults.append(
            f"spills {binary.found.stack} bytes a thread, which {binary.found.spills} "
            "instructions in loops touch"
        )
    if shared > device.shared:
        faults.append(f"wants {shared} bytes of shared memory, and there are {device.shared}")
    if options.get("launch_cooperative_grid") and programs > occupancy * device.processors:
        faults.append(f"{programs} programs do not run at once")
    return Report(
        launch.kernel.__name__, programs, warps, registers, binary.found.stack,
        binary.found.spills, shared, binary.matrix, occupancy, tuple(faults),
    )  # fmt: skip


def representative() -> list[Shape]:
    """Shapes that between them get every form, and the ends of its range."""
    bf16, f32 = torch.bfloat16, torch.float32
    shapes = [
        Shape(cell, dtype, hidden, 16)
        for cell, dtype, hidden in (
            ("lstm", bf16, 64), ("lstm", bf16, 128), ("lstm", bf16, 512), ("lstm", bf16, 1024),
            ("gru", bf16, 128), ("gru", bf16, 1024), ("rnn_tanh", bf16, 512),
            ("lstm", torch.float16, 768), ("lstm", f32, 64), ("lstm", f32, 512),
            ("lstm", torch.float64, 64),
        )
    ]  # fmt: skip
    shapes += [replace(shape, precision="tf32") for shape in shapes if shape.dtype == f32]
    shapes += [
        Shape("lstm", bf16, 100, 16, projection=40),
        Shape("gru", bf16, 256, 64, recurrences=2, packed=True),
        Shape("lstm", bf16, 512, 256),
        Shape("lstm", bf16, 1024, 256),
        Shape("lstm", bf16, 2048, 16),
        Shape("lstm", f32, 768, 64, precision="tf32"),
        Shape("lstm", bf16, 600, 20, recurrences=2, projection=300, packed=True),
    ]
    # Each other cell once in each form that takes it.
    shapes += [
        Shape(cell, bf16, hidden, 16)
        for cell in sorted(NAMES)
        if CELLS[cell].torch_layer is None
        for hidden in (64, 512)
    ]
    shapes += [Shape("min_gru", torch.float64, 64, 16), Shape("layer_norm_lstm", f32, 2048, 16)]
    # What is done to sequences: each alone where it is cheap, and all together.
    shapes += [Shape("lstm", bf16, 128, 16, options=name) for name in OPTIONS]
    shapes += [
        Shape(cell, bf16, hidden, 16, options="everything")
        for cell, hidden in (
            ("lstm", 512), ("gru", 128), ("gru", 512), ("rnn_tanh", 128), ("layer_norm_lstm", 64),
            ("gru_reset_before", 64), ("gru_reset_before", 512), ("min_gru", 512),
        )
    ]  # fmt: skip
    shapes.append(Shape("lstm", bf16, 100, 16, projection=40, options="everything"))
    shapes.append(Shape("lstm", bf16, 600, 20, projection=300, options="everything"))
    shapes.append(Shape("lstm", f32, 64, 16, options="everything"))
    return shapes


def of_the_grid() -> list[Shape]:
    """The shapes of the benchmark's grid."""
    kinds = [(torch.bfloat16, ""), (torch.float16, ""), (torch.float32, "tf32")]
    kinds.append((torch.float32, "tf32x3"))
    return [
        Shape(cell, dtype, hidden, batch, recurrences, precision=precision or "tf32x3")
        for cell in ("lstm", "gru", "rnn_tanh")
        for dtype, precision in kinds
        for hidden in (64, 128, 192, 256, 512, 768, 1024, 2048)
        for batch in (1, 16, 64, 256)
        for recurrences in (1, 2)
    ]
