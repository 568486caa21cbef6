"""A stack of layers of any cell, and one step: what is behind `fastrnn.functional`.

Each layer is one product of all inputs and one call of `scan` over its directions and heads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import dropout as drop
from torch.utils.checkpoint import checkpoint

from . import one_call
from .cells import CellSpec
from .checks import check_cell
from .forms import Bias, split_heads, states_by_head, states_of_heads, weight_names
from .layer_checks import check_layers
from .linear import linear
from .operators import transformed
from .options import PLAIN, Options
from .scan import scan
from .sequences import OFF, Call, Settings, clear_padding, drop_weights, options_of, split
from .windows import scan_in_windows

Normalise = Callable[[Tensor], Tensor]
"""What becomes of a direction's ``W_ih x`` of all steps, ``[S, G*H]``, before the bias."""


def _autocast(tensors: Sequence[Tensor]) -> Sequence[Tensor]:
    """Under autocast, float32 tensors become autocast's dtype, as for torch's layers."""
    device = tensors[0].device.type
    if device == "meta" or not torch.is_autocast_enabled(device):
        return tensors
    dtype = torch.get_autocast_dtype(device)
    return [t.to(dtype) if t.dtype in _NARROW else t for t in tensors]


_NARROW = (torch.float32, torch.float16, torch.bfloat16)


def stack(
    spec: CellSpec,
    alone: bool,
    input: Tensor,
    hx: Sequence[Tensor] | None,
    weights: Sequence[Tensor],
    bias: Bias,
    num_layers: int,
    dropout: float,
    training: bool,
    bidirectional: bool,
    batch_first: bool,
    batch_sizes: Tensor | None,
    backend: str | None,
    num_heads: int = 1,
    normalise: Sequence[Normalise] = (),
    sequences: Mapping[str, Any] = MappingProxyType({}),
) -> Any:
    """A stack of layers, each one input product and one scan over all directions and heads.

    Returns output, final states and, where asked for, all states; states as a tuple, or as the
    one tensor of a cell that has h alone.
    """
    settings, call = split(sequences)
    hx = () if hx is None else tuple(hx)
    directions = 2 if bidirectional else 1
    tensors = (input, *hx, *weights)
    if all(isinstance(tensor, Tensor) for tensor in tensors):  # the checks tell what is not
        input, *rest = _autocast(tensors)
        hx, weights = rest[: len(hx)], rest[len(hx) :]
    check_layers(
        spec, input, hx, weights, bias, num_layers, directions, batch_first, batch_sizes, num_heads
    )
    per_layer = len(weights) // num_layers
    each = per_layer // directions
    projected = each > len(weight_names(spec, bias))
    names = weight_names(spec, bias, projected)
    if settings is not OFF:
        settings.check(spec, projected, bidirectional)
    if batch_sizes is None:
        if batch_first:
            input = input.transpose(0, 1)
        steps, batch = input.shape[:2]
    else:
        steps, batch = 0, hx[0].shape[1] if hx else int(batch_sizes[0])
        if call.asks or settings.checkpoint_every:
            raise ValueError(
                "lengths, reset, return_all_states and checkpoint_every are for padded sequences, "
                "got packed ones: pad them, and pass lengths"
            )
    if not hx:
        hx = _zeros(spec, input, weights, num_layers * directions, batch, each if projected else 0)
    if call.asks:
        widths = [state.shape[2] for state in hx]
        call = call.check(spec, steps, batch, directions, num_layers, widths, batch_first, input)
        if call.lengths is not None:
            input = clear_padding(input, call.lengths)
    rows = input if batch_sizes is not None else input.reshape(steps * batch, input.shape[2])
    rows = rows.contiguous()  # a batch of one may be a view with gaps, which goes another way
    flags = (settings.reverse, True)[:directions]

    finals, every = [], []
    for layer in range(num_layers):
        if layer and dropout:
            rows = drop(rows, dropout, training)
        start = layer * per_layer
        first = layer * directions
        # Each with one entry a direction.
        of = {name: weights[start + i : start + per_layer : each] for i, name in enumerate(names)}
        if settings.weight_dropout:
            of["weight_hh"] = drop_weights(of["weight_hh"], settings.weight_dropout, training)
        one = _Layer(
            spec, backend, of, num_heads, flags, normalise[first : first + directions], batch_sizes
        )
        states = hx if num_layers == 1 else [s[first : first + directions] for s in hx]
        out, last, others = one.run(rows, states, settings, call, training, first)
        rows = out.flatten(1)
        finals.append(last)
        if call.return_all_states:
            every.append([_by_step(state, steps, num_heads) for state in (out, *others)])

    results: list[Any] = [
        finals[0] if num_layers == 1 else [torch.cat(kind) for kind in zip(*finals, strict=True)]
    ]
    if every:
        results.append([torch.cat(kind, 1) for kind in zip(*every, strict=True)])
    results = [kinds[0] if alone else tuple(kinds) for kinds in results]
    if batch_sizes is not None:
        return rows, *results
    output = rows.view(steps, batch, rows.shape[1])
    return output.transpose(0, 1) if batch_first else output, *results


