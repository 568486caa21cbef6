"""Gate orders and update conventions, on weights whose gates are stacked along one dimension.

A layer's weights for one direction are a dictionary with the names of torch's cells: ``weight_ih
[G*H, I]``, ``weight_hh [G*H, K]`` and, where present, ``bias_ih [G*H]`` and ``bias_hh [G*H]``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

Weights = dict[str, Tensor]

ORDERS = {"lstm": "ifgo", "gru": "rzn", "rnn": "h"}
"""This library's (and torch's) order of the gates, a letter each."""


def as_tensor(value: Any) -> Tensor:
    """A tensor as it is, an array as a tensor of its own memory."""
    return value if isinstance(value, Tensor) else torch.as_tensor(value)


def reorder(tensor: Tensor, source: str, target: str, dim: int = 0) -> Tensor:
    """The blocks of ``tensor`` along ``dim``, stacked as ``source``, stacked as ``target``.

    Args:
        tensor: its size along ``dim`` is a multiple of the number of gates.
        source, target: the gates, a letter each; the same letters in both.

    Raises:
        ValueError: other letters, or a size that cannot be cut so.
    """
    if sorted(source) != sorted(target) or len(set(source)) != len(source):
        raise ValueError(f"orders should have the same gates, got {source!r} and {target!r}")
    if tensor.shape[dim] % len(source):
        raise ValueError(
            f"expected a multiple of {len(source)} rows for the gates {source!r}, "
            f"got {list(tensor.shape)}"
        )
    blocks = dict(zip(source, tensor.chunk(len(source), dim), strict=True))
    return torch.cat([blocks[gate] for gate in target], dim)


def flip_update(weights: Mapping[str, Tensor], gate: str = "z", order: str = "rzn") -> Weights:
    """The weights of the same GRU written with the opposite update gate.

    ``h' = (1 - z) * n + z * h`` is this library's (torch's, cuDNN's, Keras') convention,
    ``h' = z * n + (1 - z) * h`` the other one, of Cho et al.'s successors and of minGRU. Since
    ``sigmoid(-a) = 1 - sigmoid(a)``, negating the gate's rows of all weights and biases changes
    one into the other; the same call leads back. Exact: only signs change.
    """
    flipped = {}
    for name, tensor in weights.items():
        blocks = list(tensor.chunk(len(order)))
        blocks[order.index(gate)] = -blocks[order.index(gate)]
        flipped[name] = torch.cat(blocks)
    return flipped


def named(weights: Mapping[str, Tensor], layer: int = 0, reverse: bool = False) -> Weights:
    """The same under the names of a layer's ``state_dict``: ``weight_ih_l0``, ``…_reverse``."""
    suffix = f"_l{layer}" + ("_reverse" if reverse else "")
    return {name + suffix: tensor for name, tensor in weights.items()}


def of_layer(state_dict: Mapping[str, Tensor], layer: int = 0, reverse: bool = False) -> Weights:
    """The way back of `named`: one layer's and direction's weights out of a ``state_dict``.

    Raises:
        TypeError: ``state_dict`` is no mapping; a module has one, ``module.state_dict()``.
    """
    if not isinstance(state_dict, Mapping):
        raise TypeError(
            "state_dict should be a mapping of names to tensors, such as module.state_dict(), "
            f"got {type(state_dict).__name__}"
        )
    suffix = f"_l{layer}" + ("_reverse" if reverse else "")
    return {
        name.removesuffix(suffix): tensor
        for name, tensor in state_dict.items()
        if name.endswith(suffix) and (reverse or not name.endswith("_reverse"))
    }


def check_kind(kind: str) -> str:
    if kind not in ORDERS:
        raise ValueError(f"kind should be one of {', '.join(ORDERS)}, got {kind!r}")
    return kind
