"""``v . tanh(W_q q + W_k k + b)``, or concat (Bahdanau et al., *NMT by jointly learning to
align and translate*, 2015); the location term as in Chorowski et al., *Attention-based
models for speech recognition*, 2015; the normalised vector as in Raffel et al., *Online and
linear-time attention by enforcing monotonic alignments*, 2017."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from . import Pair, ScoreSpec, expect, heads_of


def check(query: Tensor, key: Tensor, operands: Mapping[str, Any]) -> None:
    vector = operands["vector"]
    heads, width = heads_of(query), vector.shape[-1] if vector.dim() else 0
    expect("vector", vector, (width,), (heads, width))
    for side, tensor in (("query", query), ("key", key)):
        weight = operands.get(f"weight_{side}")
        if weight is not None:
            expect(f"weight_{side}", weight, (width, tensor.shape[-1]))
        elif tensor.shape[-1] != width:
            raise RuntimeError(
                f"Expected {side} to be as wide as vector, {width}, without a weight_{side}, "
                f"but got {side}: {tensor.shape[-1]}"
            )
    if operands.get("bias") is not None:
        expect("bias", operands["bias"], (width,), (heads, width))
    if isinstance(operands.get("gain"), Tensor):
        expect("gain", operands["gain"], (), (1,), (heads, 1))
    location = operands.get("location")
    if location is not None:
        leading = key.shape[:-1]
        try:
            fits = torch.broadcast_shapes(location.shape[:-1], leading) == leading
        except RuntimeError:
            fits = False
        if not fits or location.shape[-1] != width:
            raise RuntimeError(
                f"Expected location to be broadcastable to {[*leading, width]}, "
                f"got {list(location.shape)}"
            )


def prepare(query: Tensor, key: Tensor, operands: Mapping[str, Any]) -> Pair:
    vector = operands["vector"]
    if operands.get("weight_query") is not None:
        query = linear(query, operands["weight_query"])
    if operands.get("weight_key") is not None:
        key = linear(key, operands["weight_key"])
    bias = operands.get("bias")
    if bias is not None:
        query = query + (bias if bias.dim() == 1 else bias.unsqueeze(1))
    if operands.get("location") is not None:
        key = key + operands["location"]
    if operands.get("gain") is not None:
        vector = operands["gain"] * vector / vector.norm(dim=-1, keepdim=True)
    return query, key, vector


SPEC = ScoreSpec(
    "additive",
    "additive",
    prepare,
    check,
    operands=("vector", "weight_query", "weight_key", "bias", "gain", "location"),
    required=("vector",),
)
