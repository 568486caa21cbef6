"""A whole sequence in many programs: for layers whose weights fit the chip but no single SM.

A program has BLOCK_B sequences and BLOCK_H units of one recurrence with all their gates, and holds
its rows of the weights for the whole sequence (HELD: as in `rows`). The product is written
transposed, units by sequences, so that a few sequences are the matrix units' narrow side; with
SPLIT > 1 it is so many products over parts of the sum, a warp's share each, added afterwards.
Programs of the same sequences exchange h (forward) or the gates' gradients (backward) through a
double buffer in global memory, with one barrier a step; what a step reads beside that is asked for
before the barrier.

A launch runs the steps from ``p_from`` on. What passes from one to the next is in buffers, so that
steps can also be launched one by one, which needs no barrier.

Bound: the exchange, about 1 us, and then the product. At H = 1024, B = 16 and bfloat16 an LSTM
on 64 programs multiplies 64 x 1024 x 16 numbers a step and program: 500 cycles at best, 0.3 us. The
backward reads G times as much as the forward from the exchange: 128 KB a program, which the L2
cache gives to 64 of them in some 1.5 us.
"""

import triton
import triton.language as tl

from .barrier import arrive, wait
from .tiles import (
    dot,
    each_where,
    load,
    load_each,
    program_anew,
    rows_of_step,
    split_gates,
    spread,
    store,
    store_each,
)

_VARYING = ["p_from", "p_to", "T", "B", "N", "patience"]


