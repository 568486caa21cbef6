"""Launches the form of sequences that one program has to itself (`fastrnn.kernels.rows`)."""

from __future__ import annotations

from typing import Any

import torch
import triton

from ..kernels import rows as kernels
from .call import Backward, Call, Forward
from .plan import Plan


def _launch(call: Call, plan: Plan, precision: str) -> tuple[tuple[int], dict[str, Any]]:
    grid = call.N * triton.cdiv(call.B, plan.block_b)
    if not call.spec.recurrent:
        grid *= triton.cdiv(call.H, plan.block_h)
    return (grid,), {
        "K": call.K,
        "RECURRENT": call.spec.recurrent,
        "FIRST": call.first,
        "PROJ_CLIP": call.proj_clip,
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


def forward(call: Call, plan: Plan, precision: str, given: Forward) -> None:
    extra_0 = call.gather(given.states[1:])
    extra, others = torch.empty_like(extra_0), call.results_together(given.others)
    grid, blocks = _launch(call, plan, precision)
    kernels.forward_rows[grid](
        given.gates_x, given.gates_x if given.weight_hh is None else given.weight_hh,
        given.gates_x if given.bias_hh is None else given.bias_hh,
        given.gates_x if given.weight_hr is None else given.weight_hr, call.params,
        given.states[0], extra_0, given.out, others, given.finals[0], extra,
        given.saved[0] if given.saved else extra,
        given.saved[1] if given.saved and call.projected else given.out,
        call.starts, call.reverse, *call.sequence, call.S, call.T, call.B, call.N,
        BIAS=given.bias_hh is not None, SAVE=bool(given.saved), OPERAND=call.operands[0],
        **call.kept(given.saved), **call.forward_options, **call.sequence_options, **blocks,
    )  # fmt: skip
    call.hand_out(others, given.others)
    for final, state in zip(given.finals[1:], extra, strict=True):
        final.copy_(state)


def backward(call: Call, plan: Plan, precision: str, given: Backward) -> None:
    dextra = call.gather(given.grad_finals[1:])
    dgiven_s = call.results_together(given.grad_resets[1:])
    dparams = call.params_gradients()
    projected = given.weight_hr is not None
    dh = torch.empty_like(given.grad_finals[0], dtype=call.wide)
    grid, blocks = _launch(call, plan, precision)
    kernels.backward_rows[grid](
        given.out if given.weight_hh is None else given.weight_hh,
        given.weight_hr if projected else given.out, call.params,
        given.saved[0], given.saved[1] if projected else given.out, given.states[0],
        call.gather(given.states[1:]), given.grad_out, call.together(given.grad_others),
        given.grad_finals[0], dextra, given.grad_resets[0] if given.grad_resets else dextra,
        dgiven_s, dparams, given.dgates_x, given.dgates_h, given.dproj, given.operand,
        dh, dextra, call.starts, call.reverse, *call.sequence,
        call.S, call.T, call.B, call.N, THROUGH=call.operands[1], **call.kept(given.saved),
        **call.backward_options, **call.sequence_options, **blocks,
    )  # fmt: skip
    call.hand_out(dgiven_s, given.grad_resets[1:])
    call.finish_gradients(given, dh, dextra, dh, dextra, dparams)
