"""Matrices of int8 numbers, a scale a row, as the kernels of `csrc/int8` read them.

A row of weights, and a row of what it is multiplied with, becomes ``scale * integers`` with
``scale = max|row| / 127``; the integers are rounded to nearest, so that a number is off by half a
scale at most. A product of two rows of K numbers is then off by at most (`product_bound`)

    scale_x/2 * sum|w|  +  scale_w/2 * sum|x|  +  K/4 * scale_w * scale_x.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from . import cpp
from .cells import CELLS, CellSpec
from .operators import library, watched

UNITS, DEPTH = 16, 16
"""A block's units, and what a row is padded to a multiple of."""

MOST_DEPTH = 1 << 16
"""The longest row: sums of its products fit 32 bits."""

_LEAST = 2.0**-120
"""A row whose numbers are all below counts as zero."""


def quantise_rows(rows: Tensor) -> tuple[Tensor, Tensor]:
    """int8 ``[..., K]`` and float32 scales ``[...]`` of float32 rows ``[..., K]``.

    A row with a number that is not finite has the scale NaN, and zeros.
    """
    largest = rows.abs().amax(-1)
    finite, zero = largest.isfinite(), largest < _LEAST
    scale = torch.where(finite, torch.where(zero, 0.0, largest / 127), torch.nan)
    inverse = torch.where(finite & ~zero, 127 / largest, 0.0)
    quanta = torch.where(finite.unsqueeze(-1), rows * inverse.unsqueeze(-1), 0.0)
    return quanta.round().to(torch.int8), scale


def product_bound(rows: Tensor, weight: Tensor) -> Tensor:
    """How far off the product of ``rows [S, K]`` and ``weight [M, K]`` may be, ``[S, M]``."""
    x, w = rows.double().abs(), weight.double().abs()
    scale_x, scale_w = x.amax(1, keepdim=True) / 127, w.amax(1) / 127
    return (
        scale_x / 2 * w.sum(1)
        + scale_w / 2 * x.sum(1, keepdim=True)
        + x.shape[1] / 4 * scale_w * scale_x
    )


def pack(quanta: Tensor, gates: int) -> Tensor:
    """int8 ``[G*U, K]`` as uint8 ``[blocks, K/4, G, 64]``: 128 + number, the layout of the kernels.

    Of the last dimension 16 units of 4 numbers each; zeros past U and K.
    """
    rows, k = quanta.shape
    units = rows // gates
    padded = pad(quanta.view(gates, units, k), (0, -k % DEPTH, 0, -units % UNITS))
    blocks, quads = padded.shape[1] // UNITS, padded.shape[2] // 4
    bytes = (padded.to(torch.int16) + 128).to(torch.uint8)
    bytes = bytes.view(gates, blocks, UNITS, quads, 4).permute(1, 3, 0, 2, 4)
    return bytes.reshape(blocks, quads, gates, UNITS * 4)


def unpack(packed: Tensor, units: int, k: int) -> Tensor:
    """The way back of `pack`: int8 ``[G*U, K]``."""
    blocks, quads, gates, _ = packed.shape
    quanta = (packed.to(torch.int16) - 128).to(torch.int8)
    quanta = quanta.view(blocks, quads, gates, UNITS, 4).permute(2, 0, 3, 1, 4)
    return quanta.reshape(gates, blocks * UNITS, quads * 4)[:, :units, :k].reshape(-1, k)


def _kernel(
    cell: str,
    rows: Tensor,
    hx: Sequence[Tensor],
    tensors: Sequence[Tensor | None],
    hidden_size: int,
    proj_size: int,
    num_layers: int,
    reverse: Sequence[bool],
    steps: int,
    batch: int,
    batch_sizes: Tensor | None,
) -> tuple[Tensor, list[Tensor]]:
    found: tuple[Tensor, ...] | None = cpp._C.int8_layers(
        cell, torch.get_num_threads(), rows, tuple(hx), list(tensors), hidden_size, proj_size,
        num_layers, list(reverse), steps, batch,
        () if batch_sizes is None else batch_sizes.tolist(),
    )  # fmt: skip
    if found is None:
        raise RuntimeError(
            "A quantized layer takes contiguous tensors on the CPU, float32 but for its uint8 "
            "weights, with the sizes it was made with, got: "
            + ", ".join(
                "None" if t is None else f"{list(t.shape)} {t.dtype} on {t.device}"
                for t in (rows, *hx, *tensors)
            )
        )
    return found[0], list(found[1:])


def _fake(
    cell: str,
    rows: Tensor,
    hx: Sequence[Tensor],
    tensors: Sequence[Tensor | None],
    hidden_size: int,
    proj_size: int,
    num_layers: int,
    reverse: Sequence[bool],
    steps: int,
    batch: int,
    batch_sizes: Tensor | None,
) -> tuple[Tensor, list[Tensor]]:
    k, count = proj_size or hidden_size, num_layers * len(reverse)
    widths = (k, *[hidden_size] * (len(CELLS[cell].states) - 1))
    finals = [rows.new_empty(count, batch, width) for width in widths]
    return rows.new_empty(rows.shape[0], len(reverse) * k), finals


