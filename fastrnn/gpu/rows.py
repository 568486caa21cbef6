"""Launches the form for small hidden sizes (`fastrnn.kernels.rows`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import triton
from torch import Tensor

from ..kernels import rows as kernels
from .call import Call
from .plan import Plan


def _launch(call: Call, plan: Plan, precision: str) -> tuple[tuple[int], dict[str, Any]]:
    grid = call.N * triton.cdiv(call.B, plan.block_b)
    return (grid,), {
        "K": call.K,
        "PRECISION": precision,
        "HELD": plan.held,
        "BLOCK_B": plan.block_b,
        "BLOCK_H": plan.block_h,
        "BLOCK_K": plan.block_k,
        "num_warps": plan.warps,
        "num_stages": 1,
        "maxnreg": 255,
        "enable_fp_fusion": True,
    }


def forward(
    call: Call,
    plan: Plan,
    precision: str,
    gates_x: Tensor,
    weight_hh: Tensor,
    bias_hh: Tensor | None,
    weight_hr: Tensor | None,
    states: Sequence[Tensor],
    out: Tensor,
    finals: Sequence[Tensor],
    saved: Sequence[Tensor],
) -> None:
    extra = call.gather(states[1:])
    grid, blocks = _launch(call, plan, precision)
    kernels.forward_rows[grid](
        gates_x,
        weight_hh.contiguous(),
        gates_x if bias_hh is None else bias_hh.contiguous(),
        weight_hh if weight_hr is None else weight_hr.contiguous(),
        states[0], extra, out, finals[0], extra,
        saved[0] if saved else extra, saved[-1] if saved else out,
        call.starts, call.reverse, call.T, call.B, call.N,
        BIAS=bias_hh is not None, SAVE=bool(saved), **call.forward_options, **blocks,
    )  # fmt: skip
    for final, state in zip(finals[1:], extra, strict=True):
        final.copy_(state)


def backward(
    call: Call,
    plan: Plan,
    precision: str,
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
    dextra = call.gather(grad_finals[1:])
    grid, blocks = _launch(call, plan, precision)
    kernels.backward_rows[grid](
        weight_hh.contiguous(),
        weight_hh if weight_hr is None else weight_hr.contiguous(),
        saved[0], out if weight_hr is None else saved[1], states[0], call.gather(states[1:]),
        grad_out, grad_finals[0], dextra, found[0], found[sides - 1],
        found[0] if weight_hr is None else found[-2], grad_states[0], dextra,
        call.starts, call.reverse, call.T, call.B, call.N,
        **call.backward_options, **blocks,
    )  # fmt: skip
    for grad, state in zip(grad_states[1:], dextra, strict=True):
        grad.copy_(state)
