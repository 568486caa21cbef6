"""The scores of attention: one file each, holding a `ScoreSpec` named ``SPEC``.

A score is to attention what a cell is to a scan. It is found by being a module of this
package. What a score does to queries and keys one by one (project, normalise) is a product
of linear size, and plain PyTorch; what it does to each pair of them is one of the kinds that
`fastrnn.reference_attention` specifies and the kernels compute.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

Pair = tuple[Tensor, Tensor, Tensor | None]


@dataclass(frozen=True)
class ScoreSpec:
    """What the operator and its checks must know about a score.

    Attributes:
        name: the key used everywhere.
        kind: what is computed for each pair: ``"dot"`` or ``"additive"``.
        prepare: ``prepare(query, key, operands) -> query, key, vector`` for the kind:
            ``[..., H, Tq, E]``, ``[..., Hk, Tk, E]``, and the vector ``[E]`` or ``[H, E]``
            or None. Differentiable, and linear in the length of sequences.
        check: ``check(query, key, operands)`` raises unless their sizes agree.
        operands: names of the keyword arguments it may be given beside query and key.
        required: those of them that it must be given.
        scale: what the pairs' scores are multiplied with by default, from the width E.
        reads_keys: whether a key may be None.
    """

    name: str
    kind: str
    prepare: Callable[[Tensor, Tensor, Mapping[str, Any]], Pair]
    check: Callable[[Tensor, Tensor, Mapping[str, Any]], None]
    operands: tuple[str, ...] = ()
    required: tuple[str, ...] = ()
    scale: Callable[[int], float] = lambda width: 1.0
    reads_keys: bool = True


def same_width(query: Tensor, key: Tensor) -> None:
    """Raises RuntimeError unless queries and keys are as wide as each other."""
    if query.shape[-1] != key.shape[-1]:
        raise RuntimeError(
            "Expected query and key to have the same size in their last dimension, but got "
            f"query: {query.shape[-1]} and key: {key.shape[-1]}"
        )


def expect(name: str, tensor: Tensor, *shapes: tuple[int, ...]) -> None:
    """Raises RuntimeError unless the tensor has one of the shapes."""
    if tuple(tensor.shape) not in shapes:
        wanted = " or ".join(str(list(shape)) for shape in shapes)
        raise RuntimeError(f"Expected {name} size {wanted}, got {list(tensor.shape)}")


def heads_of(tensor: Tensor) -> int:
    return tensor.shape[-3] if tensor.dim() > 2 else 1


def _discover() -> dict[str, ScoreSpec]:
    found = {}
    for module in pkgutil.iter_modules(__path__):
        spec: ScoreSpec = importlib.import_module(f"{__name__}.{module.name}").SPEC
        found[spec.name] = spec
    return found


SCORES: dict[str, ScoreSpec] = _discover()
"""Every score by name."""
