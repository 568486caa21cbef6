"""The Triton backend: picks a form of the time loop and launches it; the twin of `fastrnn.cpp`.

The kernels lie in `fastrnn.kernels`, which imports Triton and is therefore imported at the first
call only. With ``TRITON_INTERPRET=1`` Triton runs kernels in Python, on the CPU: then this backend
serves CPU tensors, to whoever asks for it by name.
"""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.autograd import forward_ad

from .. import allocate
from ..cells import CellSpec
from ..options import PLAIN, Options
from ..options import why_not as why_not_with


def _find_kernels() -> str | None:
    """Makes `fastrnn.kernels` importable; returns the reason why not.

    Installed, it is part of the package. In a source tree it lies beside it.
    """
    if importlib.util.find_spec("fastrnn.kernels") is not None:
        return None
    folder = Path(__file__).resolve().parents[2] / "kernels"
    spec = importlib.util.spec_from_file_location(
        "fastrnn.kernels", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    if spec is None or spec.loader is None or not folder.is_dir():
        return "its kernels are not installed"
    module = importlib.util.module_from_spec(spec)
    sys.modules["fastrnn.kernels"] = module
    vars(sys.modules["fastrnn"])["kernels"] = module
    spec.loader.exec_module(module)
    return None


_missing = _find_kernels()
if importlib.util.find_spec("triton") is None:
    _missing = "Triton is not installed: pip install 'fastrnn[gpu]'"
_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
_CAPABILITY = (8, 0)

# Of what `Options.asked` tells, what the kernels do.
_SERVED = frozenset(
    {"lengths", "resets", "recurrent dropout", "zoneout", "clipping of the cell state",
     "clipping of the projection", "clipping of pre-activations", "clipping of gradients",
     "the states of all steps"}
)  # fmt: skip

# As Triton itself reads it when it decorates the kernels.
INTERPRETED = os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "true", "on", "yes", "y")


def why_not(
    spec: CellSpec, device: torch.device, dtype: torch.dtype, options: Options = PLAIN
) -> str | None:
    """The reason this backend cannot serve, None if it can."""
    reason = _missing or _why_not_on(device)
    if reason is not None:
        return reason
    if dtype not in _DTYPES:
        return f"it has no kernel for {dtype}"
    from ..kernels.cells import NAMES

    if spec.name not in NAMES:
        return f"it has no kernel for the cell {spec.name!r}"
    if forward_ad._current_level >= 0:
        return "it has no forward-mode differentiation"
    return why_not_with(options, _SERVED)


def _why_not_on(device: torch.device) -> str | None:
    if INTERPRETED:
        if device.type != "cpu":
            return "TRITON_INTERPRET is set, and the interpreter works on CPU tensors"
        if torch.compiler.is_compiling():
            return "TRITON_INTERPRET is set, and what the interpreter runs cannot be compiled"
        return None
    if device.type != "cuda":
        return f"it runs on CUDA devices only, and the tensors are on {device}"
    if torch.version.hip is not None:
        return "it is not tested on AMD's GPUs"
    if torch.cuda.is_available():
        capability = torch.cuda.get_device_capability(device)
        if capability < _CAPABILITY:
            wanted, found = (".".join(map(str, each)) for each in (_CAPABILITY, capability))
            return f"it wants compute capability {wanted}, and {device} has {found}"
    elif not torch.compiler.is_compiling():
        return "PyTorch finds no CUDA device"
    return None


class _Interpreting(threading.local):
    on = False


_thread = _Interpreting()


def interprets() -> bool:
    """Whether this thread's CPU tensors are for the interpreter."""
    return INTERPRETED and _thread.on


@contextlib.contextmanager
def _interpreting() -> Iterator[None]:
    before, _thread.on = _thread.on, True
    try:
        yield
    finally:
        _thread.on = before


