"""Haste's weights: kernels are transposed, gates i g f o and z r h.

Haste's LSTM has one bias, its GRU two; its update gate is this library's. Its LayerNormLSTM is
this library's ``LayerNormLSTM``: ``gamma[0]``, ``gamma[1]`` the gains of the input and of the
recurrent side, ``gamma_h`` and ``beta_h`` gain and bias of the cell state's normalisation. Its
IndRNN (tanh) is ``IndRNN(nonlinearity="tanh")``.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from .gates import ORDERS, Weights, reorder

_HASTE = {"lstm": "igfo", "gru": "zrn", "rnn": "h"}
_CLASSES = {
    "LSTM": "lstm",
    "LayerNormLSTM": "lstm",
    "GRU": "gru",
    "IndRNN": "rnn",
}
# Haste's name, this library's, and whether it is transposed.
_NAMES = {
    "kernel": ("weight_ih", True),
    "recurrent_kernel": ("weight_hh", True),
    "bias": ("bias_ih", False),
    "recurrent_bias": ("bias_hh", False),
}
# As they are.
_PLAIN = {
    "recurrent_scale": "weight_u",
    "gamma_h": "weight_ln_c",
    "beta_h": "bias_ln_c",
}
_SIDES = ("weight_ln_ih", "weight_ln_hh")


def from_haste(layer: str, state_dict: Mapping[str, Tensor]) -> Weights:
    """One direction's weights from the ``state_dict`` of a Haste layer.

    Args:
        layer: Haste's class: ``"LSTM"``, ``"GRU"``, ``"LayerNormLSTM"`` or ``"IndRNN"``.

    Raises:
        ValueError: another class, or a name that it does not have.
    """
    order = _order(layer)[::-1]
    found: Weights = {}
    for name, tensor in state_dict.items():
        if name in _NAMES:
            ours, transposed = _NAMES[name]
            found[ours] = reorder(tensor.t() if transposed else tensor, *order).contiguous()
        elif name in _PLAIN:
            found[_PLAIN[name]] = tensor
        elif name == "gamma":
            for ours, gain in zip(_SIDES, tensor, strict=True):
                found[ours] = reorder(gain, *order)
        else:
            raise ValueError(f"Haste's {layer} has no parameter {name!r}")
    return found


def to_haste(layer: str, weights: Mapping[str, Tensor]) -> Weights:
    """The way back: a ``state_dict`` of a Haste layer. Two biases become one where it has one."""
    order = _order(layer)
    found: Weights = {}
    for name, (ours, transposed) in _NAMES.items():
        if ours in weights:
            tensor = reorder(weights[ours], *order)
            found[name] = tensor.t().contiguous() if transposed else tensor
    if layer != "GRU" and "recurrent_bias" in found:
        found["bias"] = found["bias"] + found.pop("recurrent_bias")
    found |= {name: weights[ours] for name, ours in _PLAIN.items() if ours in weights}
    if _SIDES[0] in weights:
        found["gamma"] = torch.stack([reorder(weights[side], *order) for side in _SIDES])
    return found


def _order(layer: str) -> tuple[str, str]:
    """This library's order and Haste's."""
    if layer not in _CLASSES:
        raise ValueError(f"layer should be one of {', '.join(_CLASSES)}, got {layer!r}")
    return ORDERS[_CLASSES[layer]], _HASTE[_CLASSES[layer]]
