"""The one boundary between PyTorch and the kernels.

A scan takes the input side of the gates for all time steps and returns outputs and
final states. Here it becomes a PyTorch operator: what it returns without running
(fake), its gradient, its vmap; and the products after the time loop. Shapes are
those of `fastrnn.reference.scan`, which says what is computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from . import allocate, backends, cpp, reference
from .cells import CELLS, CellSpec

_library = torch.library.Library("fastrnn", "DEF")
_library.define(
    "scan(str cell, Tensor gates_x, Tensor weight_hh, Tensor? bias_hh, Tensor? weight_hr,"
    " Tensor[] states, Tensor? batch_sizes, bool[] reverse, bool save)"
    " -> (Tensor, Tensor[], Tensor[])",
    tags=(torch.Tag.pt2_compliant_tag,),
)
_library.define(
    "scan_backward(str cell, Tensor gates_x, Tensor weight_hh, Tensor? bias_hh,"
    " Tensor? weight_hr, Tensor[] states, Tensor? batch_sizes, bool[] reverse,"
    " Tensor out, Tensor[] saved, Tensor grad_out, Tensor[] grad_finals) -> Tensor[]",
    tags=(torch.Tag.pt2_compliant_tag,),
)


def scan(
    spec: CellSpec,
    gates_x: Tensor,
    weight_hh: Sequence[Tensor],
    bias_hh: Sequence[Tensor] | None,
    weight_hr: Sequence[Tensor] | None,
    states: Sequence[Tensor],
    batch_sizes: Tensor | None = None,
    reverse: Sequence[bool] = (False,),
    backend: str | None = None,
) -> tuple[Tensor, Sequence[Tensor]]:
    """Run the recurrences with the backend that serves them.

    Weights and biases are given one tensor for each recurrence, ``[G*H, K]``,
    ``[G*H]`` and ``[P, H]``; everything else is as in `fastrnn.reference.scan`.

    Raises:
        RuntimeError: the backend asked for cannot serve.
    """
    name = backends.choose(spec, gates_x.device, gates_x.dtype, backends.requested(backend))
    if name == "cpp" and _plain(gates_x, *weight_hh, *(bias_hh or ()), *(weight_hr or ()), *states):
        out, finals, _ = cpp.scan(
            spec, gates_x, weight_hh, bias_hh, weight_hr, states, batch_sizes, reverse, False
        )
        return out, finals
    stacked = (_stack(weight_hh), _stack(bias_hh), _stack(weight_hr))
    if name == "reference":
        return reference.scan(spec, gates_x, *stacked, states, batch_sizes, reverse)  # type: ignore[arg-type]
    save = torch.is_grad_enabled()
    out, finals, _ = torch.ops.fastrnn.scan(
        spec.name, gates_x, *stacked, states, batch_sizes, reverse, save
    )
    return out, finals


def _stack(tensors: Sequence[Tensor] | None) -> Tensor | None:
    if tensors is None:
        return None
    return tensors[0].unsqueeze(0) if len(tensors) == 1 else torch.stack(tuple(tensors))


def _plain(*tensors: Tensor) -> bool:
    """Whether nobody watches: no tracing, no gradient, no transform, no mode, plain CPU tensors.

    Then the kernel may be called without passing PyTorch's dispatcher.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False
    if torch._C._functorch.peek_interpreter_stack() is not None:
        return False
    if torch._C._len_torch_dispatch_stack():
        return False
    grad = torch.is_grad_enabled()
    for tensor in tensors:
        if type(tensor) is not Tensor and type(tensor) is not torch.nn.Parameter:
            return False
        if tensor.device.type != "cpu" or (grad and tensor.requires_grad):
            return False
    return True


# --- the operators' kernels -----------------------------------------------------------


def _unstack(tensor: Tensor | None) -> Sequence[Tensor] | None:
    return None if tensor is None else tensor.unbind(0)


