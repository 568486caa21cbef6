"""The simple form: each step a product of torch's and a fused kernel for the rest.

It takes any size and dtype, and nothing in it waits for the device, so a CUDA graph can hold it.
Products are torch's own and follow ``torch.set_float32_matmul_precision``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
from torch import Tensor

from ..kernels import step as kernels
from .call import Call

_BLOCK_B = 4
_OPTIONS = {"num_warps": 4, "enable_fp_fusion": True}


class _Product:
    """``x [N, B, C] . weight [N, C, M]``, in the dtype of accumulation, into one buffer."""

    def __init__(self, weight: Tensor, batch: int, wide: torch.dtype) -> None:
        self._wide = wide
        self._mixed = weight.dtype != wide and weight.is_cuda and _sums_wide()
        self._weight = weight if self._mixed else weight.to(wide)
        self.result = weight.new_zeros(weight.shape[0], batch, weight.shape[2], dtype=wide)

    def __call__(self, x: Tensor) -> Tensor:
        if self._mixed:
            return torch.bmm(x, self._weight, out_dtype=self._wide, out=self.result)
        return torch.bmm(x.to(self._wide), self._weight, out=self.result)


def _sums_wide() -> bool:
    """Whether torch's product of narrow numbers can return its float32 sums (torch 2.8)."""
    return hasattr(torch.ops.aten.bmm, "dtype_out")


def _launch(call: Call, width: int) -> tuple[tuple[int], dict[str, int]]:
    """Grid and blocks of a kernel over ``[N, B, width]``."""
    block = min(triton.next_power_of_2(width), 128)
    grid = call.N * triton.cdiv(call.B, _BLOCK_B) * triton.cdiv(width, block)
    return (grid,), {"BLOCK_B": _BLOCK_B, "BLOCK_H": block, **_OPTIONS}


def forward(
    call: Call,
    gates_x: Tensor,
    weight_hh: Tensor,
    bias_hh: Tensor | None,
    weight_hr: Tensor | None,
    states: Sequence[Tensor],
    out: Tensor,
    finals: Sequence[Tensor],
    saved: Sequence[Tensor],
) -> None:
    h = finals[0].copy_(states[0])
    wide = h if h.dtype == call.wide else h.to(call.wide)
    extra = call.gather(states[1:])
    product = _Product(weight_hh.transpose(1, 2), call.B, call.wide)
    bias = gates_x if bias_hh is None else bias_hh.contiguous()
    if weight_hr is not None:
        hidden = h.new_zeros(call.N, call.B, call.H)
        project = _Product(weight_hr.transpose(1, 2), call.B, call.wide)
    else:
        hidden = h
    grid, blocks = _launch(call, call.H)
    grid_k, blocks_k = _launch(call, call.K)
    options = call.forward_options | blocks
    for p in range(call.T):
        where = (call.starts, call.reverse, p, call.T, call.B, call.N)
        gates_h = product(h)
        kernels.forward_step[grid](
            gates_x, gates_h, bias, hidden, wide, extra, out,
            saved[0] if saved else out, saved[-1] if saved else out, *where,
            BIAS=bias_hh is not None, SAVE=bool(saved), **options,
        )  # fmt: skip
        if weight_hr is not None:
            kernels.place_projected[grid_k](
                project(hidden), h, out, *where,
                K=call.K, WIDE=options["WIDE"], PACKED=call.packed, **blocks_k,
            )  # fmt: skip
    for final, state in zip(finals[1:], extra, strict=True):
        final.copy_(state)


def backward(
    call: Call,
    weight_hh: Tensor,
    weight_hr: Tensor | None,
    states: Sequence[Tensor],
    out: Tensor,
    saved: Sequence[Tensor],
    grad_out: Tensor,
    grad_finals: Sequence[Tensor],
    found: Sequence[Tensor],
) -> None:
    sides = 2 if call.spec.apart else 1
    grad_states = found[sides : sides + len(states)]
    dh = grad_finals[0].to(call.wide, copy=True)
    dextra = call.gather(grad_finals[1:])
    extra_0 = call.gather(states[1:])
    da = out.new_zeros(call.N, call.B, call.spec.num_gates * call.H)
    product = _Product(weight_hh, call.B, call.wide)
    came = product.result  # nothing yet
    if weight_hr is not None:
        arrived = out.new_empty(call.N, call.B, call.K)
        project = _Product(weight_hr, call.B, call.wide)
    grid, blocks = _launch(call, call.H)
    grid_k, blocks_k = _launch(call, call.K)
    options = call.backward_options | blocks
    for p in range(call.T - 1, -1, -1):
        where = (call.starts, call.reverse, p, call.T, call.B, call.N)
        if weight_hr is not None:
            kernels.arrive_projected[grid_k](
                product.result, dh, grad_out, arrived, found[-2], *where,
                K=call.K, WIDE=options["WIDE"], PACKED=call.packed, **blocks_k,
            )  # fmt: skip
            came = project(arrived)
        kernels.backward_step[grid](
            saved[0], out if weight_hr is None else saved[1], states[0], extra_0, grad_out, came,
            dh, dextra, da, found[0], found[sides - 1], *where, **options,
        )  # fmt: skip
        product(da)
    grad_states[0].copy_(dh + product.result)
    for grad, state in zip(grad_states[1:], dextra, strict=True):
        grad.copy_(state)