def interpreting(wanted: bool) -> contextlib.AbstractContextManager[None]:
    """Within this context operators hand CPU tensors to the interpreter, if there is one.

    By their device alone they could not tell: the CPU's own kernels are C++.
    """
    return _interpreting() if INTERPRETED and wanted else contextlib.nullcontext()


def _contiguous(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.contiguous()


def serves(tensor: Tensor) -> bool:
    """Whether an operator's kernel for a tensor is this backend's."""
    return tensor.is_cuda or interprets()


def scan(
    spec: CellSpec,
    gates_x: Tensor,
    weight_hh: Tensor | None,
    bias_hh: Tensor | None,
    weight_hr: Tensor | None,
    states: Sequence[Tensor],
    batch_sizes: Tensor | None,
    reverse: Sequence[bool],
    params: Sequence[Tensor],
    options: Options,
    save: bool,
) -> tuple[Tensor, list[Tensor], list[Tensor], list[Tensor]]:
    """Outputs, final and all states, what the backward needs (`fastrnn.allocate.results`).

    Weights are stacked, ``[N, ...]``; everything else is as in `fastrnn.cpp.scan`.
    """
    from .call import Call, Forward
    from .forms import forward

    out, finals, others, saved = allocate.results(
        spec, gates_x, weight_hr is not None, states, options, save
    )
    if options.lengths is not None:  # past a sequence's end; a hidden is to be multiplied by zeros
        for tensor in (out, *others, *saved[1:]):
            tensor.zero_()
    with torch.cuda.device_of(gates_x):
        call = Call.of(
            spec, gates_x, weight_hr is not None, states, batch_sizes, reverse, params, options
        )
        states = [state.contiguous() for state in states]
        forward(
            call,
            Forward(
                gates_x.contiguous(), _contiguous(weight_hh), _contiguous(bias_hh),
                _contiguous(weight_hr), states, out, finals, others, saved,
            ),
        )  # fmt: skip
    return out, finals, others, saved


def scan_backward(
    spec: CellSpec,
    gates_x: Tensor,
    weight_hh: Tensor | None,
    weight_hr: Tensor | None,
    states: Sequence[Tensor],
    batch_sizes: Tensor | None,
    reverse: Sequence[bool],
    params: Sequence[Tensor],
    options: Options,
    out: Tensor,
    saved: Sequence[Tensor],
    grad_out: Tensor,
    grad_finals: Sequence[Tensor],
    grad_others: Sequence[Tensor],
) -> list[Tensor]:
    """The gradients of `fastrnn.allocate.gradients`."""
    from .call import Backward, Call
    from .forms import backward

    found = allocate.gradients(spec, gates_x, weight_hr is not None, states, params, options)
    sides = 2 if spec.apart else 1
    ends = [sides]
    for count in (len(states), len(options.reset_states), len(params)):
        ends.append(ends[-1] + count)
    grad_states, grad_resets, grad_params = (
        found[begin:end] for begin, end in itertools.pairwise(ends)
    )
    if weight_hr is not None:
        found[-1].copy_(saved[1])
    zeros = [*grad_resets, *(found[:sides] if options.lengths is not None else ())]
    if options.lengths is not None:
        zeros += [found[-2]] if weight_hr is not None else [found[-1]] if spec.second else []
    for tensor in zeros:  # where no step writes
        tensor.zero_()
    with torch.cuda.device_of(gates_x):
        call = Call.of(
            spec, gates_x, weight_hr is not None, states, batch_sizes, reverse, params, options
        )
        backward(
            call,
            Backward(
                _contiguous(weight_hh), _contiguous(weight_hr),
                [state.contiguous() for state in states], out.contiguous(),
                [kept.contiguous() for kept in saved], grad_out.contiguous(),
                [grad.contiguous() for grad in grad_finals], list(grad_others),
                found[0], found[sides - 1], grad_states, grad_resets, grad_params,
                found[0] if weight_hr is None else found[-2], found[-1],
            ),
        )  # fmt: skip
    return found
