"""Whether the Triton backend can compute an attention; asked before Triton is imported."""

from __future__ import annotations

import torch
from torch.autograd import forward_ad

from .. import gpu

KINDS = ("dot", "additive")
WIDEST = 256  # numbers a query or value: beyond it a tile outgrows the registers


def why_not(
    kind: str, device: torch.device, dtype: torch.dtype, widths: tuple[int, int] | None
) -> str | None:
    """The reason this backend cannot serve, None if it can; ``widths``: of keys and of values."""
    reason = gpu._missing or gpu._why_not_on(device)
    if reason is not None:
        return reason
    if dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return f"it has no attention kernel for {dtype}"
    if kind not in KINDS:
        return f"it has no kernel for the score {kind!r}"
    if forward_ad._current_level >= 0:
        return "it has no forward-mode differentiation"
    if widths is not None:
        if kind == "dot" and widths[0] > WIDEST:
            return f"queries and keys of {widths[0]} numbers are wider than {WIDEST}"
        if widths[1] > WIDEST:
            return f"values of {widths[1]} numbers are wider than {WIDEST}"
    return None
