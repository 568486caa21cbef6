"""A whole sequence in one program: for small hidden sizes, and for any without a recurrent product.

A program has BLOCK_B sequences of one recurrence and all units; of a cell whose units do not see
one another, which has no weights here, BLOCK_H of them. Weights are read once, before the
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

from .functions import bounded
from .one_step import bound_projected, unless_bounded
from .sequence import begun, bounded_each, entering, is_reset, kept, present, zoned
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

_VARYING = ["S", "T", "B", "N"]


@triton.jit
def _place(pid, B, reverse_ptr, H: tl.constexpr, RECURRENT: tl.constexpr, BLOCK_B: tl.constexpr,
           BLOCK_H: tl.constexpr):  # fmt: skip
    """A program's recurrence, its direction, its sequences, and the first of its units."""
    blocks_u: tl.constexpr = 1 if RECURRENT else (H + BLOCK_H - 1) // BLOCK_H
    blocks_b = tl.cdiv(B, BLOCK_B)
    n = (pid // blocks_u // blocks_b).to(tl.int64)
    offs_b = (pid // blocks_u % blocks_b).to(tl.int64) * BLOCK_B + tl.arange(0, BLOCK_B)
    return n, tl.load(reverse_ptr + n) != 0, offs_b[:, None], pid % blocks_u * BLOCK_H


@triton.jit
def _begun_each(s, p, n, reverse, b, u, T, B, N, S, starts_ptr, lengths_ptr, reset_ptr, extra_0_ptr,
                given_s_ptr, H: tl.constexpr, PACKED: tl.constexpr, LENGTHS: tl.constexpr,
                RESET: tl.constexpr):  # fmt: skip
    found = ()
    for j in tl.static_range(len(s)):
        found = found + (begun(
            s[j], p, n, reverse, b, u, T, B, N, j * (S.to(tl.int64) * N * H), starts_ptr,
            lengths_ptr, reset_ptr, extra_0_ptr + j * (N * B.to(tl.int64) * H), given_s_ptr,
            H, PACKED, LENGTHS, RESET,
        ),)  # fmt: skip
    return found


@triton.jit(do_not_specialize=_VARYING)
def forward_rows(
    gates_x_ptr, weight_ptr, bias_ptr, project_ptr, params_ptr, h_0_ptr, extra_0_ptr, out_ptr,
    others_ptr, h_n_ptr, extra_n_ptr, reserve_ptr, hidden_ptr, starts_ptr, reverse_ptr,
    lengths_ptr, reset_ptr, given_h_ptr, given_s_ptr, dropout_ptr, zone_h_ptr, zone_s_ptr,
    S, T, B, N,
    CELL: tl.constexpr, OPERAND: tl.constexpr, FIRST: tl.constexpr, G: tl.constexpr,
    X: tl.constexpr, H: tl.constexpr, K: tl.constexpr, WIDE: tl.constexpr, READS_H: tl.constexpr,
    BIAS: tl.constexpr, PACKED: tl.constexpr, SAVE: tl.constexpr, RECURRENT: tl.constexpr,
    PROJECTED: tl.constexpr, PARAMS: tl.constexpr, CLIPS: tl.constexpr, PROJ_CLIP: tl.constexpr,
    LENGTHS: tl.constexpr, RESET: tl.constexpr, DROPOUT: tl.constexpr, ZONE: tl.constexpr,
    ZONE_PARTS: tl.constexpr, ALL_STATES: tl.constexpr, WIDTH: tl.constexpr, KEPT_H: tl.constexpr,
    PRECISION: tl.constexpr, HELD: tl.constexpr,
    BLOCK_B: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    NARROW: tl.constexpr = out_ptr.dtype.element_ty
    n, reverse, b, u_0 = _place(tl.program_id(0), B, reverse_ptr, H, RECURRENT, BLOCK_B, BLOCK_H)
    u = u_0 + tl.arange(0, BLOCK_H)[None, :]
    k_line = u_0 + tl.arange(0, BLOCK_K)
    k = k_line[None, :]
    step_x, step_s = N * B.to(tl.int64) * H, S.to(tl.int64) * N * H
    inside, inside_k = (b < B) & (u < H), (b < B) & (k < K)

    # [BLOCK_K, BLOCK_H] each: torch's rows as columns.
    weights = load_each(
        weight_ptr, (n * (G * H) + u) * K + k_line[:, None], (u < H) & (k_line[:, None] < K),
        H * K, G if RECURRENT else 0, NARROW,
    )  # fmt: skip
    bias = load_each(bias_ptr, n * (G * H) + u, (u < H) & BIAS, H, G, WIDE)
    params = load_each(params_ptr, n * (PARAMS * H) + u, u < H, H, PARAMS, WIDE)
    if PROJECTED:
        v = tl.arange(0, BLOCK_H)[:, None]
        project = load(project_ptr, (n * K + k) * H + v, (k < K) & (v < H), NARROW)
    dropout = tl.zeros([BLOCK_B, BLOCK_K], WIDE)
    if DROPOUT:
        dropout = load(dropout_ptr, (n * B + b) * K + k, inside_k, WIDE)
    h = begun(
        load(h_0_ptr, (n * B + b) * K + k, inside_k, WIDE), 0, n, reverse, b, k, T, B, N, 0,
        starts_ptr, lengths_ptr, reset_ptr, h_0_ptr, given_h_ptr, K, PACKED, LENGTHS, RESET,
    )  # fmt: skip
    s = _begun_each(
        load_each(extra_0_ptr, (n * B + b) * H + u, inside, step_x, X, WIDE), 0, n, reverse, b, u,
        T, B, N, S, starts_ptr, lengths_ptr, reset_ptr, extra_0_ptr, given_s_ptr,
        H, PACKED, LENGTHS, RESET,
    )  # fmt: skip

    start, active = rows_of_step(starts_ptr, 0, T, B, reverse, PACKED)
    here = present(b, 0, T, B, reverse, active, lengths_ptr, LENGTHS)
    x = load_each(gates_x_ptr, ((start + b) * N + n) * (G * H) + u, here & (u < H), H, G, NARROW)
    p = T * 0
    while p < T:
        for _ in range(1 if HELD else T):
            start_next, active_next = rows_of_step(starts_ptr, p + 1, T, B, reverse, PACKED)
            here_next = present(b, p + 1, T, B, reverse, active_next, lengths_ptr, LENGTHS)
            x_next = load_each(
                gates_x_ptr, ((start_next + b) * N + n) * (G * H) + u, here_next & (u < H),
                H, G, NARROW,
            )  # fmt: skip
            mask = here & (u < H)
            row = (start + b) * N + n

            entered = h * dropout if DROPOUT else h
            enters = narrow(entered, NARROW)
            a, x_wide = (), ()
            for g in tl.static_range(G):
                x_wide = x_wide + (x[g].to(WIDE),)
                if g == FIRST:
                    enters = narrow(OPERAND(x_wide, a, entered, CLIPS), NARROW)
                a_g = tl.zeros([BLOCK_B, BLOCK_H], WIDE)
                if RECURRENT:
                    a_g = dot(enters, weights[g], PRECISION)
                if BIAS:
                    a_g += bias[g]
                a = a + (a_g,)
            h_prev = tl.zeros([BLOCK_B, BLOCK_H], WIDE)
            if READS_H:
                h_prev = h

            h_new, s_new, saved = CELL(x_wide, a, h_prev, s, params, CLIPS, H)

            if SAVE:
                store_each(reserve_ptr, row * WIDTH + u, mask, H, saved)
                if KEPT_H >= 0:
                    store(reserve_ptr, row * WIDTH + KEPT_H * H + u, mask, h_new)
            if ZONE:
                zoned_s = ()
                for j in tl.static_range(X):
                    part = kept(
                        zone_s_ptr, row * H + u + j * step_s, mask, ZONE, ZONE_PARTS[j + 1], WIDE
                    )
                    zoned_s = zoned_s + (zoned(s_new[j], s[j], part, ZONE),)
                s_new = zoned_s
                if SAVE:
                    store_each(reserve_ptr, row * WIDTH + len(saved) * H + u, mask, H, s_new)
            if ALL_STATES:
                store_each(others_ptr, row * H + u, mask, step_s, s_new)
            if PROJECTED:
                hidden = narrow(h_new, NARROW)
                if SAVE:
                    tl.store(hidden_ptr + row * H + u, hidden, mask=mask)
                h_new = bound_projected(
                    dot(hidden, project, PRECISION), n, b, k, start, here, N, reserve_ptr,
                    K, WIDTH, SAVE, PROJ_CLIP,
                )  # fmt: skip
            if ZONE:
                part = kept(zone_h_ptr, row * K + k, here & (k < K), ZONE, ZONE_PARTS[0], WIDE)
                h_new = zoned(h_new, h, part, ZONE)
            store(out_ptr, row * K + k, here & (k < K), h_new)
            h = tl.where(here, h_new, h)
            s = each_where(here, s_new, s)
            p += 1
            h = begun(
                h, p, n, reverse, b, k, T, B, N, 0, starts_ptr, lengths_ptr, reset_ptr, h_0_ptr,
                given_h_ptr, K, PACKED, LENGTHS, RESET,
            )  # fmt: skip
            s = _begun_each(
                s, p, n, reverse, b, u, T, B, N, S, starts_ptr, lengths_ptr, reset_ptr,
                extra_0_ptr, given_s_ptr, H, PACKED, LENGTHS, RESET,
            )  # fmt: skip
            start, here, x = start_next, here_next, x_next

    n, _, b, u_0 = _place(program_anew(), B, reverse_ptr, H, RECURRENT, BLOCK_B, BLOCK_H)
    u, k = u_0 + tl.arange(0, BLOCK_H)[None, :], u_0 + tl.arange(0, BLOCK_K)[None, :]
    inside, inside_k = (b < B) & (u < H), (b < B) & (k < K)
    store(h_n_ptr, (n * B + b) * K + k, inside_k, h)
    store_each(extra_n_ptr, (n * B + b) * H + u, inside, step_x, s)


@triton.jit
def _turned_back(dx, reset, dinitial, dgiven_ptr, offs, inside, RESET: tl.constexpr):
    """`begun` backward: what goes further, and what has come to the initial state."""
    if RESET == 2:
        dinitial += tl.where(reset, dx, 0.0)
    elif RESET == 3:
        store(dgiven_ptr, offs, reset & inside, dx)
    if RESET:
        dx = tl.where(reset, 0.0, dx)
    return dx, dinitial


@triton.jit(do_not_specialize=_VARYING)
def backward_rows(
    weight_ptr, project_ptr, params_ptr, reserve_ptr, h_rows_ptr, h_0_ptr, extra_0_ptr,
    grad_out_ptr, grad_others_ptr, dh_n_ptr, dextra_n_ptr, dgiven_h_ptr, dgiven_s_ptr, dparams_ptr,
    dgates_x_ptr, dgates_h_ptr, dproj_ptr, operand_ptr, dh_0_ptr, dextra_0_ptr,
    starts_ptr, reverse_ptr, lengths_ptr, reset_ptr, given_h_ptr, given_s_ptr, dropout_ptr,
    zone_h_ptr, zone_s_ptr, S, T, B, N,
    CELL: tl.constexpr, THROUGH: tl.constexpr, FIRST: tl.constexpr, G: tl.constexpr,
    X: tl.constexpr, SAVED: tl.constexpr, H: tl.constexpr, K: tl.constexpr, WIDE: tl.constexpr,
    READS_H: tl.constexpr, APART: tl.constexpr, PACKED: tl.constexpr, RECURRENT: tl.constexpr,
    PROJECTED: tl.constexpr, PARAMS: tl.constexpr, CLIPS: tl.constexpr, PROJ_CLIP: tl.constexpr,
    GRAD_CLIP: tl.constexpr, LENGTHS: tl.constexpr, RESET: tl.constexpr, DROPOUT: tl.constexpr,
    ZONE: tl.constexpr, ZONE_PARTS: tl.constexpr, ALL_STATES: tl.constexpr, WIDTH: tl.constexpr,
    KEPT_H: tl.constexpr, PRECISION: tl.constexpr, HELD: tl.constexpr,
    BLOCK_B: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """``h_rows`` is the output, or h before the projection."""
    NARROW: tl.constexpr = dgates_x_ptr.dtype.element_ty
    STATES: tl.constexpr = SAVED if ZONE else SAVED - X  # where those that a step left lie
    TILES: tl.constexpr = KEPT_H + 1 if KEPT_H >= SAVED else SAVED + (X if ZONE else 0)
    n, reverse, b, u_0 = _place(tl.program_id(0), B, reverse_ptr, H, RECURRENT, BLOCK_B, BLOCK_H)
    u = u_0 + tl.arange(0, BLOCK_H)[None, :]
    k = u_0 + tl.arange(0, BLOCK_K)[None, :]
    v = tl.arange(0, BLOCK_H)[:, None]
    step_x, step_s = N * B.to(tl.int64) * H, S.to(tl.int64) * N * H
    inside = (b < B) & (u < H)
    inside_k = (b < B) & (k < K)
    state, state_k = (n * B + b) * H + u, (n * B + b) * K + k

    # [BLOCK_H, BLOCK_K] each, as torch has them.
    weights = load_each(
        weight_ptr, (n * (G * H) + v) * K + k, (v < H) & (k < K), H * K, G if RECURRENT else 0,
        NARROW,
    )  # fmt: skip
    params = load_each(params_ptr, n * (PARAMS * H) + u, u < H, H, PARAMS, WIDE)
    if PROJECTED:
        q = tl.arange(0, BLOCK_K)[:, None]
        project = load(project_ptr, (n * K + q) * H + u, (q < K) & (u < H), NARROW)
    dh = load(dh_n_ptr, state_k, inside_k, WIDE)
    ds = load_each(dextra_n_ptr, state, inside, step_x, X, WIDE)
    # Of the initial states, by resets; of the parameters.
    dh_initial = tl.zeros([BLOCK_B, BLOCK_K], WIDE)
    ds_initial, dparams = (), ()
    for _x in tl.static_range(X):
        ds_initial = ds_initial + (tl.zeros([BLOCK_B, BLOCK_H], WIDE),)
    for _m in tl.static_range(PARAMS):
        dparams = dparams + (tl.zeros([BLOCK_B, BLOCK_H], WIDE),)

    start, active = rows_of_step(starts_ptr, T - 1, T, B, reverse, PACKED)
    here = present(b, T - 1, T, B, reverse, active, lengths_ptr, LENGTHS)
    row = (start + b) * N + n
    mask = here & (u < H)
    saved = load_each(reserve_ptr, row * WIDTH + u, mask, H, TILES, WIDE)
    h = load(h_rows_ptr, row * H + u, mask, NARROW)
    dout = load(grad_out_ptr, row * K + k, here & (k < K), NARROW)
    p = T - 1
    while p >= 0:
        for _ in range(1 if HELD else T):
            start_prev, active_prev = rows_of_step(starts_ptr, p - 1, T, B, reverse, PACKED)
            here_prev = present(b, p - 1, T, B, reverse, active_prev, lengths_ptr, LENGTHS)
            row_prev = (start_prev + b) * N + n
            mask_prev = here_prev & (u < H)
            # The states before this step are what the one before saved, which is wanted next.
            saved_prev = load_each(reserve_ptr, row_prev * WIDTH + u, mask_prev, H, TILES, WIDE)
            h_row_prev = load(h_rows_ptr, row_prev * H + u, mask_prev, NARROW)
            dout_prev = load(grad_out_ptr, row_prev * K + k, here_prev & (k < K), NARROW)
            mask, mask_k = here & (u < H), here & (k < K)
            row = (start + b) * N + n
            first = mask & (here_prev == 0)
            s_0 = load_each(extra_0_ptr, state, first, step_x, X, WIDE)
            s_prev = ()
            for j in tl.static_range(X):
                s_prev = s_prev + (tl.where(first, s_0[j], saved_prev[STATES + j]),)
            s_prev = _begun_each(
                s_prev, p, n, reverse, b, u, T, B, N, S, starts_ptr, lengths_ptr, reset_ptr,
                extra_0_ptr, given_s_ptr, H, PACKED, LENGTHS, RESET,
            )  # fmt: skip
            h_prev = tl.zeros([BLOCK_B, BLOCK_H], WIDE)
            if READS_H:
                h_prev = load(h_0_ptr, state, first, WIDE)
                h_prev = begun(
                    tl.where(first, h_prev, h_row_prev.to(WIDE)), p, n, reverse, b, u, T, B, N, 0,
                    starts_ptr, lengths_ptr, reset_ptr, h_0_ptr, given_h_ptr,
                    H, PACKED, LENGTHS, RESET,
                )  # fmt: skip

            h_here = h.to(WIDE)
            if KEPT_H >= 0:
                h_here = saved[KEPT_H]

            total = dh + dout.to(WIDE)
            past = tl.zeros([BLOCK_B, BLOCK_K], WIDE)
            ds_past = ()
            if ZONE:
                past = total * kept(zone_h_ptr, row * K + k, mask_k, ZONE, ZONE_PARTS[0], WIDE)
                total -= past
            ds_here = ()
            for j in tl.static_range(X):
                ds_j = ds[j]
                offs = row * H + u + j * step_s
                if ALL_STATES:
                    ds_j += load(grad_others_ptr, offs, mask, WIDE)
                if ZONE:
                    past_j = ds_j * kept(zone_s_ptr, offs, mask, ZONE, ZONE_PARTS[j + 1], WIDE)
                    ds_j -= past_j
                    ds_past = ds_past + (past_j,)
                ds_here = ds_here + (ds_j,)
            if PROJECTED:
                total = unless_bounded(
                    total, n, b, k, start, here, N, reserve_ptr, K, WIDTH, PROJ_CLIP
                )
                came = narrow(total, NARROW)
                tl.store(dproj_ptr + row * K + k, came, mask=mask_k)
                total = dot(came, project, PRECISION)
            own = ()
            for j in tl.static_range(SAVED):
                own = own + (saved[j],)

            dx, da, ds_new, dh_new, dparams_new = CELL(
                own, h_here, h_prev, s_prev, total, ds_here, params, CLIPS, H
            )

            sums = ()
            for j in tl.static_range(PARAMS):
                sums = sums + (dparams[j] + tl.where(mask, dparams_new[j], 0.0),)
            dparams = sums
            product = tl.zeros([BLOCK_B, BLOCK_K], WIDE)
            if FIRST < G:
                entered = entering(h_prev, dropout_ptr, state_k, inside_k, DROPOUT)
                for g in tl.static_range(FIRST, G):
                    da_g = narrow(tl.where(mask, bounded(da[g], GRAD_CLIP), 0.0), NARROW)
                    product += dot(da_g, weights[g], PRECISION)
                more, product, operand = THROUGH(own, entered, product, CLIPS)
                sums = ()
                for g in tl.static_range(G):
                    sums = sums + (da[g] + more[g] if g < FIRST else da[g],)
                dx, da = sums, sums
                store(operand_ptr, row * H + u, mask, operand)
            dx, da = bounded_each(dx, GRAD_CLIP), bounded_each(da, GRAD_CLIP)
            store_each(dgates_x_ptr, row * (G * H) + u, mask, H, dx)
            if APART:
                store_each(dgates_h_ptr, row * (G * H) + u, mask, H, da)
            if RECURRENT:
                for g in tl.static_range(FIRST):
                    # Columns beyond H meet zero rows of the weights, but 0 * inf is none.
                    da_g = narrow(tl.where(mask, da[g], 0.0), NARROW)
                    product += dot(da_g, weights[g], PRECISION)
                product = entering(product, dropout_ptr, state_k, inside_k, DROPOUT)
            if not PROJECTED:
                product += dh_new
            if ZONE:
                product += past
            reset = here & False
            if RESET:
                reset = is_reset(reset_ptr, row, here)
            product, dh_initial = _turned_back(
                product, reset, dh_initial, dgiven_h_ptr, row * K + k, k < K, RESET
            )
            ds_back, ds_first = (), ()
            for j in tl.static_range(X):
                ds_j = ds_new[j]
                if ZONE:
                    ds_j += ds_past[j]
                ds_j, first_j = _turned_back(
                    ds_j, reset, ds_initial[j], dgiven_s_ptr, row * H + u + j * step_s, u < H, RESET
                )
                ds_back, ds_first = ds_back + (ds_j,), ds_first + (first_j,)
            ds_initial = ds_first
            dh = tl.where(here, product, dh)
            ds = each_where(here, ds_back, ds)
            start, here = start_prev, here_prev
            saved, h, dout = saved_prev, h_row_prev, dout_prev
            p -= 1

    if RESET == 2:
        dh += dh_initial
        sums = ()
        for j in tl.static_range(X):
            sums = sums + (ds[j] + ds_initial[j],)
        ds = sums
    n, _, b, u_0 = _place(program_anew(), B, reverse_ptr, H, RECURRENT, BLOCK_B, BLOCK_H)
    u, k = u_0 + tl.arange(0, BLOCK_H)[None, :], u_0 + tl.arange(0, BLOCK_K)[None, :]
    inside, inside_k = (b < B) & (u < H), (b < B) & (k < K)
    store(dh_0_ptr, (n * B + b) * K + k, inside_k, dh)
    store_each(dextra_0_ptr, (n * B + b) * H + u, inside, step_x, ds)
    store_each(dparams_ptr, (n * B + b) * H + u, inside, step_x, dparams)
