"""What the recurrent layers share: from a call's input and state to `fastrnn.functional`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from .. import backends, inference, init
from ..cells import CELLS, CellSpec
from ..checks import check_flag, check_not_nested
from ..forms import Bias, check_bias, check_heads, weight_names, weight_shapes
from ..sequences import NOTHING, OFF, Call, Settings, as_keywords, settings_of
from .scripting import refuse_scripting
from .states import State, as_tensor, map_state
from .weights import read_weights

BATCHED = {2: "unbatched", 3: "batched"}
_LEARN = "learn_initial_state"
_SETTINGS = (*as_keywords(OFF), _LEARN)
_TORCH_MODES = ("LSTM", "GRU", "RNN_TANH", "RNN_RELU")


class Recurrent(nn.RNNBase):
    """Base of the layers, for any cell.

    The base class keeps a list of its weights, guarded by weak references, and renews it
    when one has changed. Here weights are read by name at each call instead: nothing can
    become stale, and nothing in ``forward`` stops `torch.compile`. The subclasses do not
    inherit from nn.LSTM and its siblings, since `torch.compile` refuses to trace those.
    """

    __prepare_scriptable__ = refuse_scripting

    backend: str | None = None
    num_heads: int = 1
    forget_bias: float | None = None
    settings: Settings = OFF
    learn_initial_state: bool = False

    # torch's name of the layer, by which its errors begin.
    _title: ClassVar[str]
    _tensor: ClassVar[str] = ""
    # How parameters of a kind begin, where it is not as torch's do.
    _initial: ClassVar[dict[str, Callable[[Tensor], object]]] = {}

    def __init__(
        self,
        mode: str,
        input_size: int,
        hidden_size: int,
        num_layers: int,
        bias: Bias,
        batch_first: bool,
        dropout: float,
        bidirectional: bool,
        proj_size: int,
        device: Any,
        dtype: torch.dtype | None,
        backend: str | None,
        num_heads: int = 1,
        forget_bias: float | None = None,
        settings: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        for name in settings:
            if name == "forget_bias":
                raise TypeError(f"{self._title} has no gate for forget_bias to begin with")
            if name not in _SETTINGS:
                raise TypeError(
                    f"{self._title}.__init__() got an unexpected keyword argument {name!r}"
                )
        check_bias(bias)
        plain = mode in _TORCH_MODES and isinstance(bias, bool)
        plain = plain and num_heads == 1 and not isinstance(num_heads, bool)
        # For other weights than torch's the base class checks its arguments on weights that
        # have no memory, and they are made here.
        super().__init__(
            mode if plain else "LSTM",
            input_size,
            hidden_size,
            num_layers=num_layers,
            bias=bool(bias),
            batch_first=batch_first,
            dropout=dropout,
            bidirectional=bidirectional,
            proj_size=proj_size,
            device=device if plain else "meta",
            dtype=dtype,
        )
        self.__dict__.pop("_flat_weight_refs", None)
        self.backend = backends.check_name(backend)
        if forget_bias is not None:
            self.forget_bias = forget_bias
        if not plain:
            self._make_weights(mode, bias, num_heads, device, dtype)
        elif forget_bias is not None:
            init.forget_bias_(self, forget_bias)
        more = {name: value for name, value in settings.items() if name != _LEARN}
        chosen = settings_of(more)
        if chosen is not OFF:  # which stays the class's: a copy's would be another object
            chosen.check(self._spec(), bool(proj_size), bidirectional)
            self.settings = chosen
        learn = settings.get(_LEARN, False)
        check_flag(_LEARN, learn)
        if learn:
            self._make_initial_state(device, dtype)

    def _make_initial_state(self, device: Any, dtype: torch.dtype | None) -> None:
        """``initial_h [L*D, 1, K]`` and those of the other states, zero at first."""
        self.learn_initial_state = True
        count = self.num_layers * (2 if self.bidirectional else 1)
        for index, name in enumerate(self._spec().states):
            width = self.hidden_size if index else self.proj_size or self.hidden_size
            zeros = torch.zeros(count, 1, width, device=device, dtype=dtype)
            self.register_parameter(f"initial_{name}", nn.Parameter(zeros))

    def _initial_state(self, batch: int) -> State:
        states = [getattr(self, f"initial_{name}") for name in self._spec().states]
        expanded = tuple(state.expand(-1, batch, -1) for state in states)
        return expanded if len(expanded) > 1 else expanded[0]

    def _make_weights(
        self, mode: str, bias: Bias, num_heads: int, device: Any, dtype: torch.dtype | None
    ) -> None:
        check_heads(num_heads, self.hidden_size)
        self.mode, self.bias = mode, bias  # type: ignore[assignment]
        if num_heads > 1:
            self.num_heads = num_heads
        if self.proj_size and (num_heads > 1 or not self._spec().projects):
            raise ValueError(f"{self._title} with {num_heads} heads has no projection")
        self._parameters.clear()
        self._all_weights = self._weight_names()
        self._flat_weights_names = [name for names in self._all_weights for name in names]
        directions = 2 if self.bidirectional else 1
        k = self.proj_size or self.hidden_size
        for index, names in enumerate(self._all_weights):
            features = self.input_size if index < directions else directions * k
            shapes = weight_shapes(
                self._spec(), bias, features, self.hidden_size, self.proj_size, num_heads
            )
            for name, shape in zip(names, shapes.values(), strict=True):
                parameter = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
                self.register_parameter(name, parameter)
        self._make_others(device, dtype)
        self.reset_parameters()

    def _make_others(self, device: Any, dtype: torch.dtype | None) -> None:
        """Parameters beside those of the functional form."""

    def reset_parameters(self) -> None:
        """Draws all parameters from U(-1/sqrt(H), 1/sqrt(H)) but those that begin otherwise."""
        bound = 1.0 / math.sqrt(self.hidden_size)
        for name, parameter in self.named_parameters(recurse=False):
            if name.startswith("initial_"):
                nn.init.zeros_(parameter)
                continue
            # A layer's names end in _l0, a cell's do not.
            begin = self._initial.get(name) or self._initial.get(name.rpartition("_l")[0])
            if begin is None:
                nn.init.uniform_(parameter, -bound, bound)
            else:
                begin(parameter)
        if self.forget_bias is not None:
            init.forget_bias_(self, self.forget_bias)

    # --- a call -------------------------------------------------------------------------

    def forward(
        self,
        input: Tensor | PackedSequence,
        hx: Any = None,
        *,
        lengths: Tensor | None = None,
        reset: Tensor | None = None,
        reset_to: Any = "zero",
        return_all_states: bool = False,
    ) -> Any:
        """Output and final state; with ``return_all_states`` the states after every step too.

        The keyword arguments are those of `fastrnn.sequences.Call`.
        """
        call = NOTHING
        given = not isinstance(reset_to, str) or reset_to != "zero"
        if lengths is not None or reset is not None or return_all_states or given:
            call = Call(lengths, reset, reset_to, return_all_states)
        elif inference.unwatched():
            found = self._forward_unwatched(input, hx)
            if found is not None:
                return found
        if isinstance(input, PackedSequence):
            return self._forward_packed(input, hx, call)
        if not isinstance(input, Tensor):
            raise TypeError(
                f"{self._title}: Expected input to be a tensor or a PackedSequence, "
                f"got {type(input).__name__} instead"
            )
        check_not_nested(self._title, input)
        rank = input.dim()
        if rank not in (2, 3):
            raise ValueError(
                f"{self._title}: Expected input to be 2D or 3D, got {rank}D{self._tensor} instead"
            )
        state = None if hx is None else self._as_state(hx)
        if state is not None:
            self._check_state_rank(state, rank)
        if rank == 3:
            return self._forward(input, state, None, self.batch_first, call=call)

        batch_dim = 0 if self.batch_first else 1
        input = input.unsqueeze(batch_dim)
        if state is not None:
            state = map_state(lambda s: s.unsqueeze(1), state)
        call = call.of_one_sequence(batch_dim)
        output, *states = self._forward(input, state, None, self.batch_first, call=call)
        squeezed = [map_state(lambda s: s.squeeze(-2), state) for state in states]
        return output.squeeze(batch_dim), *squeezed

    def _forward_unwatched(self, input: Any, hx: Any) -> tuple[Tensor, State] | None:
        """The short way for what is simple, else None."""
        if type(input) is not Tensor or input.is_nested or input.dim() != 3 or not self.plain:
            return None
        if input.size(2) != self.input_size:
            return None
        if self.training and self.dropout and self.num_layers > 1:
            return None
        if self.settings is not OFF or (hx is None and self.learn_initial_state):
            return None
        if self.batch_first:
            input = input.transpose(0, 1).contiguous()
        found = inference.layers(
            self._spec(),
            input,
            hx,
            read_weights(self, self._flat_weights_names),
            self.hidden_size,
            self.proj_size,
            self.bias,
            self.num_layers,
            2 if self.bidirectional else 1,
            self.backend,
        )
        if found is None:
            return None
        output, *finals = found
        return output.transpose(0, 1) if self.batch_first else output, (
            finals[0] if len(finals) == 1 else tuple(finals)
        )

    @property
    def plain(self) -> bool:
        """Whether its weights are in torch's form."""
        torch_mode = self.mode in _TORCH_MODES
        return torch_mode and isinstance(self.bias, bool) and self.num_heads == 1

    @property
    def beyond_torch(self) -> str:
        """The settings that torch's layers do not have, as arguments."""
        found = ["learn_initial_state=True"] if self.learn_initial_state else []
        return ", ".join([*found, *([] if self.settings is OFF else [self.settings.described()])])

    def _spec(self) -> CellSpec:
        return CELLS[self.mode.lower()]

    def _forward_packed(
        self, packed: PackedSequence, hx: Any, call: Call
    ) -> tuple[PackedSequence, State]:
        # One by one: torch 2.6 does not trace the unpacking of a tuple of a class of its own.
        input, batch_sizes = packed.data, packed.batch_sizes
        sorted_indices, unsorted_indices = packed.sorted_indices, packed.unsorted_indices
        state = None if hx is None else self._as_state(hx)
        # The user's order of the batch is not that of the packed data.
        output, state = self._forward(input, state, batch_sizes, False, sorted_indices, call)
        packed = PackedSequence(output, batch_sizes, sorted_indices, unsorted_indices)
        return packed, self.permute_hidden(state, unsorted_indices)

    def _forward(
        self,
        input: Tensor,
        state: State | None,
        batch_sizes: Tensor | None,
        batch_first: bool,
        permutation: Tensor | None = None,
        call: Call = NOTHING,
    ) -> Any:
        weights = read_weights(self, self._flat_weights_names)
        self._check_input(input, batch_sizes, weights[0].dtype)
        if state is not None:
            # Before the permutation, which would pick rows from a state with too many.
            if batch_sizes is not None and torch.compiler.is_compiling():
                self._assert_batch(state, batch_sizes)
            else:
                self._check_state(input, state, batch_sizes)
            state = self.permute_hidden(state, permutation)
        elif self.learn_initial_state:
            batch = input.size(0 if batch_first else 1) if batch_sizes is None else batch_sizes[0]
            state = self._initial_state(int(batch))
        sequences: dict[str, Any] = {}
        if self.settings is not OFF:
            sequences |= as_keywords(self.settings)
        if call is not NOTHING:
            sequences |= as_keywords(call)
        return self._compute(
            input,
            state,
            weights,
            bias=self.bias,
            num_layers=self.num_layers,
            dropout=self.dropout,
            training=self.training,
            bidirectional=self.bidirectional,
            batch_first=batch_first,
            batch_sizes=batch_sizes,
            num_heads=self.num_heads,
            backend=self.backend,
            **sequences,
        )

    def _compute(self, *args: Any, **options: Any) -> Any:
        """Calls the layer's function of `fastrnn.functional`."""
        raise NotImplementedError

    # --- checks -------------------------------------------------------------------------

    def _as_state(self, hx: Any) -> State:
        return as_tensor(self._title, hx)

    def _check_state_rank(self, state: Any, rank: int) -> None:
        if state.dim() != rank:
            raise RuntimeError(
                f"For {BATCHED[rank]} {rank}-D input, hx should also be {rank}-D "
                f"but got {state.dim()}-D tensor"
            )

    def _check_input(self, input: Tensor, batch_sizes: Tensor | None, dtype: torch.dtype) -> None:
        if input.dtype != dtype and not torch._C._is_any_autocast_enabled():
            raise ValueError(
                f"RNN input dtype ({input.dtype}) does not match weight dtype ({dtype}). "
                f"Convert input: input.to({dtype}), or convert model: model.to({input.dtype})"
            )
        rank = 3 if batch_sizes is None else 2
        if input.dim() != rank:
            raise RuntimeError(f"input must have {rank} dimensions, got {input.dim()}")
        if input.size(-1) != self.input_size:
            raise RuntimeError(
                "input.size(-1) must be equal to input_size. "
                f"Expected {self.input_size}, got {input.size(-1)}"
            )

    def _check_state(self, input: Tensor, state: Any, batch_sizes: Tensor | None) -> None:
        self.check_hidden_size(state, self.get_expected_hidden_size(input, batch_sizes))

    def _assert_batch(self, state: State, batch_sizes: Tensor) -> None:
        """A packed input's batch is data: while tracing it can be asserted, not branched on."""
        batch = batch_sizes[0].item()
        for tensor in state if isinstance(state, tuple) else (state,):
            torch._check(batch == tensor.size(1))

    # The names under which subclasses know the checks and the permutation.

    def check_input(self, input: Tensor, batch_sizes: Tensor | None) -> None:
        (weight,) = read_weights(self, self._flat_weights_names[:1])
        self._check_input(input, batch_sizes, weight.dtype)

    def check_forward_args(self, input: Tensor, hidden: Any, batch_sizes: Tensor | None) -> None:
        self.check_input(input, batch_sizes)
        self._check_state(input, hidden, batch_sizes)

    def permute_hidden(self, hx: State, permutation: Tensor | None) -> State:
        if permutation is None:
            return hx
        return map_state(lambda s: s.index_select(1, permutation), hx)

    # --- in place of the base class's list of weights -------------------------------------

    @property
    def _flat_weights(self) -> list[Tensor | None]:  # type: ignore[override]
        return [getattr(self, name, None) for name in self._flat_weights_names]

    __setattr__ = nn.Module.__setattr__  # type: ignore[assignment]
    _replicate_for_data_parallel = nn.Module._replicate_for_data_parallel

    def _init_flat_weights(self) -> None:
        pass

    def _update_flat_weights(self) -> None:
        pass

    def flatten_parameters(self) -> None:
        """Does nothing: the kernels take weights wherever they lie."""

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        state.pop("_compiled_call_impl", None)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Takes this class's state and that of torch's layers, of any age."""
        nn.Module.__setstate__(self, state)
        for cache in ("_flat_weights", "_flat_weight_refs", "all_weights"):
            self.__dict__.pop(cache, None)
        # Before torch 1.8 there was none; before 1.4 the names were kept otherwise, or not.
        self.__dict__.setdefault("proj_size", 0)
        self._all_weights = self._weight_names()
        self._flat_weights_names = [name for names in self._all_weights for name in names]

    def _weight_names(self) -> list[list[str]]:
        kinds = weight_names(self._spec(), self.bias, self.proj_size > 0)
        suffixes = ("", "_reverse") if self.bidirectional else ("",)
        return [
            [f"{kind}_l{layer}{suffix}" for kind in kinds]
            for layer in range(self.num_layers)
            for suffix in suffixes
        ]

    def extra_repr(self) -> str:
        text = super().extra_repr()
        if self.num_heads > 1:
            text += f", num_heads={self.num_heads}"
        if self.beyond_torch:
            text += f", {self.beyond_torch}"
        return text if self.backend is None else f"{text}, backend={self.backend!r}"
