"""The Triton backend of attention: launches `fastrnn.kernels.attention_*`.

The twin of `fastrnn.attention_cpp`: the same functions of the same arguments.
"""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from .. import attention_cpp
from ..reference_attention import LOG_PROBABILITIES, Inputs
from . import attention_plan
from .attention_call import Call, walkable
from .attention_plan import block


def attention(inputs: Inputs) -> tuple[Tensor, Tensor, list[Tensor]]:
    """As `fastrnn.reference_attention.attention`."""
    out, lse, found = attention_cpp.results(inputs)
    if lse.numel() == 0:
        return out, lse, found
    with torch.cuda.device_of(out):
        call = Call(inputs)
        _forward(call, out, lse)
        if found and found[0].numel():
            _matrix(call, lse, found[0])
    return out, lse, found


def _forward(call: Call, out: Tensor, lse: Tensor) -> None:
    from ..kernels import attention_forward as kernels

    tiles = call.tiles("forward")
    parts, lses = out, lse
    if tiles.splits > 1:
        parts = lse.new_empty(tiles.splits, *out.shape)
        lses = lse.new_empty(tiles.splits, *lse.shape)
    units, in_tile = call.B * call.H, call.Tq
    if tiles.together:
        units, in_tile = call.B * call.Hk, call.Tq * call.groups
    grid = units * tiles.splits * triton.cdiv(in_tile, tiles.block_m)
    kernels.forward[(grid,)](
        call.query, call.key, call.value, *call.tops, call.vector, call.first, call.last,
        call.mask, call.centre, call.width, call.seed, parts, lses,
        *call.query_steps, *call.key_steps, *call.value.stride()[:3], *call.range_steps,
        *call.mask_steps, *call.sizes, tiles.splits, lse.numel(), *call.noise, *call.score,
        EV=call.Ev, BLOCK_V=block(call.Ev), TOGETHER=tiles.together, SPLIT=tiles.splits > 1,
        MASK=call.mask_kind, POSITIVE=call.inputs.scale > 0, **call.constants(tiles),
    )  # fmt: skip
    if tiles.splits > 1:
        rows = 16
        kernels.combine[(triton.cdiv(lse.numel(), rows),)](
            parts, lses, out, lse, lse.numel(), tiles.splits, EV=call.Ev, BLOCK_V=block(call.Ev),
            BLOCK_M=rows, num_warps=4, enable_fp_fusion=True,
        )  # fmt: skip


def _matrix(call: Call, lse: Tensor, found: Tensor) -> None:
    from ..kernels import attention_matrix as kernels

    tiles = call.tiles("matrix")
    grid = call.B * call.H * triton.cdiv(call.Tq, tiles.block_m)
    kernels.matrix[(grid * triton.cdiv(call.Tk, tiles.block_n),)](
        call.query, call.key, *call.tops, call.vector, call.first, call.last, call.mask,
        call.centre, call.width, call.seed, lse, found, *call.query_steps, *call.key_steps,
        *call.range_steps, *call.mask_steps, *call.sizes, *call.noise, *call.score,
        EXTRA=call.inputs.extra, MASK=call.mask_kind, **call.constants(tiles),
    )  # fmt: skip


def attention_backward(
    inputs: Inputs,
    out: Tensor,
    lse: Tensor,
    found: list[Tensor],
    grad_out: Tensor,
    grad_lse: Tensor | None,
    grad_found: list[Tensor],
    with_mask: bool,
) -> list[Tensor]:
    """The gradients of `fastrnn.attention_cpp.gradients`."""
    grads = attention_cpp.gradients(inputs, with_mask)
    if lse.numel() == 0 or inputs.key.shape[2] == 0:
        return [grad.zero_() for grad in grads]
    with torch.cuda.device_of(out):
        call = Call(inputs)
        row = None if grad_lse is None else grad_lse.float()
        extra = walkable(grad_found[0]).contiguous() if grad_found else None
        if extra is not None:
            # The softmax takes a weighted mean off the gradients, of these as of the values'.
            if inputs.extra == LOG_PROBABILITIES:
                pull = extra.sum(-1, dtype=torch.float32)
            else:
                pull = torch.einsum("bhts,bhts->bht", extra.float(), found[0].float())
            row = -pull if row is None else row - pull
        backward = _Backward(call, out.contiguous(), lse.contiguous(), walkable(grad_out), row,
                             extra)  # fmt: skip
        backward.of_queries(grads)
        backward.of_keys(grads)
        if with_mask:
            backward.of_mask(grads[-1])
    return grads


