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
from .options import FIELDS


class _Fold:
    """How tensors of V calls, and the dimensions they are mapped over, become those of one.

    In one call tensors in time are ``[S, N, X]``, states ``[N, B, X]``, weights ``[N, ...]``.
    """

    def __init__(self, size: int, in_dims: Sequence[Any], arguments: Sequence[Any]) -> None:
        cell, gates_x, weight_hh, bias_hh, weight_hr, *rest = arguments
        states, batch_sizes, reverse, params, *options = rest
        _, gates_dim, *dims = in_dims
        weight_dims, (state_dims, sizes_dim, _, param_dims, *option_dims) = dims[:3], dims[3:]
        if sizes_dim is not None:
            raise ValueError("vmap over batch_sizes is not possible: one tensor must serve all")
        self.size = size
        # A cell's own parameters have their gradients summed within a call, and the calls'
        # must stay apart.
        self.into_batch = weight_dims == [None, None, None] and not params
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
            self.each(self.weights, params, param_dims),
            *self._options(options, option_dims),
        )

    def _options(self, values: Sequence[Any], dims: Sequence[Any]) -> list[Any]:
        """Those of `fastrnn.options.SCHEMA`."""
        lengths, reset, to, reset_states, dropout, zoneout, *constants = values
        lengths_dim, reset_dim, _, reset_states_dims, dropout_dim, zoneout_dims, *_ = dims
        return [
            self._lengths(lengths, lengths_dim),
            None if reset is None else self.rows(reset, reset_dim),
            to,
            self.each(self.rows, reset_states, reset_states_dims),
            None if dropout is None else self.states([dropout], [dropout_dim])[0],
            self.each(self.rows, zoneout, zoneout_dims),
            *constants,
        ]

    def _lengths(self, lengths: Tensor | None, dim: int | None) -> Tensor | None:
        """``[B*V]`` or ``[B]``."""
        if lengths is None:
            return None
        if self.into_batch:
            return self._spread(lengths, dim, 1).flatten()
        if dim is not None:
            raise ValueError(
                "vmap over lengths is not possible where the calls do not share their weights: "
                "one tensor must serve all"
            )
        return lengths

    @staticmethod
    def each(rule: Any, tensors: Sequence[Tensor], dims: Sequence[int | None] | None) -> list[Any]:
        """A rule applied to each tensor of a list."""
        dims = dims or [None] * len(tensors)
        return [rule(tensor, dim) for tensor, dim in zip(tensors, dims, strict=True)]

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

    def unfold_weights(self, tensor: Tensor) -> Tensor:
        return tensor.unflatten(0, (self.size, self.recurrences))

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
    out, finals, others, saved = torch.ops.fastrnn.scan(*fold.arguments, arguments[-1])
    results = (
        fold.unfold_rows(out),
        [fold.unfold_states(final) for final in finals],
        [fold.unfold_rows(state) for state in others],
        [fold.unfold_rows(kept) for kept in saved],
    )
    return results, (0, [0] * len(finals), [0] * len(others), [0] * len(saved))


def scan_backward(info: Any, in_dims: Sequence[Any], *arguments: Any) -> Any:
    """The rule of the operator ``fastrnn::scan_backward``."""
    count = _SCAN_ARGUMENTS
    fold = _Fold(info.batch_size, in_dims[:count], arguments[:count])
    out, saved, grad_out, grad_finals, grad_others = arguments[count:]
    out_dim, saved_dims, grad_dim, final_dims, other_dims = in_dims[count:]
    gradients = torch.ops.fastrnn.scan_backward(
        *fold.arguments,
        fold.rows(out, out_dim),
        fold.each(fold.rows, saved, saved_dims),
        fold.rows(grad_out, grad_dim),
        fold.states(grad_finals, final_dims),
        fold.each(fold.rows, grad_others, other_dims),
    )
    spec, states, params, resets = (arguments[i] for i in (0, 5, 8, 12))
    spec = CELLS[spec]
    kinds = [fold.unfold_rows] * (2 if spec.apart else 1)
    kinds += [fold.unfold_states] * len(states)
    kinds += [fold.unfold_rows] * len(resets)
    kinds += [fold.unfold_weights] * len(params)
    kinds += [fold.unfold_rows] * (len(gradients) - len(kinds))
    results = [unfold(gradient) for unfold, gradient in zip(kinds, gradients, strict=True)]
    return results, [0] * len(results)


_SCAN_ARGUMENTS = 9 + FIELDS
