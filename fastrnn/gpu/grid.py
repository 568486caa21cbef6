"""Launches the form of many programs that wait for one another (`fastrnn.kernels.grid`).

A wait that lasts beyond all reason marks a word of pinned memory, which the device reaches and the
host can read without waiting for the device: `check` raises at the next call. Until then what the
failed launch returned is wrong; whoever needs certainty before that synchronises and calls
`check`.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import torch
import triton
from torch import Tensor

from ..kernels import grid as kernels
from . import INTERPRETED
from .call import Backward, Call, Forward
from .plan import Plan

# Looks at the counter, each a way to the L2 cache and back: seconds in all, for a step that takes
# microseconds.
PATIENCE = 1 << 22


@functools.lru_cache(maxsize=64)
def failed(device: torch.device) -> Tensor:
    """The word that a lost wait marks, one a device."""
    return torch.zeros(1, dtype=torch.int32, pin_memory=device.type == "cuda")


def check(device: torch.device) -> None:
    """Raise RuntimeError if a launch on the device gave up waiting; reported once."""
    mark = failed(device)
    if mark[0]:
        mark.zero_()
        raise RuntimeError(
            f"a recurrent kernel on {device} gave up waiting for its own programs, and what it "
            "returned is wrong: they did not all run at once. Another backend or form has to "
            "serve: fastrnn.use_backend('reference')"
        )


def cooperative() -> dict[str, Any]:
    """The option of a launch that is refused if not all of its programs can run at once."""
    return {} if INTERPRETED else {"launch_cooperative_grid": True}


def counters(call: Call, groups: int) -> Tensor:
    """Of arrivals, one for each group; a launch's own, so that streams do not meet in them."""
    return torch.zeros(groups, dtype=torch.int32, device=call.device)


def _launch(call: Call, plan: Plan, precision: str) -> tuple[tuple[int], dict[str, Any]]:
    slices = triton.cdiv(call.H, plan.block_h)
    grid = call.N * triton.cdiv(call.B, plan.block_b) * slices
    options = {
        "PRECISION": precision,
        "HELD": plan.held,
        "SPLIT": plan.split,
        "CHUNKS": triton.cdiv(call.H, plan.block_k),
        "BLOCK_B": plan.block_b,
        "BLOCK_H": plan.block_h,
        "BLOCK_K": plan.block_k,
        "num_warps": plan.warps,
        "num_stages": 1,
        "maxnreg": plan.registers,
        "enable_fp_fusion": True,
    }
    return (grid,), options | ({} if plan.stepwise else cooperative())


def _launches(plan: Plan, first: int, last: int, step: int) -> Iterator[tuple[int, int]]:
    """Where each launch begins and ends: steps ``first``, ``first + step``, ... before ``last``."""
    if plan.stepwise:
        return ((p, p + step) for p in range(first, last, step))
    return iter([(first, last)])


def forward(call: Call, plan: Plan, precision: str, given: Forward) -> None:
    check(call.device)
    exchange = torch.stack([given.states[0], given.states[0]])
    wide = given.states[0].to(call.wide, copy=True)
    extra = call.gather(given.states[1:])
    grid, options = _launch(call, plan, precision)
    arrivals = counters(call, grid[0])
    for begin, end in _launches(plan, 0, call.T, 1):
        kernels.forward_grid[grid](
            given.gates_x, given.weight_hh,
            given.gates_x if given.bias_hh is None else given.bias_hh,
            exchange, wide, extra, given.out, given.saved[0] if given.saved else extra,
            call.starts, call.reverse, arrivals, failed(call.device), begin, end,
            call.T, call.B, call.N, PATIENCE,
            BIAS=given.bias_hh is not None, SAVE=bool(given.saved), **call.forward_options,
            **options,
        )  # fmt: skip
    for final, state in zip(given.finals, (wide, *extra), strict=True):
        final.copy_(state)


def backward(call: Call, plan: Plan, precision: str, given: Backward) -> None:
    check(call.device)
    exchange = given.out.new_zeros(2, call.N, call.B, call.spec.num_gates * call.H)
    dh = given.grad_finals[0].to(call.wide, copy=True)
    dextra = call.gather(given.grad_finals[1:])
    extra_0 = call.gather(given.states[1:])
    grid, options = _launch(call, plan, precision)
    arrivals = counters(call, grid[0])
    for begin, end in _launches(plan, call.T - 1, -2, -1):
        kernels.backward_grid[grid](
            given.weight_hh, exchange, given.saved[0], given.out, given.states[0], extra_0,
            given.grad_out, dh, dextra, given.dgates_x, given.dgates_h, call.starts, call.reverse,
            arrivals, failed(call.device), begin, end, call.T, call.B, call.N, PATIENCE,
            **call.backward_options, **options,
        )  # fmt: skip
    for grad, state in zip(given.grad_states, (dh, *dextra), strict=True):
        grad.copy_(state)