@triton.jit
def _place(pid, B, reverse_ptr, counter_ptr, H: tl.constexpr, BLOCK_B: tl.constexpr,
           BLOCK_H: tl.constexpr):  # fmt: skip
    """A program's recurrence, direction, sequences, units; its group's counter and size."""
    slices: tl.constexpr = (H + BLOCK_H - 1) // BLOCK_H
    group = pid // slices
    blocks_b = tl.cdiv(B, BLOCK_B)
    n = (group // blocks_b).to(tl.int64)
    b = (group % blocks_b).to(tl.int64) * BLOCK_B + tl.arange(0, BLOCK_B)
    u = pid % slices * BLOCK_H
    return n, tl.load(reverse_ptr + n) != 0, b, u, counter_ptr + group, slices


@triton.jit
def _parts(BLOCK_K: tl.constexpr, SPLIT: tl.constexpr, SIDE: tl.constexpr):
    """The places of a sum, [1, BLOCK_K] or [BLOCK_K, 1] (SIDE 0 or 1), or in SPLIT parts."""
    k = tl.arange(0, BLOCK_K // SPLIT)
    k = k[None, :] if SIDE == 0 else k[:, None]
    if SPLIT > 1:  # not by reshape, past which Triton 3.6 sees no contiguous numbers
        k = k[None] + tl.arange(0, SPLIT)[:, None, None] * (BLOCK_K // SPLIT)
    return k


@triton.jit
def _lined(x, SPLIT: tl.constexpr, SIDE: tl.constexpr):
    """A vector as a column or a row (SIDE 0 or 1) beside what `_parts` returns."""
    x = x[:, None] if SIDE == 0 else x[None, :]
    return x[None] if SPLIT > 1 else x


@triton.jit
def _sum_parts(acc, SPLIT: tl.constexpr):
    if SPLIT > 1:
        acc = spread(tl.sum(acc, 0))
    return acc


@triton.jit(do_not_specialize=_VARYING)
def forward_grid(
    gates_x_ptr, weight_ptr, bias_ptr, exchange_ptr, wide_ptr, extra_ptr, out_ptr, reserve_ptr,
    starts_ptr, reverse_ptr, counter_ptr, failed_ptr, p_from, p_to, T, B, N, patience,
    CELL: tl.constexpr, G: tl.constexpr, X: tl.constexpr, H: tl.constexpr, WIDE: tl.constexpr,
    READS_H: tl.constexpr, BIAS: tl.constexpr, PACKED: tl.constexpr, SAVE: tl.constexpr,
    PROJECTED: tl.constexpr, PARAMS: tl.constexpr, CLIPS: tl.constexpr,
    PRECISION: tl.constexpr, HELD: tl.constexpr, SPLIT: tl.constexpr, CHUNKS: tl.constexpr,
    BLOCK_B: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Steps ``p_from <= p < p_to``. ``exchange [2, N, B, H]``: h before step p is in p % 2."""
    tl.static_assert(not PROJECTED and PARAMS == 0)
    NARROW: tl.constexpr = out_ptr.dtype.element_ty
    ROWS: tl.constexpr = 4 if G == 3 else G  # of the weights for a unit: a power of two
    n, reverse, b_line, u_0, counter_ptr, slices = _place(
        tl.program_id(0), B, reverse_ptr, counter_ptr, H, BLOCK_B, BLOCK_H
    )
    b = b_line[None, :]
    u = u_0 + tl.arange(0, BLOCK_H)[:, None]
    step_x = N * B.to(tl.int64) * H
    inside = (b < B) & (u < H)
    state = (n * B + b) * H + u

    r = tl.arange(0, BLOCK_H * ROWS)
    r_gate, r_unit = _lined(r % ROWS, SPLIT, 0), _lined(u_0 + r // ROWS, SPLIT, 0)
    k = _parts(BLOCK_K, SPLIT, 0)
    weights = ()
    for i in tl.static_range(CHUNKS):
        k_i = i * BLOCK_K + k
        weights = weights + (load(
            weight_ptr, (n * (G * H) + r_gate * H + r_unit) * H + k_i,
            (r_gate < G) & (r_unit < H) & (k_i < H), NARROW,
        ),)  # fmt: skip
    bias = load_each(bias_ptr, n * (G * H) + u, (u < H) & BIAS, H, G, WIDE)
    h = load(wide_ptr, state, inside, WIDE)
    s = load_each(extra_ptr, state, inside, step_x, X, WIDE)

    k_line = _parts(BLOCK_K, SPLIT, 1)
    b_row = _lined(b_line, SPLIT, 1)
    start, active = rows_of_step(starts_ptr, p_from, T, B, reverse, PACKED)
    x = load_each(
        gates_x_ptr, ((start + b) * N + n) * (G * H) + u, (b < active) & (u < H), H, G, NARROW
    )
    p = p_from
    while p < p_to:
        for _ in range(1 if HELD else p_to - p_from):
            here = b < active
            mask = here & (u < H)
            row = (start + b) * N + n
            source = exchange_ptr + (p % 2) * (N * B.to(tl.int64) * H)
            a = tl.zeros([SPLIT, BLOCK_H * ROWS, BLOCK_B], tl.float32)
            if SPLIT == 1:
                a = tl.zeros([BLOCK_H * ROWS, BLOCK_B], tl.float32)
            for i in tl.static_range(CHUNKS):
                at = i * BLOCK_K + k_line
                h_all = tl.load(
                    source + (n * B + b_row) * H + at, mask=(at < H) & (b_row < B), other=0.0,
                    cache_modifier=".cg",
                )  # fmt: skip
                a += dot(weights[i], h_all, PRECISION)
            sums = split_gates(_sum_parts(a, SPLIT), G, BLOCK_H, BLOCK_B)
            a_gates = ()
            x_wide = ()
            for g in tl.static_range(G):
                a_g = sums[g]
                if BIAS:
                    a_g += bias[g]
                a_gates = a_gates + (a_g,)
                x_wide = x_wide + (x[g].to(WIDE),)

            h_new, s_new, saved = CELL(x_wide, a_gates, h, s, (), CLIPS, H)

            h = tl.where(here, h_new, h)
            s = each_where(here, s_new, s)
            target = exchange_ptr + ((p + 1) % 2) * (N * B.to(tl.int64) * H)
            store(target, state, inside, h)
            arrive(counter_ptr)
            store(out_ptr, row * H + u, mask, h_new)
            if SAVE:
                store_each(reserve_ptr, row * (len(saved) * H) + u, mask, H, saved)
            p += 1
            start, active = rows_of_step(starts_ptr, p, T, B, reverse, PACKED)
            x = load_each(
                gates_x_ptr,
                ((start + b) * N + n) * (G * H) + u,
                (b < active) & (u < H),
                H,
                G,
                NARROW,
            )
            if p < p_to:
                patience = wait(counter_ptr, slices * (p - p_from), failed_ptr, patience)

    n, _, b_line, u_0, _, _ = _place(
        program_anew(), B, reverse_ptr, counter_ptr, H, BLOCK_B, BLOCK_H
    )
    b, u = b_line[None, :], u_0 + tl.arange(0, BLOCK_H)[:, None]
    inside = (b < B) & (u < H)
    store(wide_ptr, (n * B + b) * H + u, inside, h)
    store_each(extra_ptr, (n * B + b) * H + u, inside, step_x, s)


@triton.jit(do_not_specialize=_VARYING)
def backward_grid(
    weight_ptr, exchange_ptr, reserve_ptr, h_rows_ptr, h_0_ptr, extra_0_ptr, grad_out_ptr, dh_ptr,
    dextra_ptr, dgates_x_ptr, dgates_h_ptr, starts_ptr, reverse_ptr, counter_ptr, failed_ptr,
    p_from, p_to, T, B, N, patience,
    CELL: tl.constexpr, G: tl.constexpr, X: tl.constexpr, SAVED: tl.constexpr, H: tl.constexpr,
    WIDE: tl.constexpr, READS_H: tl.constexpr, APART: tl.constexpr, PACKED: tl.constexpr,
    PROJECTED: tl.constexpr, PARAMS: tl.constexpr, CLIPS: tl.constexpr, GRAD_CLIP: tl.constexpr,
    PRECISION: tl.constexpr, HELD: tl.constexpr, SPLIT: tl.constexpr, CHUNKS: tl.constexpr,
    BLOCK_B: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Steps ``p_from >= p > p_to``; step -1 leads to the initial states.

    ``exchange [2, N, B, G*H]``: gradients of the step after p are in p % 2.
    """
    tl.static_assert(not PROJECTED and PARAMS == 0 and GRAD_CLIP == 0)
    NARROW: tl.constexpr = dgates_x_ptr.dtype.element_ty
    n, reverse, b_line, u_0, counter_ptr, slices = _place(
        tl.program_id(0), B, reverse_ptr, counter_ptr, H, BLOCK_B, BLOCK_H
    )
    b = b_line[None, :]
    u_line = u_0 + tl.arange(0, BLOCK_H)
    u = u_line[:, None]
    step_x = N * B.to(tl.int64) * H
    inside = (b < B) & (u < H)
    state = (n * B + b) * H + u

    # Columns of the weights, those of this program's units, a tile for each gate and chunk.
    u_column = _lined(u_line, SPLIT, 0)
    k = _parts(BLOCK_K, SPLIT, 0)
    weights = ()
    for i in tl.static_range(CHUNKS):
        k_i = i * BLOCK_K + k
        weights = weights + load_each(
            weight_ptr, (n * (G * H) + k_i) * H + u_column, (k_i < H) & (u_column < H), H * H, G,
            NARROW,
        )  # fmt: skip
    dh = load(dh_ptr, state, inside, WIDE)
    ds = load_each(dextra_ptr, state, inside, step_x, X, WIDE)

    k_line = _parts(BLOCK_K, SPLIT, 1)
    b_row = _lined(b_line, SPLIT, 1)
    p = p_from
    start, active = rows_of_step(starts_ptr, p, T, B, reverse, PACKED)
    row = (start + b) * N + n
    mask = (b < active) & (u < H)
    saved = load_each(reserve_ptr, row * (SAVED * H) + u, mask, H, SAVED, WIDE)
    h = load(h_rows_ptr, row * H + u, mask, WIDE)
    dout = load(grad_out_ptr, row * H + u, mask, WIDE)
    while p > p_to:
        for _ in range(1 if HELD else p_from - p_to):
            start_prev, active_prev = rows_of_step(starts_ptr, p - 1, T, B, reverse, PACKED)
            row_prev = (start_prev + b) * N + n
            mask_prev = (b < active_prev) & (u < H)
            # The states before this step are what the one before saved, which is wanted next.
            saved_prev = load_each(
                reserve_ptr, row_prev * (SAVED * H) + u, mask_prev, H, SAVED, WIDE
            )
            h_row_prev = load(h_rows_ptr, row_prev * H + u, mask_prev, WIDE)
            dout_prev = load(grad_out_ptr, row_prev * H + u, mask_prev, WIDE)
            here = b < active
            mask = here & (u < H)
            row = (start + b) * N + n
            first = mask & (b >= active_prev)
            s_0 = load_each(extra_0_ptr, state, first, step_x, X, WIDE)
            s_prev = ()
            for j in tl.static_range(X):
                s_prev = s_prev + (tl.where(first, s_0[j], saved_prev[SAVED - X + j]),)
            h_prev = tl.zeros([BLOCK_H, BLOCK_B], WIDE)
            if READS_H:
                h_prev = tl.where(first, load(h_0_ptr, state, first, WIDE), h_row_prev)
            if p < p_from:
                patience = wait(counter_ptr, slices * (p_from - p), failed_ptr, patience)

            parity = ((p + 2) % 2).to(tl.int64)
            source = exchange_ptr + parity * step_x * G
            product = tl.zeros([SPLIT, BLOCK_H, BLOCK_B], tl.float32)
            if SPLIT == 1:
                product = tl.zeros([BLOCK_H, BLOCK_B], tl.float32)
            for i in tl.static_range(CHUNKS):
                at = i * BLOCK_K + k_line
                for g in tl.static_range(G):
                    da_all = tl.load(
                        source + (n * B + b_row) * (G * H) + g * H + at,
                        mask=(at < H) & (b_row < B), other=0.0, cache_modifier=".cg",
                    )  # fmt: skip
                    product += dot(weights[i * G + g], da_all, PRECISION)
            dh += _sum_parts(product, SPLIT)

            dx, da, ds_new, dh_new, _ = CELL(saved, h, h_prev, s_prev, dh + dout, ds, (), CLIPS, H)

            target = exchange_ptr + (1 - parity) * step_x * G
            for g in tl.static_range(G):
                offs = (n * B + b) * (G * H) + g * H + u
                store(target, offs, inside, tl.where(here, da[g], 0.0))
            arrive(counter_ptr)
            store_each(dgates_x_ptr, row * (G * H) + u, mask, H, dx)
            if APART:
                store_each(dgates_h_ptr, row * (G * H) + u, mask, H, da)
            dh = tl.where(here, dh_new, dh)
            ds = each_where(here, ds_new, ds)
            start, active = start_prev, active_prev
            saved, h, dout = saved_prev, h_row_prev, dout_prev
            p -= 1

    n, _, b_line, u_0, _, _ = _place(
        program_anew(), B, reverse_ptr, counter_ptr, H, BLOCK_B, BLOCK_H
    )
    b, u = b_line[None, :], u_0 + tl.arange(0, BLOCK_H)[:, None]
    inside = (b < B) & (u < H)
    store(dh_ptr, (n * B + b) * H + u, inside, dh)
    store_each(dextra_ptr, (n * B + b) * H + u, inside, step_x, ds)