def _by_step(state: Tensor, steps: int, num_heads: int) -> Tensor:
    """``[T*B, N, X]`` as ``[T, D, B, H]``."""
    state = state.unflatten(0, (steps, -1)).transpose(1, 2)
    if num_heads == 1:
        return state
    return state.unflatten(1, (-1, num_heads)).transpose(2, 3).flatten(3)


@dataclass(frozen=True)
class _Layer:
    """One layer: its weights by name, one entry a direction."""

    spec: CellSpec
    backend: str | None
    weights: dict[str, Sequence[Tensor]]
    num_heads: int
    reverse: Sequence[bool]
    normalise: Sequence[Normalise]
    batch_sizes: Tensor | None

    def run(
        self,
        rows: Tensor,
        states: Sequence[Tensor],
        settings: Settings,
        call: Call,
        training: bool,
        first: int,
    ) -> tuple[Tensor, Sequence[Tensor], Sequence[Tensor]]:
        """Output ``[S, N, K]``, final states, all states, of states ``[D, B, X]``."""
        states = [states_by_head(state, self.num_heads) for state in states]
        options = PLAIN
        if settings is not OFF or call.asks:
            options = options_of(
                self.spec, settings, call, training, rows, states, first, self.num_heads
            )
        # What is saved less in the forward is made again by hooks, which torch.func does not take.
        saves = torch.is_grad_enabled() and not transformed()
        every = settings.checkpoint_every
        if every and saves:
            # Each direction by itself: they meet the windows in different orders.
            found = [
                scan_in_windows(
                    self._of(d)._scan, rows, [state[part] for state in states], backwards,
                    options.of(part), every,
                )
                for d, backwards in enumerate(self.reverse)
                for part in (slice(d * self.num_heads, (d + 1) * self.num_heads),)
            ]  # fmt: skip
            outs, lasts, alls = zip(*found, strict=True)
            out = torch.cat(outs, 1)
            last: Sequence[Tensor] = [torch.cat(kind) for kind in zip(*lasts, strict=True)]
            others: Sequence[Tensor] = [torch.cat(kind, 1) for kind in zip(*alls, strict=True)]
        elif settings.recompute and saves:
            out, last, others = self._recomputed(rows, states, options)
        else:
            out, last, others = self._scan(rows, states, options)
        return out, [states_of_heads(state, self.num_heads) for state in last], others

    def _of(self, direction: int) -> _Layer:
        """One direction alone."""
        part = slice(direction, direction + 1)
        return replace(
            self,
            weights={name: each[part] for name, each in self.weights.items()},
            reverse=self.reverse[part],
            normalise=self.normalise[part],
        )

    def _recomputed(
        self, rows: Tensor, states: Sequence[Tensor], options: Options
    ) -> tuple[Tensor, Sequence[Tensor], Sequence[Tensor]]:
        """The same with the gates made again in the backward: by one product, or by a scan."""
        plain = not options.asked()
        found = self._in_one_call(rows, states, recompute=True) if plain else None
        if found is not None:
            return found
        found = checkpoint(self._by_operators, rows, list(states), options, use_reentrant=False)
        assert found is not None
        return found

    def _scan(
        self, rows: Tensor, states: Sequence[Tensor], options: Options
    ) -> tuple[Tensor, Sequence[Tensor], Sequence[Tensor]]:
        """Input product and scan."""
        found = self._in_one_call(rows, states) if options is PLAIN else None
        return self._by_operators(rows, states, options) if found is None else found

    def _in_one_call(
        self, rows: Tensor, states: Sequence[Tensor], recompute: bool = False
    ) -> tuple[Tensor, Sequence[Tensor], Sequence[Tensor]] | None:
        of = self.weights
        if self.num_heads > 1 or self.batch_sizes is not None or self.normalise:
            return None
        names = tuple(name for name in one_call.ORDER if name in of)
        weights = [of[name][n] for n in range(len(self.reverse)) for name in names]
        layer = one_call.Layer(self.spec, names, self.reverse, self._general, recompute)
        if not layer.serves(self.backend, (rows, *states, *weights)):
            return None
        return *one_call.run(layer, rows, states, weights), ()

    def _general(
        self, rows: Tensor, states: Sequence[Tensor], weights: Sequence[Tensor]
    ) -> tuple[Tensor, Sequence[Tensor]]:
        """With other weights, in the order of `fastrnn.one_call`."""
        names = [name for name in one_call.ORDER if name in self.weights]
        of = {name: weights[i :: len(names)] for i, name in enumerate(names)}
        return replace(self, weights=of)._by_operators(rows, states, PLAIN)[:2]

    def _by_operators(
        self, rows: Tensor, states: Sequence[Tensor], options: Options
    ) -> tuple[Tensor, Sequence[Tensor], Sequence[Tensor]]:
        of, heads = self.weights, self.num_heads
        gates_x, b_hh = input_product(
            self.spec, self.backend, rows, of["weight_ih"], of.get("bias_ih"), of.get("bias_hh"),
            self.normalise,
        )  # fmt: skip
        w_hh, b_hh, *params = [
            None if each is None else split_heads(each, heads)
            for each in (of.get("weight_hh"), b_hh, *(of[name] for name in self.spec.params))
        ]
        return scan(
            self.spec,
            gates_x.unflatten(2, (heads, -1)).flatten(1, 2) if heads > 1 else gates_x,
            w_hh,
            b_hh,
            of.get("weight_hr"),
            states,
            self.batch_sizes,
            [backwards for backwards in self.reverse for _ in range(heads)],
            self.backend,
            params,  # type: ignore[arg-type]
            options,
        )


