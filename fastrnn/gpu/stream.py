"""Launches the form whose weights no chip holds (`fastrnn.kernels.stream`)."""

from __future__ import annotations

from typing import Any

import torch

from ..kernels import stream as kernels
from . import grid
from .call import Backward, Call, Forward
from .plan import Plan


def _options(call: Call, plan: Plan) -> dict[str, Any]:
    return {
        "K": call.K,
        "BLOCK_B": plan.block_b,
        "BLOCK_H": plan.block_h,
        "BLOCK_P": plan.block_p,
        "num_warps": plan.warps,
        "num_stages": plan.stages,
        "maxnreg": plan.registers,
        "enable_fp_fusion": True,
    }


def forward(call: Call, plan: Plan, precision: str, given: Forward) -> None:
    grid.check(call.device)
    launch, options = (plan.programs,), _options(call, plan)
    extra_0 = call.gather(given.states[1:])
    # The first step finds h in 0; where it has no sequence, the second finds it in 1.
    exchange = torch.stack([given.states[0], given.states[0]])
    wide, extra = given.states[0].to(call.wide, copy=True), extra_0.clone()
    where = (call.starts, call.reverse)
    sizes = (call.S, call.T, call.B, call.N)
    sequence = call.sequence
    if call.moved:
        kernels.begin_stream[launch](
            exchange, wide, extra, given.states[0], extra_0, *where, *sequence[:5], *sizes,
            **call.begin_options, **options,
        )  # fmt: skip
    h = given.out if given.weight_hr is None else given.out.new_zeros(call.N, call.B, call.H)
    projected = bool(given.saved) and call.projected
    others = call.results_together(given.others)
    kernels.forward_stream[launch](
        given.gates_x, given.weight_hh,
        given.gates_x if given.bias_hh is None else given.bias_hh,
        given.weight_hh if given.weight_hr is None else given.weight_hr, call.params,
        exchange, h, wide, extra, given.states[0], extra_0, given.out, others,
        given.saved[0] if given.saved else extra, given.saved[1] if projected else given.out,
        *where, *sequence, grid.counters(call, 1),
        grid.failed(call.device), *sizes, grid.PATIENCE,
        BIAS=given.bias_hh is not None, SAVE=bool(given.saved), PRECISION=precision,
        PROJ_CLIP=call.proj_clip, BLOCK_K=plan.block_k, **call.kept(given.saved),
        **call.forward_options, **call.sequence_options, **options, **grid.cooperative(),
    )  # fmt: skip
    call.hand_out(others, given.others)
    for final, state in zip(given.finals, (wide, *extra), strict=True):
        final.copy_(state)


def backward(call: Call, plan: Plan, precision: str, given: Backward) -> None:
    grid.check(call.device)
    launch, options = (plan.programs,), _options(call, plan)
    exchange = given.out.new_zeros(2, call.N, call.B, call.spec.num_gates * call.H)
    projected = given.weight_hr is not None
    arrived = given.out.new_zeros(call.N, call.B, call.K) if projected else exchange
    dh = given.grad_finals[0].to(call.wide, copy=True)
    dextra = call.gather(given.grad_finals[1:])
    dh_initial, ds_initial = call.initial_gradients(dh, dextra)
    dgiven_s = call.results_together(given.grad_resets[1:])
    dparams = call.params_gradients()
    kernels.backward_stream[launch](
        given.weight_hh, given.weight_hr if projected else given.weight_hh, call.params,
        exchange, arrived, given.saved[0], given.saved[1] if projected else given.out,
        given.states[0], call.gather(given.states[1:]), given.grad_out,
        call.together(given.grad_others), dh, dextra, dh_initial, ds_initial,
        given.grad_resets[0] if given.grad_resets else dh, dgiven_s, dparams,
        given.dgates_x, given.dgates_h, given.dproj, call.starts,
        call.reverse, *call.sequence, grid.counters(call, 1), grid.failed(call.device),
        call.S, call.T, call.B, call.N, grid.PATIENCE,
        PRECISION=precision, PROJ_CLIP=call.proj_clip, BLOCK_K=plan.block_k,
        **call.kept(given.saved), **call.backward_options, **call.sequence_options, **options,
        **grid.cooperative(),
    )  # fmt: skip
    call.hand_out(dgiven_s, given.grad_resets[1:])
    call.finish_gradients(given, dh, dextra, dh_initial, ds_initial, dparams)
