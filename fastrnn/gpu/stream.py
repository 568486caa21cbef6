"""Launches the form whose weights no chip holds (`fastrnn.kernels.stream`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
from torch import Tensor

from ..kernels import stream as kernels
from . import grid
from .call import Call
from .plan import Plan


def _launch(call: Call, plan: Plan, precision: str) -> tuple[tuple[int], dict[str, Any]]:
    options = {
        "K": call.K,
        "PRECISION": precision,
        "BLOCK_B": plan.block_b,
        "BLOCK_H": plan.block_h,
        "BLOCK_K": plan.block_k,
        "BLOCK_P": plan.block_p,
        "num_warps": plan.warps,
        "num_stages": plan.stages,
        "enable_fp_fusion": True,
    }
    return (plan.programs,), options | grid.cooperative()


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
    grid.check(call.device)
    exchange = torch.stack([states[0], states[0]])
    wide = states[0].to(call.wide, copy=True)
    extra = call.gather(states[1:])
    arrived = exchange if weight_hr is None else out.new_zeros(call.N, call.B, call.H)
    launch, options = _launch(call, plan, precision)
    kernels.forward_stream[launch](
        gates_x,
        weight_hh.contiguous(),
        gates_x if bias_hh is None else bias_hh.contiguous(),
        weight_hh if weight_hr is None else weight_hr.contiguous(),
        exchange, arrived, wide, extra, out,
        saved[0] if saved else extra, saved[-1] if saved else out,
        call.starts, call.reverse, grid.counters(call, 1), grid.failed(call.device),
        call.T, call.B, call.N, grid.PATIENCE,
        BIAS=bias_hh is not None, SAVE=bool(saved), **call.forward_options, **options,
    )  # fmt: skip
    for final, state in zip(finals, (wide, *extra), strict=True):
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
    grid.check(call.device)
    sides = 2 if call.spec.apart else 1
    exchange = out.new_zeros(2, call.N, call.B, call.spec.num_gates * call.H)
    arrived = exchange if weight_hr is None else out.new_zeros(call.N, call.B, call.K)
    dh = grad_finals[0].to(call.wide, copy=True)
    dextra = call.gather(grad_finals[1:])
    launch, options = _launch(call, plan, precision)
    kernels.backward_stream[launch](
        weight_hh.contiguous(),
        weight_hh if weight_hr is None else weight_hr.contiguous(),
        exchange, arrived, saved[0], out if weight_hr is None else saved[1], states[0],
        call.gather(states[1:]), grad_out, dh, dextra, found[0], found[sides - 1],
        found[0] if weight_hr is None else found[-2],
        call.starts, call.reverse, grid.counters(call, 1), grid.failed(call.device),
        call.T, call.B, call.N, grid.PATIENCE, **call.backward_options, **options,
    )  # fmt: skip
    for grad, state in zip(found[sides : sides + len(states)], (dh, *dextra), strict=True):
        grad.copy_(state)
