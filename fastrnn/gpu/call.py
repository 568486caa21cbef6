"""One scan as the kernels see it: sizes, tensors, and where the steps of its sequences lie."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import triton.language as tl
from torch import Tensor

from ..cells import CellSpec
from ..kernels.cells import functions, operands
from ..options import GIVEN, INITIAL, ZERO, Options
from ..reference import accumulation_dtype

_TRITON = {torch.float32: tl.float32, torch.float64: tl.float64}
# As `fastrnn.kernels.sequence` names them; 0: none.
_RESETS = {ZERO: 1, INITIAL: 2, GIVEN: 3}
_ZONE_MASKS, _ZONE_PARTS = 1, 2


@dataclass(frozen=True)
class Forward:
    """The tensors of a forward: given, and to be filled (`fastrnn.allocate.results`)."""

    gates_x: Tensor
    weight_hh: Tensor | None
    bias_hh: Tensor | None
    weight_hr: Tensor | None
    states: Sequence[Tensor]
    out: Tensor
    finals: Sequence[Tensor]
    others: Sequence[Tensor]
    saved: Sequence[Tensor]


@dataclass(frozen=True)
class Backward:
    """The tensors of a backward: given, and ``found``, those of `fastrnn.allocate.gradients`."""

    weight_hh: Tensor | None
    weight_hr: Tensor | None
    states: Sequence[Tensor]
    out: Tensor
    saved: Sequence[Tensor]
    grad_out: Tensor
    grad_finals: Sequence[Tensor]
    grad_others: Sequence[Tensor]
    dgates_x: Tensor
    dgates_h: Tensor  # the same where no gate is apart
    grad_states: Sequence[Tensor]
    grad_resets: Sequence[Tensor]
    grad_params: Sequence[Tensor]
    dproj: Tensor  # where nothing is projected, any tensor
    operand: Tensor  # where there is no second product, any tensor


@dataclass(frozen=True)
class Call:
    """Letters as in `fastrnn.reference`."""

    spec: CellSpec
    dtype: torch.dtype
    device: torch.device
    S: int
    T: int
    B: int
    N: int
    H: int
    K: int
    projected: bool
    # int64 [T+1], the first row of each step; where nothing is packed, any tensor.
    starts: Tensor
    packed: bool
    # int32 [N]
    reverse: Tensor
    # [N, M*H], those of the cell one after the other; without any, any tensor.
    params: Tensor
    num_params: int  # M
    options: Options

    @classmethod
    def of(
        cls,
        spec: CellSpec,
        gates_x: Tensor,
        projected: bool,
        states: Sequence[Tensor],
        batch_sizes: Tensor | None,
        reverse: Sequence[bool],
        params: Sequence[Tensor],
        options: Options,
    ) -> Call:
        rows, recurrences, width = gates_x.shape
        batch, k = states[0].shape[1:]
        hidden = width // spec.num_gates
        device = gates_x.device
        flags = _flags(tuple(map(bool, reverse)), device)
        if batch_sizes is None:
            steps, starts = (rows // batch if batch else 0), flags
        else:
            steps, starts = batch_sizes.shape[0], _starts(batch_sizes, device)
        own = torch.cat(tuple(params), 1).contiguous() if params else flags
        return cls(
            spec, gates_x.dtype, device, rows, steps, batch, recurrences, hidden, k, projected,
            starts, batch_sizes is not None, flags, own,
            own.shape[1] // hidden if params else 0, options,
        )  # fmt: skip

    @property
    def wide(self) -> torch.dtype:
        """The dtype of states and sums."""
        return accumulation_dtype(self.dtype)

    @property
    def extra(self) -> int:
        """States beside h."""
        return len(self.spec.states) - 1

    def gather(self, tensors: Sequence[Tensor]) -> Tensor:
        """The states beside h in one tensor of the dtype of accumulation, ``[X, N, B, H]``."""
        if tensors:
            return torch.stack([tensor.to(self.wide) for tensor in tensors])
        return torch.empty(0, dtype=self.wide, device=self.device)

    def together(self, tensors: Sequence[Tensor]) -> Tensor:
        """Tensors of each step in one, ``[X, S, N, H]``, to be read; without any, any tensor."""
        if not tensors:
            return self.reverse
        if len(tensors) == 1:
            return tensors[0].contiguous().unsqueeze(0)  # the same memory
        return torch.stack(tuple(tensors))

    @property
    def first(self) -> int:
        """Gates whose product is of h."""
        return self.spec.num_gates - len(self.spec.second)

    @property
    def operands(self) -> Sequence[Any]:
        """What makes the second product's operand, and its backward."""
        return operands(self.spec.name) if self.spec.second else (None, None)

    def kept(self, saved: Sequence[Tensor]) -> dict[str, int]:
        """The constants of what a step keeps: the width of its row, and which of the numbers of a
        unit is h as the cell left it, -1 if none is.

        The cell's come first, with zoneout then the states beside h as they are after it. h itself
        is kept where the output is not what the cell left, or not to all its digits and these
        matter: where a bound was reached is seen from them.
        """
        kept_h = -1
        if (self.zone and not self.projected) or self.options.gate_clip < math.inf:
            kept_h = len(self.spec.saved) + (self.extra if self.zone else 0)
        return {"WIDTH": saved[0].shape[2] if saved else 0, "KEPT_H": kept_h}

    @property
    def zone(self) -> int:
        if self.options.zoneout:
            return _ZONE_MASKS
        return _ZONE_PARTS if self.options.zoneout_p else 0

    @property
    def plain(self) -> bool:
        """Whether sequences and cell are as torch has them."""
        return not (self.asked or self.num_params)

    @property
    def asked(self) -> int:
        """How many options there are that cost something."""
        names = self.options.asked()
        return len(names) - ("the states of all steps" in names and not self.others_asked)

    @property
    def others_asked(self) -> bool:
        return self.options.all_states and self.extra > 0

    @property
    def moved(self) -> bool:
        """Whether a step may begin with other states than the last one left."""
        return self.options.reset is not None or self.options.dropout is not None

    @property
    def sequence(self) -> tuple[Tensor, ...]:
        """``lengths, reset, given_h, given_s, dropout, zone_h, zone_s``, any tensor for none."""
        options, none = self.options, self.reverse
        given, zones = list(options.reset_states), [_bytes(mask) for mask in options.zoneout]
        reset = none if options.reset is None else _bytes(options.reset)
        return (
            none if options.lengths is None else options.lengths.contiguous(),
            reset,
            given[0].contiguous() if given else none,
            self.together(given[1:]),
            none if options.dropout is None else options.dropout.contiguous(),
            zones[0] if zones else none,
            self.together(zones[1:]),
        )

    def results_together(self, tensors: Sequence[Tensor]) -> Tensor:
        """``[X, S, N, H]`` to be written, beginning as the tensors are; see `hand_out`."""
        return self.together(tensors)

    def hand_out(self, together: Tensor, tensors: Sequence[Tensor]) -> None:
        """What was written into `results_together` goes to the tensors it was made for."""
        if len(tensors) > 1:
            for tensor, found in zip(tensors, together, strict=True):
                tensor.copy_(found)

    def initial_gradients(self, dh: Tensor, dextra: Tensor) -> tuple[Tensor, Tensor]:
        """Where gradients go that come to the initial states by resets; else any tensors."""
        if self.options.reset is None or self.options.reset_to != INITIAL:
            return dh, dextra
        return torch.zeros_like(dh), torch.zeros_like(dextra)

    def params_gradients(self) -> Tensor:
        """``[M, N, B, H]``, to be summed; without parameters, any tensor."""
        if not self.num_params:
            return self.params
        return torch.zeros(
            self.num_params, self.N, self.B, self.H, dtype=self.wide, device=self.device
        )

    def finish_gradients(
        self,
        given: Backward,
        dh: Tensor,
        dextra: Tensor,
        dh_initial: Tensor,
        ds_initial: Tensor,
        dparams: Tensor,
    ) -> None:
        """Gradients of initial states and parameters, from what the kernels leave."""
        if dh_initial is not dh:
            dh, dextra = dh + dh_initial, dextra + ds_initial
        for grad, state in zip(given.grad_states, (dh, *dextra), strict=True):
            grad.copy_(state)
        if given.grad_params:
            total = dparams.sum(2).movedim(0, 1).flatten(1)
            widths = [grad.shape[1] for grad in given.grad_params]
            for grad, part in zip(given.grad_params, total.split(widths, 1), strict=True):
                grad.copy_(part)

    @property
    def begin_options(self) -> dict[str, Any]:
        """The constants of what comes before a step."""
        options = self.options
        return {
            "X": self.extra,
            "H": self.H,
            "WIDE": _TRITON[self.wide],
            "PACKED": self.packed,
            "LENGTHS": options.lengths is not None,
            "RESET": 0 if options.reset is None else _RESETS[options.reset_to],
            "DROPOUT": options.dropout is not None,
        }

    @property
    def sequence_options(self) -> dict[str, Any]:
        """The constants of everything that is done to sequences, beside the cell's."""
        parts = self.options.zoneout_p or (0.0,) * len(self.spec.states)
        return {
            **{name: self.begin_options[name] for name in ("LENGTHS", "RESET", "DROPOUT")},
            "ZONE": self.zone,
            "ZONE_PARTS": tuple(map(float, parts)),
            "ALL_STATES": self.others_asked,
        }

    @property
    def forward_options(self) -> dict[str, Any]:
        """The constants that every forward kernel with a cell in it takes."""
        return {"CELL": functions(self.spec.name)[0], **self._options}

    @property
    def backward_options(self) -> dict[str, Any]:
        options = {
            "SAVED": len(self.spec.saved),
            "APART": bool(self.spec.apart),
            "GRAD_CLIP": _bound(self.options.grad_clip),
        }
        return {"CELL": functions(self.spec.name)[1], **options, **self._options}

    @property
    def _options(self) -> dict[str, Any]:
        return {
            "G": self.spec.num_gates,
            "X": self.extra,
            "H": self.H,
            "WIDE": _TRITON[self.wide],
            "READS_H": self.spec.reads_h,
            "PACKED": self.packed,
            "PROJECTED": self.projected,
            "PARAMS": self.num_params,
            "CLIPS": (_bound(self.options.cell_clip), _bound(self.options.gate_clip)),
        }

    @property
    def proj_clip(self) -> float:
        return _bound(self.options.proj_clip) if self.projected else 0.0


