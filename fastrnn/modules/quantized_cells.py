"""Recurrent cells with int8 weights, for inference: what `quantize_dynamic` makes."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from .. import inference, int8
from .quantized_weights import Quantized
from .states import State, as_input, map_state

__all__ = ["QuantizedGRUCell", "QuantizedLSTMCell", "QuantizedRNNCell"]


class _QuantizedCell(Quantized):
    """One step: the calls of `fastrnn.LSTMCell` and its siblings."""

    @classmethod
    def from_float(cls, cell: nn.RNNCellBase) -> _QuantizedCell:
        """Of a cell of ``fastrnn`` or ``torch.nn``; see `fastrnn.quantize_dynamic`."""
        nonlinearity = getattr(cell, "nonlinearity", None)
        name = cls._title.removeprefix("Quantized").removesuffix("Cell").lower()
        new = cls(
            f"rnn_{nonlinearity}" if name == "rnn" else name, cell.input_size, cell.hidden_size
        )
        new._take(cell, ("",))
        return new

    def forward(self, input: Tensor, hx: Any = None) -> State:
        """The next state: ``[B, H]``, or ``[H]`` of an input ``[I]``; of an LSTM the pair (h, c).

        Raises:
            ValueError: rank or dtype of the input or a state.
            RuntimeError: sizes, a tensor that requires grad with gradients on.
            TypeError: what is no tensor.
        """
        if inference.unwatched():
            found = self._forward_unwatched(input, hx)
            if found is not None:
                return found
        state = None if hx is None else self._as_state(hx)
        rank = as_input(self._title, input).dim()
        if rank not in (1, 2):
            raise ValueError(f"{self._title}: Expected input to be 1D or 2D, got {rank}D instead")
        self._check_features(input)
        rows = input if rank == 2 else input.unsqueeze(0)
        states: tuple[Tensor, ...] = ()
        if state is not None:
            given = self._check_state(state, tuple(input.shape[:-1]))
            states = tuple(each.view(1, rows.shape[0], self.hidden_size) for each in given)
        if not rows.shape[0]:
            zeros = rows.new_zeros(1, 0, self.hidden_size)
            finals: State = (zeros, zeros) if len(self._spec().states) > 1 else zeros
        else:
            _, finals = self._run(rows.contiguous(), states, 1, rows.shape[0], None)
        return map_state(lambda s: s[0] if rank == 2 else s[0, 0], finals)

    def _forward_unwatched(self, input: Any, hx: Any) -> State | None:
        """The short way for what is simple, else None."""
        if type(input) is not Tensor or input.dim() != 2 or input.size(1) != self.input_size:
            return None
        if isinstance(hx, Tensor):
            hx = hx.unsqueeze(0)
        elif isinstance(hx, (tuple, list)):
            hx = [s.unsqueeze(0) if isinstance(s, Tensor) else s for s in hx]
        elif hx is not None:
            return None
        found = int8.in_one_call(
            self._spec(), input.unsqueeze(0), hx, self._tensors(), self.hidden_size, 0, 1, (False,)
        )
        if found is None:
            return None
        return (found[1][0], found[2][0]) if len(found) > 2 else found[1][0]

    def extra_repr(self) -> str:
        text = f"{self.input_size}, {self.hidden_size}"
        if self.cell.startswith("rnn"):
            text += f", nonlinearity={self.cell.removeprefix('rnn_')!r}"
        return text + ", bias=False" * (self._buffers["bias_ih"] is None) + ", dtype=torch.qint8"


class QuantizedRNNCell(_QuantizedCell):
    """`fastrnn.RNNCell` with int8 weights; see `fastrnn.quantize_dynamic`."""

    _title = "QuantizedRNNCell"


class QuantizedLSTMCell(_QuantizedCell):
    """`fastrnn.LSTMCell` with int8 weights; see `fastrnn.quantize_dynamic`."""

    _title = "QuantizedLSTMCell"


class QuantizedGRUCell(_QuantizedCell):
    """`fastrnn.GRUCell` with int8 weights; see `fastrnn.quantize_dynamic`."""

    _title = "QuantizedGRUCell"
