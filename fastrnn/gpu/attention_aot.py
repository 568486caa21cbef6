"""Attention's part of `fastrnn.gpu.aot`: its launches, recorded on tensors without memory."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..reference_attention import WEIGHTS, Inputs
from . import INTERPRETED, aot, attention_call
from .plan import Device


@dataclass(frozen=True)
class Shape:
    """A call, as far as its kernels depend on it."""

    kind: str
    dtype: torch.dtype
    E: int
    Ev: int
    Tq: int = 4096
    Tk: int = 4096
    heads: int = 16
    groups: int = 1
    options: tuple[str, ...] = ()  # of "ranges", "mask", "local", "dropout", "softcap", "weights"
    precision: str = "tf32x3"  # of float32 products

    def __str__(self) -> str:
        dtype = str(self.dtype).removeprefix("torch.")
        if self.dtype == torch.float32:
            dtype = self.precision
        parts = [self.kind, dtype, f"E{self.E}"] + [f"Ev{self.Ev}"] * (self.Ev != self.E)
        parts += ["decode" if self.Tq == 1 else f"Tq{self.Tq}"] * (self.Tq != self.Tk)
        return " ".join([*parts, *[f"groups{self.groups}"] * (self.groups > 1), *self.options])


def launches(shape: Shape, device: Device) -> list[aot.Launch]:
    """The launches of a forward and a backward, each once."""
    if INTERPRETED:
        raise RuntimeError("TRITON_INTERPRET is set, and the interpreter compiles nothing")
    from . import attention

    def meta(*sizes: int, dtype: torch.dtype = shape.dtype) -> Tensor:
        return torch.empty(sizes, dtype=dtype, device="meta")

    heads, queries, keys = shape.heads, shape.Tq, shape.Tk
    shared = heads // shape.groups
    lines = (1, heads, queries)
    has = shape.options.__contains__
    ranges = [meta(*lines, dtype=torch.int32) for _ in range(2)]
    local = [meta(*lines, dtype=torch.float32) for _ in range(2)]
    ranged, at_centres = has("ranges"), has("local")
    inputs = Inputs(
        shape.kind,
        meta(1, heads, queries, shape.E),
        meta(1, shared, keys, shape.E),
        meta(1, shared, keys, shape.Ev),
        meta(1, heads, shape.E) if shape.kind == "additive" else None,
        meta(1, heads, queries, keys) if has("mask") else None,
        ranges[0] if ranged else None,
        ranges[1] if ranged else None,
        local[0] if at_centres else None,
        local[1] if at_centres else None,
        meta(dtype=torch.int64) if has("dropout") else None,
        heads, 0.125, 2.0 if has("softcap") else 0.0, 0.1 if has("dropout") else 0.0,
        WEIGHTS if has("weights") else 0,
    )  # fmt: skip
    attention_call.planned_for = (device, shape.precision)
    try:
        with aot._recorded() as found:
            out, lse, extra = attention.attention(inputs)
            attention.attention_backward(inputs, out, lse, extra, out, None, extra, has("mask"))
    finally:
        attention_call.planned_for = None
    return list(dict.fromkeys(found))


def representative() -> list[Shape]:
    """Shapes that between them get every tile, and each option once."""
    bf16, f16, f32 = torch.bfloat16, torch.float16, torch.float32
    shapes = [Shape("dot", bf16, width, width) for width in (64, 128, 256)]
    shapes += [
        Shape("dot", bf16, 64, 64, options=("ranges",)),
        Shape("dot", bf16, 128, 128, options=("ranges",)),
        Shape("dot", f16, 96, 40, options=("ranges", "mask", "softcap")),
        Shape("dot", bf16, 64, 64, options=("dropout", "weights")),
        Shape("dot", bf16, 64, 64, options=("ranges", "local")),
        Shape("dot", bf16, 128, 128, Tq=1),
        Shape("dot", bf16, 128, 128, Tq=40),
        Shape("dot", bf16, 128, 128, Tq=1, groups=8),
        Shape("additive", bf16, 256, 128),
        Shape("additive", f32, 256, 256, options=("ranges",)),
        Shape("additive", f32, 256, 256, Tq=1, options=("ranges",)),
    ]
    for width in (64, 128, 256):
        shapes += [Shape("dot", f32, width, width, precision=p) for p in ("tf32x3", "tf32")]
    return shapes
