"""Truncated back-propagation through time: windows of a sequence, one after the other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from .modules.recurrent import Recurrent
from .modules.states import map_state
from .sequences import Call

__all__ = ["tbptt"]


def tbptt(
    module: Recurrent,
    input: Tensor,
    hx: Any = None,
    chunk: int | None = None,
    *,
    lengths: Tensor | None = None,
    reset: Tensor | None = None,
) -> Iterator[tuple[Tensor, Any]]:
    """Run a layer over windows of ``chunk`` steps, each from the detached state of the one before.

    The states are those of one run over all steps; gradients reach back to the beginning of a
    window and no further (Williams & Peng, 1990, with windows that do not overlap). Backward may
    be called and weights may be changed between windows.

    Args:
        module: a layer of one direction, such as `fastrnn.LSTM`.
        input: ``[T, B, I]``, ``[B, T, I]`` with the module's ``batch_first``, or ``[T, I]``.
        hx: the initial state as the module takes it; None: its own, or zeros. Not detached.
        chunk: steps in a window, to be given; the last may have fewer.
        lengths, reset: as the module's call takes them, for all steps.

    Yields:
        the output of a window and the state after it, attached to the window's graph.

    Raises:
        ValueError: ``chunk`` is no positive integer; the module runs in reverse; the rank of the
            input; lengths out of range.
        TypeError: ``module`` is no layer of this library's; ``input``, ``lengths`` or ``reset`` is
            no tensor of its kind.
        RuntimeError: ``lengths`` or ``reset`` has not the input's sizes.
    """
    if not isinstance(module, Recurrent):
        raise TypeError(
            f"module should be a recurrent layer of fastrnn's, got {type(module).__name__}"
        )
    if isinstance(chunk, bool) or not isinstance(chunk, int) or chunk < 1:
        raise ValueError(f"chunk should be a positive integer, got: {chunk!r}")
    if module.bidirectional or module.settings.reverse:
        raise ValueError("tbptt wants a module of one direction, forwards: a state has to pass on")
    if not isinstance(input, Tensor):
        raise TypeError(f"input should be a tensor, got {type(input).__name__}")
    if input.dim() not in (2, 3):
        raise ValueError(f"tbptt: Expected input to be 2D or 3D, got {input.dim()}D instead")
    _check(module, input, Call(lengths, reset))
    return _windows(module, input, hx, chunk, lengths, reset)


def _check(module: Recurrent, input: Tensor, call: Call) -> None:
    """Of the whole sequences, which no window sees."""
    if input.dim() == 2:
        call, (steps, batch) = call.of_one_sequence(int(not module.batch_first)), (len(input), 1)
    else:
        steps, batch = reversed(input.shape[:2]) if module.batch_first else input.shape[:2]
    call.check(module._spec(), steps, batch, 1, module.num_layers, (), module.batch_first, input)


def _windows(
    module: Recurrent,
    input: Tensor,
    hx: Any,
    chunk: int,
    lengths: Tensor | None,
    reset: Tensor | None,
) -> Iterator[tuple[Tensor, Any]]:
    time = 1 if module.batch_first and input.dim() == 3 else 0
    for start in range(0, input.shape[time], chunk):
        window = input.narrow(time, start, min(chunk, input.shape[time] - start))
        call: dict[str, Tensor] = {}
        if lengths is not None:
            call["lengths"] = (lengths.to(torch.int64) - start).clamp(0, window.shape[time])
        if reset is not None:
            call["reset"] = reset.narrow(time, start, window.shape[time])
        output, hx = module(window, hx, **call)
        yield output, hx
        hx = map_state(lambda state: state.detach(), hx)
