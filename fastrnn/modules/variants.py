"""The layers and cells beyond torch.nn's: each names its cell and says what it computes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ..stack import Normalise
from .cell_layer import CellLayer, CellStep, LayerNormedInput

__all__ = [
    "SLSTM",
    "CoupledLSTM",
    "CoupledLSTMCell",
    "IndRNN",
    "IndRNNCell",
    "LayerNormGRU",
    "LayerNormGRUCell",
    "LayerNormLSTM",
    "LayerNormLSTMCell",
    "LightGRU",
    "LightGRUCell",
    "MinGRU",
    "MinGRUCell",
    "MinLSTM",
    "MinLSTMCell",
    "PeepholeLSTM",
    "PeepholeLSTMCell",
    "SLSTMCell",
]


class PeepholeLSTM(CellLayer):
    r"""LSTM whose gates see the cell state (Gers & Schmidhuber, *Recurrent nets that time and
    count*, 2000).

    .. math::
        i, f &= \sigma(a_i + p_i \odot c_{t-1}), \sigma(a_f + p_f \odot c_{t-1}) \\
        c_t &= f \odot c_{t-1} + i \odot \tanh(a_g) \\
        h_t &= \sigma(a_o + p_o \odot c_t) \odot \tanh(c_t)

    with a as in `fastrnn.LSTM`, gates i, f, g, o; ``weight_ch_l[k] [3*H]`` are the p of i, f, o.
    With ``proj_size``, h is projected as in `fastrnn.LSTM`.
    """

    _cell_name = "peephole_lstm"


class PeepholeLSTMCell(CellStep):
    """One step of `PeepholeLSTM`."""

    _cell_name = "peephole_lstm"


class CoupledLSTM(CellLayer):
    r"""LSTM whose forget gate is what the input gate leaves (Greff et al., *LSTM: a search space
    odyssey*, 2015: CIFG).

    .. math::
        c_t &= (1 - i) \odot c_{t-1} + i \odot \tanh(a_g) \\
        h_t &= \sigma(a_o) \odot \tanh(c_t)

    with :math:`i = \sigma(a_i)` and a as in `fastrnn.LSTM`, gates i, g, o. With ``peepholes``,
    i also sees the old cell state and o the new one, by ``weight_ch_l[k] [2*H]``.
    """

    _cell_name = "coupled_lstm"

    def __init__(self, *args: Any, peepholes: bool = False, **options: Any) -> None:
        self._peepholes = peepholes
        super().__init__(*args, **options)

    def _mode(self) -> str:
        return "COUPLED_PEEPHOLE_LSTM" if self._peepholes else "COUPLED_LSTM"


class CoupledLSTMCell(CellStep):
    """One step of `CoupledLSTM`."""

    _cell_name = "coupled_lstm"

    def __init__(self, *args: Any, peepholes: bool = False, **options: Any) -> None:
        self._peepholes = peepholes
        super().__init__(*args, **options)

    def _cell(self) -> str:
        return "coupled_peephole_lstm" if self._peepholes else "coupled_lstm"


class LayerNormLSTM(LayerNormedInput):
    r"""LSTM with layer normalisation (Ba et al., *Layer normalization*, 2016).

    .. math::
        a &= LN(W_{ih} x_t) + LN(W_{hh} h_{t-1}) + b_{ih} \\
        c_t &= \sigma(a_f) \odot c_{t-1} + \sigma(a_i) \odot \tanh(a_g) \\
        h_t &= \sigma(a_o) \odot \tanh(LN(c_t))

    Gates i, f, g, o. The first two normalise all 4H numbers together, with gains
    ``weight_ln_ih_l[k]``, ``weight_ln_hh_l[k] [4*H]``; the third has gain ``weight_ln_c_l[k] [H]``
    and bias ``bias_ln_c_l[k] [H]``; eps is 1e-5.
    """

    _cell_name = "layer_norm_lstm"


class LayerNormLSTMCell(CellStep):
    """One step of `LayerNormLSTM`."""

    _cell_name = "layer_norm_lstm"
    _gained = True


class LayerNormGRU(CellLayer):
    r"""GRU with layer normalisation in the form of world models (Hafner et al., *Mastering Atari
    with discrete world models*, 2020).

    .. math::
        a &= LN(W_{ih} x_t + W_{hh} h_{t-1} + b_{ih}) \\
        n &= \tanh(\sigma(a_r) \odot a_n) \\
        u &= \sigma(a_u - 1) \\
        h_t &= u \odot n + (1 - u) \odot h_{t-1}

    Gates r, u, n; all 3H numbers are normalised together, with gain ``weight_ln_l[k] [3*H]`` and
    bias ``bias_ln_l[k] [3*H]``, eps 1e-5.
    """

    _cell_name = "layer_norm_gru"


class LayerNormGRUCell(CellStep):
    """One step of `LayerNormGRU`."""

    _cell_name = "layer_norm_gru"


class IndRNN(CellLayer):
    r"""Independently recurrent network (Li et al. 2018): each unit sees its own past only.

    .. math::
        h_t = \phi(W_{ih} x_t + b_{ih} + u \odot h_{t-1})

    ``weight_u_l[k] [H]`` is u, drawn from U(0, 1); there is no ``weight_hh``. ``nonlinearity`` is
    ``"relu"`` or ``"tanh"``.
    """

    _cell_name = "indrnn_relu"

    def __init__(self, *args: Any, nonlinearity: str = "relu", **options: Any) -> None:
        self.nonlinearity = _check_nonlinearity(nonlinearity)
        super().__init__(*args, **options)

    def _mode(self) -> str:
        return f"INDRNN_{self.nonlinearity.upper()}"


class IndRNNCell(CellStep):
    """One step of `IndRNN`."""

    _cell_name = "indrnn_relu"

    def __init__(self, *args: Any, nonlinearity: str = "relu", **options: Any) -> None:
        self.nonlinearity = _check_nonlinearity(nonlinearity)
        super().__init__(*args, **options)

    def _cell(self) -> str:
        return f"indrnn_{self.nonlinearity}"


def _check_nonlinearity(nonlinearity: str) -> str:
    if nonlinearity not in ("tanh", "relu"):
        raise ValueError(f"Unknown nonlinearity '{nonlinearity}'. Select from 'tanh' or 'relu'.")
    return nonlinearity


class LightGRU(LayerNormedInput):
    r"""Light GRU (Ravanelli et al., *Light gated recurrent units for speech recognition*, 2018).

    .. math::
        z &= \sigma(N(W_{iz} x_t) + b_{iz} + W_{hz} h_{t-1}) \\
        n &= relu(N(W_{in} x_t) + b_{in} + W_{hn} h_{t-1}) \\
        h_t &= z \odot h_{t-1} + (1 - z) \odot n

    Gates z, n. N is set by ``norm``: ``"batch"`` (over all steps and sequences, padding
    included; ``norm_ih`` holds a `torch.nn.BatchNorm1d` for each layer and direction),
    ``"layer"`` (over the 2H numbers, with gain ``weight_ln_ih_l[k] [2*H]``) or None.
    """

    _cell_name = "light_gru"

    def __init__(self, *args: Any, norm: str | None = "batch", **options: Any) -> None:
        if norm not in ("batch", "layer", None):
            raise ValueError(f"norm should be 'batch', 'layer' or None, got: {norm!r}")
        self.norm = norm
        super().__init__(*args, **options)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, norm={self.norm!r}"

    def _make_others(self, device: Any, dtype: torch.dtype | None) -> None:
        if self.norm == "layer":
            super()._make_others(device, dtype)
        if self.norm == "batch":
            width = self._spec().num_gates * self.hidden_size
            self.norm_ih = nn.ModuleList(
                nn.BatchNorm1d(width, device=device, dtype=dtype) for _ in self._all_weights
            )
            for norm in self.norm_ih:
                norm.register_parameter("bias", None)  # bias_ih comes after

    def _normalise(self) -> Sequence[Normalise]:
        if self.norm == "batch":
            return list(self.norm_ih)
        return super()._normalise() if self.norm == "layer" else ()


class LightGRUCell(CellStep):
    """One step of `LightGRU`, its input side not normalised."""

    _cell_name = "light_gru"


class MinGRU(CellLayer):
    r"""minGRU (Feng et al., *Were RNNs all we needed?*, 2024): gates that see the input alone.

    .. math::
        h_t = (1 - u) \odot h_{t-1} + u \odot a_n, \quad u = \sigma(a_u)

    with :math:`a = W_{ih} x_t + b_{ih}`, gates u, n; u is the paper's z. There is no
    ``weight_hh``.
    """

    _cell_name = "min_gru"


class MinGRUCell(CellStep):
    """One step of `MinGRU`."""

    _cell_name = "min_gru"


class MinLSTM(CellLayer):
    r"""minLSTM (Feng et al., *Were RNNs all we needed?*, 2024): gates that see the input alone.

    .. math::
        h_t = (f \odot h_{t-1} + i \odot a_n) / (f + i), \quad f, i = \sigma(a_f), \sigma(a_i)

    with :math:`a = W_{ih} x_t + b_{ih}`, gates f, i, n. There is no ``weight_hh``.
    """

    _cell_name = "min_lstm"


class MinLSTMCell(CellStep):
    """One step of `MinLSTM`."""

    _cell_name = "min_lstm"


class SLSTM(CellLayer):
    r"""sLSTM (Beck et al., *xLSTM: extended long short-term memory*, 2024), with
    :math:`f = \sigma(a_f)`.

    .. math::
        m_t &= \max(\log f + m_{t-1}, a_i) \\
        i', f' &= \exp(a_i - m_t), f \exp(m_{t-1} - m_t) \\
        c_t &= f' \odot c_{t-1} + i' \odot \tanh(a_g) \\
        n_t &= f' \odot n_{t-1} + i' \\
        h_t &= \sigma(a_o) \odot c_t / n_t

    with a as in `fastrnn.LSTM`, gates i, f, g, o; the state is (h, c, n, m). Where n is 0, as in
    the beginning, m is :math:`a_i`. The paper's block-diagonal heads are ``num_heads``; its
    convolution, normalisation and up-projection are layers of their own.
    """

    _cell_name = "slstm"


class SLSTMCell(CellStep):
    """One step of `SLSTM`."""

    _cell_name = "slstm"
