"""Two directions of different sizes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout as drop

from ..checks import check_shape
from ..sequences import check_mask, is_number
from .recurrent import Recurrent
from .states import State, as_input, as_states, map_state

__all__ = ["Bidirectional"]


class Bidirectional(nn.Module):
    r"""A stack of bidirectional layers whose directions may have different hidden sizes.

    Each layer is a forwards and a backwards recurrence over the same input, their outputs
    concatenated (Schuster & Paliwal, *Bidirectional recurrent neural networks*, 1997). With equal
    sizes it computes what ``layer(…, bidirectional=True)`` does.

    The call is ``output, (forwards, backwards) = module(input, (forwards, backwards))`` with the
    keyword arguments of the layer's call except ``reset_to`` with states: input ``[T, B, I]`` or
    ``[B, T, I]``, output ``K_forwards + K_backwards`` wide, states for each direction as a layer of
    that direction alone has them, ``[L, B, K]``; with ``return_all_states`` a third result,
    likewise a pair.

    Args:
        layer: the class of the layers, such as `fastrnn.LSTM`.
        input_size: I.
        hidden_sizes: of the forwards and of the backwards direction.
        num_layers: L; each layer reads the output of the one below.
        batch_first: whether input and output are ``[B, T, features]``.
        dropout: probability of zeroing an output between layers, in training.
        options: the layer's other keyword arguments.

    Raises:
        TypeError: ``layer`` is no class of recurrent layers; a size is no integer; ``hx`` is no
            pair.
        ValueError: not two sizes, or one for which ``options`` are impossible.
        RuntimeError: as the layer.
    """

    def __init__(
        self,
        layer: type[Recurrent],
        input_size: int,
        hidden_sizes: tuple[int, int],
        num_layers: int = 1,
        *,
        batch_first: bool = False,
        dropout: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__()
        if not (isinstance(layer, type) and issubclass(layer, Recurrent)):
            raise TypeError(f"layer should be a class of recurrent layers, got: {layer!r}")
        if not isinstance(hidden_sizes, (tuple, list)) or len(hidden_sizes) != 2:
            raise ValueError(f"hidden_sizes should be two sizes, got: {hidden_sizes!r}")
        if any(isinstance(size, bool) for size in hidden_sizes):
            raise TypeError(f"hidden_sizes should be two integers, got: {hidden_sizes!r}")
        if isinstance(num_layers, bool) or not isinstance(num_layers, int) or num_layers < 1:
            raise ValueError(f"num_layers should be a positive integer, got: {num_layers!r}")
        if not is_number(dropout) or not 0 <= dropout <= 1:
            raise ValueError(f"dropout should be a number in range [0, 1], got: {dropout!r}")
        for name in ("bidirectional", "reverse"):
            if options.pop(name, False):
                raise ValueError(f"{name} is what this module sees to")
        self.batch_first, self.dropout, self.num_layers = batch_first, dropout, num_layers
        width = options.get("proj_size") or 0
        make: Any = layer
        forwards, backwards = [], []
        for _ in range(num_layers):
            of_layer: Any = {**options, "batch_first": batch_first}
            forwards.append(make(input_size, hidden_sizes[0], **of_layer))
            backwards.append(make(input_size, hidden_sizes[1], reverse=True, **of_layer))
            input_size = 2 * width if width else sum(hidden_sizes)
        self.forwards, self.backwards = nn.ModuleList(forwards), nn.ModuleList(backwards)

    def forward(self, input: Tensor, hx: Any = None, **call: Any) -> Any:
        if as_input("Bidirectional", input).dim() != 3:
            raise ValueError(f"Bidirectional: Expected input to be 3D, got {input.dim()}D instead")
        if not isinstance(call.get("reset_to", ""), str):
            raise ValueError("Bidirectional: reset_to should be 'zero' or 'initial'")
        begins = (None, None) if hx is None else as_pair_of_states(hx)
        for which, state, layer in zip(
            ("forwards", "backwards"), begins, (self.forwards[0], self.backwards[0]), strict=True
        ):
            if state is not None:
                self._check_state(which, layer, state, input)
        reset = call.pop("reset", None)
        if reset is not None:
            self._check_reset(reset, input)
        found: tuple[list[Any], list[Any]] = ([], [])
        for index, pair in enumerate(zip(self.forwards, self.backwards, strict=True)):
            if index and self.dropout:
                input = drop(input, self.dropout, self.training)
            outputs = []
            for d, layer in enumerate(pair):
                begin, part = begins[d], slice(index, index + 1)
                state = None if begin is None else _part(begin, part)
                if reset is not None:
                    call["reset"] = reset if reset.dim() == 2 else reset[..., d]
                output, *states = layer(input, state, **call)
                outputs.append(output)
                found[d].append(states)
            input = torch.cat(outputs, 2)
        # The final states, and all states, each stacked over layers.
        results = [
            tuple(_joined([states[kind] for states in each], kind) for each in found)
            for kind in range(len(found[0][0]))
        ]
        return input, *results

    def _check_state(self, which: str, layer: Any, state: Any, input: Tensor) -> None:
        """A direction's state, of all layers."""
        title, names = f"Bidirectional, {which}", layer._spec().states
        found = as_states(title, names, state)
        batch = input.shape[0 if self.batch_first else 1]
        for index, each in enumerate(found if isinstance(found, tuple) else (found,)):
            width = layer.hidden_size if index else layer.proj_size or layer.hidden_size
            check_shape(f"{which} {names[index]}", each, (self.num_layers, batch, width))

    def _check_reset(self, reset: Any, input: Tensor) -> None:
        check_mask(reset)
        shape = tuple(input.shape[:2])
        if reset.shape not in (shape, (*shape, 2)):
            raise RuntimeError(
                f"Expected reset size {shape}, or {(*shape, 2)} with an entry for each direction, "
                f"got {list(reset.shape)}"
            )


def as_pair_of_states(hx: Any) -> tuple[State, State]:
    """The states of both directions."""
    if not isinstance(hx, (tuple, list)) or len(hx) != 2:
        raise TypeError("Bidirectional: Expected hx to be a pair (forwards, backwards) of states")
    return hx[0], hx[1]


def _part(state: State, layers: slice) -> State:
    return map_state(lambda tensor: tensor[layers], state)


def _joined(states: list[State], dim: int) -> State:
    """Those of the layers along their dimension of layers."""
    if isinstance(states[0], tuple):
        return tuple(torch.cat(kind, dim) for kind in zip(*states, strict=True))
    return torch.cat(states, dim)  # type: ignore[arg-type]
