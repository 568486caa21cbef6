"""The C++ backend: hands tensors to the extension as addresses and strides."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd import forward_ad

from . import allocate, precision
from .cells import CellSpec
from .options import GIVEN, INITIAL, PLAIN, ZERO, Options
from .reference import accumulation_dtype

try:
    from . import _C

    _missing = None
    _CELLS = frozenset(_C.cells())
except ImportError as error:  # a source tree that was not built
    _missing = f"the compiled extension cannot be imported ({error})"
else:
    _C.isa()  # reads FASTRNN_ISA: a bad value is an error now, not a slow run later

_DTYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}

PRODUCT_DTYPES = (torch.float32, torch.float64)
_IN_TERMS = 3  # and so many terms of bfloat16 more: float32 that is multiplied in them
_LARGE = 4 << 20  # bytes


def _kind(dtype: torch.dtype, rows: int) -> int:
    """The kernels' number for a dtype and a product of so many rows, at the precision in force."""
    terms = precision.terms(rows) if dtype is torch.float32 else 0
    return _IN_TERMS + terms if terms else _DTYPES[dtype]


def why_not(
    spec: CellSpec, device: torch.device, dtype: torch.dtype, options: Options = PLAIN
) -> str | None:
    """The reason this backend cannot serve, None if it can; all options it serves."""
    reason = why_not_at_all(device, dtype)
    if reason is None and spec.name not in _CELLS:
        return f"it has no kernel for the cell {spec.name!r}"
    return reason


def why_not_at_all(device: torch.device, dtype: torch.dtype) -> str | None:
    """The reason this backend cannot serve, whatever is to be computed."""
    if _missing is not None:
        return _missing
    if device.type not in ("cpu", "meta"):
        return f"it runs on the CPU only, and the tensors are on {device}"
    if dtype not in _DTYPES:
        return f"it has no kernel for {dtype}"
    if forward_ad._current_level >= 0:
        return "it has no forward-mode differentiation"
    return None


def _address(tensor: Tensor) -> int:
    address = tensor.data_ptr()
    if not address and tensor.numel():  # a storage that was freed
        raise RuntimeError(
            "The tensor has a non-zero number of elements, but its data is not allocated yet."
        )
    return address


def _rows(tensor: Tensor | None) -> tuple[int, int, int]:
    """Address, row stride and recurrence stride of [S, N, X], X contiguous."""
    if tensor is None:
        return (0, 0, 0)
    return (_address(tensor), tensor.stride(0), tensor.stride(1))


def _states(tensor: Tensor) -> tuple[int, int, int]:
    """Address, batch stride and recurrence stride of [N, B, X], X contiguous."""
    return (_address(tensor), tensor.stride(1), tensor.stride(0))


def _dense_last(tensor: Tensor) -> Tensor:
    """The tensor itself if its last dimension is contiguous, else a copy."""
    return tensor if tensor.stride(-1) == 1 or tensor.shape[-1] == 1 else tensor.contiguous()


