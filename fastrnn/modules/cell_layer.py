"""What the layers and cells beyond torch.nn's share: everything but their names and formulas."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from .. import backends, functional
from ..cells import CELLS, CellSpec
from ..forms import Bias, check_bias, check_heads, weight_shapes
from ..stack import Normalise
from .recurrent import BATCHED, Recurrent
from .scripting import refuse_scripting
from .states import State, as_input, as_states, map_state
from .weights import read_weights


def _ones(parameter: Tensor) -> Tensor:
    return nn.init.ones_(parameter)


def _zeros(parameter: Tensor) -> Tensor:
    return nn.init.zeros_(parameter)


# The neutral element of a normalisation; what of its past a unit keeps.
INITIAL = {
    "weight_ln": _ones,
    "weight_ln_ih": _ones,
    "weight_ln_hh": _ones,
    "weight_ln_c": _ones,
    "bias_ln": _zeros,
    "bias_ln_c": _zeros,
    "weight_u": lambda parameter: nn.init.uniform_(parameter, 0, 1),
}


def describe(cls: Any, base: Any) -> None:
    """Give a subclass a docstring with the arguments, and a signature without ``*args``."""
    cls.__doc__ = f"{inspect.cleandoc(cls.__doc__ or '')}\n{base._arguments}"
    parameters = dict(inspect.signature(base.__init__).parameters)
    del parameters["self"]
    rest = parameters.popitem() if list(parameters.values())[-1].kind is _REST else None
    for name, parameter in inspect.signature(cls.__init__).parameters.items():
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
            parameters[name] = parameter
    if rest is not None:
        parameters[rest[0]] = rest[1]
    cls.__signature__ = inspect.Signature(list(parameters.values()))


_REST = inspect.Parameter.VAR_KEYWORD


def normalise_layer(gates_x: Tensor, weight: Tensor, num_heads: int) -> Tensor:
    """Layer normalisation of the gates ``[S, G*H]``, each head's by itself."""
    if num_heads == 1:
        return layer_norm(gates_x, gates_x.shape[1:], weight)
    by_head = gates_x.unflatten(1, (num_heads, -1))
    return layer_norm(by_head, by_head.shape[2:]).flatten(1) * weight


class CellLayer(Recurrent):
    """Base of the layers of one cell; the subclass names it and says what it computes.

    Call, shapes, packed sequences, dtypes and errors are those of `fastrnn.RNN` (`fastrnn.LSTM`
    with two states). Weights, per layer ``k`` and direction: ``weight_ih_l[k] [G*H, I]``,
    ``weight_hh_l[k] [G*H, H]``, ``bias_ih_l[k] [G*H]`` and what else the subclass names.

    Subclasses get ``_arguments`` at the end of their docstrings, and a signature that names every
    argument.
    """

    _arguments = """
Args:
    input_size, hidden_size, num_layers, batch_first, dropout, bidirectional, proj_size:
        as in `fastrnn.LSTM`.
    bias: ``"single"``: ``bias_ih`` alone; True: torch's two, ``bias_hh`` added to the
        recurrent side; False: none.
    num_heads: number of blocks of equal size on the diagonal of the recurrent matrix: heads
        that see the whole input, but of the state their own units only. ``weight_hh`` is
        then ``[G*H, H / num_heads]``; rows are stacked head by head, gates within a head. A cell
        that has no recurrent matrix has heads in the order of its rows only.
    forget_bias: what the bias begins with that decides what is kept; see
        `fastrnn.init.forget_bias_`.
    device, dtype: of the parameters.
    backend: who computes, as in `fastrnn.use_backend`.
    settings: ``zoneout``, ``recurrent_dropout``, ``weight_dropout``, ``cell_clip``, ``proj_clip``,
        ``gate_clip``, ``grad_clip``, ``reverse``, ``checkpoint_every``, ``recompute``,
        ``learn_initial_state``, as in `fastrnn.LSTM`; those that want a recurrent product, a cell
        state or a projection say so where there is none.

Shapes, call, dtypes and errors are those of `fastrnn.LSTM`, with the states named here.
"""

    _cell_name: ClassVar[str]
    _initial = INITIAL  # type: ignore[assignment]

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: Bias = "single",
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
            self._mode(), input_size, hidden_size, num_layers, bias, batch_first, dropout,
            bidirectional, proj_size, device, dtype, backend, num_heads, forget_bias,
            settings=settings,
        )  # fmt: skip

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        describe(cls, CellLayer)

    def _mode(self) -> str:
        return self._cell_name.upper()

    @property
    def _title(self) -> str:  # type: ignore[override]
        return type(self).__name__

    def _normalise(self) -> Sequence[Normalise]:
        """For each layer and direction, what is done to the input side; or none."""
        return ()

    def _compute(self, input: Tensor, state: State | None, *args: Any, **options: Any) -> Any:
        hx = (state,) if isinstance(state, Tensor) else state
        output, *states = functional.recurrent(
            self._spec().name, input, hx, *args, normalise=self._normalise(), **options,
        )  # fmt: skip
        return output, *(each if len(each) > 1 else each[0] for each in states)

    def _as_state(self, hx: Any) -> State:
        return as_states(self._title, self._spec().states, hx)

    def _check_state_rank(self, state: Any, rank: int) -> None:
        ranks = [each.dim() for each in (state if isinstance(state, tuple) else (state,))]
        if any(each != rank for each in ranks):
            raise RuntimeError(
                f"For {BATCHED[rank]} {rank}-D input, hx should also be {rank}-D "
                f"but got {', '.join(f'{each}-D' for each in ranks)}"
            )

    def _check_state(self, input: Tensor, state: Any, batch_sizes: Tensor | None) -> None:
        expected = self.get_expected_hidden_size(input, batch_sizes)
        if isinstance(state, Tensor):
            return self.check_hidden_size(state, expected)
        for index, each in enumerate(state):
            self.check_hidden_size(
                each,
                (*expected[:2], self.hidden_size) if index else expected,
                f"Expected hidden[{index}] size {{}}, got {{}}",
            )


