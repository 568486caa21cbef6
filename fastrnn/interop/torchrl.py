"""TorchRL's names: its LSTMModule and GRUModule hold torch's layer as ``lstm`` or ``gru``.

The weights are torch's. What differs are the states, which lie in its data as ``[B, L, H]`` (a
layer's are ``[L, B, H]``), and the marks of episodes: ``is_init [B, T]`` is true at the first step
of an episode, which is this library's ``reset``; the ``done`` of the step before is the same
shifted by one.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from .gates import Weights


def from_torchrl(state_dict: Mapping[str, Tensor]) -> Weights:
    """The ``state_dict`` of a layer out of that of an ``LSTMModule`` or ``GRUModule``.

    Raises:
        ValueError: it holds no such layer, or two.
    """
    kinds = {name.partition(".")[0] for name in state_dict if "weight_ih_l0" in name}
    if len(kinds) != 1 or not kinds <= {"lstm", "gru"}:
        raise ValueError(f"expected weights under 'lstm.' or 'gru.', got {sorted(state_dict)}")
    (kind,) = kinds
    return {
        name.removeprefix(f"{kind}."): tensor
        for name, tensor in state_dict.items()
        if name.startswith(f"{kind}.")
    }


def to_torchrl(kind: str, state_dict: Mapping[str, Tensor]) -> Weights:
    """The way back, for ``kind`` ``"lstm"`` or ``"gru"``."""
    if kind not in ("lstm", "gru"):
        raise ValueError(f"kind should be 'lstm' or 'gru', got {kind!r}")
    return {f"{kind}.{name}": tensor for name, tensor in state_dict.items()}


def reset_of_done(done: Tensor, dim: int = 1) -> Tensor:
    """``reset`` from ``done``, both bool: true where the step before along ``dim`` was the last.

    The first step's is false: whoever holds the initial state knows whether it is a fresh one.
    """
    first = torch.zeros_like(done.narrow(dim, 0, 1))
    return torch.cat([first, done.narrow(dim, 0, done.shape[dim] - 1)], dim)
