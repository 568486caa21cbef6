"""Recurrent layers and cells with int8 weights, for inference: what `quantize_dynamic` makes."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from .. import inference, int8
from ..cells import CELLS, CellSpec
from ..sequences import check_lengths
from .states import State, as_input, as_states, map_state

__all__ = [
    "QuantizedGRU",
    "QuantizedGRUCell",
    "QuantizedLSTM",
    "QuantizedLSTMCell",
    "QuantizedRNN",
    "QuantizedRNNCell",
]


class _Quantized(nn.Module):
    """Quantised weights of one or more recurrences, as buffers.

    Of ``weight_ih_l0 [G*H, I]`` there are ``weight_ih_l0``, uint8 as `fastrnn.int8.pack` lays them
    out, and ``scale_ih_l0 [G*H]``, float32; and so for ``weight_hh`` and ``weight_hr``. Biases
    stay as they are.
    """

    _title: ClassVar[str]

    def __init__(self, cell: str, input_size: int, hidden_size: int, proj_size: int = 0) -> None:
        super().__init__()
        self.cell = cell
        self.input_size, self.hidden_size, self.proj_size = input_size, hidden_size, proj_size
        self._suffixes: tuple[str, ...] = ("",)
        self.training = False
        # Weights lie padded, so that their shapes do not tell.
        self.register_buffer("sizes", torch.tensor([input_size, hidden_size, proj_size]))

    def _spec(self) -> CellSpec:
        return CELLS[self.cell]

    def _take(self, module: nn.Module, suffixes: tuple[str, ...]) -> None:
        """The weights of a float module, recurrence after recurrence."""
        self._suffixes = suffixes
        spec = self._spec()
        for suffix in suffixes:
            for kind in ("ih", "hh", *["hr"] * bool(self.proj_size)):
                weight = getattr(module, f"weight_{kind}{suffix}").detach()
                quanta, scale = int8.quantise_rows(weight)
                gates = 1 if kind == "hr" else spec.num_gates
                self.register_buffer(f"weight_{kind}{suffix}", int8.pack(quanta, gates))
                self.register_buffer(f"scale_{kind}{suffix}", scale)
            for kind in ("ih", "hh"):
                bias = getattr(module, f"bias_{kind}{suffix}", None)
                bias = None if bias is None else bias.detach().clone()
                self.register_buffer(f"bias_{kind}{suffix}", bias)

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        name = f"{prefix}sizes"
        given, own = state_dict.get(name), self._buffers["sizes"]
        if isinstance(given, Tensor) and own is not None and not torch.equal(given.cpu(), own):
            error_msgs.append(
                "size mismatch: input_size, hidden_size and proj_size are "
                f"{given.tolist()} in the checkpoint, {own.tolist()} in the current model."
            )
            return
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )

    @property
    def _sizes(self) -> dict[str, tuple[int, int]]:
        """Of each weight, units and depth, of the first recurrence."""
        k = self.proj_size or self.hidden_size
        return {
            "ih": (self.hidden_size, self.input_size),
            "hh": (self.hidden_size, k),
            "hr": (k, self.hidden_size),
        }

    def _tensors(self) -> list[Tensor | None]:
        of = self._buffers
        kinds = ["weight_ih", "scale_ih", "weight_hh", "scale_hh", "bias_ih", "bias_hh"]
        if self.proj_size:
            kinds += ["weight_hr", "scale_hr"]
        return [of[kind + suffix] for suffix in self._suffixes for kind in kinds]

    def dequantized(self) -> dict[str, Tensor]:
        """The weights that this layer computes with, float32, by their names in a float layer."""
        found = {}
        for name, buffer in self._buffers.items():
            if buffer is None or not name.startswith(("weight_", "bias_")):
                continue
            if name.startswith("bias_"):
                found[name] = buffer
                continue
            scale = self._buffers[f"scale_{name.removeprefix('weight_')}"]
            assert scale is not None
            units = scale.shape[0] // buffer.shape[2]
            found[name] = int8.unpack(buffer, units, self._depth(name)) * scale.unsqueeze(1)
        return found

    def _depth(self, name: str) -> int:
        return self._sizes[name.removeprefix("weight_")[:2]][1]

    def _check_tensor(self, name: str, tensor: Tensor) -> None:
        if tensor.dtype != torch.float32:
            raise ValueError(
                f"{self._title}: Expected {name} to be float32, got {tensor.dtype} instead"
            )
        if torch.is_grad_enabled() and tensor.requires_grad:
            raise RuntimeError(
                f"{self._title} is for inference, but {name} requires grad: call it under "
                "torch.no_grad(), or train the float layer and quantize it afterwards"
            )

    def _as_state(self, hx: Any) -> State:
        return as_states(self._title, self._spec().states, hx)

    def _check_state(self, hx: State, shape: tuple[int, ...]) -> tuple[Tensor, ...]:
        """The states as a tuple; leading sizes, then K or H."""
        states = hx if isinstance(hx, tuple) else (hx,)
        for index, state in enumerate(states):
            name = "hx" if len(states) == 1 else f"hidden[{index}]"
            width = self.hidden_size if index else self.proj_size or self.hidden_size
            if state.shape != (*shape, width):
                raise RuntimeError(
                    f"Expected {name} size {(*shape, width)}, got {list(state.shape)}"
                )
            self._check_tensor(name, state)
        return tuple(state.contiguous() for state in states)

    def _check_features(self, input: Tensor) -> None:
        self._check_tensor("input", input)
        if input.shape[-1] != self.input_size:
            raise RuntimeError(
                "input.size(-1) must be equal to input_size. "
                f"Expected {self.input_size}, got {input.shape[-1]}"
            )

    def _run(
        self,
        rows: Tensor,
        states: tuple[Tensor, ...],
        steps: int,
        batch: int,
        batch_sizes: Tensor | None,
        num_layers: int = 1,
        reverse: tuple[bool, ...] = (False,),
    ) -> tuple[Tensor, State]:
        output, finals = int8.layers(
            rows, states, cell=self.cell, tensors=self._tensors(), hidden_size=self.hidden_size,
            proj_size=self.proj_size, num_layers=num_layers, reverse=reverse, steps=steps,
            batch=batch, batch_sizes=batch_sizes,
        )  # fmt: skip
        return output, tuple(finals) if len(finals) > 1 else finals[0]


class _QuantizedLayer(_Quantized):
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
        if type(input) is not Tensor or input.dim() != 3 or input.size(2) != self.input_size:
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


class _QuantizedCell(_Quantized):
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
