"""RNN, LSTM and GRU: torch.nn's layers on fused kernels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import functional
from ..forms import Bias
from .recurrent import BATCHED, Recurrent
from .states import as_pair

__all__ = ["GRU", "LSTM", "RNN"]


def _refuse_projection(proj_size: int) -> None:
    if proj_size != 0:
        raise ValueError("proj_size argument is only supported for LSTM, not RNN or GRU")


class RNN(Recurrent):
    r"""Multi-layer Elman network with tanh or ReLU, a drop-in for `torch.nn.RNN`.

    .. math::
        h_t = \phi(W_{ih} x_t + b_{ih} + W_{hh} h_{t-1} + b_{hh})

    (Elman, *Finding structure in time*, 1990.)

    Shapes, with T steps, batch B, I = ``input_size``, H = ``hidden_size``, L =
    ``num_layers`` and D = 2 if ``bidirectional`` else 1:

    ======== ======================= ======================== ==========================
    argument batched                 unbatched                packed
    ======== ======================= ======================== ==========================
    input    ``[T, B, I]`` or        ``[T, I]``               `PackedSequence` of data
             ``[B, T, I]``                                    ``[S, I]``
    hx       ``[L*D, B, H]``         ``[L*D, H]``             ``[L*D, B, H]``, in the
                                                              order before sorting
    output   as input, ``D*H`` wide  ``[T, D*H]``             `PackedSequence` of data
                                                              ``[S, D*H]``
    h_n      as hx                   as hx                    as hx
    ======== ======================= ======================== ==========================

    Dtypes: float32, float64, bfloat16, float16, the same for input, state and weights
    unless autocast is on. Weights, per layer ``k`` and direction: ``weight_ih_l[k]
    [H, I]`` (``[H, D*H]`` above the first layer), ``weight_hh_l[k] [H, H]``,
    ``bias_ih_l[k] [H]``, ``bias_hh_l[k] [H]``, with the suffix ``_reverse`` for the
    second direction; drawn from U(-1/sqrt(H), 1/sqrt(H)) as torch draws them.

    Args:
        input_size: I.
        hidden_size: H.
        num_layers: L; each layer reads the output of the one below.
        nonlinearity: ``"tanh"`` or ``"relu"``.
        bias: whether there are ``bias_ih`` and ``bias_hh``; ``"single"``: ``bias_ih`` alone.
        batch_first: whether batched input and output are ``[B, T, features]``.
        dropout: probability of zeroing an output between layers, in training.
        bidirectional: a second recurrence over reversed time, outputs concatenated.
        proj_size: 0; stands here because it does in torch's order of arguments.
        device, dtype: of the parameters.
        num_heads: number of blocks of equal size on the diagonal of the recurrent matrix: heads
            that see the whole input, but of the state their own units only. ``weight_hh`` is
            then ``[G*H, H / num_heads]``; rows are stacked head by head, gates within a head.
        backend: who computes, as in `fastrnn.use_backend`; None: the first that can.
        settings: ``zoneout``, ``recurrent_dropout``, ``weight_dropout``, ``cell_clip``,
            ``proj_clip``, ``gate_clip``, ``grad_clip``, ``reverse``, ``checkpoint_every`` and
            ``recompute``, as `fastrnn.sequences.Settings` says; and ``learn_initial_state``:
            whether the state that a call begins with, where none is given, is a parameter
            (``initial_h``, ``initial_c``), zero at first.

    Raises:
        ValueError: constructor: a size or ``dropout`` out of range, unknown
            ``nonlinearity``; call: rank of the input, input of another dtype than the
            weights, unknown ``backend``.
        RuntimeError: call: wrong size of input or ``hx``, no time steps, tensors on
            several devices, a requested backend that cannot serve.
        TypeError: an argument of the wrong kind, ``hx`` that is no tensor.
    """

    _title = "RNN"
    _tensor = " tensor"  # a word that torch uses for this layer only

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: Bias = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        num_heads: int = 1,
        backend: str | None = None,
        **settings: Any,
    ) -> None:
        _refuse_projection(proj_size)
        if nonlinearity not in ("tanh", "relu"):
            raise ValueError(
                f"Unknown nonlinearity '{nonlinearity}'. Select from 'tanh' or 'relu'."
            )
        super().__init__(
            f"RNN_{nonlinearity.upper()}", input_size, hidden_size, num_layers, bias, batch_first,
            dropout, bidirectional, 0, device, dtype, backend, num_heads, settings=settings,
        )  # fmt: skip
        self.nonlinearity = nonlinearity

    def _compute(self, *args: Any, **options: Any) -> tuple[Tensor, Tensor]:
        # As in torch, ``mode`` rules: old pickles have no ``nonlinearity``.
        nonlinearity = "relu" if self.mode == "RNN_RELU" else "tanh"
        return functional.rnn(*args, nonlinearity=nonlinearity, **options)


class LSTM(Recurrent):
    r"""Multi-layer long short-term memory, a drop-in for `torch.nn.LSTM`.

    .. math::
        i, f, o &= \sigma(a_i), \sigma(a_f), \sigma(a_o) \qquad g = \tanh(a_g) \\
        c_t &= f \odot c_{t-1} + i \odot g \\
        h_t &= o \odot \tanh(c_t)

    with :math:`a = W_{ih} x_t + b_{ih} + W_{hh} h_{t-1} + b_{hh}`, gates stacked i, f, g,
    o. With ``proj_size`` P > 0, :math:`h_t = W_{hr} (o \odot \tanh(c_t))`, P wide.
    (Hochreiter & Schmidhuber, *Long short-term memory*, 1997; forget gate: Gers et al.,
    2000; projection: Sak et al., 2014.)

    Shapes, with T steps, batch B, I = ``input_size``, H = ``hidden_size``, K = P if P > 0
    else H, L = ``num_layers`` and D = 2 if ``bidirectional`` else 1:

    ======== ======================= ======================== ==========================
    argument batched                 unbatched                packed
    ======== ======================= ======================== ==========================
    input    ``[T, B, I]`` or        ``[T, I]``               `PackedSequence` of data
             ``[B, T, I]``                                    ``[S, I]``
    h_0      ``[L*D, B, K]``         ``[L*D, K]``             ``[L*D, B, K]``, in the
                                                              order before sorting
    c_0      ``[L*D, B, H]``         ``[L*D, H]``             ``[L*D, B, H]``, likewise
    output   as input, ``D*K`` wide  ``[T, D*K]``             `PackedSequence` of data
                                                              ``[S, D*K]``
    h_n, c_n as h_0, c_0             as h_0, c_0              as h_0, c_0
    ======== ======================= ======================== ==========================

    The call is ``output, (h_n, c_n) = lstm(input, (h_0, c_0))``. Dtypes: float32,
    float64, bfloat16, float16, the same for input, states and weights unless autocast is
    on. Weights, per layer ``k`` and direction: ``weight_ih_l[k] [4*H, I]`` (``[4*H, D*K]``
    above the first layer), ``weight_hh_l[k] [4*H, K]``, ``bias_ih_l[k] [4*H]``,
    ``bias_hh_l[k] [4*H]``, ``weight_hr_l[k] [P, H]``, with the suffix ``_reverse`` for the
    second direction; drawn from U(-1/sqrt(H), 1/sqrt(H)) as torch draws them.

    Args:
        input_size: I.
        hidden_size: H.
        num_layers: L; each layer reads the output of the one below.
        bias: whether there are ``bias_ih`` and ``bias_hh``; ``"single"``: ``bias_ih`` alone.
        batch_first: whether batched input and output are ``[B, T, features]``.
        dropout: probability of zeroing an output between layers, in training.
        bidirectional: a second recurrence over reversed time, outputs concatenated.
        proj_size: P, less than H; 0: no projection.
        device, dtype: of the parameters.
        num_heads: number of blocks of equal size on the diagonal of the recurrent matrix: heads
            that see the whole input, but of the state their own units only. ``weight_hh`` is
            then ``[G*H, H / num_heads]``; rows are stacked head by head, gates within a head.
        forget_bias: what the bias begins with that decides what is kept; see
            `fastrnn.init.forget_bias_`.
        backend: who computes, as in `fastrnn.use_backend`; None: the first that can.
        settings: ``zoneout``, ``recurrent_dropout``, ``weight_dropout``, ``cell_clip``,
            ``proj_clip``, ``gate_clip``, ``grad_clip``, ``reverse``, ``checkpoint_every`` and
            ``recompute``, as `fastrnn.sequences.Settings` says; and ``learn_initial_state``:
            whether the state that a call begins with, where none is given, is a parameter
            (``initial_h``, ``initial_c``), zero at first.

    Raises:
        ValueError: constructor: a size or ``dropout`` out of range; call: rank of the
            input, input of another dtype than the weights, unknown ``backend``.
        RuntimeError: call: wrong size of input or states, no time steps, tensors on
            several devices, a requested backend that cannot serve.
        TypeError: an argument of the wrong kind, ``hx`` that is no pair of tensors.
    """

    _title = "LSTM"

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: Bias = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        num_heads: int = 1,
        forget_bias: float | None = None,
        backend: str | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(
            "LSTM", input_size, hidden_size, num_layers, bias, batch_first,
            dropout, bidirectional, proj_size, device, dtype, backend, num_heads, forget_bias,
            settings=settings,
        )  # fmt: skip

    def _compute(self, *args: Any, **options: Any) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        return functional.lstm(*args, **options)

    def _as_state(self, hx: Any) -> tuple[Tensor, Tensor]:
        return as_pair("LSTM", "lstm", hx)

    def _check_state_rank(self, state: Any, rank: int) -> None:
        ranks = state[0].dim(), state[1].dim()
        if ranks != (rank, rank):
            raise RuntimeError(
                f"For {BATCHED[rank]} {rank}-D input, hx and cx should also be {rank}-D "
                f"but got ({ranks[0]}-D, {ranks[1]}-D) tensors"
            )

    def _check_state(self, input: Tensor, state: Any, batch_sizes: Tensor | None) -> None:
        hidden_size = self.get_expected_hidden_size(input, batch_sizes)
        cell_size = (*hidden_size[:2], self.hidden_size)
        self.check_hidden_size(state[0], hidden_size, "Expected hidden[0] size {}, got {}")
        self.check_hidden_size(state[1], cell_size, "Expected hidden[1] size {}, got {}")

    def get_expected_cell_size(
        self, input: Tensor, batch_sizes: Tensor | None
    ) -> tuple[int, int, int]:
        return (*self.get_expected_hidden_size(input, batch_sizes)[:2], self.hidden_size)


class GRU(Recurrent):
    r"""Multi-layer gated recurrent unit, a drop-in for `torch.nn.GRU`.

    .. math::
        r, z &= \sigma(a_r), \sigma(a_z) \\
        n &= \tanh(W_{in} x_t + b_{in} + r \odot (W_{hn} h_{t-1} + b_{hn})) \\
        h_t &= (1 - z) \odot n + z \odot h_{t-1}

    with :math:`a = W_{ih} x_t + b_{ih} + W_{hh} h_{t-1} + b_{hh}`, gates stacked r, z, n.
    (Cho et al., *Learning phrase representations using RNN encoder-decoder*, 2014, in the
    form that torch and cuDNN compute: the reset gate after the product.)

    With ``reset_after=False`` it is the first published form, in which the reset gate comes
    before the product: :math:`n = \tanh(W_{in} x_t + b_{in} + W_{hn} (r \odot h_{t-1}) + b_{hn})`.

    Other arguments (the settings ``zoneout``, ``recurrent_dropout``, ``weight_dropout``,
    ``gate_clip``, ``grad_clip``, ``reverse``, ``checkpoint_every``, ``recompute``,
    ``learn_initial_state`` among them), shapes, dtypes and errors are those of `RNN`, without
    ``nonlinearity``, and with ``forget_bias`` as in `LSTM`.
    Weights, per layer ``k`` and direction: ``weight_ih_l[k] [3*H, I]`` (``[3*H, D*H]``
    above the first layer), ``weight_hh_l[k] [3*H, H]``, ``bias_ih_l[k] [3*H]``,
    ``bias_hh_l[k] [3*H]``.
    """

    _title = "GRU"

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: Bias = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        reset_after: bool = True,
        num_heads: int = 1,
        forget_bias: float | None = None,
        backend: str | None = None,
        **settings: Any,
    ) -> None:
        _refuse_projection(proj_size)
        super().__init__(
            "GRU" if reset_after else "GRU_RESET_BEFORE", input_size, hidden_size, num_layers,
            bias, batch_first, dropout, bidirectional, 0, device, dtype, backend, num_heads,
            forget_bias, settings=settings,
        )  # fmt: skip

    def _compute(self, *args: Any, **options: Any) -> tuple[Tensor, Tensor]:
        return functional.gru(*args, reset_after=self.mode == "GRU", **options)

    def extra_repr(self) -> str:
        return super().extra_repr() + ("" if self.mode == "GRU" else ", reset_after=False")
