"""The setup that all providers of a case share: random weights, inputs, states and gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from .cases import Case

# torch.nn's and fastrnn's classes have the same names.
CLASSES = {"lstm": "LSTM", "gru": "GRU", "rnn": "RNN"}


@dataclass(frozen=True)
class Workload:
    """What a call gets.

    Attributes:
        case: what it is drawn for.
        weights: the layer's state_dict.
        input: ``[T, B, H]``, packed, or ``[B, H]`` for a cell.
        states: initial states, none where the call gets none.
        grad: of the output, which is what a loss usually reads; none in inference.
    """

    case: Case
    weights: dict[str, Tensor]
    input: Tensor | PackedSequence
    states: tuple[Tensor, ...]
    grad: Tensor | None

    @property
    def hx(self) -> Any:
        """The states as torch's layers and cells take them."""
        return None if not self.states else self.states if len(self.states) > 1 else self.states[0]

    def to(self, dtype: torch.dtype) -> Workload:
        return Workload(
            self.case,
            {name: tensor.to(dtype) for name, tensor in self.weights.items()},
            _change(self.input, lambda tensor: tensor.to(dtype)),
            tuple(tensor.to(dtype) for tensor in self.states),
            None if self.grad is None else self.grad.to(dtype),
        )


def _change(
    input: Tensor | PackedSequence, function: Callable[[Tensor], Tensor]
) -> Tensor | PackedSequence:
    if isinstance(input, PackedSequence):
        return input._replace(data=function(input.data))
    return function(input)


def leaf(input: Tensor | PackedSequence) -> tuple[Tensor | PackedSequence, Tensor]:
    """The input as one whose gradient is wanted, and the tensor that is to get it."""
    kept = _change(input, lambda tensor: tensor.detach().requires_grad_())
    return kept, kept.data if isinstance(kept, PackedSequence) else kept


def build(library: Any, case: Case, **options: Any) -> nn.Module:
    """The layer or cell of ``torch.nn`` or of ``fastrnn``."""
    name = CLASSES[case.cell]
    if case.form == "cell":
        module: nn.Module = getattr(library, f"{name}Cell")(case.hidden, case.hidden, **options)
        return module
    module = getattr(library, name)(
        case.hidden,
        case.hidden,
        num_layers=case.layers,
        bidirectional=case.bidirectional,
        **options,
    )
    return module


def draw(case: Case, seed: int) -> Workload:
    """Normal inputs, states and gradients; weights as torch draws them."""
    dtype = getattr(torch, case.dtype)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        weights = build(nn, case).state_dict()
        input = _draw_input(case)
        outer = (case.layers * case.directions,) if case.form == "layer" else ()
        count = 2 if case.cell == "lstm" else 1
        states = [torch.randn(*outer, case.batch, case.hidden) for _ in range(count)]
        rows = (input.data if isinstance(input, PackedSequence) else input).shape[:-1]
        grad = torch.randn(*rows, case.directions * case.hidden)
    return Workload(
        case,
        weights,
        input,
        tuple(states) if case.given_state else (),
        grad if case.mode == "training" else None,
    ).to(dtype)


def _draw_input(case: Case) -> Tensor | PackedSequence:
    if case.form == "cell":
        return torch.randn(case.batch, case.hidden)
    input = torch.randn(case.steps, case.batch, case.hidden)
    if not case.packed:
        return input
    return pack_padded_sequence(input, torch.tensor(case.lengths), enforce_sorted=False)
