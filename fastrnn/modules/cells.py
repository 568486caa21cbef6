"""RNNCell, LSTMCell and GRUCell: one step of the layers, as torch.nn's cells."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .. import backends, functional, inference
from ..cells import CELLS
from .scripting import refuse_scripting
from .states import State, as_input, as_pair, as_tensor, map_state
from .weights import read_weights

__all__ = ["GRUCell", "LSTMCell", "RNNCell"]

_WEIGHTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


class _RecurrentCell(nn.RNNCellBase):
    """What the three cells share: from a call's input and state to `fastrnn.functional`."""

    __prepare_scriptable__ = refuse_scripting

    backend: str | None = None

    # torch's name of the cell, by which its errors begin.
    _title: ClassVar[str]

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool,
        num_chunks: int,
        device: Any,
        dtype: torch.dtype | None,
        backend: str | None,
    ) -> None:
        super().__init__(input_size, hidden_size, bias, num_chunks, device=device, dtype=dtype)
        self.backend = backends.check_name(backend)

    def forward(self, input: Tensor, hx: Any = None) -> State:
        """The next state: ``[B, H]``, or ``[H]`` of an input ``[I]``; of an LSTM the pair (h, c).

        Args:
            input: ``[B, I]`` or ``[I]``.
            hx: the state, as it is returned; None: zeros.
        """
        if inference.unwatched():
            found = self._forward_unwatched(input, hx)
            if found is not None:
                return found
        rank = as_input(self._title, input).dim()
        if rank not in (1, 2):
            raise ValueError(f"{self._title}: Expected input to be 1D or 2D, got {rank}D instead")
        state = None if hx is None else self._as_state(hx)
        if rank == 1:
            input = input.unsqueeze(0)
            if state is not None:
                state = map_state(lambda s: s.unsqueeze(0), state)
        if state is None:
            state = self._zeros(input)
        state = self._compute(input, state, *read_weights(self, _WEIGHTS), backend=self.backend)
        return state if rank == 2 else map_state(lambda s: s.squeeze(0), state)

    def _forward_unwatched(self, input: Any, hx: Any) -> State | None:
        """The short way for what is simple, else None."""
        spec = CELLS.get(self._cell())
        if spec is None or type(input) is not Tensor:
            return None
        weights = [weight for weight in read_weights(self, _WEIGHTS) if weight is not None]
        if len(weights) == 3:  # one bias without the other
            return None
        found = inference.layers(
            spec, input, hx, weights, self.hidden_size, 0, len(weights) == 4, 1, 1, self.backend,
            step=True,
        )  # fmt: skip
        if found is None:
            return None
        return (found[0], found[1]) if len(found) > 1 else found[0]

    def _cell(self) -> str:
        """The name of the cell."""
        raise NotImplementedError

    def _zeros(self, input: Tensor) -> State:
        return input.new_zeros(input.size(0), self.hidden_size)

    def _as_state(self, hx: Any) -> State:
        hx = as_tensor(self._title, hx)
        self._check_rank("hidden", hx)
        return hx

    def _check_rank(self, name: str, state: Tensor) -> None:
        if state.dim() not in (1, 2):
            raise ValueError(
                f"{self._title}: Expected {name} to be 1D or 2D, got {state.dim()}D instead"
            )

    def _compute(self, *args: Any, **options: Any) -> Any:
        """Calls the cell's function of `fastrnn.functional`."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        text = super().extra_repr()
        return text if self.backend is None else f"{text}, backend={self.backend!r}"


class RNNCell(_RecurrentCell):
    r"""One step of an Elman network with tanh or ReLU, a drop-in for `torch.nn.RNNCell`.

    .. math::
        h' = \phi(W_{ih} x + b_{ih} + W_{hh} h + b_{hh})

    (Elman, *Finding structure in time*, 1990.)

    The call is ``h = cell(input, h)``: input ``[B, I]`` and h ``[B, H]``, or ``[I]`` and
    ``[H]``; None for h means zeros. Weights: ``weight_ih [H, I]``, ``weight_hh [H, H]``,
    ``bias_ih [H]``, ``bias_hh [H]``, drawn from U(-1/sqrt(H), 1/sqrt(H)). Dtypes: float32,
    float64, bfloat16, float16, the same for all tensors unless autocast is on.

    Args:
        input_size: I.
        hidden_size: H.
        bias: whether there are ``bias_ih`` and ``bias_hh``.
        nonlinearity: ``"tanh"`` or ``"relu"``.
        device, dtype: of the parameters.
        backend: who computes, as in `fastrnn.use_backend`; None: the first that can. Of a layer's
            settings a cell has none: what else happens to a state is its caller's business.

    Raises:
        ValueError: rank of input or state, unknown ``backend``.
        RuntimeError: sizes, dtypes or devices that do not agree, unknown ``nonlinearity``,
            a requested backend that cannot serve.
        TypeError: a state that is no tensor.
    """

    _title = "RNNCell"
    __constants__ = ["input_size", "hidden_size", "bias", "nonlinearity"]  # noqa: RUF012

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str = "tanh",
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        backend: str | None = None,
    ) -> None:
        super().__init__(input_size, hidden_size, bias, 1, device, dtype, backend)
        self.nonlinearity = nonlinearity

    def _cell(self) -> str:
        return f"rnn_{self.nonlinearity}"

    def _compute(self, *args: Any, **options: Any) -> Tensor:
        # torch's cell, unlike its layer, takes any string and refuses it only here.
        if self.nonlinearity not in ("tanh", "relu"):
            raise RuntimeError(f"Unknown nonlinearity: {self.nonlinearity}")
        return functional.rnn_cell(*args, nonlinearity=self.nonlinearity, **options)


class LSTMCell(_RecurrentCell):
    r"""One step of a long short-term memory, a drop-in for `torch.nn.LSTMCell`.

    .. math::
        i, f, o &= \sigma(a_i), \sigma(a_f), \sigma(a_o) \qquad g = \tanh(a_g) \\
        c' &= f \odot c + i \odot g \\
        h' &= o \odot \tanh(c')

    with :math:`a = W_{ih} x + b_{ih} + W_{hh} h + b_{hh}`, gates stacked i, f, g, o.
    (Hochreiter & Schmidhuber, *Long short-term memory*, 1997; forget gate: Gers et al.,
    2000.)

    The call is ``h, c = cell(input, (h, c))``: input ``[B, I]`` with h and c ``[B, H]``, or
    ``[I]`` with ``[H]``; None for the pair means zeros. Weights: ``weight_ih [4*H, I]``,
    ``weight_hh [4*H, H]``, ``bias_ih [4*H]``, ``bias_hh [4*H]``, drawn from
    U(-1/sqrt(H), 1/sqrt(H)). Dtypes: float32, float64, bfloat16, float16, the same for all
    tensors unless autocast is on.

    Args:
        input_size: I.
        hidden_size: H.
        bias: whether there are ``bias_ih`` and ``bias_hh``.
        device, dtype: of the parameters.
        backend: who computes, as in `fastrnn.use_backend`; None: the first that can. Of a layer's
            settings a cell has none: what else happens to a state is its caller's business.

    Raises:
        ValueError: rank of input or states, unknown ``backend``.
        RuntimeError: sizes, dtypes or devices that do not agree, not two states, a
            requested backend that cannot serve.
        TypeError: states that are no pair of tensors.
    """

    _title = "LSTMCell"

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        backend: str | None = None,
    ) -> None:
        super().__init__(input_size, hidden_size, bias, 4, device, dtype, backend)

    def _zeros(self, input: Tensor) -> tuple[Tensor, Tensor]:
        zeros = input.new_zeros(input.size(0), self.hidden_size)
        return zeros, zeros

    def _as_state(self, hx: Any) -> tuple[Tensor, Tensor]:
        pair = as_pair("LSTMCell", "lstm_cell", hx)
        for index, state in enumerate(pair):
            self._check_rank(f"hx[{index}]", state)
        return pair

    def _cell(self) -> str:
        return "lstm"

    def _compute(self, *args: Any, **options: Any) -> tuple[Tensor, Tensor]:
        return functional.lstm_cell(*args, **options)


class GRUCell(_RecurrentCell):
    r"""One step of a gated recurrent unit, a drop-in for `torch.nn.GRUCell`.

    .. math::
        r, z &= \sigma(a_r), \sigma(a_z) \\
        n &= \tanh(W_{in} x + b_{in} + r \odot (W_{hn} h + b_{hn})) \\
        h' &= (1 - z) \odot n + z \odot h

    with :math:`a = W_{ih} x + b_{ih} + W_{hh} h + b_{hh}`, gates stacked r, z, n.
    (Cho et al., *Learning phrase representations using RNN encoder-decoder*, 2014, in the
    form that torch and cuDNN compute: the reset gate after the product.)

    With ``reset_after=False`` the reset gate comes before the product, as in `fastrnn.GRU`.

    Other arguments, shapes, dtypes and errors are those of `RNNCell`, without ``nonlinearity``.
    Weights: ``weight_ih [3*H, I]``, ``weight_hh [3*H, H]``, ``bias_ih [3*H]``,
    ``bias_hh [3*H]``.
    """

    _title = "GRUCell"
    reset_after: bool = True

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        reset_after: bool = True,
        backend: str | None = None,
    ) -> None:
        super().__init__(input_size, hidden_size, bias, 3, device, dtype, backend)
        if not reset_after:
            self.reset_after = False

    @property
    def plain(self) -> bool:
        """Whether torch has this cell."""
        return self.reset_after

    def _cell(self) -> str:
        return "gru" if self.reset_after else "gru_reset_before"

    def _compute(self, *args: Any, **options: Any) -> Tensor:
        return functional.gru_cell(*args, reset_after=self.reset_after, **options)

    def extra_repr(self) -> str:
        return super().extra_repr() + ("" if self.reset_after else ", reset_after=False")
