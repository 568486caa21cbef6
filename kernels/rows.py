"""A whole sequence in one program: for small hidden sizes.

A program has BLOCK_B sequences of one recurrence and all units. Weights are read once, before the
loop, and stay on chip; h and the other states never leave registers but as results; programs never
wait for one another. What a step reads from memory is asked for one step ahead.

HELD: weights stay in registers, else in shared memory, from where each step reads them again (at
128 bytes a cycle). Triton moves into a `for` what is merely read there, but not into a `while`:
hence the two loops, of which one makes one round.

Bound: the product's latency. At H = 128 and bfloat16 an LSTM's step is 16 x 512 x 128
multiplications a program, 500 cycles of the matrix units at best, then some 150 for exponentials
and as much for passing h through shared memory: 0.5 us a step at 1.7 GHz. Its bytes (60 KB with
what the backward wants) come to 1.8 us of one SM's share of the bandwidth, if all SMs want theirs.
"""

import triton
import triton.language as tl

from .tiles import (
    dot,
    each_where,
    load,
    load_each,
    narrow,
    program_anew,
    rows_of_step,
    store,
    store_each,
)

_VARYING = ["T", "B", "N"]


@triton.jit
def _place(pid, B, reverse_ptr, BLOCK_B: tl.constexpr):
    """A program's recurrence, its direction, and its sequences."""
    blocks_b = tl.cdiv(B, BLOCK_B)
    n = (pid // blocks_b).to(tl.int64)
    offs_b = (pid % blocks_b).to(tl.int64) * BLOCK_B + tl.arange(0, BLOCK_B)
    return n, tl.load(reverse_ptr + n) != 0, offs_b[:, None]


@triton.jit(do_not_specialize=_VARYING)
def forward_rows(
    gates_x_ptr, weight_ptr, bias_ptr, project_ptr, h_0_ptr, extra_0_ptr, out_ptr, h_n_ptr,
    extra_n_ptr, reserve_ptr, hidden_ptr, starts_ptr, reverse_ptr, T, B, N,
    CELL: tl.constexpr, G: tl.constexpr, X: tl.constexpr, H: tl.constexpr, K: tl.constexpr,
    WIDE: tl.constexpr, READS_H: tl.constexpr, BIAS: tl.constexpr, PACKED: tl.constexpr,
    SAVE: tl.constexpr, PROJECTED: tl.constexpr, PRECISION: tl.constexpr, HELD: tl.constexpr,
    BLOCK_B: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    NARROW: tl.constexpr = out_ptr.dtype.element_ty
    n, reverse, b = _place(tl.program_id(0), B, reverse_ptr, BLOCK_B)
    u = tl.arange(0, BLOCK_H)[None, :]
    k = tl.arange(0, BLOCK_K)
    step_x = N * B.to(tl.int64) * H
    inside = (b < B) & (u < H)
    inside_k = (b < B) & (k[None, :] < K)

    # [BLOCK_K, BLOCK_H] each: torch's rows as columns.
    weights = load_each(
        weight_ptr, (n * (G * H) + u) * K + k[:, None], (u < H) & (k[:, None] < K), H * K, G, NARROW
    )
    bias = load_each(bias_ptr, n * (G * H) + u, (u < H) & BIAS, H, G, WIDE)
    if PROJECTED:
        v = tl.arange(0, BLOCK_H)[:, None]
        project = load(
            project_ptr, (n * K + k[None, :]) * H + v, (k[None, :] < K) & (v < H), NARROW
        )
    h = load(h_0_ptr, (n * B + b) * K + k[None, :], inside_k, WIDE)
    s = load_each(extra_0_ptr, (n * B + b) * H + u, inside, step_x, X, WIDE)

    start, active = rows_of_step(starts_ptr, 0, T, B, reverse, PACKED)
    x = load_each(
        gates_x_ptr, ((start + b) * N + n) * (G * H) + u, (b < active) & (u < H), H, G, NARROW
    )
    p = T * 0
    while p < T:
        for _ in range(1 if HELD else T):
            start_next, active_next = rows_of_step(starts_ptr, p + 1, T, B, reverse, PACKED)
            x_next = load_each(
                gates_x_ptr, ((start_next + b) * N + n) * (G * H) + u, (b < active_next) & (u < H),
                H, G, NARROW,
            )  # fmt: skip
            here = b < active
            mask = here & (u < H)
            row = (start + b) * N + n

            h_narrow = narrow(h, NARROW)
            a = ()
            x_wide = ()
            for g in tl.static_range(G):
                a_g = dot(h_narrow, weights[g], PRECISION)
                if BIAS:
                    a_g += bias[g]
                a = a + (a_g,)
                x_wide = x_wide + (x[g].to(WIDE),)
            h_prev = tl.zeros([BLOCK_B, BLOCK_H], WIDE)
            if READS_H:
                h_prev = h

            h_new, s_new, saved = CELL(x_wide, a, h_prev, s)

            if SAVE:
                store_each(reserve_ptr, row * (len(saved) * H) + u, mask, H, saved)
            if PROJECTED:
                hidden = narrow(h_new, NARROW)
                if SAVE:
                    tl.store(hidden_ptr + row * H + u, hidden, mask=mask)
                h_new = dot(hidden, project, PRECISION)
            store(out_ptr, row * K + k[None, :], here & (k[None, :] < K), h_new)
            h = tl.where(here, h_new, h)
            s = each_where(here, s_new, s)
            start, active, x = start_next, active_next, x_next
            p += 1

    n, _, b = _place(program_anew(), B, reverse_ptr, BLOCK_B)
    inside, inside_k = (b < B) & (u < H), (b < B) & (k[None, :] < K)
    store(h_n_ptr, (n * B + b) * K + k[None, :], inside_k, h)
    store_each(extra_n_ptr, (n * B + b) * H + u, inside, step_x, s)


@triton.jit(do_not_specialize=_VARYING)
def backward_rows(
    weight_ptr, project_ptr, reserve_ptr, h_rows_ptr, h_0_ptr, extra_0_ptr, grad_out_ptr,
    dh_n_ptr, dextra_n_ptr, dgates_x_ptr, dgates_h_ptr, dproj_ptr, dh_0_ptr, dextra_0_ptr,
    starts_ptr, reverse_ptr, T, B, N,
    CELL: tl.constexpr, G: tl.constexpr, X: tl.constexpr, SAVED: tl.constexpr, H: tl.constexpr,
    K: tl.constexpr, WIDE: tl.constexpr, READS_H: tl.constexpr, APART: tl.constexpr,
    PACKED: tl.constexpr, PROJECTED: tl.constexpr, PRECISION: tl.constexpr, HELD: tl.constexpr,
    BLOCK_B: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """``h_rows`` is the output, or h before the projection."""
    NARROW: tl.constexpr = dgates_x_ptr.dtype.element_ty
    n, reverse, b = _place(tl.program_id(0), B, reverse_ptr, BLOCK_B)
    u = tl.arange(0, BLOCK_H)[None, :]
    k = tl.arange(0, BLOCK_K)[None, :]
    v = tl.arange(0, BLOCK_H)[:, None]
    step_x = N * B.to(tl.int64) * H
    inside = (b < B) & (u < H)
    inside_k = (b < B) & (k < K)
    state, state_k = (n * B + b) * H + u, (n * B + b) * K + k

    # [BLOCK_H, BLOCK_K] each, as torch has them.
    weights = load_each(weight_ptr, (n * (G * H) + v) * K + k, (v < H) & (k < K), H * K, G, NARROW)
    if PROJECTED:
        q = tl.arange(0, BLOCK_K)[:, None]
        project = load(project_ptr, (n * K + q) * H + u, (q < K) & (u < H), NARROW)
    dh = load(dh_n_ptr, state_k, inside_k, WIDE)
    ds = load_each(dextra_n_ptr, state, inside, step_x, X, WIDE)

    start, active = rows_of_step(starts_ptr, T - 1, T, B, reverse, PACKED)
    row = (start + b) * N + n
    mask = (b < active) & (u < H)
    saved = load_each(reserve_ptr, row * (SAVED * H) + u, mask, H, SAVED, WIDE)
    h = load(h_rows_ptr, row * H + u, mask, NARROW)
    dout = load(grad_out_ptr, row * K + k, (b < active) & (k < K), NARROW)
    p = T - 1
    while p >= 0:
        for _ in range(1 if HELD else T):
            start_prev, active_prev = rows_of_step(starts_ptr, p - 1, T, B, reverse, PACKED)
            row_prev = (start_prev + b) * N + n
            mask_prev = (b < active_prev) & (u < H)
            # The states before this step are what the one before saved, which is wanted next.
            saved_prev = load_each(
                reserve_ptr, row_prev * (SAVED * H) + u, mask_prev, H, SAVED, WIDE
            )
            h_row_prev = load(h_rows_ptr, row_prev * H + u, mask_prev, NARROW)
            dout_prev = load(grad_out_ptr, row_prev * K + k, (b < active_prev) & (k < K), NARROW)
            here = b < active
            mask = here & (u < H)
            row = (start + b) * N + n
            first = mask & (b >= active_prev)
            s_0 = load_each(extra_0_ptr, state, first, step_x, X, WIDE)
            s_prev = ()
            for j in tl.static_range(X):
                s_prev = s_prev + (tl.where(first, s_0[j], saved_prev[SAVED - X + j]),)
            h_prev = tl.zeros([BLOCK_B, BLOCK_H], WIDE)
            if READS_H:
                h_prev = load(h_0_ptr, state, first, WIDE)
                h_prev = tl.where(first, h_prev, h_row_prev.to(WIDE))

            total = dh + dout.to(WIDE)
            if PROJECTED:
                arrived = narrow(total, NARROW)
                tl.store(dproj_ptr + row * K + k, arrived, mask=here & (k < K))
                total = dot(arrived, project, PRECISION)

            dx, da, ds_new, dh_new = CELL(saved, h.to(WIDE), h_prev, s_prev, total, ds)

            store_each(dgates_x_ptr, row * (G * H) + u, mask, H, dx)
            if APART:
                store_each(dgates_h_ptr, row * (G * H) + u, mask, H, da)
            product = tl.zeros([BLOCK_B, BLOCK_K], tl.float32)
            for g in tl.static_range(G):
                # Columns beyond H meet zero rows of the weights, but 0 * inf is none.
                da_g = narrow(tl.where(mask, da[g], 0.0), NARROW)
                product += dot(da_g, weights[g], PRECISION)
            dh = tl.where(here, product if PROJECTED else product + dh_new, dh)
            ds = each_where(here, ds_new, ds)
            start, active = start_prev, active_prev
            saved, h, dout = saved_prev, h_row_prev, dout_prev
            p -= 1

    n, _, b = _place(program_anew(), B, reverse_ptr, BLOCK_B)
    inside, inside_k = (b < B) & (u < H), (b < B) & (k < K)
    store(dh_0_ptr, (n * B + b) * K + k, inside_k, dh)
    store_each(dextra_0_ptr, (n * B + b) * H + u, inside, step_x, ds)
