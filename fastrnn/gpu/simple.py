"""The simple form: each step a product of torch's and a fused kernel for the rest.

It takes any size and dtype, and nothing in it waits for the device, so a CUDA graph can hold it.
Products are torch's own and follow ``torch.set_float32_matmul_precision``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
from torch import Tensor

from ..kernels import step as kernels
from .call import Backward, Call, Forward
from .plan import Plan

_BLOCK_B = 4


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


def _launch(call: Call, width: int, rows: bool = False) -> tuple[tuple[int], dict[str, Any]]:
    """Grid and blocks of a kernel over ``[N, B, width]``, or over whole rows of it."""
    block = triton.next_power_of_2(width)
    block_b, warps = _BLOCK_B, 4
    if rows:  # a few numbers a thread, for each of some forty tiles
        block_b, warps = 1, min(max(block // 64, 1), 32)
    else:
        block = min(block, 128)
    grid = call.N * triton.cdiv(call.B, block_b) * triton.cdiv(width, block)
    blocks = {"BLOCK_B": block_b, "BLOCK_H": block, "num_warps": warps, "enable_fp_fusion": True}
    return (grid,), blocks


def _products(weight: Tensor | None, call: Call, forward: bool) -> list[_Product]:
    """One, or of a cell with two that of the first gates and that of the last."""
    assert weight is not None, "cells without a recurrent product are another form's"
    parts = weight.split([call.first * call.H, (call.spec.num_gates - call.first) * call.H], 1)
    wanted = parts if call.spec.second else parts[:1]
    return [
        _Product(part.transpose(1, 2) if forward else part, call.B, call.wide) for part in wanted
    ]


def forward(call: Call, plan: Plan, precision: str, given: Forward) -> None:
    """``plan`` and ``precision`` say nothing that matters here."""
    extra_0 = call.gather(given.states[1:])
    h = given.states[0].clone()
    wide, extra = given.states[0].to(call.wide, copy=True), extra_0.clone()
    product, *second = _products(given.weight_hh, call, forward=True)
    hidden = h
    if given.weight_hr is not None:
        hidden = h.new_zeros(call.N, call.B, call.H)
        project = _Product(given.weight_hr.transpose(1, 2), call.B, call.wide)
    operand = h.new_zeros(h.shape) if second else h
    bias = given.gates_x if given.bias_hh is None else given.bias_hh
    others = call.results_together(given.others)
    grid, blocks = _launch(call, call.H, call.spec.whole_row)
    grid_k, blocks_k = _launch(call, call.K)
    options = call.forward_options | call.sequence_options | call.kept(given.saved) | blocks
    options |= {"FIRST": call.first, "BIAS": given.bias_hh is not None, "SAVE": bool(given.saved)}
    options_k = _of_projection(call, given.saved) | {"SAVE": bool(given.saved)} | blocks_k
    sequence, reserve = call.sequence, given.saved[0] if given.saved else extra
    if call.moved:
        widest, blocks_w = _launch(call, max(call.H, call.K))
        kernels.begin_step[widest](
            h, wide, extra, given.states[0], extra_0, call.starts, call.reverse, *sequence[:5],
            call.S, call.T, call.B, call.N, K=call.K, **call.begin_options, **blocks_w,
        )  # fmt: skip
    for p in range(call.T):
        where = (call.starts, call.reverse, *sequence, p, call.S, call.T, call.B, call.N)
        gates = last = product(h)
        for of_operand in second:
            kernels.operand_step[grid](
                given.gates_x, gates, bias, wide, operand, *where, OPERAND=call.operands[0],
                **_chosen(options, kernels.operand_step),
            )  # fmt: skip
            last = of_operand(operand)
        kernels.forward_step[grid](
            given.gates_x, gates, last, bias, call.params, hidden, wide, extra, given.states[0],
            extra_0, given.out, others, reserve,
            given.saved[1] if given.saved and call.projected else given.out, *where, **options,
        )  # fmt: skip
        if given.weight_hr is not None:
            kernels.place_projected[grid_k](
                project(hidden), h, wide, given.states[0], given.out, reserve, *where, **options_k,
            )  # fmt: skip
    call.hand_out(others, given.others)
    for final, state in zip(given.finals, (wide, *extra), strict=True):
        final.copy_(state)


def backward(call: Call, plan: Plan, precision: str, given: Backward) -> None:
    dh = given.grad_finals[0].to(call.wide, copy=True)
    dextra = call.gather(given.grad_finals[1:])
    extra_0 = call.gather(given.states[1:])
    dh_initial, ds_initial = call.initial_gradients(dh, dextra)
    dgiven_h = given.grad_resets[0] if given.grad_resets else dh
    dgiven_s = call.results_together(given.grad_resets[1:])
    dparams = call.params_gradients()
    product, *second = _products(given.weight_hh, call, forward=False)
    came = product.result  # nothing yet
    # Of the gates whose gradients are complete after the cell, and of those that wait.
    waiting = call.first if second else 0
    da = given.out.new_zeros(call.N, call.B, (call.spec.num_gates - waiting) * call.H)
    first = given.out.new_zeros(call.N, call.B, waiting * call.H) if second else da
    partial = first.to(call.wide) if second else da
    projected = given.weight_hr is not None
    if given.weight_hr is not None:
        arrived = given.out.new_empty(call.N, call.B, call.K)
        project = _Product(given.weight_hr, call.B, call.wide)
    grid, blocks = _launch(call, call.H, call.spec.whole_row)
    grid_k, blocks_k = _launch(call, call.K)
    options = call.backward_options | call.sequence_options | call.kept(given.saved) | blocks
    options["WAITING"] = waiting
    options_k = _of_projection(call, given.saved) | blocks_k
    grad_others, sequence = call.together(given.grad_others), call.sequence
    for p in range(call.T - 1, -2, -1):  # the last leads to the initial states
        where = (call.starts, call.reverse, *sequence, p, call.S, call.T, call.B, call.N)
        if projected:
            kernels.arrive_projected[grid_k](
                product.result, dh, dh_initial, dgiven_h, given.grad_out, arrived, given.dproj,
                given.saved[0], *where, **options_k,
            )  # fmt: skip
            if p < 0:
                break
            came = project(arrived)
        kernels.backward_step[grid](
            call.params, given.saved[0], given.saved[1] if projected else given.out,
            given.states[0], extra_0, given.grad_out, grad_others, came, dh, dextra, dh_initial,
            ds_initial, dgiven_h, dgiven_s, dparams, da, partial, given.dgates_x, given.dgates_h,
            *where, **options,
        )  # fmt: skip
        if p < 0:
            break
        for of_operand in second:
            kernels.through_operand_step[grid](
                given.saved[0], given.out, given.states[0], of_operand(da), partial, dh, first,
                given.dgates_x, given.operand, *where, THROUGH=call.operands[1],
                **_chosen(options, kernels.through_operand_step),
            )  # fmt: skip
        product(first)
    call.hand_out(dgiven_s, given.grad_resets[1:])
    call.finish_gradients(given, dh, dextra, dh_initial, ds_initial, dparams)


def _of_projection(call: Call, saved: Sequence[Tensor]) -> dict[str, Any]:
    begin = call.begin_options
    constants: dict[str, Any] = {"K": call.K, "WIDE": begin["WIDE"], "PACKED": call.packed}
    constants |= {"PROJ_CLIP": call.proj_clip, "WIDTH": call.kept(saved)["WIDTH"]}
    return constants | call.sequence_options


def _chosen(options: dict[str, Any], kernel: Any) -> dict[str, Any]:
    """Those that the kernel takes, and those of the launch."""
    launch = ("num_warps", "enable_fp_fusion")
    return {k: v for k, v in options.items() if k in launch or k in kernel.arg_names}
