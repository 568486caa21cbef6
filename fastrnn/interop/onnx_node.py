"""ONNX's LSTM, GRU and RNN nodes as modules with the operators' own call."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..cells import CELLS, CellSpec
from ..options import PLAIN, Options
from ..scan import scan
from ..stack import input_product
from .gates import Weights, as_tensor
from .onnx import from_onnx

# What each direction's activations are by default, and how many.
_ACTIVATIONS = {
    "LSTM": ["Sigmoid", "Tanh", "Tanh"],
    "GRU": ["Sigmoid", "Tanh"],
    "RNN": ["Tanh"],
}
_INPUTS = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")
# What may be fixed in the graph, to be used where a call gives nothing.
_DEFAULTS = _INPUTS[4:7]


def from_onnx_node(
    node: Any, initializers: Mapping[str, Any], *, backend: str | None = None
) -> OnnxRecurrent:
    """A module that computes what an ONNX node LSTM, GRU or RNN does.

    Served are peepholes, ``clip``, ``input_forget``, both ``linear_before_reset``, all
    directions, sequence lengths and initial states; of activations the defaults, and an RNN's
    ``Relu``. As in onnxruntime, the final states of a sequence of no steps are zero.

    Args:
        node: an ``onnx.NodeProto``, or anything with its ``op_type``, ``input`` and ``attribute``.
        initializers: the graph's constants by name: tensors, arrays or ``onnx.TensorProto``. W,
            R, and if the node has them B and P must be among them; lengths and initial states
            may be.
        backend: who computes, as in `fastrnn.use_backend`.

    Raises:
        ValueError: another operator, activations or attributes beyond these, a missing weight,
            shapes that do not fit.
    """
    if node.op_type not in _ACTIVATIONS:
        raise ValueError(f"expected a node LSTM, GRU or RNN, got {node.op_type}")
    attributes = {each.name: _value(each) for each in node.attribute}
    given = {
        role: _as_tensor(initializers[name])
        for role, name in zip(_INPUTS, node.input, strict=False)
        if name and name in initializers
    }
    present = {role for role, name in zip(_INPUTS, node.input, strict=False) if name}
    for role in ("W", "R", "B", "P"):
        if role not in given and (role in present or role in "WR"):
            raise ValueError(f"{role} of the node {node.op_type} is not among the initializers")
    spec = _spec(node.op_type, attributes, "P" in given)
    directions = from_onnx(
        node.op_type.lower(), given["W"], given["R"], given.get("B"), given.get("P")
    )
    if attributes.pop("input_forget", 0):
        directions = [_without_forget(weights) for weights in directions]
    return OnnxRecurrent(
        spec,
        directions,
        direction=attributes.pop("direction", "forward"),
        clip=attributes.pop("clip", math.inf),
        layout=attributes.pop("layout", 0),
        hidden_size=attributes.pop("hidden_size", None),
        defaults={role: given[role] for role in _DEFAULTS if role in given},
        backend=backend,
    )


class OnnxRecurrent(nn.Module):
    """A node's module; see `from_onnx_node`, which makes it.

    The call is ``Y, Y_h = module(X, sequence_lens, initial_h)``, with ``initial_c`` and ``Y_c``
    more for an LSTM: X ``[T, B, I]``, lengths int ``[B]``, states ``[D, B, H]``, Y ``[T, D, B,
    H]``; with ``layout`` 1 ``[B, T, I]``, ``[B, D, H]`` and ``[B, T, D, H]``. All but X may be
    None. Parameters have a layer's names, so that a plain node's ``state_dict()`` is that of a
    `LSTM`, `GRU` or `RNN`.
    """

    def __init__(
        self,
        spec: CellSpec,
        directions: Sequence[Weights],
        *,
        direction: str,
        clip: float,
        layout: int,
        hidden_size: int | None,
        defaults: Mapping[str, Tensor],
        backend: str | None,
    ) -> None:
        super().__init__()
        reverse = {"forward": [False], "reverse": [True], "bidirectional": [False, True]}
        if direction not in reverse or len(reverse[direction]) != len(directions):
            raise ValueError(
                f"direction {direction!r} does not go with weights of {len(directions)} directions"
            )
        self.spec, self.reverse, self.layout = spec, reverse[direction], layout
        self.clip, self.backend = clip, backend
        self.hidden_size = directions[0]["weight_hh"].shape[1]
        if hidden_size not in (None, self.hidden_size):
            raise ValueError(
                f"expected weights of hidden_size {hidden_size}, got {self.hidden_size}"
            )
        self._names = list(directions[0])
        for weights, suffix in zip(directions, ("_l0", "_l0_reverse"), strict=False):
            for name, tensor in weights.items():
                self.register_parameter(name + suffix, nn.Parameter(tensor.clone()))
        for role in _DEFAULTS:
            self.register_buffer(role, defaults.get(role))

    def _of(self, name: str) -> list[Tensor] | None:
        """A weight of each direction."""
        if name not in self._names:
            return None
        suffixes = ("_l0", "_l0_reverse")[: len(self.reverse)]
        return [getattr(self, name + suffix) for suffix in suffixes]

    def forward(
        self,
        X: Tensor,
        sequence_lens: Tensor | None = None,
        initial_h: Tensor | None = None,
        initial_c: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        if X.dim() != 3:
            raise ValueError(f"X should have 3 dimensions, got {X.dim()}")
        X = X.transpose(0, 1) if self.layout else X
        steps, batch, features = X.shape
        weight_ih = self._of("weight_ih") or []
        if features != weight_ih[0].shape[1]:
            raise ValueError(f"X should have {weight_ih[0].shape[1]} features, got {features}")
        lengths = self._lengths(sequence_lens, steps, batch)
        states = [
            self._state(role, given, X)
            for role, given in (("initial_h", initial_h), ("initial_c", initial_c))
        ][: len(self.spec.states)]
        gates_x, b_hh = input_product(
            self.spec, self.backend, X.reshape(steps * batch, features), weight_ih,
            self._of("bias_ih"), self._of("bias_hh"),
        )  # fmt: skip
        options = PLAIN
        if lengths is not None or self.clip < math.inf:
            options = Options(lengths=lengths, clips=(math.inf, math.inf, self.clip, math.inf))
        out, finals, _ = scan(
            self.spec, gates_x, self._of("weight_hh"), b_hh, None, states, None, self.reverse,
            self.backend, [self._of(name) or [] for name in self.spec.params], options,
        )  # fmt: skip
        Y = out.unflatten(0, (steps, batch)).transpose(1, 2)
        if lengths is not None:
            finals = [final.where((lengths > 0).unsqueeze(1), 0) for final in finals]
        if self.layout:
            return Y.permute(2, 0, 1, 3), *(final.transpose(0, 1) for final in finals)
        return Y, *finals

    def _lengths(self, given: Tensor | None, steps: int, batch: int) -> Tensor | None:
        lengths: Tensor | None = self._buffers["sequence_lens"] if given is None else given
        if lengths is None:
            return None
        if lengths.shape != (batch,) or lengths.is_floating_point():
            raise ValueError(
                f"sequence_lens should be {batch} integers, got {lengths.dtype} of "
                f"{list(lengths.shape)}"
            )
        if int(lengths.min()) < 0 or int(lengths.max()) > steps:
            raise ValueError(
                f"sequence_lens should be between 0 and {steps}, got {lengths.tolist()}"
            )
        return lengths.long()

    def _state(self, role: str, given: Tensor | None, X: Tensor) -> Tensor:
        state: Tensor | None = getattr(self, role) if given is None else given
        shape = (len(self.reverse), X.shape[1], self.hidden_size)
        if state is None:
            return X.new_zeros(shape)
        state = state.transpose(0, 1) if self.layout else state
        if state.shape != shape:
            raise ValueError(f"Expected {role} size {shape}, got {list(state.shape)}")
        return state

    def extra_repr(self) -> str:
        text = f"{self.spec.name}, hidden_size={self.hidden_size}, reverse={self.reverse}"
        return text if self.clip == math.inf else f"{text}, clip={self.clip}"


def _spec(op: str, attributes: dict[str, Any], peepholes: bool) -> CellSpec:
    """The cell, and the attributes that remain."""
    activations = attributes.pop("activations", None) or _ACTIVATIONS[op]
    each = len(_ACTIVATIONS[op])
    first = [name.capitalize() for name in activations[:each]]
    if any(name.capitalize() != first[i % each] for i, name in enumerate(activations)):
        raise ValueError(f"expected the same activations in both directions, got {activations}")
    if first != _ACTIVATIONS[op] and (op, first) != ("RNN", ["Relu"]):
        raise ValueError(f"no cell {op} with the activations {', '.join(first)}")
    for name in ("activation_alpha", "activation_beta", "output_sequence"):
        attributes.pop(name, None)  # of other activations; an output that is always there
    known = {"direction", "clip", "layout", "hidden_size", "input_forget", "linear_before_reset"}
    if unknown := set(attributes) - known:
        raise ValueError(f"unknown attributes of {op}: {', '.join(sorted(unknown))}")
    after = attributes.pop("linear_before_reset", 0)
    if op == "RNN":
        return CELLS[f"rnn_{first[0].lower()}"]
    if op == "GRU":
        return CELLS["gru" if after else "gru_reset_before"]
    coupled = "coupled_" if attributes.get("input_forget", 0) else ""
    return CELLS[f"{coupled}{'peephole_' if peepholes else ''}lstm"]


def _without_forget(weights: Weights) -> Weights:
    """A coupled LSTM's: gates i, f, g, o become i, g, o, peepholes i, f, o become i, o."""
    found = {}
    for name, tensor in weights.items():
        blocks = list(tensor.chunk(3 if name == "weight_ch" else 4))
        del blocks[1]
        found[name] = torch.cat(blocks)
    return found


def _value(attribute: Any) -> Any:
    from onnx import helper

    value = helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, (list, tuple)):
        return [item.decode() if isinstance(item, bytes) else item for item in value]
    return value


def _as_tensor(value: Any) -> Tensor:
    if hasattr(value, "raw_data"):  # a TensorProto
        from onnx import numpy_helper

        value = numpy_helper.to_array(value).copy()
    return as_tensor(value)