def _steps(rows: int, batch: int, batch_sizes: Tensor | None) -> tuple[int, int]:
    """The number of steps, and the address of the batch sizes."""
    if batch_sizes is not None:
        return batch_sizes.shape[0], batch_sizes.data_ptr()
    return (rows // batch if batch else 0), 0


def _shape(
    spec: CellSpec, gates_x: Tensor, states: Sequence[Tensor], batch_sizes: Tensor | None
) -> tuple[int, ...]:
    """S, T, B, N, H, K and the address of the batch sizes."""
    rows, recurrences, width = gates_x.shape
    batch, k = states[0].shape[1:]
    steps, address = _steps(rows, batch, batch_sizes)
    return rows, steps, batch, recurrences, width // spec.num_gates, k, address


def _fresh(tensors: Sequence[Tensor]) -> None:
    """Prepares results for being written the first time."""
    for tensor in tensors:
        if tensor.nbytes >= _LARGE:
            _C.ask_for_huge_pages(tensor.data_ptr(), tensor.nbytes)


_RESET_TO = {ZERO: 0, INITIAL: 1, GIVEN: 2}


@dataclass(frozen=True)
class _Held:
    """Options as the kernels read them: tensors whose last dimension is contiguous."""

    lengths: Tensor | None
    reset: Tensor | None
    options: Options
    reset_states: Sequence[Tensor]
    dropout: Tensor | None
    zoneout: Sequence[Tensor]

    @classmethod
    def of(cls, options: Options) -> _Held | None:
        """None where nothing is asked for."""
        if options is PLAIN or not options.asked():
            return None
        return cls(
            None if options.lengths is None else options.lengths.contiguous(),
            options.reset,
            options,
            [_dense_last(state) for state in options.reset_states],
            None if options.dropout is None else _dense_last(options.dropout),
            [_dense_last(mask) for mask in options.zoneout],
        )

    @property
    def address_of_lengths(self) -> int:
        return 0 if self.lengths is None else _address(self.lengths)

    def given(
        self, others: list[tuple[int, int, int]], grads_of_reset: list[tuple[int, int, int]]
    ) -> tuple[object, ...]:
        """In the order of the bindings."""
        options = self.options
        return (
            self.address_of_lengths,
            _rows(self.reset),
            _RESET_TO[options.reset_to],
            [_rows(state) for state in self.reset_states],
            (0, 0, 0) if self.dropout is None else _states(self.dropout),
            [_rows(mask) for mask in self.zoneout],
            [] if self.zoneout else list(options.zoneout_p),
            [bound if bound < math.inf else 0.0 for bound in options.clips],
            others,
            grads_of_reset,
        )


def scan(
    spec: CellSpec,
    gates_x: Tensor,
    weight_hh: Sequence[Tensor] | None,
    bias_hh: Sequence[Tensor] | None,
    weight_hr: Sequence[Tensor] | None,
    states: Sequence[Tensor],
    batch_sizes: Tensor | None,
    reverse: Sequence[bool],
    params: Sequence[Tensor],
    options: Options,
    save: bool,
    like: int | None = None,
) -> tuple[Tensor, list[Tensor], list[Tensor], list[Tensor]]:
    """Outputs, final and all states, what the backward needs (`fastrnn.allocate.results`).

    With ``like``, the same bits as in a batch of that many rows.
    """
    out, finals, others, saved = allocate.results(
        spec, gates_x, weight_hr is not None, states, options, save
    )
    _fresh((out, *others, *saved))
    gates_x = _dense_last(gates_x)
    states = [_dense_last(state) for state in states]
    biases = None if bias_hh is None else [bias.contiguous() for bias in bias_hh]
    batch_sizes = None if batch_sizes is None else batch_sizes.contiguous()
    of_cell = _side_by_side(params)
    held = _Held.of(options)
    reserve = saved[0] if saved else None
    hidden = saved[1] if len(saved) > 1 else None
    _C.forward(
        spec.name,
        _kind(gates_x.dtype, states[0].shape[1] if like is None else like),
        torch.get_num_threads(),
        _shape(spec, gates_x, states, batch_sizes),
        list(reverse),
        _rows(gates_x),
        [(_address(weight), *weight.stride()) for weight in weight_hh or ()],
        [] if biases is None else [_address(bias) for bias in biases],
        [] if weight_hr is None else [(_address(weight), *weight.stride()) for weight in weight_hr],
        _params(of_cell),
        [_states(state) for state in states],
        _rows(out),
        [_states(final) for final in finals],
        _rows(reserve),
        _rows(hidden),
        None if held is None else held.given([_rows(other) for other in others], []),
        save,
    )
    return out, finals, others, saved


def scan_backward(
    spec: CellSpec,
    gates_x: Tensor,
    weight_hh: Sequence[Tensor] | None,
    weight_hr: Sequence[Tensor] | None,
    states: Sequence[Tensor],
    batch_sizes: Tensor | None,
    reverse: Sequence[bool],
    params: Sequence[Tensor],
    options: Options,
    out: Tensor,
    saved: Sequence[Tensor],
    grad_out: Tensor,
    grad_finals: Sequence[Tensor],
    grad_others: Sequence[Tensor],
) -> list[Tensor]:
    """The gradients of `fastrnn.allocate.gradients`."""
    found = allocate.gradients(spec, gates_x, weight_hr is not None, states, params, options)
    _fresh(found)
    states = [_dense_last(state) for state in states]
    out, reserve, grad_out = _dense_last(out), _dense_last(saved[0]), _dense_last(grad_out)
    grad_finals = [_dense_last(grad) for grad in grad_finals]
    batch_sizes = None if batch_sizes is None else batch_sizes.contiguous()
    of_cell, dparams = _side_by_side(params), None
    if of_cell is not None:
        wide = accumulation_dtype(gates_x.dtype)
        dparams = of_cell.new_empty(len(of_cell), states[0].shape[1], of_cell.shape[1], dtype=wide)
    sides = 2 if spec.apart else 1
    grads_of_reset = found[sides + len(states) :][: len(options.reset_states)]
    for grad in grads_of_reset:
        grad.zero_()
    held = _Held.of(options)
    grad_others = [_dense_last(grad) for grad in grad_others]
    dproj = hidden = None
    if spec.second:
        hidden = found[-1]
    if weight_hr is not None:
        dproj, hidden = found[-2:]
        hidden.copy_(saved[1])
    _C.backward(
        spec.name,
        _kind(gates_x.dtype, states[0].shape[1]),
        torch.get_num_threads(),
        _shape(spec, gates_x, states, batch_sizes),
        list(reverse),
        [(_address(weight), *weight.stride()) for weight in weight_hh or ()],
        [] if weight_hr is None else [(_address(weight), *weight.stride()) for weight in weight_hr],
        _params(of_cell),
        [_states(state) for state in states],
        _rows(out),
        _rows(reserve),
        _rows(grad_out),
        [_states(grad) for grad in grad_finals],
        _rows(found[0]),
        _rows(found[1] if spec.apart else None),
        [_states(grad) for grad in found[sides : sides + len(states)]],
        (0, 0, 0) if dparams is None else _states(dparams),
        _rows(dproj),
        _rows(hidden),
        None
        if held is None
        else held.given([_rows(g) for g in grad_others], [_rows(g) for g in grads_of_reset]),
    )
    if dparams is not None:
        first = sides + len(states) + len(options.reset_states)
        parts = dparams.sum(1).split([param.shape[1] for param in params], 1)
        for grad, part in zip(found[first:], parts, strict=False):
            grad.copy_(part)
    return found


def _side_by_side(params: Sequence[Tensor]) -> Tensor | None:
    """A cell's parameters, ``[N, X]`` each, as one contiguous tensor."""
    return torch.cat(tuple(params), 1).contiguous() if params else None


def _params(of_cell: Tensor | None) -> list[int]:
    return [] if of_cell is None else [_address(each) for each in of_cell]


def layers(
    spec: CellSpec,
    input: Tensor,
    hx: tuple[Tensor, ...],
    weights: list[Tensor],
    hidden_size: int,
    proj_size: int,
    bias: bool,
    num_layers: int,
    directions: int,
    step: bool,
) -> tuple[Tensor, ...] | None:
    """A stack of layers, or a cell's step, in one call: see `fastrnn.inference`."""
    found: tuple[Tensor, ...] | None = _C.layers(
        spec.name, torch.get_num_threads(), input, hx, weights, hidden_size, proj_size, bias,
        num_layers, directions, step, _kind(torch.float32, 1 if step else input.shape[1]),
    )  # fmt: skip
    return found


def layer(
    spec: CellSpec,
    x: Tensor,
    steps: int,
    states: Sequence[Tensor],
    weights: Sequence[Sequence[Tensor | None]],
    save: bool,
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Outputs, final states and, with ``save``, what the backward needs of one layer.

    All tensors are contiguous.

    Weights are those of a direction after the other: ``weight_ih``, ``weight_hh``, ``bias_ih``,
    ``bias_hh`` and ``weight_hr``, None for what is not there.
    """
    rows, features = x.shape
    directions, batch, k = states[0].shape
    width = weights[0][0].shape[0]  # type: ignore[union-attr]
    gates_x = shape_only(x, rows, directions, width)
    projected = weights[0][4] is not None
    out, finals, _, saved = allocate.results(spec, gates_x, projected, states, PLAIN, save)
    _fresh((out, *saved))
    _C.layer(
        spec.name,
        _kind(x.dtype, batch),
        torch.get_num_threads(),
        (steps, batch, directions, features, width // spec.num_gates, k),
        _address(x),
        [[0 if tensor is None else _address(tensor) for tensor in each] for each in weights],
        [_address(state) for state in states],
        out.data_ptr(),
        [final.data_ptr() for final in finals],
        save,
        [tensor.data_ptr() for tensor in saved] + [0] * (2 - len(saved)),
    )
    return out, finals, saved


def layer_backward(
    spec: CellSpec,
    x: Tensor,
    steps: int,
    states: Sequence[Tensor],
    weights: Sequence[Sequence[Tensor | None]],
    out: Tensor,
    saved: Sequence[Tensor],
    grad_out: Tensor | None,
    grad_finals: Sequence[Tensor | None],
    of_x: bool,
    of_weights: bool,
) -> tuple[Tensor | None, Sequence[Tensor | None], Sequence[Sequence[Tensor | None]]]:
    """Gradients of what `layer` was given: of x and the weights as asked for, and of the states.

    All that `layer` was given and has returned is contiguous; a gradient of None is one of zeros.
    """
    features = x.shape[1]
    directions, batch, k = states[0].shape
    width = weights[0][0].shape[0]  # type: ignore[union-attr]
    of_rows, grad_states, *grad_weights = allocate.layer_gradients(
        [x] if of_x else [], states, weights if of_weights else []
    )
    grad_x = of_rows[0] if of_x else None
    _fresh([grad for grad in of_rows if grad is not None])
    grads = [None if grad is None else grad.contiguous() for grad in (grad_out, *grad_finals)]

    def addresses(tensors: Sequence[Tensor | None]) -> list[int]:
        return [0 if tensor is None else _address(tensor) for tensor in tensors]

    _C.layer_backward(
        spec.name,
        _kind(x.dtype, batch),
        _kind(x.dtype, x.shape[0]),
        torch.get_num_threads(),
        (steps, batch, directions, features, width // spec.num_gates, k),
        bool(spec.apart),
        _address(x),
        [addresses(each) for each in weights],
        addresses(states),
        _address(out),
        addresses(saved) + [0] * (2 - len(saved)),
        *addresses(grads[:1]),
        addresses(grads[1:]),
        *addresses([grad_x]),
        addresses(grad_states),
        [addresses(each) for each in grad_weights],
    )
    return grad_x, grad_states, grad_weights


def shape_only(like: Tensor, *shape: int) -> Tensor:
    """A tensor of this shape with no memory for it, for who asks for its shape alone."""
    return like.new_empty(1).expand(shape)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, like: int | None = None) -> Tensor:
    """``x [S, K] . weight [M, K]^T + bias [M]``; ``like`` as in `scan`."""
    rows, columns = x.shape[0], weight.shape[0]
    out = x.new_empty(rows, columns)
    _fresh((out,))
    x = _dense_last(x)
    bias = None if bias is None else bias.contiguous()
    _C.linear(
        _kind(x.dtype, rows if like is None else like),
        torch.get_num_threads(),
        rows,
        columns,
        x.shape[1],
        (_address(x), x.stride(0), 0),
        (_address(weight), *weight.stride()),
        0 if bias is None else _address(bias),
        (out.data_ptr(), out.stride(0), 0),
    )
    return out


def gradient_of_rows(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """``sum_s a[s]^T b[s]`` and ``sum_s a[s]``, ``[M, K]`` and ``[M]``."""
    a, b = _dense_last(a), _dense_last(b)
    out, total = a.new_empty(a.shape[1], b.shape[1]), a.new_empty(a.shape[1])
    _C.outer_of_rows(
        _kind(a.dtype, a.shape[0]),
        torch.get_num_threads(),
        a.shape[0],
        *out.shape,
        (_address(a), a.stride(0), 0),
        (_address(b), b.stride(0), 0),
        (out.data_ptr(), out.stride(0), 0),
        total.data_ptr(),
    )
    return out, total


def gradient_of_states(
    dgates: Tensor,
    out: Tensor,
    h_0: Tensor,
    batch_sizes: Tensor | None,
    reverse: Sequence[bool],
    options: Options = PLAIN,
) -> tuple[Tensor, Tensor]:
    """``sum_t dgates[t]^T h[t-1]`` and ``sum_t dgates[t]``: ``[N, G*H, K]`` and ``[N, G*H]``."""
    dgates, out, h_0 = _dense_last(dgates), _dense_last(out), _dense_last(h_0)
    batch_sizes = None if batch_sizes is None else batch_sizes.contiguous()
    rows, recurrences, width = dgates.shape
    batch, k = h_0.shape[1:]
    grad = dgates.new_empty(recurrences, width, k)
    total = dgates.new_empty(recurrences, width)
    steps, address = _steps(rows, batch, batch_sizes)
    lengths = None if options.lengths is None else options.lengths.contiguous()
    of_reset = _dense_last(options.reset_states[0]) if options.reset_states else None
    for n, backwards in enumerate(reverse):
        _C.outer_of_states(
            _kind(dgates.dtype, rows),
            torch.get_num_threads(),
            (rows, steps, batch, recurrences, 0, k, address),
            bool(backwards),
            width,
            _rows(dgates[:, n : n + 1]),
            _rows(out[:, n : n + 1]),
            (h_0[n].data_ptr(), h_0.stride(1), 0),
            (grad[n].data_ptr(), k, 0),
            total[n].data_ptr(),
            0 if lengths is None else _address(lengths),
            _rows(None if options.reset is None else options.reset[:, n : n + 1]),
            _RESET_TO[options.reset_to],
            _rows(None if of_reset is None else of_reset[:, n : n + 1]),
        )
    return grad, total
