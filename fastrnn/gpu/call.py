"""One scan as the kernels see it: its sizes, and where the steps of its sequences lie."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import triton.language as tl
from torch import Tensor

from ..cells import CellSpec
from ..kernels.cells import functions
from ..reference import accumulation_dtype

_TRITON = {torch.float32: tl.float32, torch.float64: tl.float64}


@dataclass(frozen=True)
class Call:
    """Letters as in `fastrnn.reference`."""

    spec: CellSpec
    dtype: torch.dtype
    device: torch.device
    T: int
    B: int
    N: int
    H: int
    K: int
    projected: bool
    # int64 [T+1], the first row of each step; where nothing is packed, any tensor.
    starts: Tensor
    packed: bool
    # int32 [N]
    reverse: Tensor

    @classmethod
    def of(
        cls,
        spec: CellSpec,
        gates_x: Tensor,
        projected: bool,
        states: Sequence[Tensor],
        batch_sizes: Tensor | None,
        reverse: Sequence[bool],
    ) -> Call:
        rows, recurrences, width = gates_x.shape
        batch, k = states[0].shape[1:]
        device = gates_x.device
        flags = _flags(tuple(map(bool, reverse)), device)
        if batch_sizes is None:
            steps, starts = (rows // batch if batch else 0), flags
        else:
            steps, starts = batch_sizes.shape[0], _starts(batch_sizes, device)
        return cls(
            spec, gates_x.dtype, device, steps, batch, recurrences, width // spec.num_gates, k,
            projected, starts, batch_sizes is not None, flags,
        )  # fmt: skip

    @property
    def wide(self) -> torch.dtype:
        """The dtype of states and sums."""
        return accumulation_dtype(self.dtype)

    @property
    def extra(self) -> int:
        """States beside h."""
        return len(self.spec.states) - 1

    def gather(self, tensors: Sequence[Tensor]) -> Tensor:
        """The states beside h in one tensor of the dtype of accumulation, ``[X, N, B, H]``."""
        if tensors:
            return torch.stack([tensor.to(self.wide) for tensor in tensors])
        return torch.empty(0, dtype=self.wide, device=self.device)

    @property
    def forward_options(self) -> dict[str, Any]:
        """The constants that every forward kernel with a cell in it takes."""
        return {"CELL": functions(self.spec.name)[0], **self._options}

    @property
    def backward_options(self) -> dict[str, Any]:
        options = {"SAVED": len(self.spec.saved), "APART": bool(self.spec.apart)}
        return {"CELL": functions(self.spec.name)[1], **options, **self._options}

    @property
    def _options(self) -> dict[str, Any]:
        return {
            "G": self.spec.num_gates,
            "X": self.extra,
            "H": self.H,
            "WIDE": _TRITON[self.wide],
            "READS_H": self.spec.reads_h,
            "PACKED": self.packed,
            "PROJECTED": self.projected,
        }


@functools.lru_cache(maxsize=256)
def _flags(reverse: tuple[bool, ...], device: torch.device) -> Tensor:
    """On the device once and for all: a copy from the host has no place in a CUDA graph."""
    return torch.tensor(reverse, dtype=torch.int32, device=device)


def _starts(batch_sizes: Tensor, device: torch.device) -> Tensor:
    starts = torch.zeros(batch_sizes.shape[0] + 1, dtype=torch.int64)
    torch.cumsum(batch_sizes, 0, out=starts[1:])
    if device.type != "cuda":
        return starts.to(device)
    # From pinned memory the copy waits for nothing; torch keeps the memory until it is done.
    return starts.pin_memory().to(device, non_blocking=True)
