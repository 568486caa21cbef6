"""What a layer can do to its sequences beyond torch's: the keyword arguments of all layers.

Everything here is off by default. A layer's settings hold for all of its layers and directions,
the arguments of a call for all of its sequences; for each layer they become the `Options` of a
scan.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import dropout

from .cells import CellSpec
from .checks import check_agreement, check_flag
from .operators import watched
from .options import GIVEN, INITIAL, ZERO, Options


@dataclass(frozen=True, eq=False)
class Settings:
    """How a layer treats its states, for good.

    Args:
        zoneout: the probability with which, in training, a unit's state stays as it was (Krueger
            et al., *Zoneout*, 2016); in evaluation the old and the new state are mixed in that
            proportion. One for all states, or one for each: ``(h, c)``.
        recurrent_dropout: in training, the probability of dropping a unit of h on its way into
            the recurrent product, the same units at all steps (Gal & Ghahramani, 2016).
        weight_dropout: in training, the probability of dropping a number of ``weight_hh``, drawn
            once a call (DropConnect as in Merity et al., 2017).
        cell_clip: bound of the cell state, applied before h is made of it.
        proj_clip: bound of the projected h.
        gate_clip: bound of every pre-activation, ONNX's ``clip``.
        grad_clip: bound of the gradient of every pre-activation at every step (Graves, 2013).
        reverse: runs the one direction from the last step to the first.
        checkpoint_every: so many steps at a time are saved for the backward, all others computed
            once more; near the square root of the number of steps memory is least.
        recompute: the backward makes the gates of all steps again, from the states after every
            step, in one more product; they are kept for one layer at a time. The C++ kernels do so
            for LSTM, GRU and RNN with nothing else asked for; all else runs its scan once more.
    """

    zoneout: float | Sequence[float] = 0.0
    recurrent_dropout: float = 0.0
    weight_dropout: float = 0.0
    cell_clip: float | None = None
    proj_clip: float | None = None
    gate_clip: float | None = None
    grad_clip: float | None = None
    reverse: bool = False
    checkpoint_every: int | None = None
    recompute: bool = False

    def check(self, spec: CellSpec, projected: bool, bidirectional: bool) -> None:
        """Raises ValueError or TypeError where a setting is none, or not one for such a layer."""
        self.zoneouts(spec)
        for name in ("recurrent_dropout", "weight_dropout"):
            _check_probability(name, getattr(self, name))
            if getattr(self, name) and not spec.recurrent:
                raise ValueError(f"{name} wants a recurrent product, and {spec.name} has none")
        for name in ("cell_clip", "proj_clip", "gate_clip", "grad_clip"):
            bound = getattr(self, name)
            if bound is not None and not (is_number(bound) and bound > 0):
                raise ValueError(f"{name} should be a positive number or None, got: {bound!r}")
        if self.cell_clip is not None and spec.clipped is None:
            raise ValueError(f"cell_clip wants a cell state, and {spec.name} has none")
        if self.proj_clip is not None and not projected:
            raise ValueError("proj_clip wants a projection, got proj_size=0")
        check_flag("reverse", self.reverse)
        if self.reverse and bidirectional:
            raise ValueError("reverse is for one direction, got bidirectional=True as well")
        every = self.checkpoint_every
        if every is not None and (
            isinstance(every, bool) or not isinstance(every, int) or every < 1
        ):
            raise ValueError(f"checkpoint_every should be a positive integer, got: {every!r}")
        if not isinstance(self.recompute, bool):
            raise ValueError(f"recompute should be True or False, got: {self.recompute!r}")
        if self.recompute and every:
            raise ValueError("recompute and checkpoint_every exclude each other, got both")

    def zoneouts(self, spec: CellSpec) -> list[float]:
        """One for each of a cell's states."""
        given = self.zoneout
        found: list[Any] = (
            list(given) if isinstance(given, (tuple, list)) else [given] * len(spec.states)
        )
        if len(found) != len(spec.states) or not all(is_number(p) and 0 <= p <= 1 for p in found):
            each = f", or one for each of {', '.join(spec.states)}" if len(spec.states) > 1 else ""
            raise ValueError(f"zoneout should be a number in range [0, 1]{each}, got: {given!r}")
        return [float(p) for p in found]

    def described(self) -> str:
        """Those that are not off, as arguments."""
        changed = ((f.name, getattr(self, f.name)) for f in fields(self))
        of = {f.name: f.default for f in fields(self)}
        return ", ".join(f"{name}={value!r}" for name, value in changed if value != of[name])