class _Backward:
    """The launches of a backward, and what they share."""

    def __init__(
        self,
        call: Call,
        out: Tensor,
        lse: Tensor,
        grad_out: Tensor,
        grad_row: Tensor | None,
        extra: Tensor | None,
    ) -> None:
        self.call, self.out, self.lse, self.grad_out = call, out, lse, grad_out
        self.grad_row = None if grad_row is None else grad_row.contiguous()
        self.extra = extra
        self.delta, self.shift = torch.empty_like(lse), torch.empty_like(lse)

    def _steps(self) -> tuple[int, ...]:
        call = self.call
        return (
            *call.query_steps, *call.key_steps, *call.value.stride()[:3], *call.range_steps,
            *call.mask_steps, *self.grad_out.stride()[:3],
        )  # fmt: skip

    def _constants(self) -> dict[str, int]:
        return {
            "EV": self.call.Ev,
            "BLOCK_V": block(self.call.Ev),
            "EXTRA": 0 if self.extra is None else self.call.inputs.extra,
        }

    def _columns(self, like: Tensor) -> Tensor:
        """For sums along columns, of ``[B, H, 2, E2, padded]``."""
        return like.new_zeros(*like.shape[:2], *like.shape[3:])

    def of_queries(self, grads: list[Tensor]) -> None:
        """Of queries, the vector, centres and widths; and `delta`, which the others need."""
        from ..kernels import attention_backward as kernels

        call, nothing = self.call, self.call.nothing
        tiles = call.tiles("of_queries")
        dquery, dvector = grads[0], nothing
        if call.additive:
            dquery, dvector = self._columns(call.query), self._columns(call.query)
        dcentre = dwidth = nothing
        if call.inputs.centre is not None:
            dcentre, dwidth = grads[3 + call.additive : 5 + call.additive]
        kernels.of_queries[(call.B * call.H * triton.cdiv(call.Tq, tiles.block_m),)](
            call.query, call.key, call.value, *call.tops, call.vector, call.first, call.last,
            call.mask, call.centre, call.width, call.seed, self.out, self.lse, self.grad_out,
            nothing if self.grad_row is None else self.grad_row,
            nothing if self.extra is None else self.extra,
            self.delta, self.shift, dquery, dvector, dcentre, dwidth, *self._steps(), *call.sizes,
            *call.noise, *call.score, MASK=call.mask_kind, ROW=self.grad_row is not None,
            **self._constants(), **call.constants(tiles),
        )  # fmt: skip
        if call.additive:
            grads[0].copy_(dquery[:, :, : call.E, : call.Tq].transpose(2, 3))
            grads[3].copy_(dvector[:, :, : call.E].sum(-1))

    def of_keys(self, grads: list[Tensor]) -> None:
        from ..kernels import attention_backward as kernels
        from ..kernels import attention_spans

        call, nothing = self.call, self.call.nothing
        tiles = call.tiles("of_keys")
        q_tiles = triton.cdiv(call.Tq, tiles.block_m)
        k_tiles = triton.cdiv(call.Tk, tiles.block_n)
        seers = nothing
        if call.ranged:
            heads = call.B * call.H
            spans = call.first.new_empty(heads, q_tiles, 4)
            seers = call.first.new_empty(heads, k_tiles, 4)
            attention_spans.spans[(heads * q_tiles,)](
                call.first, call.last, spans, *call.range_steps, call.H, call.Tq, call.Tk,
                BLOCK_M=tiles.block_m, BLOCK_N=tiles.block_n, num_warps=1, enable_fp_fusion=True,
            )  # fmt: skip
            attention_spans.seers[(heads * k_tiles,)](
                spans, seers, call.Tk, q_tiles, BLOCK_N=tiles.block_n, CHUNK=128, num_warps=1,
                enable_fp_fusion=True,
            )  # fmt: skip
        dkey = self._columns(call.key) if call.additive else grads[1]
        kernels.of_keys[(call.B * call.Hk * k_tiles,)](
            call.query, call.key, call.value, *call.tops, call.vector, call.first, call.last,
            call.mask, call.centre, call.width, call.seed, self.shift, self.grad_out,
            nothing if self.extra is None else self.extra, self.delta, seers, dkey, grads[2],
            *self._steps(), *call.sizes, *call.noise, *call.score, MASK=call.mask_kind,
            **self._constants(), **call.constants(tiles),
        )  # fmt: skip
        if call.additive:
            grads[1].copy_(dkey[:, :, : call.E, : call.Tk].transpose(2, 3))

    def of_mask(self, grad: Tensor) -> None:
        from ..kernels import attention_matrix as kernels

        call, nothing = self.call, self.call.nothing
        tiles = call.tiles("mask_gradient")
        batch, heads, queries, keys = grad.shape
        over_t, over_s = queries == 1, keys == 1
        own = batch * heads
        own *= 1 if over_t else triton.cdiv(call.Tq, tiles.block_m)
        own *= 1 if over_s else triton.cdiv(call.Tk, tiles.block_n)
        # By the sizes alone: what is added in which order shall not depend on the device.
        parts = attention_plan.parts(own, call.B * call.H // (batch * heads))
        found = self.lse.new_empty(parts, *grad.shape)
        kernels.mask_gradient[(own * parts,)](
            call.query, call.key, call.value, *call.tops, call.vector, call.first, call.last,
            call.mask, call.centre, call.width, call.seed, self.shift, self.grad_out,
            nothing if self.extra is None else self.extra, self.delta, found, *self._steps(),
            call.B, *call.sizes, batch, heads, parts, *call.noise, *call.score, OVER_T=over_t,
            OVER_S=over_s, **self._constants(), **call.constants(tiles),
        )  # fmt: skip
        grad.copy_(found.sum(0))
