"""What is measured, the most telling first: a run that is out of time has the best part."""

from __future__ import annotations

from dataclasses import dataclass

import torch

CELLS = ("LSTM", "GRU", "RNN")
HIDDEN = (64, 128, 192, 256, 512, 768, 1024, 2048)
BATCH = (1, 16, 64, 256)
KINDS = ("1 layer", "2 layers bidirectional", "packed")
DTYPES = ("bfloat16", "tf32", "float16")


@dataclass(frozen=True)
class Case:
    """A layer and its input; I = H."""

    cell: str
    dtype: str  # or "tf32": float32 with torch's leave to round products
    hidden: int
    batch: int
    kind: str = "1 layer"
    steps: int = 512

    def __str__(self) -> str:
        return f"{self.cell} {self.dtype} H{self.hidden} B{self.batch} T{self.steps} {self.kind}"

    @property
    def torch_dtype(self) -> torch.dtype:
        return torch.float32 if self.dtype == "tf32" else getattr(torch, self.dtype)


def cases() -> list[Case]:
    """PyTorch's own default benchmark, then the grid."""
    found = [Case("LSTM", "tf32", 512, 64, steps=100), Case("LSTM", "bfloat16", 512, 64, steps=100)]
    for kind in KINDS:
        for dtype in DTYPES:
            for cell in CELLS:
                found += [Case(cell, dtype, h, b, kind) for h in HIDDEN for b in BATCH]
    return found


def for_a_dry_run() -> list[Case]:
    return [Case("LSTM", "bfloat16", 5, 2, kind, 3) for kind in KINDS] + [
        Case("GRU", "tf32", 5, 2, steps=3)
    ]
