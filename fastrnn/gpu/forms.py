"""Runs the form of the time loop that `plan` chooses for a call."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import grid, rows, simple, stream
from .call import Call
from .plan import A100, B200, H200, Device, Plan, Problem, choose
from .precision import float32_product


@functools.lru_cache(maxsize=64)
def _device(device: torch.device) -> Device:
    if device.type != "cuda":
        return H200  # for the interpreter, as good as any
    found: Any = torch.cuda.get_device_properties(device)
    capability = (found.major, found.minor)
    known = {(8, 0): A100, (9, 0): H200, (10, 0): B200}.get(capability)
    least = known.shared if known else 99 << 10  # where torch does not tell
    shared = getattr(found, "shared_memory_per_block_optin", least)
    return Device(capability, found.multi_processor_count, shared)


# A device and a precision to plan for in place of what is there (`fastrnn.gpu.aot`).
planned_for: tuple[Device, str] | None = None


def _plan(call: Call, backward: bool) -> tuple[Plan, str]:
    """The plan, and the precision of products; narrow numbers have but one."""
    device, precision = planned_for or (_device(call.device), float32_product())
    precision = precision if call.dtype == torch.float32 else "tf32"
    problem = Problem(
        call.dtype, call.spec.num_gates, call.N, call.B, call.H, call.K,
        projected=call.projected, single=call.T == 1, precision=precision,
    )  # fmt: skip
    return choose(problem, device, backward), precision


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
    """Fill ``out``, ``finals`` and ``saved``."""
    chosen, precision = _plan(call, backward=False)
    tensors = (gates_x, weight_hh, bias_hh, weight_hr, states, out, finals, saved)
    if chosen.form == "rows":
        rows.forward(call, chosen, precision, *tensors)
    elif chosen.form == "grid":
        grid.forward(call, chosen, precision, *tensors)
    elif chosen.form == "stream":
        stream.forward(call, chosen, precision, *tensors)
    else:
        simple.forward(call, *tensors)


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
    """Fill ``found``, the gradients of `fastrnn.allocate.gradients`."""
    chosen, precision = _plan(call, backward=True)
    tensors = (weight_hh, weight_hr, states, out, saved, grad_out, grad_finals, found)
    if chosen.form == "rows":
        rows.backward(call, chosen, precision, *tensors)
    elif chosen.form == "grid":
        grid.backward(call, chosen, precision, *tensors)
    elif chosen.form == "stream":
        stream.backward(call, chosen, precision, *tensors)
    else:
        simple.backward(call, *tensors)