def _under_vmap(
    info: Any, in_dims: Sequence[Any], cell: str, rows: Tensor, hx: Sequence[Tensor], *rest: Any
) -> tuple[tuple[Tensor, list[Tensor]], tuple[int, list[int]]]:
    """V calls as one of V times the batch; in it, a sequence's V follow one another."""
    _, rows_dim, hx_dims, tensor_dims, *_, sizes_dim = in_dims
    if sizes_dim is not None or any(dim is not None for dim in tensor_dims or ()):
        raise ValueError("vmap over int8 weights or batch_sizes is not possible")
    size = info.batch_size
    *middle, batch, batch_sizes = rest

    def spread(tensor: Tensor, dim: int | None, to: int) -> Tensor:
        mapped = (
            tensor.unsqueeze(to).expand(*tensor.shape[:to], size, *tensor.shape[to:])
            if dim is None
            else tensor.movedim(dim, to)
        )
        return mapped.flatten(to - 1, to).contiguous()

    states = [spread(s, dim, 2) for s, dim in zip(hx, hx_dims or [None] * len(hx), strict=True)]
    output, finals = torch.ops.fastrnn.int8_layers(
        cell, spread(rows, rows_dim, 1), states, *middle, batch * size,
        None if batch_sizes is None else batch_sizes * size,
    )  # fmt: skip
    results = output.unflatten(0, (-1, size)), [s.unflatten(1, (batch, size)) for s in finals]
    return results, (1, [2] * len(finals))


def in_one_call(
    spec: CellSpec,
    input: Tensor,
    hx: Any,
    tensors: list[Tensor | None],
    hidden_size: int,
    proj_size: int,
    num_layers: int,
    reverse: tuple[bool, ...],
) -> tuple[Tensor, ...] | None:
    """Output ``[T, B, D*K]`` and final states of ``input [T, B, I]``, or None if not that simple.

    For calls where nothing watches (`fastrnn.inference.unwatched`).
    """
    if hx is None:
        hx = ()
    elif len(spec.states) == 1:
        hx = (hx,)
    elif not isinstance(hx, (tuple, list)) or len(hx) != len(spec.states):
        return None
    found: tuple[Tensor, ...] | None = cpp._C.int8_layers(
        spec.name, torch.get_num_threads(), input, tuple(hx), tensors, hidden_size, proj_size,
        num_layers, reverse, 0, 0, (),
    )  # fmt: skip
    return found


library.define(
    "int8_layers(str cell, Tensor rows, Tensor[] hx, Tensor?[] tensors, int hidden_size,"
    " int proj_size, int num_layers, int[] reverse, SymInt steps, SymInt batch,"
    " Tensor? batch_sizes) -> (Tensor, Tensor[])",
    tags=(torch.Tag.pt2_compliant_tag,),
)
library.impl("int8_layers", _kernel, "CPU")
torch.library.register_fake("fastrnn::int8_layers", _fake, lib=library)
torch.library.register_vmap("fastrnn::int8_layers", _under_vmap, lib=library)


def layers(rows: Tensor, hx: Sequence[Tensor], **arguments: Any) -> tuple[Tensor, list[Tensor]]:
    """Output ``[S, D*K]`` and final states of rows ``[S, I]``: a stack of layers in one call.

    Args:
        cell: its name.
        hx: states ``[L*D, B, X]``, or none for zeros.
        tensors: of a recurrence, one direction and layer after the other: packed weight and
            scales of ``weight_ih`` and ``weight_hh``, both biases or None, packed weight and
            scales of ``weight_hr`` where there is a projection.
        hidden_size, proj_size, num_layers: as a layer's.
        reverse: of each direction.
        steps, batch, batch_sizes: T, B, and how many sequences reach each step, None: all.

    Raises:
        RuntimeError: a tensor is not what the kernels read: another dtype, device or size.
    """
    if watched((rows, *hx)):
        found: tuple[Tensor, list[Tensor]] = torch.ops.fastrnn.int8_layers(
            arguments["cell"], rows, hx, *list(arguments.values())[1:]
        )
        return found
    return _kernel(rows=rows, hx=hx, **arguments)


def reference(
    spec: CellSpec,
    rows: Tensor,
    states: Sequence[Tensor],
    weights: dict[str, tuple[Tensor, Tensor]],
    bias_ih: Tensor | None,
    bias_hh: Tensor | None,
) -> tuple[Tensor, ...]:
    """One step of one recurrence, to be read: what the kernels compute, but for float64's rounding.

    Args:
        rows: float32 ``[B, I]``.
        states: float32 ``[B, K]`` and then ``[B, H]``.
        weights: int8 and scales of ``weight_ih``, ``weight_hh`` and, with a projection,
            ``weight_hr``.

    Returns:
        the next states, float64.
    """

    def product(x: Tensor, name: str) -> Tensor:
        quanta, scale = quantise_rows(x.float())
        weight, scale_w = weights[name]
        sums = quanta.double() @ weight.double().t()  # exact: integers below 2^53
        return sums * scale.double().unsqueeze(1) * scale_w.double()

    gates_x, gates_h = product(rows, "weight_ih"), product(states[0], "weight_hh")
    gates_x = gates_x if bias_ih is None else gates_x + bias_ih.double()
    gates_h = gates_h if bias_hh is None else gates_h + bias_hh.double()
    h, *others = spec.step(gates_x, gates_h, tuple(state.double() for state in states))
    if "weight_hr" in weights:
        h = product(h, "weight_hr")
    return h, *others
