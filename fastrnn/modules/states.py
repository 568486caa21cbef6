"""What a recurrent module is given: its state, one tensor h or a tuple, as the pair (h, c)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from ..checks import check_not_nested

State = Tensor | tuple[Tensor, ...]


def as_input(module: str, input: Any) -> Tensor:
    """The ``input`` of a module that takes a tensor.

    Raises:
        TypeError: it is none.
        NotImplementedError: it is a nested one.
    """
    if not isinstance(input, Tensor):
        raise TypeError(
            f"{module}: Expected input to be a tensor, got {type(input).__name__} instead"
        )
    check_not_nested(module, input)
    return input


def as_tensor(module: str, hx: Any) -> Tensor:
    """``hx`` of a module whose state is h alone.

    Raises:
        TypeError: it is no tensor, as when an LSTM's ``(h, c)`` is given to a GRU.
    """
    if not isinstance(hx, Tensor):
        raise TypeError(f"{module}: Expected hx to be a tensor, got {type(hx).__name__} instead")
    return hx


def as_pair(module: str, function: str, hx: Any) -> tuple[Tensor, Tensor]:
    """``hx`` of a module whose state is (h, c), from any tuple or list of two tensors.

    The texts name the module or, where ATen would raise, its ``function``.

    Raises:
        TypeError: it is none, as when a GRU's h is given to an LSTM.
        RuntimeError: it has not two entries.
    """
    if not isinstance(hx, (tuple, list)):
        raise TypeError(
            f"{module}: Expected hx to be a tuple of two tensors (h, c), "
            f"got {type(hx).__name__} instead"
        )
    if len(hx) != 2:
        raise RuntimeError(f"{function} expects two hidden states")
    for index, state in enumerate(hx):
        if not isinstance(state, Tensor):
            raise TypeError(
                f"{module}: Expected hx[{index}] to be a tensor, got {type(state).__name__} instead"
            )
    return hx[0], hx[1]


def as_states(module: str, names: tuple[str, ...], hx: Any) -> State:
    """``hx`` of a module with the states of these names: a tensor if there is one, else a tuple.

    Raises:
        TypeError: it is none of tensors.
        RuntimeError: it has another number of entries.
    """
    if len(names) == 1:
        return as_tensor(module, hx)
    expected = f"a tuple of {len(names)} tensors ({', '.join(names)})"
    if not isinstance(hx, (tuple, list)):
        raise TypeError(f"{module}: Expected hx to be {expected}, got {type(hx).__name__} instead")
    if len(hx) != len(names):
        raise RuntimeError(f"{module}: Expected hx to be {expected}, got {len(hx)} entries")
    for index, state in enumerate(hx):
        if not isinstance(state, Tensor):
            raise TypeError(
                f"{module}: Expected hx[{index}] to be a tensor, got {type(state).__name__} instead"
            )
    return tuple(hx)


def map_state(function: Callable[[Tensor], Tensor], state: State) -> State:
    """Apply ``function`` to each tensor of a state."""
    if isinstance(state, tuple):
        return tuple(function(each) for each in state)
    return function(state)
