"""``temperature * cos(q, k)`` (Graves et al., *Neural Turing machines*, 2014)."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from . import Pair, ScoreSpec, expect, heads_of, same_width

_TINY = 1e-8  # what torch.nn.functional.cosine_similarity adds to a norm at least


def check(query: Tensor, key: Tensor, operands: Mapping[str, Any]) -> None:
    same_width(query, key)
    temperature = operands.get("temperature")
    if isinstance(temperature, Tensor):
        expect("temperature", temperature, (), (1,), (heads_of(query),))


def prepare(query: Tensor, key: Tensor, operands: Mapping[str, Any]) -> Pair:
    query, key = _unit(query), _unit(key)
    temperature = operands.get("temperature")
    if isinstance(temperature, Tensor) and temperature.dim():
        temperature = temperature.view(-1, 1, 1) if query.dim() > 2 else temperature
    return query if temperature is None else query * temperature, key, None


def _unit(tensor: Tensor) -> Tensor:
    # In float16 the square of a number overflows early, and the smallest norm is zero.
    wide = tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
    return torch.nn.functional.normalize(wide, dim=-1, eps=_TINY).to(tensor.dtype)


SPEC = ScoreSpec("cosine", "dot", prepare, check, operands=("temperature",))
