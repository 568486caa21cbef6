"""A whole sequence in many programs, weights read anew each step: for layers that no chip holds.

One launch has the time loop. A step's work is cut into tiles, BLOCK_B sequences by BLOCK_H units of
one recurrence with all their gates; a program takes each n-th of them, multiplies in a pipelined
loop over the sum, and finishes with the cell. States lie in buffers ``[N, B, ...]``. After a step,
and with a projection in the middle of one, all programs wait for all: h (forward) or the gates'
gradients (backward) pass through global memory.

Bound: the L2 cache. A tile reads (rows of weights + BLOCK_B) x K numbers: at H = 2048, B = 64 and
bfloat16 128 tiles of 64 rows read 67 MB a step, 12 us at 5.5 TB/s; the barrier adds 1 us. A launch
of two kernels a step, which this replaces, costs some 5 us in a CUDA graph and 30 us without one,
beside the same reading.
"""

import triton
import triton.language as tl

from .barrier import arrive, wait
from .sequence import arrived, begun, bounded_each, entering, kept, present, zoned
from .tiles import (
    accumulate_each,
    dot,
    load,
    load_each,
    rows_of_step,
    split_gates,
    store,
    store_each,
)

_VARYING = ["S", "T", "B", "N", "patience"]


@triton.jit
def _tiles(B, N, W: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_W: tl.constexpr):
    """How many a step has over W columns."""
    return N * tl.cdiv(B, BLOCK_B) * ((W + BLOCK_W - 1) // BLOCK_W)


@triton.jit
def _place(tile, p, T, B, starts_ptr, reverse_ptr, W: tl.constexpr, PACKED: tl.constexpr,
           BLOCK_B: tl.constexpr, BLOCK_W: tl.constexpr):  # fmt: skip
    """A tile's recurrence, direction, sequences, columns; rows of the p-th step."""
    slices: tl.constexpr = (W + BLOCK_W - 1) // BLOCK_W
    group = tile // slices
    blocks_b = tl.cdiv(B, BLOCK_B)
    n = (group // blocks_b).to(tl.int64)
    b = (group % blocks_b).to(tl.int64) * BLOCK_B + tl.arange(0, BLOCK_B)
    reverse = tl.load(reverse_ptr + n) != 0
    start, active = rows_of_step(starts_ptr, p, T, B, reverse, PACKED)
    return n, reverse, b, tile % slices * BLOCK_W + tl.arange(0, BLOCK_W), start, active


@triton.jit
def _product(weight_ptr, rows, rows_inside, step_k, x_ptr, columns, columns_inside,
             SIZE: tl.constexpr, PRECISION: tl.constexpr, BLOCK_K: tl.constexpr):  # fmt: skip
    """``weight [rows, SIZE] . x [SIZE, columns]``; a sum's neighbours are ``step_k`` and 1 apart.

    Other programs wrote x a moment ago: past the first cache, which does not know.
    """
    acc = tl.zeros([rows.shape[0], columns.shape[0]], tl.float32)
    for k_0 in range(0, SIZE, BLOCK_K):
        k = k_0 + tl.arange(0, BLOCK_K)
        w_inside = rows_inside[:, None] & (k < SIZE)[None, :]
        x_inside = (k < SIZE)[:, None] & columns_inside[None, :]
        if SIZE % BLOCK_K == 0:
            w_inside = rows_inside[:, None]
            x_inside = columns_inside[None, :]
        w = tl.load(weight_ptr + rows[:, None] + k[None, :] * step_k, mask=w_inside, other=0.0)
        x = tl.load(x_ptr + columns[None, :] + k[:, None], mask=x_inside, other=0.0,
                    cache_modifier=".cg")  # fmt: skip
        acc += dot(w, x, PRECISION)
    return acc


@triton.jit(do_not_specialize=_VARYING)
def begin_stream(
    exchange_ptr, wide_ptr, extra_ptr, h_0_ptr, extra_0_ptr, starts_ptr, reverse_ptr, lengths_ptr,
    reset_ptr, given_h_ptr, given_s_ptr, dropout_ptr, S, T, B, N,
    X: tl.constexpr, H: tl.constexpr, K: tl.constexpr, WIDE: tl.constexpr, PACKED: tl.constexpr,
    LENGTHS: tl.constexpr, RESET: tl.constexpr, DROPOUT: tl.constexpr,
    BLOCK_B: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """The states that the first step begins with, from the initial ones."""
    step_x = N * B.to(tl.int64) * H
    for tile in range(tl.program_id(0), _tiles(B, N, K, BLOCK_B, BLOCK_P), tl.num_programs(0)):
        n, reverse, b, q, _, _ = _place(
            tile, 0, T, B, starts_ptr, reverse_ptr, K, PACKED, BLOCK_B, BLOCK_P
        )
        b, q = b[None, :], q[:, None]
        inside = (b < B) & (q < K)
        state = (n * B + b) * K + q
        h = begun(
            load(h_0_ptr, state, inside, WIDE), 0, n, reverse, b, q, T, B, N, 0, starts_ptr,
            lengths_ptr, reset_ptr, h_0_ptr, given_h_ptr, K, PACKED, LENGTHS, RESET,
        )  # fmt: skip
        store(wide_ptr, state, inside, h)
        store(exchange_ptr, state, inside, entering(h, dropout_ptr, state, inside, DROPOUT))
    for tile in range(tl.program_id(0), _tiles(B, N, H, BLOCK_B, BLOCK_H), tl.num_programs(0)):
        n, reverse, b, u, _, _ = _place(
            tile, 0, T, B, starts_ptr, reverse_ptr, H, PACKED, BLOCK_B, BLOCK_H
        )
        b, u = b[None, :], u[:, None]
        inside = (b < B) & (u < H)
        state = (n * B + b) * H + u
        for j in tl.static_range(X):
            s = begun(
                load(extra_0_ptr, state + j * step_x, inside, WIDE), 0, n, reverse, b, u, T, B, N,
                j * (S.to(tl.int64) * N * H), starts_ptr, lengths_ptr, reset_ptr,
                extra_0_ptr + j * step_x, given_s_ptr, H, PACKED, LENGTHS, RESET,
            )  # fmt: skip
            store(extra_ptr, state + j * step_x, inside, s)


@triton.jit(do_not_specialize=_VARYING)
def forward_stream(
    gates_x_ptr, weight_ptr, bias_ptr, project_ptr, params_ptr, exchange_ptr, arrived_ptr, wide_ptr,
    extra_ptr, h_0_ptr, extra_0_ptr, out_ptr, others_ptr, reserve_ptr, hidden_ptr, starts_ptr,
    reverse_ptr, lengths_ptr, reset_ptr, given_h_ptr, given_s_ptr, dropout_ptr, zone_h_ptr,
    zone_s_ptr, counter_ptr, failed_ptr, S, T, B, N, patience,
    CELL: tl.constexpr, G: tl.constexpr, X: tl.constexpr, H: tl.constexpr, K: tl.constexpr,
    WIDE: tl.constexpr, READS_H: tl.constexpr, BIAS: tl.constexpr, PACKED: tl.constexpr,
    SAVE: tl.constexpr, PROJECTED: tl.constexpr, PRECISION: tl.constexpr, PARAMS: tl.constexpr,
    CELL_CLIP: tl.constexpr, LENGTHS: tl.constexpr, RESET: tl.constexpr, DROPOUT: tl.constexpr,
    ZONE: tl.constexpr, ZONE_PARTS: tl.constexpr, ALL_STATES: tl.constexpr,
    BLOCK_B: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """``exchange [2, N, B, K]``: what enters the product of step p is in p % 2, with a projection
    in 0. ``wide [N, B, K]`` and ``extra [X, N, B, H]``: the states that the next step begins with,
    after the last step the final ones. A hidden that is to be projected goes through
    ``arrived [N, B, H]``, and for the backward to ``hidden``."""
    ROWS: tl.constexpr = 4 if G == 3 else G  # of the weights for a unit: a power of two
    programs = tl.num_programs(0)
    step_x = N * B.to(tl.int64) * H
    step_h = N * B.to(tl.int64) * K
    step_s = S.to(tl.int64) * N * H
    arrivals = 0
    for p in range(T):
        parity = p % 2
        source = exchange_ptr if PROJECTED else exchange_ptr + parity * step_h
        target = exchange_ptr if PROJECTED else exchange_ptr + (1 - parity) * step_h
        for tile in range(tl.program_id(0), _tiles(B, N, H, BLOCK_B, BLOCK_H), programs):
            n, reverse, b_line, u_line, start, active = _place(
                tile, p, T, B, starts_ptr, reverse_ptr, H, PACKED, BLOCK_B, BLOCK_H
            )
            u_0 = tile % ((H + BLOCK_H - 1) // BLOCK_H) * BLOCK_H
            r = tl.arange(0, BLOCK_H * ROWS)
            r_gate, r_unit = r % ROWS, u_0 + r // ROWS
            sums = split_gates(
                _product(
                    weight_ptr, (n * (G * H) + r_gate * H + r_unit) * K,
                    (r_gate < G) & (r_unit < H), 1,
                    source, (n * B + b_line) * K, b_line < B, K, PRECISION, BLOCK_K,
                ), G, BLOCK_H, BLOCK_B,
            )  # fmt: skip
            b, u = b_line[None, :], u_line[:, None]
            here = present(b, p, T, B, reverse, active, lengths_ptr, LENGTHS)
            inside = (b < B) & (u < H)
            mask = here & (u < H)
            row = (start + b) * N + n
            state = (n * B + b) * H + u
            x = load_each(gates_x_ptr, row * (G * H) + u, mask, H, G, WIDE)
            bias = load_each(bias_ptr, n * (G * H) + u, (u < H) & BIAS, H, G, WIDE)
            params = load_each(params_ptr, n * (PARAMS * H) + u, u < H, H, PARAMS, WIDE)
            a = ()
            for g in tl.static_range(G):
                a = a + (sums[g] + bias[g] if BIAS else sums[g],)
            h = tl.zeros([BLOCK_H, BLOCK_B], WIDE)
            if not PROJECTED:
                h = load(wide_ptr, state, inside, WIDE)
            s = load_each(extra_ptr, state, inside, step_x, X, WIDE)

            h_new, s_new, saved = CELL(x, a, h, s, params, CELL_CLIP)

            if SAVE:
                WIDTH: tl.constexpr = len(saved) + (X + (0 if PROJECTED else 1) if ZONE else 0)
                store_each(reserve_ptr, row * (WIDTH * H) + u, mask, H, saved)
            for j in tl.static_range(X):
                s_j = s_new[j]
                if ZONE:
                    part = kept(zone_s_ptr, row * H + u + j * step_s, mask, ZONE,
                                ZONE_PARTS[j + 1], WIDE)  # fmt: skip
                    s_j = zoned(s_j, s[j], part, ZONE)
                    if SAVE:
                        store(reserve_ptr, row * (WIDTH * H) + (len(saved) + j) * H + u, mask, s_j)
                if ALL_STATES:
                    store(others_ptr, row * H + u + j * step_s, mask, s_j)
                s_j = begun(
                    tl.where(here, s_j, s[j]), p + 1, n, reverse, b, u, T, B, N, j * step_s,
                    starts_ptr, lengths_ptr, reset_ptr, extra_0_ptr + j * step_x, given_s_ptr,
                    H, PACKED, LENGTHS, RESET,
                )  # fmt: skip
                store(extra_ptr, state + j * step_x, inside, s_j)
            if PROJECTED:
                store(arrived_ptr, state, inside, h_new)
                if SAVE:
                    store(hidden_ptr, row * H + u, mask, h_new)
            else:
                if ZONE:
                    if SAVE:
                        at = row * (WIDTH * H) + (len(saved) + X) * H + u
                        store(reserve_ptr, at, mask, h_new)
                    part = kept(zone_h_ptr, row * H + u, mask, ZONE, ZONE_PARTS[0], WIDE)
                    h_new = zoned(h_new, h, part, ZONE)
                store(out_ptr, row * H + u, mask, h_new)
                h = begun(
                    tl.where(here, h_new, h), p + 1, n, reverse, b, u, T, B, N, 0, starts_ptr,
                    lengths_ptr, reset_ptr, h_0_ptr, given_h_ptr, H, PACKED, LENGTHS, RESET,
                )  # fmt: skip
                store(wide_ptr, state, inside, h)
                store(target, state, inside, entering(h, dropout_ptr, state, inside, DROPOUT))
        arrive(counter_ptr)
        arrivals += programs
        patience = wait(counter_ptr, arrivals, failed_ptr, patience)
        if PROJECTED:
            for tile in range(tl.program_id(0), _tiles(B, N, K, BLOCK_B, BLOCK_P), programs):
                n, reverse, b_line, q_line, start, active = _place(
                    tile, p, T, B, starts_ptr, reverse_ptr, K, PACKED, BLOCK_B, BLOCK_P
                )
                h_new = _product(
                    project_ptr, (n * K + q_line) * H, q_line < K, 1,
                    arrived_ptr, (n * B + b_line) * H, b_line < B, H, PRECISION, BLOCK_K,
                )  # fmt: skip
                b, q = b_line[None, :], q_line[:, None]
                here = present(b, p, T, B, reverse, active, lengths_ptr, LENGTHS)
                inside, mask = (b < B) & (q < K), here & (q < K)
                row = ((start + b) * N + n) * K + q
                state = (n * B + b) * K + q
                h = load(wide_ptr, state, inside, WIDE)
                if ZONE:
                    part = kept(zone_h_ptr, row, mask, ZONE, ZONE_PARTS[0], WIDE)
                    h_new = zoned(h_new, h, part, ZONE)
                store(out_ptr, row, mask, h_new)
                h = begun(
                    tl.where(here, h_new, h), p + 1, n, reverse, b, q, T, B, N, 0, starts_ptr,
                    lengths_ptr, reset_ptr, h_0_ptr, given_h_ptr, K, PACKED, LENGTHS, RESET,
                )  # fmt: skip
                store(wide_ptr, state, inside, h)
                h = entering(h, dropout_ptr, state, inside, DROPOUT)
                store(exchange_ptr, state, inside, h)
            arrive(counter_ptr)
            arrivals += programs
            patience = wait(counter_ptr, arrivals, failed_ptr, patience)


@triton.jit(do_not_specialize=_VARYING)
def backward_stream(
    weight_ptr, project_ptr, params_ptr, exchange_ptr, arrived_ptr, reserve_ptr, h_rows_ptr,
    h_0_ptr, extra_0_ptr, grad_out_ptr, grad_others_ptr, dh_ptr, dextra_ptr, dh_initial_ptr,
    ds_initial_ptr, dgiven_h_ptr, dgiven_s_ptr, dparams_ptr, dgates_x_ptr, dgates_h_ptr, dproj_ptr,
    starts_ptr, reverse_ptr, lengths_ptr, reset_ptr, given_h_ptr, given_s_ptr, dropout_ptr,
    zone_h_ptr, zone_s_ptr, counter_ptr, failed_ptr, S, T, B, N, patience,
    CELL: tl.constexpr, G: tl.constexpr, X: tl.constexpr, SAVED: tl.constexpr, H: tl.constexpr,
    K: tl.constexpr, WIDE: tl.constexpr, READS_H: tl.constexpr, APART: tl.constexpr,
    PACKED: tl.constexpr, PROJECTED: tl.constexpr, PRECISION: tl.constexpr, PARAMS: tl.constexpr,
    CELL_CLIP: tl.constexpr, GRAD_CLIP: tl.constexpr, LENGTHS: tl.constexpr, RESET: tl.constexpr,
    DROPOUT: tl.constexpr, ZONE: tl.constexpr, ZONE_PARTS: tl.constexpr,
    ALL_STATES: tl.constexpr,
    BLOCK_B: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """``exchange [2, N, B, G*H]``: gradients of the step after p are in p % 2. ``dh [N, B, K]``:
    what comes to h past its gates. A projected h has its gradient in ``arrived [N, B, K]``.
    ``h_rows`` is the output, or h before the projection."""
    WIDTH: tl.constexpr = SAVED + (X + (0 if PROJECTED else 1) if ZONE else 0)
    STATES: tl.constexpr = SAVED if ZONE else SAVED - X  # where those that a step left lie
    programs = tl.num_programs(0)
    step_x = N * B.to(tl.int64) * H
    step_s = S.to(tl.int64) * N * H
    arrivals = 0
    for i in range(T + 1):  # one more, which leads to the initial states
        p = T - 1 - i
        parity = i % 2
        source = exchange_ptr + parity * step_x * G
        target = exchange_ptr + (1 - parity) * step_x * G
        if PROJECTED:
            for tile in range(tl.program_id(0), _tiles(B, N, K, BLOCK_B, BLOCK_P), programs):
                n, reverse, b_line, q_line, start, active = _place(
                    tile, p, T, B, starts_ptr, reverse_ptr, K, PACKED, BLOCK_B, BLOCK_P
                )
                came = _product(
                    weight_ptr, n * (G * H) * K + q_line, q_line < K, K,
                    source, (n * B + b_line) * (G * H), b_line < B, G * H, PRECISION, BLOCK_K,
                )  # fmt: skip
                b, q = b_line[None, :], q_line[:, None]
                here = present(b, p, T, B, reverse, active, lengths_ptr, LENGTHS)
                inside, mask = (b < B) & (q < K), here & (q < K)
                state = (n * B + b) * K + q
                row = ((start + b) * N + n) * K + q
                came = entering(came, dropout_ptr, state, inside, DROPOUT)
                dh = arrived(
                    load(dh_ptr, state, inside, WIDE) + came, p + 1, n, reverse, b, q, T, B, N,
                    starts_ptr, lengths_ptr, reset_ptr, dh_initial_ptr, dgiven_h_ptr,
                    K, PACKED, LENGTHS, RESET,
                )  # fmt: skip
                total = dh + load(grad_out_ptr, row, mask, WIDE)
                past = tl.zeros([BLOCK_P, BLOCK_B], WIDE)
                if ZONE:
                    past = total * kept(zone_h_ptr, row, mask, ZONE, ZONE_PARTS[0], WIDE)
                    total -= past
                store(dproj_ptr, row, mask, total)
                store(arrived_ptr, state, inside, tl.where(here, total, 0.0))
                store(dh_ptr, state, inside, tl.where(here, past, dh))
            arrive(counter_ptr)
            arrivals += programs
            patience = wait(counter_ptr, arrivals, failed_ptr, patience)
        for tile in range(tl.program_id(0), _tiles(B, N, H, BLOCK_B, BLOCK_H), programs):
            n, reverse, b_line, u_line, start, active = _place(
                tile, p, T, B, starts_ptr, reverse_ptr, H, PACKED, BLOCK_B, BLOCK_H
            )
            start_prev, active_prev = rows_of_step(starts_ptr, p - 1, T, B, reverse, PACKED)
            b, u = b_line[None, :], u_line[:, None]
            here = present(b, p, T, B, reverse, active, lengths_ptr, LENGTHS)
            here_prev = present(b, p - 1, T, B, reverse, active_prev, lengths_ptr, LENGTHS)
            inside, mask = (b < B) & (u < H), here & (u < H)
            later, first = mask & here_prev, mask & (here_prev == 0)
            row, before = (start + b) * N + n, (start_prev + b) * N + n
            state = (n * B + b) * H + u
            past = tl.zeros([BLOCK_H, BLOCK_B], WIDE)
            if PROJECTED:
                dh = past
                total = _product(
                    project_ptr, n * K * H + u_line, u_line < H, H,
                    arrived_ptr, (n * B + b_line) * K, b_line < B, K, PRECISION, BLOCK_K,
                )  # fmt: skip
            else:
                came = _product(
                    weight_ptr, n * (G * H) * H + u_line, u_line < H, H,
                    source, (n * B + b_line) * (G * H), b_line < B, G * H, PRECISION, BLOCK_K,
                )  # fmt: skip
                came = entering(came, dropout_ptr, state, inside, DROPOUT)
                dh = arrived(
                    load(dh_ptr, state, inside, WIDE) + came, p + 1, n, reverse, b, u, T, B, N,
                    starts_ptr, lengths_ptr, reset_ptr, dh_initial_ptr, dgiven_h_ptr,
                    H, PACKED, LENGTHS, RESET,
                )  # fmt: skip
                total = dh + load(grad_out_ptr, row * H + u, mask, WIDE)
                if ZONE:
                    past = total * kept(zone_h_ptr, row * H + u, mask, ZONE, ZONE_PARTS[0], WIDE)
                    total -= past
            saved = load_each(reserve_ptr, row * (WIDTH * H) + u, mask, H, SAVED, WIDE)
            h = load(h_rows_ptr, row * H + u, mask, WIDE)
            if ZONE and not PROJECTED:
                h = load(reserve_ptr, row * (WIDTH * H) + (SAVED + X) * H + u, mask, WIDE)
            h_prev = tl.zeros([BLOCK_H, BLOCK_B], WIDE)
            if READS_H:
                h_prev = load(h_rows_ptr, before * H + u, later, WIDE)
                h_prev += load(h_0_ptr, state, first, WIDE)
                h_prev = begun(
                    h_prev, p, n, reverse, b, u, T, B, N, 0, starts_ptr, lengths_ptr, reset_ptr,
                    h_0_ptr, given_h_ptr, H, PACKED, LENGTHS, RESET,
                )  # fmt: skip
            s_prev, ds, ds_past = (), (), ()
            for j in tl.static_range(X):
                s_j = load(reserve_ptr, before * (WIDTH * H) + (STATES + j) * H + u, later, WIDE)
                s_j += load(extra_0_ptr, state + j * step_x, first, WIDE)
                s_prev = s_prev + (begun(
                    s_j, p, n, reverse, b, u, T, B, N, j * step_s, starts_ptr, lengths_ptr,
                    reset_ptr, extra_0_ptr + j * step_x, given_s_ptr, H, PACKED, LENGTHS, RESET,
                ),)  # fmt: skip
                ds_j = load(dextra_ptr, state + j * step_x, inside, WIDE)
                if ALL_STATES:
                    ds_j += load(grad_others_ptr, row * H + u + j * step_s, mask, WIDE)
                past_j = past * 0.0
                if ZONE:
                    past_j = ds_j * kept(zone_s_ptr, row * H + u + j * step_s, mask, ZONE,
                                         ZONE_PARTS[j + 1], WIDE)  # fmt: skip
                    ds_j -= past_j
                ds, ds_past = ds + (ds_j,), ds_past + (past_j,)
            params = load_each(params_ptr, n * (PARAMS * H) + u, u < H, H, PARAMS, WIDE)

            dx, da, ds_new, dh_new, dparams = CELL(
                saved, h, h_prev, s_prev, total, ds, params, CELL_CLIP
            )

            accumulate_each(dparams_ptr, state, mask, step_x, dparams)
            dx, da = bounded_each(dx, GRAD_CLIP), bounded_each(da, GRAD_CLIP)
            for g in tl.static_range(G):
                offs = (n * B + b) * (G * H) + g * H + u
                store(target, offs, inside, tl.where(here, da[g], 0.0))
            store_each(dgates_x_ptr, row * (G * H) + u, mask, H, dx)
            if APART:
                store_each(dgates_h_ptr, row * (G * H) + u, mask, H, da)
            for j in tl.static_range(X):
                ds_j = arrived(
                    ds_new[j] + ds_past[j], p, n, reverse, b, u, T, B, N, starts_ptr, lengths_ptr,
                    reset_ptr, ds_initial_ptr + j * step_x, dgiven_s_ptr + j * step_s,
                    H, PACKED, LENGTHS, RESET,
                )  # fmt: skip
                store(dextra_ptr, state + j * step_x, mask, ds_j)
            if not PROJECTED:
                store(dh_ptr, state, inside, tl.where(here, dh_new + past, dh))
        arrive(counter_ptr)
        arrivals += programs
        patience = wait(counter_ptr, arrivals, failed_ptr, patience)
