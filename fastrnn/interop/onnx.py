"""ONNX's weights: gates i o f c and z r h, both biases in one row, directions stacked.

The operators LSTM, GRU and RNN compute what this library's layers do; `from_onnx_node` makes
a module of a node.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .gates import ORDERS, Weights, as_tensor, check_kind, reorder

_ONNX = {"lstm": "iofg", "gru": "zrn", "rnn": "h"}  # ONNX writes c for g, h for n
_PEEPHOLES = "iof", "ifo"  # ONNX's and this library's


def from_onnx(kind: str, W: Any, R: Any, B: Any = None, P: Any = None) -> list[Weights]:
    """Each direction's weights from a node's inputs.

    Args:
        kind: ``"lstm"``, ``"gru"`` or ``"rnn"``.
        W, R: ``[D, G*H, I]`` and ``[D, G*H, H]``.
        B: ``[D, 2*G*H]``, or None.
        P: an LSTM's peepholes ``[D, 3*H]``, or None.

    Returns:
        for each of the D directions ``weight_ih``, ``weight_hh``, with B ``bias_ih`` and
        ``bias_hh``, with P ``weight_ch``; see `fastrnn.interop.named`.

    Raises:
        ValueError: unknown ``kind``, peepholes of no LSTM, a shape that does not fit.
    """
    order = _ONNX[check_kind(kind)], ORDERS[kind]
    if P is not None and kind != "lstm":
        raise ValueError(f"only an LSTM has peepholes, got P for {kind!r}")
    weights = [as_tensor(each) for each in (W, R)]
    if any(w.dim() != 3 for w in weights) or weights[0].shape[:2] != weights[1].shape[:2]:
        raise ValueError(
            "expected W of [directions, gates*H, I] and R of [directions, gates*H, H], got "
            + " and ".join(str(list(w.shape)) for w in weights)
        )
    found = []
    for d in range(weights[0].shape[0]):
        each = {
            name: reorder(weight[d], *order)
            for name, weight in zip(("weight_ih", "weight_hh"), weights, strict=True)
        }
        if B is not None:
            both = as_tensor(B)[d].chunk(2)
            for name, bias in zip(("bias_ih", "bias_hh"), both, strict=True):
                each[name] = reorder(bias, *order)
        if P is not None:
            each["weight_ch"] = reorder(as_tensor(P)[d], *_PEEPHOLES)
        found.append(each)
    return found


def to_onnx(kind: str, directions: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The way back: a node's inputs ``W``, ``R`` and, where there are any, ``B`` and ``P``.

    A bias without its other half gets one of zeros.
    """
    order = ORDERS[check_kind(kind)], _ONNX[kind]

    def stack(name: str) -> Tensor:
        return torch.stack([reorder(weights[name], *order) for weights in directions])

    found = {"W": stack("weight_ih"), "R": stack("weight_hh")}
    if "bias_ih" in directions[0]:
        b_ih = stack("bias_ih")
        b_hh = stack("bias_hh") if "bias_hh" in directions[0] else torch.zeros_like(b_ih)
        found["B"] = torch.cat([b_ih, b_hh], 1)
    if "weight_ch" in directions[0]:
        found["P"] = torch.stack(
            [reorder(weights["weight_ch"], *_PEEPHOLES[::-1]) for weights in directions]
        )
    return found