def input_product(
    spec: CellSpec,
    backend: str | None,
    rows: Tensor,
    w_ih: Sequence[Tensor],
    b_ih: Sequence[Tensor] | None = None,
    b_hh: Sequence[Tensor] | None = None,
    normalise: Sequence[Normalise] = (),
) -> tuple[Tensor, Sequence[Tensor] | None]:
    """``gates_x [S, D, G*H]`` for all steps and directions in one product.

    Also the biases that remain for the recurrent side: where a cell merely sums
    the two sides, both biases go in here. ``normalise`` comes between product and bias.
    """
    if b_ih is not None and b_hh is not None and not spec.apart:
        b_ih, b_hh = [x + h for x, h in zip(b_ih, b_hh, strict=True)], None
    count = len(w_ih)
    weight = w_ih[0] if count == 1 else torch.cat(tuple(w_ih))
    bias = None if b_ih is None else b_ih[0] if count == 1 else torch.cat(tuple(b_ih))
    gates_x = linear(spec, rows, weight, None if normalise else bias, backend)
    gates_x = gates_x.view(gates_x.shape[0], count, w_ih[0].shape[0])
    if normalise:
        given = gates_x.unbind(1)
        parts = [norm(part) for norm, part in zip(normalise, given, strict=True)]
        for part in parts:
            if not isinstance(part, Tensor) or part.shape != given[0].shape:
                got = list(part.shape) if isinstance(part, Tensor) else type(part).__name__
                raise ValueError(
                    f"normalise should return a tensor of the size it is given, "
                    f"{list(given[0].shape)}, got: {got}"
                )
        gates_x = parts[0].unsqueeze(1) if count == 1 else torch.stack(parts, 1)
        if bias is not None:
            gates_x = gates_x + bias.view(count, -1)
    return gates_x, b_hh


def _zeros(
    spec: CellSpec,
    rows: Tensor,
    weights: Sequence[Tensor],
    count: int,
    batch: int,
    projection: int,
) -> list[Tensor]:
    hidden = weights[0].shape[0] // spec.num_gates
    zeros = rows.new_zeros(count, batch, hidden)
    h_0 = rows.new_zeros(count, batch, weights[projection - 1].shape[0]) if projection else zeros
    return [h_0] + [zeros] * (len(spec.states) - 1)


def step(
    spec: CellSpec,
    input: Tensor,
    states: Sequence[Tensor],
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None,
    b_hh: Tensor | None,
    backend: str | None,
) -> list[Tensor]:
    """One step: a scan of length one."""
    check_cell(spec, input, states, w_ih, w_hh, b_ih, b_hh)
    # One bias without the other stands for a zero one.
    if b_ih is None and b_hh is not None:
        b_ih = torch.zeros_like(b_hh)
    if b_hh is None and b_ih is not None:
        b_hh = torch.zeros_like(b_ih)
    biases = [b for b in (b_ih, b_hh) if b is not None]
    input, *rest = _autocast((input, *states, w_ih, w_hh, *biases))
    states, (w_ih, w_hh, *biases) = rest[: len(states)], rest[len(states) :]
    b_x, b_h = ([biases[0]], [biases[1]]) if biases else (None, None)
    gates_x, b_hh_left = input_product(spec, backend, input, [w_ih], b_x, b_h)
    _, finals, _ = scan(
        spec,
        gates_x,
        [w_hh],
        b_hh_left,
        None,
        [state.unsqueeze(0) for state in states],
        backend=backend,
    )
    return [final.squeeze(0) for final in finals]
