"""One time step of any cell, without its products: the simple form, for any size and dtype.

A program has BLOCK_B sequences and BLOCK_H units of one recurrence; of a cell that sees whole rows,
all units. What a step does is in `one_step`.

Bound: bytes. A forward step reads G and writes up to 2 + SAVED numbers a unit; at H = 1024, B = 64
and bfloat16 that is 2.4 MB with what the backward wants, 0.6 us at 4 TB/s: the launch, some
microseconds, is what counts, unless a CUDA graph holds it.
"""

import triton
import triton.language as tl

from .one_step import (
    backward_cell,
    begin_h,
    begin_others,
    biased,
    bound_projected,
    forward_cell,
    leave_h,
    meet_h,
    previous_h,
    unless_bounded,
)
from .sequence import bounded_each, entering, present
from .tiles import load, load_each, rows_of_step, store, store_each

_VARYING = ["p", "S", "T", "B", "N"]  # no value of these is worth a compilation of its own


@triton.jit
def _place(p, T, B, starts_ptr, reverse_ptr, lengths_ptr, W: tl.constexpr, PACKED: tl.constexpr,
           LENGTHS: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_W: tl.constexpr):  # fmt: skip
    """A program's recurrence, its direction, sequences, columns of W; first row of the step it is
    at, and which sequences have it."""
    pid = tl.program_id(0)
    blocks_w = tl.cdiv(W, BLOCK_W)
    blocks_b = tl.cdiv(B, BLOCK_B)
    n = (pid // blocks_w // blocks_b).to(tl.int64)
    offs_b = (pid // blocks_w % blocks_b).to(tl.int64) * BLOCK_B + tl.arange(0, BLOCK_B)
    offs_w = pid % blocks_w * BLOCK_W + tl.arange(0, BLOCK_W)
    reverse = tl.load(reverse_ptr + n) != 0
    start, active = rows_of_step(starts_ptr, p, T, B, reverse, PACKED)
    b = offs_b[:, None]
    here = present(b, p, T, B, reverse, active, lengths_ptr, LENGTHS)
    return n, reverse, b, offs_w[None, :], start, here


@triton.jit(do_not_specialize=_VARYING)
def begin_step(
    h_ptr, wide_ptr, extra_ptr, h_0_ptr, extra_0_ptr, starts_ptr, reverse_ptr, lengths_ptr,
    reset_ptr, given_h_ptr, given_s_ptr, dropout_ptr, S, T, B, N,
    X: tl.constexpr, H: tl.constexpr, K: tl.constexpr, WIDE: tl.constexpr, PACKED: tl.constexpr,
    LENGTHS: tl.constexpr, RESET: tl.constexpr, DROPOUT: tl.constexpr,
    BLOCK_B: tl.constexpr, BLOCK_H: tl.constexpr,
):  # fmt: skip
    """The states that the first step begins with, from the initial ones; over the wider of H, K."""
    WIDTH: tl.constexpr = H if H > K else K
    n, reverse, b, u, _, _ = _place(
        0, T, B, starts_ptr, reverse_ptr, lengths_ptr, WIDTH, PACKED, LENGTHS, BLOCK_B, BLOCK_H
    )
    begin_h(
        n, reverse, b, u, T, B, N, h_ptr, wide_ptr, h_0_ptr, starts_ptr, lengths_ptr, reset_ptr,
        given_h_ptr, dropout_ptr, K, WIDE, PACKED, LENGTHS, RESET, DROPOUT,
    )  # fmt: skip
    begin_others(
        n, reverse, b, u, S, T, B, N, extra_ptr, extra_0_ptr, starts_ptr, lengths_ptr, reset_ptr,
        given_s_ptr, X, H, WIDE, PACKED, LENGTHS, RESET,
    )  # fmt: skip


@triton.jit(do_not_specialize=_VARYING)
def operand_step(
    gates_x_ptr, gates_h_ptr, bias_ptr, wide_ptr, operand_ptr, starts_ptr, reverse_ptr, lengths_ptr,
    reset_ptr, given_h_ptr, given_s_ptr, dropout_ptr, zone_h_ptr, zone_s_ptr, p, S, T, B, N,
    OPERAND: tl.constexpr, FIRST: tl.constexpr, G: tl.constexpr, H: tl.constexpr,
    WIDE: tl.constexpr, BIAS: tl.constexpr, PACKED: tl.constexpr, CLIPS: tl.constexpr,
    LENGTHS: tl.constexpr, DROPOUT: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_H: tl.constexpr,
):  # fmt: skip
    """What enters a cell's second product, ``operand [N, B, H]``, given those of the first gates,
    ``gates_h [N, B, FIRST*H]``."""
    n, _, b, u, start, here = _place(
        p, T, B, starts_ptr, reverse_ptr, lengths_ptr, H, PACKED, LENGTHS, BLOCK_B, BLOCK_H
    )
    inside, state = (b < B) & (u < H), (n * B + b) * H + u
    x = load_each(
        gates_x_ptr, ((start + b) * N + n) * (G * H) + u, here & (u < H), H, FIRST, WIDE
    )  # fmt: skip
    a = load_each(gates_h_ptr, (n * B + b) * (FIRST * H) + u, here & (u < H), H, FIRST, WIDE)
    a = biased(a, bias_ptr, n, u, H, BIAS, G, 0)
    h = entering(load(wide_ptr, state, inside, WIDE), dropout_ptr, state, inside, DROPOUT)
    store(operand_ptr, state, inside, OPERAND(x, a, h, CLIPS))


@triton.jit(do_not_specialize=_VARYING)
def forward_step(
    gates_x_ptr, gates_h_ptr, second_ptr, bias_ptr, params_ptr, h_ptr, wide_ptr, extra_ptr, h_0_ptr,
    extra_0_ptr, out_ptr, others_ptr, reserve_ptr, hidden_ptr, starts_ptr, reverse_ptr, lengths_ptr,
    reset_ptr, given_h_ptr, given_s_ptr, dropout_ptr, zone_h_ptr, zone_s_ptr, p, S, T, B, N,
    CELL: tl.constexpr, FIRST: tl.constexpr, G: tl.constexpr, X: tl.constexpr, H: tl.constexpr,
    WIDE: tl.constexpr, READS_H: tl.constexpr, BIAS: tl.constexpr, PACKED: tl.constexpr,
    SAVE: tl.constexpr, PROJECTED: tl.constexpr, PARAMS: tl.constexpr, CLIPS: tl.constexpr,
    LENGTHS: tl.constexpr, RESET: tl.constexpr, DROPOUT: tl.constexpr, ZONE: tl.constexpr,
    ZONE_PARTS: tl.constexpr, ALL_STATES: tl.constexpr, WIDTH: tl.constexpr, KEPT_H: tl.constexpr,
    BLOCK_B: tl.constexpr, BLOCK_H: tl.constexpr,
):  # fmt: skip
    """The cell, given ``gates_h [N, B, FIRST*H]`` and the others in ``second``. After a hidden
    that is to be projected the product and `place_projected` follow."""
    n, reverse, b, u, start, here = _place(
        p, T, B, starts_ptr, reverse_ptr, lengths_ptr, H, PACKED, LENGTHS, BLOCK_B, BLOCK_H
    )
    a = load_each(gates_h_ptr, (n * B + b) * (FIRST * H) + u, here & (u < H), H, FIRST, WIDE)
    a = a + load_each(
        second_ptr, (n * B + b) * ((G - FIRST) * H) + u, here & (u < H), H, G - FIRST, WIDE
    )  # fmt: skip
    forward_cell(
        a, n, reverse, b, u, start, here, p, S, T, B, N, gates_x_ptr, bias_ptr, params_ptr, h_ptr,
        wide_ptr, extra_ptr, h_0_ptr, extra_0_ptr, out_ptr, others_ptr, reserve_ptr, hidden_ptr,
        starts_ptr, lengths_ptr, reset_ptr, given_h_ptr, given_s_ptr, dropout_ptr, zone_h_ptr,
        zone_s_ptr, CELL, G, X, H, WIDE, BIAS, PACKED, SAVE, PROJECTED, PARAMS, CLIPS, LENGTHS,
        RESET, DROPOUT, ZONE, ZONE_PARTS, ALL_STATES, WIDTH, KEPT_H,
    )  # fmt: skip


@triton.jit(do_not_specialize=_VARYING)
def place_projected(
    projected_ptr, h_ptr, wide_ptr, h_0_ptr, out_ptr, reserve_ptr, starts_ptr, reverse_ptr,
    lengths_ptr, reset_ptr, given_h_ptr, given_s_ptr, dropout_ptr, zone_h_ptr, zone_s_ptr,
    p, S, T, B, N,
    K: tl.constexpr, WIDE: tl.constexpr, PACKED: tl.constexpr, SAVE: tl.constexpr,
    PROJ_CLIP: tl.constexpr, LENGTHS: tl.constexpr, RESET: tl.constexpr, DROPOUT: tl.constexpr,
    ZONE: tl.constexpr, ZONE_PARTS: tl.constexpr, ALL_STATES: tl.constexpr, WIDTH: tl.constexpr,
    BLOCK_B: tl.constexpr, BLOCK_H: tl.constexpr,
):  # fmt: skip
    """``projected [N, B, K]`` becomes the step's output, and h as the next step begins with it."""
    n, reverse, b, k, start, here = _place(
        p, T, B, starts_ptr, reverse_ptr, lengths_ptr, K, PACKED, LENGTHS, BLOCK_B, BLOCK_H
    )
    inside, state = (b < B) & (k < K), (n * B + b) * K + k
    h_new = bound_projected(
        load(projected_ptr, state, here & (k < K), WIDE), n, b, k, start, here, N, reserve_ptr,
        K, WIDTH, SAVE, PROJ_CLIP,
    )  # fmt: skip
    leave_h(
        h_new, load(wide_ptr, state, inside, WIDE), n, reverse, b, k, start, here, p, T, B, N,
        h_ptr, wide_ptr, h_0_ptr, out_ptr, starts_ptr, lengths_ptr, reset_ptr, given_h_ptr,
        dropout_ptr, zone_h_ptr, K, WIDE, PACKED, LENGTHS, RESET, DROPOUT, ZONE, ZONE_PARTS,
    )  # fmt: skip


@triton.jit(do_not_specialize=_VARYING)
def arrive_projected(
    product_ptr, dh_ptr, dh_initial_ptr, dgiven_h_ptr, grad_out_ptr, arrived_ptr, dproj_ptr,
    reserve_ptr, starts_ptr, reverse_ptr, lengths_ptr, reset_ptr, given_h_ptr, given_s_ptr,
    dropout_ptr, zone_h_ptr, zone_s_ptr, p, S, T, B, N,
    K: tl.constexpr, WIDE: tl.constexpr, PACKED: tl.constexpr, PROJ_CLIP: tl.constexpr,
    LENGTHS: tl.constexpr, RESET: tl.constexpr, DROPOUT: tl.constexpr, ZONE: tl.constexpr,
    ZONE_PARTS: tl.constexpr, ALL_STATES: tl.constexpr, WIDTH: tl.constexpr,
    BLOCK_B: tl.constexpr, BLOCK_H: tl.constexpr,
):  # fmt: skip
    """The whole gradient of a projected h: to ``dproj``, and to ``arrived`` for the product. At
    step -1 it is that of the initial state, in ``dh``."""
    n, reverse, b, k, start, here = _place(
        p, T, B, starts_ptr, reverse_ptr, lengths_ptr, K, PACKED, LENGTHS, BLOCK_B, BLOCK_H
    )
    inside, state = (b < B) & (k < K), (n * B + b) * K + k
    dh, total, past = meet_h(
        load(product_ptr, state, inside, WIDE), n, reverse, b, k, start, here, p, T, B, N,
        grad_out_ptr, dh_ptr, dh_initial_ptr, dgiven_h_ptr, starts_ptr, lengths_ptr, reset_ptr,
        dropout_ptr, zone_h_ptr, K, WIDE, PACKED, LENGTHS, RESET, DROPOUT, ZONE, ZONE_PARTS,
    )  # fmt: skip
    total = unless_bounded(total, n, b, k, start, here, N, reserve_ptr, K, WIDTH, PROJ_CLIP)
    store(dproj_ptr, ((start + b) * N + n) * K + k, here & (k < K), total)
    store(arrived_ptr, state, inside, tl.where(here, total, 0.0))
    store(dh_ptr, state, inside, tl.where(here, past, dh))


@triton.jit(do_not_specialize=_VARYING)
def backward_step(
    params_ptr, reserve_ptr, h_rows_ptr, h_0_ptr, extra_0_ptr, grad_out_ptr, grad_others_ptr,
    product_ptr, dh_ptr, dextra_ptr, dh_initial_ptr, ds_initial_ptr, dgiven_h_ptr, dgiven_s_ptr,
    dparams_ptr, da_ptr, waiting_ptr, dgates_x_ptr, dgates_h_ptr, starts_ptr, reverse_ptr,
    lengths_ptr, reset_ptr, given_h_ptr, given_s_ptr, dropout_ptr, zone_h_ptr, zone_s_ptr,
    p, S, T, B, N,
    CELL: tl.constexpr, G: tl.constexpr, X: tl.constexpr, SAVED: tl.constexpr, H: tl.constexpr,
    WIDE: tl.constexpr, READS_H: tl.constexpr, APART: tl.constexpr, PACKED: tl.constexpr,
    PROJECTED: tl.constexpr, PARAMS: tl.constexpr, CLIPS: tl.constexpr,
    GRAD_CLIP: tl.constexpr, LENGTHS: tl.constexpr, RESET: tl.constexpr, DROPOUT: tl.constexpr,
    ZONE: tl.constexpr, ZONE_PARTS: tl.constexpr, ALL_STATES: tl.constexpr, WIDTH: tl.constexpr,
    KEPT_H: tl.constexpr, WAITING: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_H: tl.constexpr,
):  # fmt: skip
    """The cell's backward; ``product [N, B, H]`` is what came to h through later gates, or, with a
    projection, all that came to h. At step -1 nothing but ``dh`` is left to do."""
    n, reverse, b, u, start, here = _place(
        p, T, B, starts_ptr, reverse_ptr, lengths_ptr, H, PACKED, LENGTHS, BLOCK_B, BLOCK_H
    )
    total = load(product_ptr, (n * B + b) * H + u, (b < B) & (u < H), WIDE)
    dh, past = total, total
    if not PROJECTED:
        dh, total, past = meet_h(
            total, n, reverse, b, u, start, here, p, T, B, N, grad_out_ptr, dh_ptr, dh_initial_ptr,
            dgiven_h_ptr, starts_ptr, lengths_ptr, reset_ptr, dropout_ptr, zone_h_ptr,
            H, WIDE, PACKED, LENGTHS, RESET, DROPOUT, ZONE, ZONE_PARTS,
        )  # fmt: skip
    backward_cell(
        dh, total, past, n, reverse, b, u, start, here, p, S, T, B, N, params_ptr, reserve_ptr,
        h_rows_ptr, h_0_ptr, extra_0_ptr, grad_others_ptr, dh_ptr, dextra_ptr, ds_initial_ptr,
        dgiven_s_ptr, dparams_ptr, da_ptr, waiting_ptr, dgates_x_ptr, dgates_h_ptr, starts_ptr,
        lengths_ptr, reset_ptr, given_h_ptr, given_s_ptr, zone_s_ptr, CELL, G, X, SAVED, H, WIDE,
        READS_H, APART, PACKED, PROJECTED, PARAMS, CLIPS, GRAD_CLIP, LENGTHS, RESET, ZONE,
        ZONE_PARTS, ALL_STATES, WIDTH, KEPT_H, WAITING,
    )  # fmt: skip


@triton.jit(do_not_specialize=_VARYING)
def through_operand_step(
    reserve_ptr, h_rows_ptr, h_0_ptr, product_ptr, waiting_ptr, dh_ptr, da_ptr, dgates_x_ptr,
    operand_ptr, starts_ptr, reverse_ptr, lengths_ptr, reset_ptr, given_h_ptr, given_s_ptr,
    dropout_ptr, zone_h_ptr, zone_s_ptr, p, S, T, B, N,
    THROUGH: tl.constexpr, WAITING: tl.constexpr, G: tl.constexpr, SAVED: tl.constexpr,
    H: tl.constexpr, WIDE: tl.constexpr, PACKED: tl.constexpr, CLIPS: tl.constexpr,
    GRAD_CLIP: tl.constexpr, LENGTHS: tl.constexpr, RESET: tl.constexpr, DROPOUT: tl.constexpr,
    WIDTH: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_H: tl.constexpr,
):  # fmt: skip
    """What a cell's second product gave back, ``product [N, B, H]``, completes the first gates'
    gradients; ``operand [S, N, H]`` is what entered that product."""
    n, reverse, b, u, start, here = _place(
        p, T, B, starts_ptr, reverse_ptr, lengths_ptr, H, PACKED, LENGTHS, BLOCK_B, BLOCK_H
    )
    inside, mask, state = (b < B) & (u < H), here & (u < H), (n * B + b) * H + u
    row = (start + b) * N + n
    h = previous_h(
        n, reverse, b, u, p, T, B, N, h_rows_ptr, h_0_ptr, starts_ptr, lengths_ptr, reset_ptr,
        given_h_ptr, H, WIDE, PACKED, LENGTHS, RESET,
    )  # fmt: skip
    saved = load_each(reserve_ptr, row * WIDTH + u, mask, H, SAVED, WIDE)
    more, dh, operand = THROUGH(
        saved, entering(h, dropout_ptr, state, inside, DROPOUT),
        load(product_ptr, state, mask, WIDE), CLIPS,
    )  # fmt: skip
    waiting = (n * B + b) * (WAITING * H) + u
    da = load_each(waiting_ptr, waiting, inside, H, WAITING, WIDE)
    sums = ()
    for g in tl.static_range(WAITING):
        sums = sums + (da[g] + more[g],)
    da = bounded_each(sums, GRAD_CLIP)
    store_each(dgates_x_ptr, row * (G * H) + u, mask, H, da)
    for g in tl.static_range(WAITING):
        store(da_ptr, waiting + g * H, inside, tl.where(here, da[g], 0.0))
    store(operand_ptr, row * H + u, mask, operand)
    dh = entering(dh, dropout_ptr, state, inside, DROPOUT)
    store(dh_ptr, state, mask, load(dh_ptr, state, mask, WIDE) + dh)
