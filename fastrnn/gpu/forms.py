"""Runs the form of the time loop that `plan` chooses for a call."""

from __future__ import annotations

import functools
from typing import Any

import torch

from . import graphs, grid, rows, simple, stream
from .call import Backward, Call, Forward
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
        projected=call.projected, single=call.T == 1, precision=precision, plain=call.plain,
        asked=call.asked, recurrent=call.spec.recurrent, whole_row=call.spec.whole_row,
        second=bool(call.spec.second),
    )  # fmt: skip
    return choose(problem, device, backward), precision


# One launch for a whole sequence gains nothing from a graph.
_LAUNCHES_STEPS = ("simple",)

_FORMS = {"rows": rows, "grid": grid, "stream": stream, "simple": simple}


def forward(call: Call, tensors: Forward) -> None:
    """Fill ``out``, ``finals``, ``others`` and ``saved``."""
    chosen, precision = _plan(call, backward=False)
    form = _FORMS[chosen.form]
    if chosen.form in _LAUNCHES_STEPS:
        graphs.run("forward", lambda c, t: form.forward(c, chosen, precision, t), call, tensors)
    else:
        form.forward(call, chosen, precision, tensors)


def backward(call: Call, tensors: Backward) -> None:
    """Fill the gradients."""
    chosen, precision = _plan(call, backward=True)
    form = _FORMS[chosen.form]
    if chosen.form in _LAUNCHES_STEPS:
        graphs.run("backward", lambda c, t: form.backward(c, chosen, precision, t), call, tensors)
    else:
        form.backward(call, chosen, precision, tensors)