def _bound(clip: float) -> float:
    """0 stands for none."""
    return float(clip) if clip < math.inf else 0.0


def _bytes(mask: Tensor) -> Tensor:
    return mask.contiguous().view(torch.uint8)


def _flags(reverse: tuple[bool, ...], device: torch.device) -> Tensor:
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        # What a graph computes is there when it is replayed, and then for the graph alone; a copy
        # from the host it could not hold.
        flags = torch.zeros(len(reverse), dtype=torch.int32, device=device)
        for index in range(len(reverse)):
            if reverse[index]:
                flags[index] = 1
        return flags
    return _cached_flags(reverse, device)


@functools.lru_cache(maxsize=256)
def _cached_flags(reverse: tuple[bool, ...], device: torch.device) -> Tensor:
    """On the device once and for all; the copy is done when this returns, for every stream."""
    return torch.tensor(reverse, dtype=torch.int32, device=device)


# Sources of copies that a CUDA graph repeats whenever it is replayed.
_captured: list[Tensor] = []


def _starts(batch_sizes: Tensor, device: torch.device) -> Tensor:
    starts = torch.zeros(batch_sizes.shape[0] + 1, dtype=torch.int64)
    torch.cumsum(batch_sizes, 0, out=starts[1:])
    if device.type != "cuda":
        return starts.to(device)
    # From pinned memory the copy waits for nothing; torch keeps the memory until it is done.
    starts = starts.pin_memory()
    if torch.cuda.is_current_stream_capturing():
        _captured.append(starts)
    return starts.to(device, non_blocking=True)