OFF = Settings()
"""The defaults, known by identity: with them a layer may go its shortest way."""


def settings_of(keywords: Mapping[str, Any]) -> Settings:
    """Settings from keyword arguments; `OFF` itself where each is given its default."""
    for name, value in keywords.items():
        default = getattr(OFF, name)
        if type(value) is not type(default) or value != default:
            return Settings(**keywords)
    return OFF


def is_number(value: Any) -> bool:
    """Whether it is one, and no greater than a float can be."""
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        return False
    try:
        float(value)
    except OverflowError:
        return False
    return True


def _check_probability(name: str, p: Any) -> None:
    if not is_number(p) or not 0 <= p <= 1:
        raise ValueError(f"{name} should be a number in range [0, 1], got: {p!r}")


@dataclass(frozen=True, eq=False)
class Call:
    """What a call asks for: arguments of all layers' ``forward``.

    Args:
        lengths: ``[B]`` integers between 0 and T, in any order, on any device: how many steps of
            each sequence there are. Outputs past them are zero, inputs past them are not read,
            final states are those after the last step of each sequence, and a reversed direction
            starts there.
        reset: bool ``[T, B]``, ``[B, T]`` with ``batch_first``, ``[T]`` unbatched; or with a
            last dimension of one entry a direction. Where True, the state before the step is
            replaced, "before" in the order in which a direction meets the steps.
        reset_to: by ``"zero"``, ``"initial"``, the call's initial state, or by states given for
            every step: shaped as ``hx`` with a leading dimension T, ``[T, L*D, B, K]``.
        return_all_states: whether the call returns as a third result the states after every
            step, shaped as those that ``reset_to`` can be.
    """

    lengths: Tensor | None = None
    reset: Tensor | None = None
    reset_to: str | Tensor | tuple[Tensor, ...] = ZERO
    return_all_states: bool = False

    @property
    def asks(self) -> bool:
        return self is not NOTHING

    def of_one_sequence(self, batch_dim: int) -> Call:
        """A call without a batch as one of a batch of one."""
        if self.lengths is not None:
            raise ValueError("lengths are for batched input, got an unbatched one")
        if self is NOTHING:
            return self
        reset, to = self.reset, self.reset_to
        if reset is not None:
            check_mask(reset)
            if reset.dim() not in (1, 2):
                raise RuntimeError(
                    "For unbatched input, reset should be 1-D, or 2-D with an entry for each "
                    f"direction, got {reset.dim()}-D tensor"
                )
            reset = reset.unsqueeze(batch_dim)
        if not isinstance(to, str):
            to = _as_states(to)
            for index, state in enumerate(to):
                if state.dim() != 3:
                    raise RuntimeError(
                        f"For unbatched input, reset_to[{index}] should be 3-D, [T, L*D, K], "
                        f"got {state.dim()}-D tensor"
                    )
            to = tuple(state.unsqueeze(2) for state in to)
        return replace(self, reset=reset, reset_to=to)

    def check(
        self, spec: CellSpec, steps: int, batch: int, directions: int, layers: int,
        widths: Sequence[int], batch_first: bool, input: Tensor,
    ) -> Call:  # fmt: skip
        """Itself with lengths and resets as the scan takes them: int64, time first, ``[T, B, D]``.

        Raises:
            TypeError, ValueError, RuntimeError: an argument is not of the kind, dtype, shape or
                device; lengths on the CPU are out of range; ``reset_to`` without ``reset``.
        """
        check_flag("return_all_states", self.return_all_states)
        lengths, reset, to = self.lengths, self.reset, self.reset_to
        if lengths is not None:
            lengths = check_lengths(lengths, steps, batch, input.device)
        if isinstance(to, str) and to not in (ZERO, INITIAL):
            raise ValueError(f"reset_to should be 'zero', 'initial' or states, got: {to!r}")
        if not isinstance(to, str):
            to = _as_states(to)
        if reset is None:
            if not isinstance(to, str) or to != ZERO:
                raise ValueError("reset_to says what a reset is to, and there is no reset")
            return replace(self, lengths=lengths)
        check_mask(reset)
        shape = (batch, steps) if batch_first else (steps, batch)
        if reset.shape not in (shape, (*shape, directions)):
            raise RuntimeError(
                f"Expected reset size {shape}, or {(*shape, directions)} with an entry for each "
                f"direction, got {list(reset.shape)}"
            )
        if reset.device != input.device:
            raise RuntimeError(f"reset is on {reset.device}, but input is on {input.device}")
        if batch_first:
            reset = reset.transpose(0, 1)
        if reset.dim() == 2:
            reset = reset.unsqueeze(2).expand(-1, -1, directions)
        if not isinstance(to, str):
            if len(to) != len(spec.states):
                raise RuntimeError(
                    f"reset_to should have the states {', '.join(spec.states)}, got {len(to)}"
                )
            for index, (state, width) in enumerate(zip(to, widths, strict=True)):
                expected = (steps, layers * directions, batch, width)
                if state.shape != expected:
                    raise RuntimeError(
                        f"Expected reset_to[{index}] size {expected}, got {list(state.shape)}"
                    )
            check_agreement(input, [f"reset_to[{index}]" for index in range(len(to))], to)
        return replace(self, lengths=lengths, reset=reset, reset_to=to)


