"""A scan under vmap: V calls become one, since more of the same is what a scan takes.

Where the calls share their weights, each batch row becomes V of them, side by side
(so that packed sequences stay in descending order); else each recurrence does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .cells import CELLS


class _Fold:
    """How tensors of V calls, and the dimensions they are mapped over, become those of one.

    In one call tensors in time are ``[S, N, X]``, states ``[N, B, X]``, weights ``[N, ...]``.
    """

    def __init__(self, size: int, in_dims: Sequence[Any], arguments: Sequence[Any]) -> None:
        cell, gates_x, weight_hh, bias_hh, weight_hr, states, batch_sizes, reverse = arguments
        _, gates_dim, *weight_dims, state_dims, sizes_dim, _ = in_dims
        if sizes_dim is not None:
            raise ValueError("vmap over batch_sizes is not possible: one tensor must serve all")
        self.size = size
        self.into_batch = weight_dims == [None, None, None]
        # Not to be had from the results where V is 0.
        self.num_rows, self.recurrences = _sizes(gates_x, gates_dim)[:2]
        self.batch = _sizes(states[0], state_dims and state_dims[0])[1]
        self.arguments = (
            cell,
            self.rows(gates_x, gates_dim),
            *map(self.weights, (weight_hh, bias_hh, weight_hr), weight_dims),
            self.states(states, state_dims),
            batch_sizes * size if self.into_batch and batch_sizes is not None else batch_sizes,
            list(reverse) * (1 if self.into_batch else size),
        )

    def _spread(self, tensor: Tensor, dim: int | None, to: int) -> Tensor:
        """With the mapped dimension there, or one made there."""
        if dim is not None:
            return tensor.movedim(dim, to)
        sizes = list(tensor.shape)
        sizes.insert(to, self.size)
        return tensor.unsqueeze(to).expand(sizes)

    def rows(self, tensor: Tensor, dim: int | None) -> Tensor:
        """``[S*V, N, X]`` or ``[S, V*N, X]``."""
        spread = self._spread(tensor, dim, 1)
        return spread.flatten(0, 1) if self.into_batch else spread.flatten(1, 2)

    def states(self, tensors: Sequence[Tensor], dims: Sequence[int | None] | None) -> list[Tensor]:
        """``[N, B*V, X]`` or ``[V*N, B, X]`` each."""
        to = 2 if self.into_batch else 0
        start = 1 if self.into_batch else 0
        dims = dims or [None] * len(tensors)
        return [
            self._spread(tensor, dim, to).flatten(start, start + 1)
            for tensor, dim in zip(tensors, dims, strict=True)
        ]

    def weights(self, tensor: Tensor | None, dim: int | None) -> Tensor | None:
        """``[N, ...]`` or ``[V*N, ...]``."""
        if tensor is None or self.into_batch:
            return tensor
        return self._spread(tensor, dim, 0).flatten(0, 1)

    def unfold_rows(self, tensor: Tensor) -> Tensor:
        if self.into_batch:
            return tensor.unflatten(0, (self.num_rows, self.size)).movedim(1, 0)
        return tensor.unflatten(1, (self.size, self.recurrences)).movedim(1, 0)

    def unfold_states(self, tensor: Tensor) -> Tensor:
        if self.into_batch:
            return tensor.unflatten(1, (self.batch, self.size)).movedim(2, 0)
        return tensor.unflatten(0, (self.size, self.recurrences))


def _sizes(tensor: Tensor, dim: int | None) -> list[int]:
    """The shape that each of the calls sees."""
    return [size for d, size in enumerate(tensor.shape) if d != dim]


def scan(info: Any, in_dims: Sequence[Any], *arguments: Any) -> Any:
    """The rule of the operator ``fastrnn::scan``."""
    fold = _Fold(info.batch_size, in_dims[:-1], arguments[:-1])
    out, finals, saved = torch.ops.fastrnn.scan(*fold.arguments, arguments[-1])
    results = (
        fold.unfold_rows(out),
        [fold.unfold_states(final) for final in finals],
        [fold.unfold_rows(kept) for kept in saved],
    )
    return results, (0, [0] * len(finals), [0] * len(saved))


def scan_backward(info: Any, in_dims: Sequence[Any], *arguments: Any) -> Any:
    """The rule of the operator ``fastrnn::scan_backward``."""
    *scan_arguments, out, saved, grad_out, grad_finals = arguments
    *scan_dims, out_dim, saved_dims, grad_dim, final_dims = in_dims
    fold = _Fold(info.batch_size, scan_dims, scan_arguments)
    gradients = torch.ops.fastrnn.scan_backward(
        *fold.arguments,
        fold.rows(out, out_dim),
        [fold.rows(*each) for each in zip(saved, saved_dims or [None] * len(saved), strict=True)],
        fold.rows(grad_out, grad_dim),
        fold.states(grad_finals, final_dims),
    )
    spec = CELLS[arguments[0]]
    first = 2 if spec.apart else 1
    states = range(first, first + len(spec.states))
    results = [
        fold.unfold_states(gradient) if i in states else fold.unfold_rows(gradient)
        for i, gradient in enumerate(gradients)
    ]
    return results, [0] * len(results)
