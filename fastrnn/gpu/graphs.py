"""CUDA graphs of the simple form: some five launches a step, recorded once and launched as one.

A graph reads and writes the memory that it was recorded with, so each has tensors of its own: what
comes is copied there, what it leaves is copied from there. It serves calls of the same cell,
sizes, number of steps, options and stream, and is recorded at the second of them: the first has
compiled the kernels and made the libraries' handles, and what is never asked for again costs
nothing. Recording waits for the device, which is why it wants the caller's leave.

Inside somebody else's capture the steps go into that graph, and none of ours is used. Gradients are
recorded outside of these calls, so their mode does not matter.
"""

from __future__ import annotations

import dataclasses
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from typing import Any

import torch
from torch import Tensor

from . import permission
from .call import Backward, Call, Forward

Given = Any  # Forward or Backward
Body = Callable[[Call, Given], None]

# Graphs kept; each holds as much memory as its call's tensors take. The least lately used goes.
KEPT = 8
# Fewer steps than this are launched as fast as they are copied.
FEWEST_STEPS = 4

_lock = threading.RLock()
_kept: OrderedDict[Hashable, _Recorded] = OrderedDict()
_met: set[Hashable] = set()
_refused: set[Hashable] = set()


def forget() -> None:
    """Give back the memory of all graphs."""
    with _lock:
        _kept.clear()
        _met.clear()
        _refused.clear()


def run(name: str, body: Body, call: Call, given: Forward | Backward) -> None:
    """``body(call, given)``, by a graph where there may be one."""
    if not _may(call):
        body(call, given)
        return
    key = _key(name, call, given)
    with _lock:
        if key in _kept:
            _kept.move_to_end(key)
            _kept[key].run(call, given)
            return
        if key in _met and key not in _refused and _recorded(key, body, call, given):
            return
        if len(_met) >= 64 * KEPT:
            _met.clear()
        _met.add(key)
    body(call, given)


def _may(call: Call) -> bool:
    return permission.given and call.T >= FEWEST_STEPS and _records(call.device)


def _records(device: torch.device) -> bool:
    """Whether it is a device with graphs, whose current stream nobody records already."""
    return device.type == "cuda" and not torch.cuda.is_current_stream_capturing()


def _recorded(key: Hashable, body: Body, call: Call, given: Given) -> bool:
    """Whether a graph now serves such calls, and has served this one."""
    try:
        recorded = _Recorded(body, call, given)
        recorded.run(call, given)
    except Exception as error:
        _refused.add(key)
        warnings.warn(
            f"a CUDA graph of {call.spec.name} could not be recorded, and its steps are launched "
            f"one by one: {type(error).__name__}: {error}",
            stacklevel=2,
        )
        return False
    _kept[key] = recorded
    if len(_kept) > KEPT:
        _kept.popitem(last=False)
    return True


class _Recorded:
    """A graph and its tensors."""

    def __init__(self, body: Body, call: Call, given: Given) -> None:
        own: dict[int, Tensor] = {}

        def copy(tensor: Tensor) -> Tensor:
            # One that has two names keeps them both.
            if id(tensor) not in own:
                own[id(tensor)] = torch.empty(
                    tensor.shape, dtype=tensor.dtype, device=tensor.device
                ).copy_(tensor)
            return own[id(tensor)]

        self._call = _with(call, copy)
        self._given = _with(given, copy)
        self._graph = torch.cuda.CUDAGraph()
        # Other threads may go on meanwhile.
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            body(self._call, self._given)

    def run(self, call: Call, given: Given) -> None:
        # What is to be filled comes along: a call may have zeros where no step writes.
        for ours, theirs in zip(_each(self._call), _each(call), strict=True):
            ours.copy_(theirs)
        for ours, theirs in zip(_each(self._given), _each(given), strict=True):
            ours.copy_(theirs)
        self._graph.replay()
        for name in _FILLED[type(given)]:
            mine, wanted = (getattr(each, name) for each in (self._given, given))
            for ours, theirs in zip(_tensors(mine), _tensors(wanted), strict=True):
                theirs.copy_(ours)


_FILLED: dict[type, tuple[str, ...]] = {
    Forward: ("out", "finals", "others", "saved"),
    Backward: (
        "dgates_x", "dgates_h", "grad_states", "grad_resets", "grad_params", "dproj", "operand",
    ),
}  # fmt: skip


def _with(holder: Any, copy: Callable[[Tensor], Tensor]) -> Any:
    """The same dataclass with other tensors."""
    found: dict[str, Any] = {}
    for field in dataclasses.fields(holder):
        value = getattr(holder, field.name)
        if isinstance(value, Tensor):
            found[field.name] = copy(value)
        elif isinstance(value, (list, tuple)) and value and isinstance(value[0], Tensor):
            found[field.name] = [copy(each) for each in value]
        elif field.name == "options":
            found[field.name] = _with(value, copy)
    return dataclasses.replace(holder, **found)


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        yield from (each for each in value if isinstance(each, Tensor))


def _each(holder: Any) -> Iterator[Tensor]:
    """All tensors of a dataclass, in one order."""
    for field in dataclasses.fields(holder):
        value = getattr(holder, field.name)
        if field.name == "options":
            yield from _each(value)
        else:
            yield from _tensors(value)


def _key(name: str, call: Call, given: Given) -> Hashable:
    """All that a recording depends on beside the tensors' numbers."""
    options = call.options
    fixed = (
        call.spec.name, call.dtype, call.device, call.S, call.T, call.B, call.N, call.H, call.K,
        call.projected, call.packed, options.reset_to, tuple(options.zoneout_p),
        tuple(options.clips), options.all_states,
    )  # fmt: skip
    shapes = []
    for holder in (call, options, given):
        for field in dataclasses.fields(holder):
            value = getattr(holder, field.name)
            shapes.append(tuple((tuple(t.shape), t.dtype) for t in _tensors(value)))
    names: dict[int, int] = {}  # which tensors are the same one
    same = tuple(names.setdefault(id(t), len(names)) for t in (*_each(call), *_each(given)))
    products = torch.backends.cuda.matmul
    switches = (
        torch.get_float32_matmul_precision(),
        products.allow_bf16_reduced_precision_reduction,
        products.allow_fp16_reduced_precision_reduction,
    )
    return name, fixed, tuple(shapes), same, switches, _stream(call.device)


def _stream(device: torch.device) -> int:
    """Whose order keeps one call's copies from the next one's."""
    return torch.cuda.current_stream(device).cuda_stream
