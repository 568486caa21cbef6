"""Keras' weights: kernels are transposed, gates i f c o and z r h, one bias or two.

Keras' LSTM, GRU and SimpleRNN compute what torch's layers do, with ``recurrent_activation`` left
at sigmoid. Its GRU has both forms: ``reset_after=True`` (two biases, this library's ``GRU``) and
``reset_after=False`` (one bias, ``GRU(…, reset_after=False)``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .gates import ORDERS, Weights, as_tensor, check_kind, reorder

_KERAS = {"lstm": "ifgo", "gru": "zrn", "rnn": "h"}  # Keras writes c for g, h for n


def from_keras(kind: str, weights: Sequence[Any], bias: str = "torch") -> Weights:
    """One direction's weights from ``layer.get_weights()``.

    Args:
        kind: ``"lstm"``, ``"gru"`` or ``"rnn"``.
        weights: ``kernel [I, G*H]``, ``recurrent_kernel [H, G*H]`` and, with ``use_bias``, the
            bias, ``[G*H]`` or ``[2, G*H]`` (GRU with ``reset_after=True``).
        bias: how a single bias is to come out: ``"torch"`` (it as ``bias_ih``, and a ``bias_hh``
            of zeros) or ``"single"`` (``bias_ih`` alone, for ``bias="single"`` layers).

    Returns:
        ``weight_ih``, ``weight_hh`` and the biases; see `fastrnn.interop.named`.

    Raises:
        ValueError: unknown ``kind`` or ``bias``, a number of weights or a shape that does not fit.
    """
    if bias not in ("torch", "single"):
        raise ValueError(f"bias should be 'torch' or 'single', got {bias!r}")
    order = (_KERAS[check_kind(kind)], ORDERS[kind])
    if len(weights) not in (2, 3):
        raise ValueError(
            f"expected kernel, recurrent_kernel and at most a bias, got {len(weights)}"
        )
    kernels = [as_tensor(weight) for weight in weights[:2]]
    found = {
        name: reorder(kernel.t(), *order).contiguous()
        for name, kernel in zip(("weight_ih", "weight_hh"), kernels, strict=True)
    }
    if len(weights) == 2:
        return found
    given = as_tensor(weights[2])
    if given.dim() not in (1, 2) or given.shape[-1] != found["weight_ih"].shape[0]:
        raise ValueError(
            f"expected a bias of [{found['weight_ih'].shape[0]}] or twice that, "
            f"got {list(given.shape)}"
        )
    if given.dim() == 2:
        if bias == "single":
            raise ValueError("two biases cannot become one: expected a bias of 1 dimension")
        found["bias_ih"], found["bias_hh"] = (reorder(each, *order) for each in given)
    else:
        found["bias_ih"] = reorder(given, *order)
        if bias == "torch":
            found["bias_hh"] = torch.zeros_like(found["bias_ih"])
    return found


def to_keras(kind: str, weights: Mapping[str, Tensor], reset_after: bool = True) -> list[Tensor]:
    """The way back: what ``layer.set_weights()`` takes, as tensors.

    Two biases become their sum, but for a GRU with ``reset_after``, whose bias is ``[2, 3*H]``.
    """
    order = (ORDERS[check_kind(kind)], _KERAS[kind])
    found = [reorder(weights[name], *order).t().contiguous() for name in ("weight_ih", "weight_hh")]
    if "bias_ih" not in weights:
        return found
    b_ih = reorder(weights["bias_ih"], *order)
    b_hh = reorder(weights["bias_hh"], *order) if "bias_hh" in weights else torch.zeros_like(b_ih)
    both = kind == "gru" and reset_after
    return [*found, torch.stack([b_ih, b_hh]) if both else b_ih + b_hh]
