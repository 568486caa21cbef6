"""The layers without modules: checks, the input product, one call of `scan` a layer.

Weights are plain tensors in torch's order, for each layer and direction
``w_ih [G*H, I], w_hh [G*H, K], b_ih [G*H], b_hh [G*H], w_hr [P, H]`` (biases and
projection where present), with gates stacked i, f, g, o (LSTM) and r, z, n (GRU).
K, the width of the output of one direction, is P with a projection, else H.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import dropout as drop

from .cells import CELLS, CellSpec
from .checks import check_cell
from .forms import Bias, split_heads, states_by_head, states_of_heads, weight_names
from .functional_attention import attention, pointer_log_probs, pointer_nll
from .layer_checks import check_layers
from .linear import linear
from .scan import scan

Normalise = Callable[[Tensor], Tensor]
"""What becomes of a direction's ``W_ih x`` of all steps, ``[S, G*H]``, before the bias."""

__all__ = [
    "attention",
    "gru",
    "gru_cell",
    "lstm",
    "lstm_cell",
    "pointer_log_probs",
    "pointer_nll",
    "recurrent",
    "recurrent_cell",
    "rnn",
    "rnn_cell",
]


def rnn(
    input: Tensor,
    hx: Tensor | None,
    weights: Sequence[Tensor],
    *,
    nonlinearity: str = "tanh",
    bias: Bias = True,
    num_layers: int = 1,
    dropout: float = 0.0,
    training: bool = False,
    bidirectional: bool = False,
    batch_first: bool = False,
    batch_sizes: Tensor | None = None,
    num_heads: int = 1,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Elman network with tanh or ReLU: ``h_t = phi(W_ih x_t + b_ih + W_hh h_{t-1} + b_hh)``.

    Args:
        input: ``[T, B, I]``, ``[B, T, I]`` with ``batch_first``, or with ``batch_sizes``
            the data of a packed sequence, ``[sum(batch_sizes), I]``.
        hx: the initial state ``[num_layers*D, B, H]``, D directions; None: zeros.
        weights: see this module's heading.
        nonlinearity: ``"tanh"`` or ``"relu"``.
        dropout: probability of zeroing an output between layers, while ``training``.
        bias: True: two biases; ``"single"``: ``b_ih`` alone; False: none.
        batch_sizes: int64 ``[T]`` on the CPU, descending; see `PackedSequence`.
        num_heads: how many blocks of equal size the recurrent matrix has on its diagonal, see
            `fastrnn.forms`.
        backend: who shall compute it; None: the first that can.

    Returns:
        output, shaped as the input with ``D*H`` features, and the final state, as ``hx``.

    Raises:
        ValueError: unknown nonlinearity or backend, bad ``batch_sizes``.
        RuntimeError: shapes, dtypes or devices that do not agree; no time steps; a
            backend that was asked for and cannot serve.
    """
    output, states = _layers(
        _rnn_spec(nonlinearity), input, None if hx is None else (hx,), weights, bias, num_layers,
        dropout, training, bidirectional, batch_first, batch_sizes, backend, num_heads,
    )  # fmt: skip
    return output, states[0]


def gru(
    input: Tensor,
    hx: Tensor | None,
    weights: Sequence[Tensor],
    *,
    bias: Bias = True,
    num_layers: int = 1,
    dropout: float = 0.0,
    training: bool = False,
    bidirectional: bool = False,
    batch_first: bool = False,
    batch_sizes: Tensor | None = None,
    num_heads: int = 1,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Gated recurrent unit (Cho et al. 2014), reset after the product as in torch.

    ``r = sigmoid(a_r)``, ``z = sigmoid(a_z)``,
    ``n = tanh(W_in x + b_in + r * (W_hn h + b_hn))``, ``h = (1 - z) * n + z * h``.
    Arguments, results and errors are those of `rnn`.
    """
    output, states = _layers(
        CELLS["gru"], input, None if hx is None else (hx,), weights, bias, num_layers,
        dropout, training, bidirectional, batch_first, batch_sizes, backend, num_heads,
    )  # fmt: skip
    return output, states[0]


def lstm(
    input: Tensor,
    hx: tuple[Tensor, Tensor] | None,
    weights: Sequence[Tensor],
    *,
    bias: Bias = True,
    num_layers: int = 1,
    dropout: float = 0.0,
    training: bool = False,
    bidirectional: bool = False,
    batch_first: bool = False,
    batch_sizes: Tensor | None = None,
    num_heads: int = 1,
    backend: str | None = None,
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Long short-term memory (Hochreiter & Schmidhuber 1997), or projected (Sak et al. 2014).

    ``i, f, o = sigmoid(a_i), sigmoid(a_f), sigmoid(a_o)``, ``g = tanh(a_g)``,
    ``c = f * c + i * g``, ``h = o * tanh(c)``, projected ``h = W_hr (o * tanh(c))``.
    ``hx`` is ``(h_0 [num_layers*D, B, K], c_0 [num_layers*D, B, H])``; the rest is as in `rnn`.
    """
    output, states = _layers(
        CELLS["lstm"], input, hx, weights, bias, num_layers,
        dropout, training, bidirectional, batch_first, batch_sizes, backend, num_heads,
    )  # fmt: skip
    return output, (states[0], states[1])


def recurrent(
    cell: str,
    input: Tensor,
    hx: Sequence[Tensor] | None,
    weights: Sequence[Tensor],
    *,
    bias: Bias = True,
    num_layers: int = 1,
    dropout: float = 0.0,
    training: bool = False,
    bidirectional: bool = False,
    batch_first: bool = False,
    batch_sizes: Tensor | None = None,
    num_heads: int = 1,
    normalise: Sequence[Normalise] = (),
    backend: str | None = None,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Layers of any cell of `fastrnn.cells`, by its name; its file there says what it computes.

    Args:
        hx: the initial states, one ``[num_layers*D, B, H]`` for each of the cell's; None: zeros.
        weights: for each layer and direction, in the order of `fastrnn.forms.weight_names`:
            ``weight_ih``, ``weight_hh`` if there is a recurrent product, the biases, the
            cell's own parameters, the projection.
        bias: True: two biases; ``"single"``: ``bias_ih`` alone; False: none.
        num_heads: how many blocks of equal size the recurrent matrix has on its diagonal, see
            `fastrnn.forms`.
        normalise: for each layer and direction what is done to ``W_ih x`` of all steps,
            ``[S, G*H]``, before the bias is added; or none.

    Returns:
        output, shaped as the input with ``D*H`` features, and the final states, as ``hx``.
        The rest, and errors, are as in `rnn`.
    """
    output, states = _layers(
        _spec_of(cell), input, hx, weights, bias, num_layers, dropout, training, bidirectional,
        batch_first, batch_sizes, backend, num_heads, normalise,
    )  # fmt: skip
    return output, tuple(states)


def recurrent_cell(
    cell: str,
    input: Tensor,
    states: Sequence[Tensor],
    weights: Sequence[Tensor],
    *,
    bias: Bias = True,
    num_heads: int = 1,
    normalise: Sequence[Normalise] = (),
    backend: str | None = None,
) -> tuple[Tensor, ...]:
    """One step of `recurrent`: input ``[B, I]``, states ``[B, H]``; returns the next states."""
    if input.dim() != 2:
        raise RuntimeError(f"input must have 2 dimensions, got {input.dim()}")
    _, finals = recurrent(
        cell, input.unsqueeze(0), [state.unsqueeze(0) for state in states], weights,
        bias=bias, num_heads=num_heads, normalise=normalise, backend=backend,
    )  # fmt: skip
    return tuple(final.squeeze(0) for final in finals)


def rnn_cell(
    input: Tensor,
    hx: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
    *,
    nonlinearity: str = "tanh",
    backend: str | None = None,
) -> Tensor:
    """One step of `rnn`: input ``[B, I]``, hx ``[B, H]``; returns the next state ``[B, H]``."""
    return _cell(_rnn_spec(nonlinearity), input, (hx,), w_ih, w_hh, b_ih, b_hh, backend)[0]


def gru_cell(
    input: Tensor,
    hx: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
    *,
    backend: str | None = None,
) -> Tensor:
    """One step of `gru`: input ``[B, I]``, hx ``[B, H]``; returns the next state ``[B, H]``."""
    return _cell(CELLS["gru"], input, (hx,), w_ih, w_hh, b_ih, b_hh, backend)[0]


def lstm_cell(
    input: Tensor,
    hx: tuple[Tensor, Tensor],
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
    *,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """One step of `lstm`: input ``[B, I]``, hx ``(h, c)`` of ``[B, H]``; returns the next hx."""
    h, c = _cell(CELLS["lstm"], input, hx, w_ih, w_hh, b_ih, b_hh, backend)
    return h, c


def _spec_of(cell: str) -> CellSpec:
    if cell not in CELLS:
        raise ValueError(f"cell should be one of {', '.join(CELLS)}, got: {cell!r}")
    return CELLS[cell]


def _rnn_spec(nonlinearity: str) -> CellSpec:
    if nonlinearity not in ("tanh", "relu"):
        raise ValueError(f"Unknown nonlinearity '{nonlinearity}'. Select from 'tanh' or 'relu'.")
    return CELLS[f"rnn_{nonlinearity}"]


def _autocast(tensors: Sequence[Tensor]) -> Sequence[Tensor]:
    """Under autocast, float32 tensors become autocast's dtype, as for torch's layers."""
    device = tensors[0].device.type
    if device == "meta" or not torch.is_autocast_enabled(device):
        return tensors
    dtype = torch.get_autocast_dtype(device)
    return [t.to(dtype) if t.dtype in _NARROW else t for t in tensors]


_NARROW = (torch.float32, torch.float16, torch.bfloat16)


def _layers(
    spec: CellSpec,
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
) -> tuple[Tensor, Sequence[Tensor]]:
    """A stack of layers, each one input product and one scan over all directions and heads."""
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
    if batch_sizes is None:
        if batch_first:
            input = input.transpose(0, 1)
        steps, batch = input.shape[:2]
        rows = input.reshape(steps * batch, input.shape[2])
    else:
        batch = hx[0].shape[1] if hx else int(batch_sizes[0])
        rows = input
    if not hx:
        hx = _zeros(spec, rows, weights, num_layers * directions, batch, each if projected else 0)
    reverse = [backwards for backwards in (False, True)[:directions] for _ in range(num_heads)]

    finals = []
    for layer in range(num_layers):
        if layer and dropout:
            rows = drop(rows, dropout, training)
        start = layer * per_layer
        # Each with one entry a direction.
        of = {name: weights[start + i : start + per_layer : each] for i, name in enumerate(names)}
        first = layer * directions
        states = hx if num_layers == 1 else [s[first : first + directions] for s in hx]
        gates_x, b_hh = _input_product(
            spec, backend, rows, of["weight_ih"], of.get("bias_ih"), of.get("bias_hh"),
            normalise[first : first + directions],
        )  # fmt: skip
        w_hh, b_hh, *params = [
            None if each is None else split_heads(each, num_heads)
            for each in (of.get("weight_hh"), b_hh, *(of[name] for name in spec.params))
        ]
        out, last, _ = scan(
            spec,
            gates_x.unflatten(2, (num_heads, -1)).flatten(1, 2) if num_heads > 1 else gates_x,
            w_hh,
            b_hh,
            of.get("weight_hr"),
            [states_by_head(state, num_heads) for state in states],
            batch_sizes,
            reverse,
            backend,
            params,  # type: ignore[arg-type]
        )
        rows = out.flatten(1)
        finals.append([states_of_heads(state, num_heads) for state in last])

    last = finals[0] if num_layers == 1 else [torch.cat(kind) for kind in zip(*finals, strict=True)]
    if batch_sizes is not None:
        return rows, last
    output = rows.view(steps, batch, rows.shape[1])
    return output.transpose(0, 1) if batch_first else output, last


def _input_product(
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
        parts = [norm(part) for norm, part in zip(normalise, gates_x.unbind(1), strict=True)]
        gates_x = torch.stack(parts, 1)
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


def _cell(
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
    gates_x, b_h = _input_product(spec, backend, input, [w_ih], *([b] for b in biases))
    _, finals, _ = scan(
        spec, gates_x, [w_hh], b_h, None, [state.unsqueeze(0) for state in states], backend=backend
    )
    return [final.squeeze(0) for final in finals]
