"""``q . k`` (Luong et al., *Effective approaches to attention-based NMT*, 2015)."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from . import Pair, ScoreSpec, same_width


def check(query: Tensor, key: Tensor, operands: Mapping[str, Any]) -> None:
    same_width(query, key)


def prepare(query: Tensor, key: Tensor, operands: Mapping[str, Any]) -> Pair:
    return query, key, None


SPEC = ScoreSpec("dot", "dot", prepare, check)