NOTHING = Call()

_OF_SETTINGS = frozenset(f.name for f in fields(Settings))
_OF_CALL = frozenset(f.name for f in fields(Call))


def split(keywords: Mapping[str, Any]) -> tuple[Settings, Call]:
    """The keyword arguments of a functional form: those of `Settings` and those of `Call`.

    Raises:
        TypeError: one is neither.
    """
    if not keywords:
        return OFF, NOTHING
    for name in keywords:
        if name not in _OF_SETTINGS | _OF_CALL:
            raise TypeError(f"got an unexpected keyword argument {name!r}")
    settings = {name: value for name, value in keywords.items() if name in _OF_SETTINGS}
    call = {name: value for name, value in keywords.items() if name in _OF_CALL}
    return settings_of(settings), Call(**call) if call else NOTHING


def as_keywords(given: Settings | Call) -> dict[str, Any]:
    """What `split` makes it of."""
    return {f.name: getattr(given, f.name) for f in fields(given)}


def check_lengths(lengths: Any, steps: int, batch: int, device: torch.device) -> Tensor:
    """Lengths as the scan takes them: int64 on the input's device.

    Raises:
        TypeError, ValueError, RuntimeError: they are no integers, or not so many; on the CPU
            also, one is not between 0 and the number of steps.
    """
    if not isinstance(lengths, Tensor):
        raise TypeError(f"lengths should be a tensor, got {type(lengths).__name__}")
    dtype = lengths.dtype
    if dtype.is_floating_point or dtype.is_complex or dtype == torch.bool:
        raise TypeError(f"lengths should be integers, got {dtype}")
    if lengths.layout != torch.strided:
        raise TypeError(f"lengths should be a dense tensor, got {lengths.layout}")
    if lengths.shape != (batch,):
        raise RuntimeError(f"Expected lengths size ({batch},), got {list(lengths.shape)}")
    if lengths.device.type == "meta" and device.type != "meta":
        raise RuntimeError(f"lengths is on meta, but input is on {device}")
    lengths = lengths.to(torch.int64)
    if lengths.device.type == "cpu" and not watched((lengths,)) and batch:
        least, most = int(lengths.min()), int(lengths.max())
        if least < 0 or most > steps:
            raise ValueError(
                f"lengths should be between 0 and the number of steps, {steps}, "
                f"got {least if least < 0 else most}"
            )
    else:  # their values are not to be waited for
        lengths = lengths.clamp(0, steps)
    return lengths.to(device, non_blocking=device.type == "cuda")


