"""The layers without modules.

Weights are plain tensors in torch's order, for each layer and direction
``w_ih [G*H, I], w_hh [G*H, K], b_ih [G*H], b_hh [G*H], w_hr [P, H]`` (biases and
projection where present), with gates stacked i, f, g, o (LSTM) and r, z, n (GRU).
K, the width of the output of one direction, is P with a projection, else H.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from .cells import CELLS, CellSpec
from .forms import Bias
from .functional_attention import attention, pointer_log_probs, pointer_nll
from .stack import Normalise, stack, step

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
    **sequences: Any,
) -> Any:
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
        sequences: what else is done to states and sequences: keyword arguments of
            `fastrnn.sequences.Settings` and `fastrnn.sequences.Call`.

    Returns:
        output, shaped as the input with ``D*H`` features, and the final state, as ``hx``; with
        ``return_all_states``, the states after every step as well.

    Raises:
        ValueError: unknown nonlinearity or backend, bad ``batch_sizes``.
        RuntimeError: shapes, dtypes or devices that do not agree; no time steps; a
            backend that was asked for and cannot serve.
    """
    return stack(
        _rnn_spec(nonlinearity), True, input, None if hx is None else (hx,), weights, bias,
        num_layers,
        dropout, training, bidirectional, batch_first, batch_sizes, backend, num_heads,
        sequences=sequences,
    )  # fmt: skip


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
    reset_after: bool = True,
    backend: str | None = None,
    **sequences: Any,
) -> Any:
    """Gated recurrent unit (Cho et al. 2014), reset after the product as in torch.

    ``r = sigmoid(a_r)``, ``z = sigmoid(a_z)``,
    ``n = tanh(W_in x + b_in + r * (W_hn h + b_hn))``, ``h = (1 - z) * n + z * h``.
    With ``reset_after=False`` the first published form, ``n = tanh(W_in x + b_in + W_hn (r * h) +
    b_hn)``. Other arguments, results and errors are those of `rnn`.
    """
    return stack(
        _gru_spec(reset_after), True, input, None if hx is None else (hx,), weights, bias,
        num_layers, dropout, training, bidirectional, batch_first, batch_sizes, backend, num_heads,
        sequences=sequences,
    )  # fmt: skip


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
    **sequences: Any,
) -> Any:
    """Long short-term memory (Hochreiter & Schmidhuber 1997), or projected (Sak et al. 2014).

    ``i, f, o = sigmoid(a_i), sigmoid(a_f), sigmoid(a_o)``, ``g = tanh(a_g)``,
    ``c = f * c + i * g``, ``h = o * tanh(c)``, projected ``h = W_hr (o * tanh(c))``.
    ``hx`` is ``(h_0 [num_layers*D, B, K], c_0 [num_layers*D, B, H])``; the rest is as in `rnn`.
    """
    return stack(
        CELLS["lstm"], False, input, hx, weights, bias, num_layers,
        dropout, training, bidirectional, batch_first, batch_sizes, backend, num_heads,
        sequences=sequences,
    )  # fmt: skip


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
    **sequences: Any,
) -> Any:
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

    >>> import torch
    >>> from fastrnn.cells import CELLS
    >>> from fastrnn.forms import weight_shapes
    >>> shapes = weight_shapes(CELLS["peephole_lstm"], "single", features=6, hidden=4)
    >>> shapes
    {'weight_ih': (16, 6), 'weight_hh': (16, 4), 'bias_ih': (16,), 'weight_ch': (12,)}
    >>> weights = [torch.randn(shape) for shape in shapes.values()]
    >>> x = torch.randn(10, 3, 6)  # [T, B, I]
    >>> output, (h, c) = recurrent("peephole_lstm", x, None, weights, bias="single", zoneout=0.1)
    >>> output.shape, h.shape, c.shape
    (torch.Size([10, 3, 4]), torch.Size([1, 3, 4]), torch.Size([1, 3, 4]))
    """
    return stack(
        _spec_of(cell), False, input, hx, weights, bias, num_layers, dropout, training,
        bidirectional,
        batch_first, batch_sizes, backend, num_heads, normalise, sequences,
    )  # fmt: skip


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
    return step(_rnn_spec(nonlinearity), input, (hx,), w_ih, w_hh, b_ih, b_hh, backend)[0]


def gru_cell(
    input: Tensor,
    hx: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
    *,
    reset_after: bool = True,
    backend: str | None = None,
) -> Tensor:
    """One step of `gru`: input ``[B, I]``, hx ``[B, H]``; returns the next state ``[B, H]``."""
    return step(_gru_spec(reset_after), input, (hx,), w_ih, w_hh, b_ih, b_hh, backend)[0]


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
    h, c = step(CELLS["lstm"], input, hx, w_ih, w_hh, b_ih, b_hh, backend)
    return h, c


def _gru_spec(reset_after: bool) -> CellSpec:
    return CELLS["gru" if reset_after else "gru_reset_before"]


def _spec_of(cell: str) -> CellSpec:
    if cell not in CELLS:
        raise ValueError(f"cell should be one of {', '.join(CELLS)}, got: {cell!r}")
    return CELLS[cell]


def _rnn_spec(nonlinearity: str) -> CellSpec:
    if nonlinearity not in ("tanh", "relu"):
        raise ValueError(f"Unknown nonlinearity '{nonlinearity}'. Select from 'tanh' or 'relu'.")
    return CELLS[f"rnn_{nonlinearity}"]
