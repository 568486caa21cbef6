"""Recurrent layers with int8 weights, for inference: what `quantize_dynamic` makes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from .. import inference, int8
from ..sequences import check_lengths
from .quantized_weights import Quantized
from .states import State, as_input, map_state

__all__ = ["QuantizedGRU", "QuantizedLSTM", "QuantizedRNN"]


class _QuantizedLayer(Quantized):
    """A stack of layers: the calls of `fastrnn.LSTM` and its siblings."""

    def __init__(
        self,
        cell: str,
        input_size: int,
        hidden_size: int,
        num_layers: int,
        batch_first: bool,
        bidirectional: bool,
        proj_size: int,
        reverse: bool,
    ) -> None:
        super().__init__(cell, input_size, hidden_size, proj_size)
        self.num_layers, self.batch_first = num_layers, batch_first
        self.bidirectional, self.reverse = bidirectional, reverse

    @classmethod
    def from_float(cls, layer: nn.RNNBase) -> _QuantizedLayer:
        """Of a layer of ``fastrnn`` or ``torch.nn``; see `fastrnn.quantize_dynamic`."""
        settings = getattr(layer, "settings", None)
        new = cls(
            layer.mode.lower(), layer.input_size, layer.hidden_size, layer.num_layers,
            layer.batch_first, layer.bidirectional, layer.proj_size,
            settings is not None and settings.reverse,
        )  # fmt: skip
        directions = ("", "_reverse") if layer.bidirectional else ("",)
        new._take(layer, tuple(f"_l{i}{d}" for i in range(layer.num_layers) for d in directions))
        return new

    @property
    def _directions(self) -> tuple[bool, ...]:
        return (False, True) if self.bidirectional else (self.reverse,)

    def _depth(self, name: str) -> int:
        if name.startswith("weight_ih") and not name.startswith("weight_ih_l0"):
            return len(self._directions) * (self.proj_size or self.hidden_size)
        return super()._depth(name)

    def forward(
        self,
        input: Tensor | PackedSequence,
        hx: Any = None,
        *,
        lengths: Tensor | None = None,
    ) -> tuple[Any, State]:
        """Output and final state, as the layer that this was made of returns them.

        Args:
            input: ``[T, B, I]``, with ``batch_first`` ``[B, T, I]``, ``[T, I]``, packed; float32.
            hx: the initial state; None: zeros.
            lengths: ``[B]``, between 0 and T, in any order: see `fastrnn.sequences.Call`.

        Raises:
            ValueError: rank or dtype of the input or a state.
            RuntimeError: sizes, no time steps, a tensor that requires grad with gradients on.
            TypeError: what is no tensor.
        """
        if lengths is None and inference.unwatched():
            found = self._forward_unwatched(input, hx)
            if found is not None:
                return found
        state = None if hx is None else self._as_state(hx)
        if isinstance(input, PackedSequence):
            if lengths is not None:
                raise ValueError("lengths are for padded sequences, got packed ones")
            return self._forward_packed(input, state)
        rank = as_input(self._title, input).dim()
        if rank not in (2, 3):
            raise ValueError(f"{self._title}: Expected input to be 2D or 3D, got {rank}D instead")
        if rank == 2:
            if lengths is not None:
                raise ValueError("lengths are for batched input, got an unbatched one")
            if state is not None:
                state = map_state(lambda s: s.unsqueeze(1), state)
            output, finals = self._forward_dense(input.unsqueeze(1), state, None)
            return output.squeeze(1), map_state(lambda s: s.squeeze(1), finals)
        if self.batch_first:
            input = input.transpose(0, 1)
        output, finals = self._forward_dense(input, state, lengths)
        return output.transpose(0, 1) if self.batch_first else output, finals

    def _forward_unwatched(self, input: Any, hx: Any) -> tuple[Tensor, State] | None:
        """The short way for what is simple, else None."""
        if type(input) is not Tensor or input.is_nested or input.dim() != 3:
            return None
        if input.size(2) != self.input_size:
            return None
        if self.batch_first:
            input = input.transpose(0, 1).contiguous()
        found = int8.in_one_call(
            self._spec(), input, hx, self._tensors(), self.hidden_size, self.proj_size,
            self.num_layers, self._directions,
        )  # fmt: skip
        if found is None:
            return None
        output, *finals = found
        return output.transpose(0, 1) if self.batch_first else output, (
            finals[0] if len(finals) == 1 else tuple(finals)
        )

    def _forward_dense(
        self, input: Tensor, state: State | None, lengths: Tensor | None
    ) -> tuple[Tensor, State]:
        steps, batch = input.shape[:2]
        if not steps:
            raise RuntimeError("Expected sequence length to be larger than 0 in RNN")
        if lengths is not None:
            return self._forward_lengths(input, state, lengths)
        rows = input.reshape(steps * batch, input.shape[2])
        output, finals = self._forward_rows(rows, state, steps, batch, None)
        return output.view(steps, batch, output.shape[1]), finals

    def _forward_packed(
        self, packed: PackedSequence, state: State | None
    ) -> tuple[PackedSequence, State]:
        order, back = packed.sorted_indices, packed.unsorted_indices
        if state is not None and order is not None:
            state = map_state(lambda s: s.index_select(1, order), state)
        sizes = packed.batch_sizes
        output, finals = self._forward_rows(
            packed.data, state, sizes.shape[0], int(sizes[0]), sizes
        )
        if back is not None:
            finals = map_state(lambda s: s.index_select(1, back), finals)
        return PackedSequence(output, *packed[1:]), finals

    def _forward_lengths(
        self, input: Tensor, state: State | None, lengths: Tensor
    ) -> tuple[Tensor, State]:
        """Longest first, rows of the steps that there are, as packed sequences lie."""
        steps, batch = input.shape[:2]
        lengths = check_lengths(lengths, steps, batch, input.device)
        sorted_lengths, order = lengths.sort(descending=True, stable=True)
        there = torch.arange(steps).unsqueeze(1) < sorted_lengths
        if state is not None:
            state = map_state(lambda s: s.index_select(1, order), state)
        rows = input.index_select(1, order)[there]
        found, finals = self._forward_rows(rows, state, steps, batch, there.sum(1))
        output = found.new_zeros(steps, batch, found.shape[1])
        output[there] = found
        back = order.argsort()
        finals = map_state(lambda s: s.index_select(1, back), finals)
        return output.index_select(1, back), finals

    def _forward_rows(
        self,
        rows: Tensor,
        state: State | None,
        steps: int,
        batch: int,
        batch_sizes: Tensor | None,
    ) -> tuple[Tensor, State]:
        self._check_features(rows)
        directions = self._directions
        count = self.num_layers * len(directions)
        states = () if state is None else self._check_state(state, (count, batch))
        if not rows.shape[0]:  # no sequences, or none with a step
            width = self.proj_size or self.hidden_size
            spec = self._spec()
            widths = (width, *[self.hidden_size] * (len(spec.states) - 1))
            finals = states or tuple(rows.new_zeros(count, batch, each) for each in widths)
            return rows.new_zeros(0, len(directions) * width), (
                finals[0] if len(finals) == 1 else finals
            )
        return self._run(
            rows.contiguous(), states, steps, batch, batch_sizes, self.num_layers, directions
        )

    def extra_repr(self) -> str:
        text = f"{self.input_size}, {self.hidden_size}"
        text += f", proj_size={self.proj_size}" * bool(self.proj_size)
        text += f", num_layers={self.num_layers}" * (self.num_layers > 1)
        if self.cell.startswith("rnn"):
            text += f", nonlinearity={self.cell.removeprefix('rnn_')!r}"
        text += ", bias=False" * (self._buffers[f"bias_ih{self._suffixes[0]}"] is None)
        for name in ("batch_first", "bidirectional", "reverse"):
            text += f", {name}=True" * getattr(self, name)
        return text + ", dtype=torch.qint8"


class QuantizedRNN(_QuantizedLayer):
    """`fastrnn.RNN` with int8 weights; see `fastrnn.quantize_dynamic`."""

    _title = "QuantizedRNN"


class QuantizedLSTM(_QuantizedLayer):
    """`fastrnn.LSTM` with int8 weights; see `fastrnn.quantize_dynamic`."""

    _title = "QuantizedLSTM"


class QuantizedGRU(_QuantizedLayer):
    """`fastrnn.GRU` with int8 weights; see `fastrnn.quantize_dynamic`."""

    _title = "QuantizedGRU"