def check_mask(reset: Any) -> None:
    if not isinstance(reset, Tensor):
        raise TypeError(f"reset should be a bool tensor, got {type(reset).__name__}")
    if reset.dtype != torch.bool:
        raise TypeError(
            f"reset should be a bool tensor, True where the state is to be replaced, got "
            f"{reset.dtype}; of numbers, pass reset != 0"
        )
    if reset.layout != torch.strided:
        raise TypeError(f"reset should be a dense tensor, got {reset.layout}")


def _as_states(to: Any) -> tuple[Tensor, ...]:
    """What ``reset_to`` gives, if it is no word."""
    states = tuple(to) if isinstance(to, (tuple, list)) else (to,)
    for state in states:
        if not isinstance(state, Tensor):
            among = f" with {type(state).__name__} among them" if state is not to else ""
            raise TypeError(
                "reset_to should be 'zero', 'initial', a tensor or a tuple of tensors, "
                f"got {type(to).__name__}{among}"
            )
        if state.layout != torch.strided:
            raise TypeError(f"reset_to should be dense tensors, got {state.layout}")
    return states


def clear_padding(input: Tensor, lengths: Tensor) -> Tensor:
    """``input [T, B, I]`` with zeros past each sequence's end, where anything may have been."""
    steps = torch.arange(input.shape[0], device=input.device)
    return input.masked_fill((steps.unsqueeze(1) >= lengths).unsqueeze(2), 0)


def drop_weights(weights: Sequence[Tensor], p: float, training: bool) -> Sequence[Tensor]:
    """Recurrent weights under DropConnect."""
    return [dropout(weight, p) for weight in weights] if p and training else weights


def options_of(
    spec: CellSpec,
    settings: Settings,
    call: Call,
    training: bool,
    input: Tensor,
    states: Sequence[Tensor],
    first: int,
    num_heads: int,
) -> Options:
    """Those of one layer's scan over ``input [S, I]`` from states ``[N, B, X]``.

    ``first`` is the layer's first direction among all.
    """
    rows = input.shape[0]
    n, batch = states[0].shape[:2]
    reset, to = None, ZERO
    given: list[Tensor] = []
    if call.reset is not None:
        reset = call.reset.flatten(0, 1).repeat_interleave(num_heads, 1)
        if isinstance(call.reset_to, str):
            to = call.reset_to
        else:
            to = GIVEN
            directions = n // num_heads
            for each in call.reset_to:
                state = each[:, first : first + directions].to(input.dtype)
                by_row = state.transpose(1, 2).flatten(0, 1)
                given.append(by_row.unflatten(2, (num_heads, -1)).flatten(1, 2))
    drop_h = None
    if training and settings.recurrent_dropout:
        drop_h = dropout(input.new_ones(n, batch, states[0].shape[2]), settings.recurrent_dropout)
    zoneout: list[Tensor] = []
    parts = settings.zoneouts(spec)
    if training and any(parts):
        for p, state in zip(parts, states, strict=True):
            mask = input.new_empty(rows, n, state.shape[2], dtype=torch.bool)
            zoneout.append(mask.bernoulli_(p))
    bounds = (settings.cell_clip, settings.proj_clip, settings.gate_clip, settings.grad_clip)
    return Options(
        lengths=call.lengths,
        reset=reset,
        reset_to=to,
        reset_states=given,
        dropout=drop_h,
        zoneout=zoneout,
        zoneout_p=parts if any(parts) and not training else [],
        clips=[math.inf if bound is None else float(bound) for bound in bounds],
        all_states=call.return_all_states,
    )
