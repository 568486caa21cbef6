"""How the weights of one layer and direction are called and shaped.

Rows of gates are stacked head by head where there are several heads: each head is a recurrence of
its own on ``H / num_heads`` units, whose rows lie in torch's order. The recurrent matrix is then
block-diagonal, and ``weight_hh`` holds its blocks one below the other, ``[G*H, H / num_heads]``.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from .cells import CellSpec

Bias = bool | str
"""True: torch's two; ``"single"``: ``bias_ih`` alone; False: none."""

_BIASES = {True: ("bias_ih", "bias_hh"), "single": ("bias_ih",), False: ()}


def check_bias(bias: Bias) -> Bias:
    """Raises TypeError or ValueError unless ``bias`` is a form that there is."""
    if not isinstance(bias, (bool, str)):
        raise TypeError(f"bias should be of type bool, got: {type(bias).__name__}")
    if bias not in _BIASES:
        raise ValueError(f"bias should be True, False or 'single', got: {bias!r}")
    return bias


def check_heads(num_heads: int, hidden_size: int) -> None:
    """Raises ValueError unless so many units can be dealt out to so many heads."""
    if isinstance(num_heads, bool) or not isinstance(num_heads, int) or num_heads < 1:
        raise ValueError(f"num_heads should be a positive integer, got: {num_heads!r}")
    if hidden_size % num_heads:
        raise ValueError(
            f"hidden_size should be divisible by num_heads, got {hidden_size}, {num_heads}"
        )


def weight_names(spec: CellSpec, bias: Bias = True, projected: bool = False) -> list[str]:
    """The names in the order in which the functional forms take them."""
    names = ["weight_ih", *["weight_hh"] * spec.recurrent, *_BIASES[bias], *spec.params]
    return [*names, "weight_hr"] if projected else names


def weight_shapes(
    spec: CellSpec, bias: Bias, features: int, hidden: int, projection: int = 0, num_heads: int = 1
) -> dict[str, tuple[int, ...]]:
    """Each weight's shape, for an input of so many features; in the order of `weight_names`."""
    rows, k = spec.num_gates * hidden, projection or hidden
    shapes: dict[str, tuple[int, ...]] = {
        "weight_ih": (rows, features),
        "weight_hh": (rows, k // num_heads),
        "bias_ih": (rows,),
        "bias_hh": (rows,),
        "weight_hr": (k, hidden),
    }
    for name, width in zip(spec.params, spec.param_widths, strict=True):
        shapes[name] = (width * hidden,)
    return {name: shapes[name] for name in weight_names(spec, bias, bool(projection))}


def split_heads(weights: Sequence[Tensor], num_heads: int) -> Sequence[Tensor]:
    """One weight a direction as one a recurrence, each direction's heads in turn."""
    if num_heads == 1:
        return weights
    return [head for weight in weights for head in weight.chunk(num_heads)]


def states_by_head(state: Tensor, num_heads: int) -> Tensor:
    """``[D, B, H]`` as ``[D*num_heads, B, H / num_heads]``."""
    if num_heads == 1:
        return state
    return state.unflatten(2, (num_heads, -1)).transpose(1, 2).flatten(0, 1)


def states_of_heads(state: Tensor, num_heads: int) -> Tensor:
    """The way back of `states_by_head`."""
    if num_heads == 1:
        return state
    return state.unflatten(0, (-1, num_heads)).transpose(1, 2).flatten(2)
