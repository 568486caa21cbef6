"""``W q``, a score for each position, whatever the key there (Luong et al., 2015)."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from . import Pair, ScoreSpec


def check(query: Tensor, key: Tensor, operands: Mapping[str, Any]) -> None:
    weight, keys = operands["weight"], key.shape[-2]
    if weight.dim() != 2 or weight.shape[0] < keys or weight.shape[1] != query.shape[-1]:
        raise RuntimeError(
            f"Expected weight size [at least {keys}, {query.shape[-1]}], a row for each position, "
            f"got {list(weight.shape)}"
        )


def prepare(query: Tensor, key: Tensor, operands: Mapping[str, Any]) -> Pair:
    weight = operands["weight"][: key.shape[-2]]
    return query, weight.expand(*key.shape[:-2], *weight.shape), None


SPEC = ScoreSpec(
    "location",
    "dot",
    prepare,
    check,
    operands=("weight",),
    required=("weight",),
    reads_keys=False,
)