def _scan(
    cell: str,
    gates_x: Tensor,
    weight_hh: Tensor,
    bias_hh: Tensor | None,
    weight_hr: Tensor | None,
    states: list[Tensor],
    batch_sizes: Tensor | None,
    reverse: list[bool],
    save: bool,
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    return cpp.scan(
        CELLS[cell],
        gates_x,
        weight_hh.unbind(0),
        _unstack(bias_hh),
        _unstack(weight_hr),
        states,
        batch_sizes,
        reverse,
        save,
    )


def _scan_backward(
    cell: str,
    gates_x: Tensor,
    weight_hh: Tensor,
    bias_hh: Tensor | None,
    weight_hr: Tensor | None,
    states: list[Tensor],
    batch_sizes: Tensor | None,
    reverse: list[bool],
    out: Tensor,
    saved: list[Tensor],
    grad_out: Tensor,
    grad_finals: list[Tensor],
) -> list[Tensor]:
    return cpp.scan_backward(
        CELLS[cell],
        gates_x,
        weight_hh.unbind(0),
        _unstack(weight_hr),
        states,
        batch_sizes,
        reverse,
        out,
        saved,
        grad_out,
        grad_finals,
    )


_library.impl("scan", _scan, "CompositeExplicitAutograd")
_library.impl("scan_backward", _scan_backward, "CompositeExplicitAutograd")


@torch.library.register_fake("fastrnn::scan", lib=_library)
def _scan_fake(
    cell: str,
    gates_x: Tensor,
    weight_hh: Tensor,
    bias_hh: Tensor | None,
    weight_hr: Tensor | None,
    states: list[Tensor],
    batch_sizes: Tensor | None,
    reverse: list[bool],
    save: bool,
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    return allocate.results(CELLS[cell], gates_x, weight_hr is not None, states, save)


@torch.library.register_fake("fastrnn::scan_backward", lib=_library)
def _scan_backward_fake(
    cell: str,
    gates_x: Tensor,
    weight_hh: Tensor,
    bias_hh: Tensor | None,
    weight_hr: Tensor | None,
    states: list[Tensor],
    batch_sizes: Tensor | None,
    reverse: list[bool],
    out: Tensor,
    saved: list[Tensor],
    grad_out: Tensor,
    grad_finals: list[Tensor],
) -> list[Tensor]:
    return allocate.gradients(CELLS[cell], gates_x, weight_hr is not None, states)


# --- gradients ------------------------------------------------------------------------


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
    cell, gates_x, weight_hh, bias_hh, weight_hr, states, batch_sizes, reverse, save = inputs
    out, _, saved = output
    ctx.cell, ctx.reverse, ctx.num_states = cell, reverse, len(states)
    ctx.save_for_backward(
        gates_x, weight_hh, bias_hh, weight_hr, batch_sizes, out, *states, *saved
    )


def _backward(
    ctx: Any, grad_out: Tensor | None, grad_finals: list[Tensor | None], grad_saved: object
) -> tuple[Any, ...]:
    spec = CELLS[ctx.cell]
    gates_x, weight_hh, bias_hh, weight_hr, batch_sizes, out, *rest = ctx.saved_tensors
    states, saved = rest[: ctx.num_states], rest[ctx.num_states :]
    arguments = (
        spec.name, gates_x, weight_hh, bias_hh, weight_hr, states, batch_sizes, ctx.reverse,
    )  # fmt: skip
    if not saved:
        # The forward was told not to save: it ran under a transform or a trace
        # that hid the gradient's coming. One more forward mends it.
        out, _, saved = torch.ops.fastrnn.scan(*arguments, True)
    gradients = torch.ops.fastrnn.scan_backward(
        *arguments,
        out,
        saved,
        torch.zeros_like(out) if grad_out is None else grad_out,
        [
            torch.zeros_like(state) if grad is None else grad
            for grad, state in zip(grad_finals, states, strict=True)
        ],
    )
    dgates_x, *gradients = gradients
    dgates_h = gradients.pop(0) if spec.apart else dgates_x
    grad_states, gradients = gradients[: len(states)], gradients[len(states) :]

    needs = ctx.needs_input_grad
    grad_weight_hh = grad_bias_hh = grad_weight_hr = None
    if needs[2]:
        grad_weight_hh = _weight_gradient(dgates_h, out, states[0], batch_sizes, ctx.reverse)
    if needs[3]:
        grad_bias_hh = dgates_h.sum(0)
    if needs[4]:
        # Not the hidden that was saved, whose graph ends with the forward.
        dh, hidden = gradients
        grad_weight_hr = torch.bmm(dh.permute(1, 2, 0), hidden.transpose(0, 1))
    return (
        None,
        dgates_x,
        grad_weight_hh,
        grad_bias_hh,
        grad_weight_hr,
        grad_states,
        None,
        None,
        None,
    )


def _weight_gradient(
    dgates_h: Tensor,
    out: Tensor,
    h_0: Tensor,
    batch_sizes: Tensor | None,
    reverse: Sequence[bool],
) -> Tensor:
    """``sum_t dgates_h[t]^T h[t-1]`` for each recurrence, as products over all steps: [N, G*H, K]."""
    batch = h_0.shape[1]
    products = []
    for n, backwards in enumerate(reverse):
        dgates, h = dgates_h[:, n], out[:, n]
        if batch_sizes is not None:
            previous = torch.cat([h, h_0[n]])[_previous_rows(batch_sizes, h.shape[0], backwards)]
            products.append(dgates.t() @ previous)
        elif backwards:
            last = h.shape[0] - batch
            products.append(
                torch.addmm(dgates[last:].t() @ h_0[n], dgates[:last].t(), h[batch:])
            )
        else:
            last = h.shape[0] - batch
            products.append(
                torch.addmm(dgates[:batch].t() @ h_0[n], dgates[batch:].t(), h[:last])
            )
    return products[0].unsqueeze(0) if len(products) == 1 else torch.stack(products)


def _previous_rows(batch_sizes: Tensor, rows: int, backwards: bool) -> Tensor:
    """For each packed row, the row its state came from; ``rows + b`` means the initial state b."""
    step, sequence = reference.packed_positions(batch_sizes, rows)
    if backwards:
        following = torch.cat([batch_sizes[1:], batch_sizes.new_zeros(1)])
        first = sequence >= following[step]
        previous = torch.arange(rows) + batch_sizes[step]
    else:
        first = step == 0
        previous = torch.arange(rows) - batch_sizes[(step - 1).clamp(min=0)]
    return torch.where(first, rows + sequence, previous)


torch.library.register_autograd(
    "fastrnn::scan", _backward, setup_context=_setup_context, lib=_library
)


def _setup_context_twice(ctx: Any, inputs: tuple[Any, ...], output: object) -> None:
    (
        cell, gates_x, weight_hh, bias_hh, weight_hr, states, batch_sizes, reverse,
        _, saved, grad_out, grad_finals,
    ) = inputs  # fmt: skip
    ctx.cell, ctx.reverse = cell, reverse
    ctx.num_states, ctx.num_saved = len(states), len(saved)
    ctx.save_for_backward(
        gates_x, weight_hh, bias_hh, weight_hr, batch_sizes, grad_out, *states, *grad_finals
    )


def _backward_twice(ctx: Any, grads: list[Tensor | None]) -> tuple[Any, ...]:
    """Double backward, through the reference.

    What was saved counts as a function of the operator's other inputs, so the
    gradient goes to those alone.
    """
    spec = CELLS[ctx.cell]
    gates_x, weight_hh, bias_hh, weight_hr, batch_sizes, grad_out, *rest = ctx.saved_tensors
    count = ctx.num_states
    leaves = [gates_x, weight_hh, bias_hh, weight_hr, *rest[:count], grad_out, *rest[count:]]
    with torch.enable_grad():
        leaves = [None if leaf is None else reference.differentiable(leaf) for leaf in leaves]
        head, states, grad_out, grad_finals = (
            leaves[:4],
            leaves[4 : 4 + count],
            leaves[4 + count],
            leaves[5 + count :],
        )
        gradients = reference.scan_backward(
            spec, *head, states, batch_sizes, ctx.reverse, grad_out, grad_finals
        )
        pairs = [(g, d) for g, d in zip(gradients, grads, strict=True) if d is not None]
        present = [leaf for leaf in leaves if leaf is not None]
        results = iter(
            torch.autograd.grad(
                [gradient for gradient, _ in pairs],
                present,
                [d for _, d in pairs],
                create_graph=True,
                allow_unused=True,
            )
        )
    grads_of = [None if leaf is None else next(results) for leaf in leaves]
    return (
        None,
        *grads_of[:4],
        grads_of[4 : 4 + count],
        None,
        None,
        None,
        [None] * ctx.num_saved,
        grads_of[4 + count],
        grads_of[5 + count :],
    )


torch.library.register_autograd(
    "fastrnn::scan_backward", _backward_twice, setup_context=_setup_context_twice, lib=_library
)


# --- vmap -----------------------------------------------------------------------------


class _Fold:
    """Turns V calls into one: V more batch rows where weights are shared, else V*N recurrences."""

    def __init__(self, size: int, into_batch: bool, batch: int, recurrences: int) -> None:
        self.size, self.into_batch = size, into_batch
        self.batch, self.recurrences = batch, recurrences

    def _front(self, tensor: Tensor, dim: int | None) -> Tensor:
        if dim is None:
            return tensor.unsqueeze(0).expand(self.size, *tensor.shape)
        return tensor.movedim(dim, 0)

    def rows(self, tensor: Tensor, dim: int | None) -> Tensor:
        """[S, N, X] with V -> [V*S, N, X] or [S, V*N, X]"""
        tensor = self._front(tensor, dim)
        if self.into_batch:
            steps = tensor.unflatten(1, (-1, self.batch)) if self.batch else tensor.unsqueeze(1)
            return steps.transpose(0, 1).flatten(0, 2)
        return tensor.transpose(0, 1).flatten(1, 2)

    def states(self, tensor: Tensor, dim: int | None) -> Tensor:
        """[N, B, X] with V -> [N, V*B, X] or [V*N, B, X]"""
        tensor = self._front(tensor, dim)
        return tensor.transpose(0, 1).flatten(1, 2) if self.into_batch else tensor.flatten(0, 1)

    def weights(self, tensor: Tensor | None, dim: int | None) -> Tensor | None:
        """[N, ...] with V -> [N, ...] or [V*N, ...]"""
        if tensor is None or self.into_batch:
            return tensor
        return self._front(tensor, dim).flatten(0, 1)

    def reverse(self, flags: Sequence[bool]) -> list[bool]:
        return list(flags) if self.into_batch else list(flags) * self.size

    def unfold_rows(self, tensor: Tensor) -> Tensor:
        if self.into_batch:
            if not self.batch:
                return tensor.unsqueeze(0).expand(self.size, *tensor.shape)
            steps = tensor.unflatten(0, (-1, self.size, self.batch))
            return steps.transpose(0, 1).flatten(1, 2)
        return tensor.unflatten(1, (self.size, self.recurrences)).transpose(0, 1)

    def unfold_states(self, tensor: Tensor) -> Tensor:
        if self.into_batch:
            return tensor.unflatten(1, (self.size, self.batch)).transpose(0, 1)
        return tensor.unflatten(0, (self.size, self.recurrences))


def _fold_arguments(info: Any, in_dims: tuple[Any, ...], arguments: tuple[Any, ...]) -> Any:
    """The fold, and the first eight arguments of either operator folded."""
    cell, gates_x, weight_hh, bias_hh, weight_hr, states, batch_sizes, reverse = arguments[:8]
    if in_dims[6] is not None:
        raise ValueError("vmap over batch_sizes is not supported: it must be one tensor for all")
    state_dims = in_dims[5] or [None] * len(states)
    shape = list(states[0].shape)
    if state_dims[0] is not None:
        del shape[state_dims[0]]
    shared = all(in_dims[i] is None for i in (2, 3, 4)) and batch_sizes is None
    fold = _Fold(info.batch_size, shared, shape[1], shape[0])
    return fold, (
        cell,
        fold.rows(gates_x, in_dims[1]),
        fold.weights(weight_hh, in_dims[2]),
        fold.weights(bias_hh, in_dims[3]),
        fold.weights(weight_hr, in_dims[4]),
        [fold.states(state, dim) for state, dim in zip(states, state_dims, strict=True)],
        batch_sizes,
        fold.reverse(reverse),
    )


@torch.library.register_vmap("fastrnn::scan", lib=_library)
def _scan_vmap(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> Any:
    fold, folded = _fold_arguments(info, in_dims, arguments)
    out, finals, saved = torch.ops.fastrnn.scan(*folded, arguments[8])
    results = (
        fold.unfold_rows(out),
        [fold.unfold_states(final) for final in finals],
        [fold.unfold_rows(kept) for kept in saved],
    )
    return results, (0, [0] * len(finals), [0] * len(saved))


@torch.library.register_vmap("fastrnn::scan_backward", lib=_library)
def _scan_backward_vmap(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> Any:
    fold, folded = _fold_arguments(info, in_dims, arguments)
    out, saved, grad_out, grad_finals = arguments[8:]
    saved_dims = in_dims[9] or [None] * len(saved)
    final_dims = in_dims[11] or [None] * len(grad_finals)
    gradients = torch.ops.fastrnn.scan_backward(
        *folded,
        fold.rows(out, in_dims[8]),
        [fold.rows(kept, dim) for kept, dim in zip(saved, saved_dims, strict=True)],
        fold.rows(grad_out, in_dims[10]),
        [fold.states(grad, dim) for grad, dim in zip(grad_finals, final_dims, strict=True)],
    )
    spec = CELLS[arguments[0]]
    first_state = 2 if spec.apart else 1
    last_state = first_state + len(spec.states)
    results = [
        fold.unfold_states(g) if first_state <= i < last_state else fold.unfold_rows(g)
        for i, g in enumerate(gradients)
    ]
    return results, [0] * len(results)


def _legacy_vmap(operator: Any) -> Any:
    """The rule for the vmap of old, by which ``torch.autograd.grad(is_grads_batched=True)``
    still maps (and `torch.autograd.functional` and batched gradcheck): hands over to today's.
    """

    def unwrap(tensor: Any, size: int) -> tuple[Any, int | None]:
        if not isinstance(tensor, Tensor) or not torch._C._functorch.is_legacy_batchedtensor(tensor):
            return tensor, None
        return torch._remove_batch_dim(tensor, level(), size, 0), 0

    def level() -> int:
        torch._C._vmapmode_increment_nesting()
        return torch._C._vmapmode_decrement_nesting()

    def rule(*arguments: Any) -> Any:
        flat, spec = tree_flatten(arguments)
        flat, in_dims = zip(*[unwrap(argument, 1) for argument in flat])
        arguments, in_dims = tree_unflatten(flat, spec), tree_unflatten(in_dims, spec)
        results = torch.func.vmap(operator, in_dims)(*arguments)
        return tree_map(lambda t: torch._add_batch_dim(t, 0, level()), results)

    return rule


for _name in ("scan", "scan_backward"):
    _library.impl(_name, _legacy_vmap(getattr(torch.ops.fastrnn, _name)), "Batched")
