"""``q W k`` (Luong et al., *Effective approaches to attention-based NMT*, 2015)."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from . import Pair, ScoreSpec, expect, heads_of


def check(query: Tensor, key: Tensor, operands: Mapping[str, Any]) -> None:
    sizes = query.shape[-1], key.shape[-1]
    expect("weight", operands["weight"], sizes, (heads_of(query), *sizes))


def prepare(query: Tensor, key: Tensor, operands: Mapping[str, Any]) -> Pair:
    return query @ operands["weight"], key, None


SPEC = ScoreSpec("general", "dot", prepare, check, operands=("weight",), required=("weight",))