class LayerNormedInput(CellLayer):
    """Of the layers whose input side is normalised, with gains ``weight_ln_ih_l[k] [G*H]``."""

    def _make_others(self, device: Any, dtype: torch.dtype | None) -> None:
        width = self._spec().num_gates * self.hidden_size
        for name in self._gain_names():
            parameter = nn.Parameter(torch.empty(width, device=device, dtype=dtype))
            self.register_parameter(name, parameter)

    def _gain_names(self) -> list[str]:
        return [names[0].replace("weight_ih", "weight_ln_ih") for names in self._all_weights]

    def _normalise(self) -> Sequence[Normalise]:
        gains = read_weights(self, self._gain_names())
        return [partial(normalise_layer, weight=w, num_heads=self.num_heads) for w in gains]


class CellStep(nn.RNNCellBase):
    """Base of the cells: one step of the layer of the same name, which says what it computes.

    The call is ``state = cell(input, state)``: input ``[B, I]`` and states ``[B, H]``, or ``[I]``
    and ``[H]``; None for the state means zeros. Of several states it takes and returns a tuple.
    Weights, arguments and errors are those of the layer, without ``_l0``. Of a layer's settings a
    cell has none: what else happens to a state is its caller's business.
    """

    _arguments = """
The call is ``state = cell(input, state)``: input ``[B, I]`` and states ``[B, H]``, or ``[I]`` and
``[H]``; None for the state means zeros. Of several states it takes and returns a tuple. Weights and
errors are those of the layer, without ``_l0``.

Args:
    input_size, hidden_size, bias, device, dtype, num_heads, forget_bias, backend: as in the layer,
        whose settings (zoneout, clips and the like) a cell has not.
"""

    _cell_name: ClassVar[str]
    _gained: ClassVar[bool] = False
    _initial = INITIAL
    bias: Bias  # type: ignore[assignment]

    __prepare_scriptable__ = refuse_scripting

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: Bias = "single",
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        num_heads: int = 1,
        forget_bias: float | None = None,
        backend: str | None = None,
    ) -> None:
        nn.Module.__init__(self)
        check_bias(bias)
        check_heads(num_heads, hidden_size)
        self.input_size, self.hidden_size, self.bias = input_size, hidden_size, bias
        self.num_heads, self.forget_bias = num_heads, forget_bias
        self.backend = backends.check_name(backend)
        shapes = weight_shapes(self._spec(), bias, input_size, hidden_size, num_heads=num_heads)
        self._names = list(shapes)
        if self._gained:
            shapes["weight_ln_ih"] = shapes["weight_ih"][:1]
        for name, shape in shapes.items():
            parameter = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
            self.register_parameter(name, parameter)
        self.reset_parameters()

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        describe(cls, CellStep)

    def reset_parameters(self) -> None:
        """As the layer's."""
        Recurrent.reset_parameters(self)  # type: ignore[arg-type]

    def _spec(self) -> CellSpec:
        return CELLS[self._cell()]

    def _cell(self) -> str:
        return self._cell_name

    def _normalise(self) -> Sequence[Normalise]:
        if not self._gained:
            return ()
        (gain,) = read_weights(self, ["weight_ln_ih"])
        return [partial(normalise_layer, weight=gain, num_heads=self.num_heads)]

    def forward(self, input: Tensor, hx: Any = None) -> State:
        """The next state, a tensor or a tuple of several: ``[B, H]``, or ``[H]`` of an input
        ``[I]``.

        Args:
            input: ``[B, I]`` or ``[I]``.
            hx: the state, as it is returned; None: zeros.
        """
        title, names = type(self).__name__, self._spec().states
        rank = as_input(title, input).dim()
        if rank not in (1, 2):
            raise ValueError(f"{title}: Expected input to be 1D or 2D, got {rank}D instead")
        if hx is None:
            zeros = input.new_zeros(*input.shape[:-1], self.hidden_size)
            hx = zeros if len(names) == 1 else (zeros,) * len(names)
        state = as_states(title, names, hx)
        for each in state if isinstance(state, tuple) else (state,):
            if each.dim() != rank:
                raise ValueError(f"{title}: Expected hx to be {rank}D, got {each.dim()}D instead")
        if rank == 1:
            input, state = input.unsqueeze(0), map_state(lambda s: s.unsqueeze(0), state)
        finals: Any = functional.recurrent_cell(
            self._spec().name,
            input,
            state if isinstance(state, tuple) else (state,),
            read_weights(self, self._names),
            bias=self.bias,
            num_heads=self.num_heads,
            normalise=self._normalise(),
            backend=self.backend,
        )
        state = finals if len(names) > 1 else finals[0]
        return state if rank == 2 else map_state(lambda s: s.squeeze(0), state)

    def extra_repr(self) -> str:
        text = f"{self.input_size}, {self.hidden_size}, bias={self.bias!r}"
        text += f", num_heads={self.num_heads}" if self.num_heads > 1 else ""
        return text if self.backend is None else f"{text}, backend={self.backend!r}"
