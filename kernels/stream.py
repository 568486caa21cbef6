"""A whole sequence in many programs, weights read anew each step: for layers that no chip holds.

One launch has the time loop. A step's work is cut into tiles, BLOCK_B sequences by BLOCK_H units of
one recurrence with all their gates; a program takes each n-th of them, multiplies in a pipelined
loop over the sum, and finishes as `one_step` says. After a step, and with a projection in the
middle of one, all programs wait for all: h (forward) or the gates' gradients (backward) pass
through global memory.

Bound: the L2 cache. A tile reads (rows of weights + BLOCK_B) x K numbers: at H = 2048, B = 64 and
bfloat16 128 tiles of 64 rows read 67 MB a step, 12 us at 5.5 TB/s; the barrier adds 1 us. A launch
of two kernels a step, which this replaces, costs some 5 us in a CUDA graph and 30 us without one,
beside the same reading.
"""

import triton
import triton.language as tl

from .barrier import arrive, wait
from .one_step import (
    backward_cell,
    begin_h,
    begin_others,
    bound_projected,
    forward_cell,
    leave_h,
    meet_h,
    unless_bounded,
)
from .sequence import present
from .tiles import dot, load, rows_of_step, split_gates, store

_VARYING = ["S", "T", "B", "N", "patience"]


@triton.jit
def _tiles(B, N, W: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_W: tl.constexpr):
    """How many a step has over W columns."""
    return N * tl.cdiv(B, BLOCK_B) * ((W + BLOCK_W - 1) // BLOCK_W)


@triton.jit
def _place(tile, p, T, B, starts_ptr, reverse_ptr, lengths_ptr, W: tl.constexpr,
           PACKED: tl.constexpr, LENGTHS: tl.constexpr, BLOCK_B: tl.constexpr,
           BLOCK_W: tl.constexpr):  # fmt: skip
    """A tile's recurrence, direction, sequences, columns; first row of the p-th step, and which
    sequences have it."""
    slices: tl.constexpr = (W + BLOCK_W - 1) // BLOCK_W
    group = tile // slices
    blocks_b = tl.cdiv(B, BLOCK_B)
    n = (group // blocks_b).to(tl.int64)
    b = (group % blocks_b).to(tl.int64) * BLOCK_B + tl.arange(0, BLOCK_B)
    reverse = tl.load(reverse_ptr + n) != 0
    start, active = rows_of_step(starts_ptr, p, T, B, reverse, PACKED)
    here = present(b[None, :], p, T, B, reverse, active, lengths_ptr, LENGTHS)
    return n, reverse, b, tile % slices * BLOCK_W + tl.arange(0, BLOCK_W), start, here


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
    for tile in range(tl.program_id(0), _tiles(B, N, K, BLOCK_B, BLOCK_P), tl.num_programs(0)):
        n, reverse, b, q, _n, _h = _place(
            tile, 0, T, B, starts_ptr, reverse_ptr, lengths_ptr, K, PACKED, LENGTHS,
            BLOCK_B, BLOCK_P,
        )  # fmt: skip
        begin_h(
            n, reverse, b[None, :], q[:, None], T, B, N, exchange_ptr, wide_ptr, h_0_ptr,
            starts_ptr, lengths_ptr, reset_ptr, given_h_ptr, dropout_ptr,
            K, WIDE, PACKED, LENGTHS, RESET, DROPOUT,
        )  # fmt: skip
    for tile in range(tl.program_id(0), _tiles(B, N, H, BLOCK_B, BLOCK_H), tl.num_programs(0)):
        n, reverse, b, u, _n, _h = _place(
            tile, 0, T, B, starts_ptr, reverse_ptr, lengths_ptr, H, PACKED, LENGTHS,
            BLOCK_B, BLOCK_H,
        )  # fmt: skip
        begin_others(
            n, reverse, b[None, :], u[:, None], S, T, B, N, extra_ptr, extra_0_ptr, starts_ptr,
            lengths_ptr, reset_ptr, given_s_ptr, X, H, WIDE, PACKED, LENGTHS, RESET,
        )  # fmt: skip


@triton.jit(do_not_specialize=_VARYING)
def forward_stream(
    gates_x_ptr, weight_ptr, bias_ptr, project_ptr, params_ptr, exchange_ptr, arrived_ptr, wide_ptr,
    extra_ptr, h_0_ptr, extra_0_ptr, out_ptr, others_ptr, reserve_ptr, hidden_ptr,
    starts_ptr, reverse_ptr, lengths_ptr, reset_ptr, given_h_ptr, given_s_ptr, dropout_ptr,
    zone_h_ptr, zone_s_ptr, counter_ptr, failed_ptr, S, T, B, N, patience,
    CELL: tl.constexpr, G: tl.constexpr, X: tl.constexpr, H: tl.constexpr, K: tl.constexpr,
    WIDE: tl.constexpr, READS_H: tl.constexpr, BIAS: tl.constexpr, PACKED: tl.constexpr,
    SAVE: tl.constexpr, PROJECTED: tl.constexpr, PRECISION: tl.constexpr, PARAMS: tl.constexpr,
    CLIPS: tl.constexpr, PROJ_CLIP: tl.constexpr, LENGTHS: tl.constexpr, RESET: tl.constexpr,
    DROPOUT: tl.constexpr, ZONE: tl.constexpr, ZONE_PARTS: tl.constexpr, ALL_STATES: tl.constexpr,
    WIDTH: tl.constexpr, KEPT_H: tl.constexpr,
    BLOCK_B: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """``exchange [2, N, B, K]``: what enters the product of step p is in p % 2, with a projection
    in 0. After the last step ``wide`` and ``extra`` are the final states. A hidden that is to be
    projected goes through ``arrived [N, B, H]``, and for the backward to ``hidden``."""
    ROWS: tl.constexpr = 4 if G == 3 else G  # of the weights for a unit: a power of two
    programs = tl.num_programs(0)
    step_h = N * B.to(tl.int64) * K
    arrivals = 0
    for p in range(T):
        parity = p % 2
        source = exchange_ptr if PROJECTED else exchange_ptr + parity * step_h
        target = arrived_ptr if PROJECTED else exchange_ptr + (1 - parity) * step_h
        for tile in range(tl.program_id(0), _tiles(B, N, H, BLOCK_B, BLOCK_H), programs):
            n, reverse, b, u, start, here = _place(
                tile, p, T, B, starts_ptr, reverse_ptr, lengths_ptr, H, PACKED, LENGTHS,
                BLOCK_B, BLOCK_H,
            )  # fmt: skip
            u_0 = tile % ((H + BLOCK_H - 1) // BLOCK_H) * BLOCK_H
            r = tl.arange(0, BLOCK_H * ROWS)
            r_gate, r_unit = r % ROWS, u_0 + r // ROWS
            sums = split_gates(
                _product(
                    weight_ptr, (n * (G * H) + r_gate * H + r_unit) * K,
                    (r_gate < G) & (r_unit < H), 1,
                    source, (n * B + b) * K, b < B, K, PRECISION, BLOCK_K,
                ), G, BLOCK_H, BLOCK_B,
            )  # fmt: skip
            a = ()
            for g in tl.static_range(G):
                a = a + (sums[g],)
            forward_cell(
                a, n, reverse, b[None, :], u[:, None], start, here, p, S, T, B, N, gates_x_ptr,
                bias_ptr, params_ptr, target, wide_ptr, extra_ptr, h_0_ptr, extra_0_ptr, out_ptr,
                others_ptr, reserve_ptr, hidden_ptr, starts_ptr, lengths_ptr, reset_ptr,
                given_h_ptr, given_s_ptr, dropout_ptr, zone_h_ptr, zone_s_ptr, CELL, G, X, H, WIDE,
                BIAS, PACKED, SAVE, PROJECTED, PARAMS, CLIPS, LENGTHS, RESET, DROPOUT, ZONE,
                ZONE_PARTS, ALL_STATES, WIDTH, KEPT_H,
            )  # fmt: skip
        arrive(counter_ptr)
        arrivals += programs
        patience = wait(counter_ptr, arrivals, failed_ptr, patience)
        if PROJECTED:
            for tile in range(tl.program_id(0), _tiles(B, N, K, BLOCK_B, BLOCK_P), programs):
                n, reverse, b_line, q_line, start, here = _place(
                    tile, p, T, B, starts_ptr, reverse_ptr, lengths_ptr, K, PACKED, LENGTHS,
                    BLOCK_B, BLOCK_P,
                )  # fmt: skip
                h_new = _product(
                    project_ptr, (n * K + q_line) * H, q_line < K, 1,
                    arrived_ptr, (n * B + b_line) * H, b_line < B, H, PRECISION, BLOCK_K,
                )  # fmt: skip
                b, q = b_line[None, :], q_line[:, None]
                h_new = bound_projected(
                    h_new, n, b, q, start, here, N, reserve_ptr, K, WIDTH, SAVE, PROJ_CLIP
                )
                h = load(wide_ptr, (n * B + b) * K + q, (b < B) & (q < K), WIDE)
                leave_h(
                    h_new, h, n, reverse, b, q, start, here, p, T, B, N, exchange_ptr, wide_ptr,
                    h_0_ptr, out_ptr, starts_ptr, lengths_ptr, reset_ptr, given_h_ptr, dropout_ptr,
                    zone_h_ptr, K, WIDE, PACKED, LENGTHS, RESET, DROPOUT, ZONE, ZONE_PARTS,
                )  # fmt: skip
            arrive(counter_ptr)
            arrivals += programs
            patience = wait(counter_ptr, arrivals, failed_ptr, patience)


@triton.jit(do_not_specialize=_VARYING)
def backward_stream(
    weight_ptr, project_ptr, params_ptr, exchange_ptr, arrived_ptr, reserve_ptr, h_rows_ptr,
    h_0_ptr, extra_0_ptr, grad_out_ptr, grad_others_ptr, dh_ptr, dextra_ptr, dh_initial_ptr,
    ds_initial_ptr, dgiven_h_ptr, dgiven_s_ptr, dparams_ptr, dgates_x_ptr, dgates_h_ptr, dproj_ptr,
    starts_ptr, reverse_ptr, lengths_ptr, reset_ptr, given_h_ptr, given_s_ptr,
    dropout_ptr, zone_h_ptr, zone_s_ptr, counter_ptr, failed_ptr, S, T, B, N, patience,
    CELL: tl.constexpr, G: tl.constexpr, X: tl.constexpr, SAVED: tl.constexpr, H: tl.constexpr,
    K: tl.constexpr, WIDE: tl.constexpr, READS_H: tl.constexpr, APART: tl.constexpr,
    PACKED: tl.constexpr, PROJECTED: tl.constexpr, PRECISION: tl.constexpr, PARAMS: tl.constexpr,
    CLIPS: tl.constexpr, PROJ_CLIP: tl.constexpr, GRAD_CLIP: tl.constexpr, LENGTHS: tl.constexpr,
    RESET: tl.constexpr, DROPOUT: tl.constexpr, ZONE: tl.constexpr, ZONE_PARTS: tl.constexpr,
    ALL_STATES: tl.constexpr, WIDTH: tl.constexpr, KEPT_H: tl.constexpr,
    BLOCK_B: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """``exchange [2, N, B, G*H]``: gradients of the step after p are in p % 2. ``dh [N, B, K]``:
    what comes to h past its gates. A projected h has its gradient in ``arrived [N, B, K]``."""
    programs = tl.num_programs(0)
    step_g = N * B.to(tl.int64) * (G * H)
    arrivals = 0
    for i in range(T + 1):  # one more, which leads to the initial states
        p = T - 1 - i
        parity = i % 2
        source = exchange_ptr + parity * step_g
        target = exchange_ptr + (1 - parity) * step_g
        if PROJECTED:
            for tile in range(tl.program_id(0), _tiles(B, N, K, BLOCK_B, BLOCK_P), programs):
                n, reverse, b_line, q_line, start, here = _place(
                    tile, p, T, B, starts_ptr, reverse_ptr, lengths_ptr, K, PACKED, LENGTHS,
                    BLOCK_B, BLOCK_P,
                )  # fmt: skip
                came = _product(
                    weight_ptr, n * (G * H) * K + q_line, q_line < K, K,
                    source, (n * B + b_line) * (G * H), b_line < B, G * H, PRECISION, BLOCK_K,
                )  # fmt: skip
                b, q = b_line[None, :], q_line[:, None]
                dh, total, past = meet_h(
                    came, n, reverse, b, q, start, here, p, T, B, N, grad_out_ptr, dh_ptr,
                    dh_initial_ptr, dgiven_h_ptr, starts_ptr, lengths_ptr, reset_ptr, dropout_ptr,
                    zone_h_ptr, K, WIDE, PACKED, LENGTHS, RESET, DROPOUT, ZONE, ZONE_PARTS,
                )  # fmt: skip
                total = unless_bounded(
                    total, n, b, q, start, here, N, reserve_ptr, K, WIDTH, PROJ_CLIP
                )
                inside, state = (b < B) & (q < K), (n * B + b) * K + q
                store(dproj_ptr, ((start + b) * N + n) * K + q, here & (q < K), total)
                store(arrived_ptr, state, inside, tl.where(here, total, 0.0))
                store(dh_ptr, state, inside, tl.where(here, past, dh))
            arrive(counter_ptr)
            arrivals += programs
            patience = wait(counter_ptr, arrivals, failed_ptr, patience)
        for tile in range(tl.program_id(0), _tiles(B, N, H, BLOCK_B, BLOCK_H), programs):
            n, reverse, b_line, u_line, start, here = _place(
                tile, p, T, B, starts_ptr, reverse_ptr, lengths_ptr, H, PACKED, LENGTHS,
                BLOCK_B, BLOCK_H,
            )  # fmt: skip
            b, u = b_line[None, :], u_line[:, None]
            if PROJECTED:
                total = _product(
                    project_ptr, n * K * H + u_line, u_line < H, H,
                    arrived_ptr, (n * B + b_line) * K, b_line < B, K, PRECISION, BLOCK_K,
                )  # fmt: skip
                dh, past = total, total
            else:
                came = _product(
                    weight_ptr, n * (G * H) * H + u_line, u_line < H, H,
                    source, (n * B + b_line) * (G * H), b_line < B, G * H, PRECISION, BLOCK_K,
                )  # fmt: skip
                dh, total, past = meet_h(
                    came, n, reverse, b, u, start, here, p, T, B, N, grad_out_ptr, dh_ptr,
                    dh_initial_ptr, dgiven_h_ptr, starts_ptr, lengths_ptr, reset_ptr, dropout_ptr,
                    zone_h_ptr, H, WIDE, PACKED, LENGTHS, RESET, DROPOUT, ZONE, ZONE_PARTS,
                )  # fmt: skip
            backward_cell(
                dh, total, past, n, reverse, b, u, start, here, p, S, T, B, N, params_ptr,
                reserve_ptr, h_rows_ptr, h_0_ptr, extra_0_ptr, grad_others_ptr, dh_ptr, dextra_ptr,
                ds_initial_ptr, dgiven_s_ptr, dparams_ptr, target, target, dgates_x_ptr,
                dgates_h_ptr, starts_ptr, lengths_ptr, reset_ptr, given_h_ptr, given_s_ptr,
                zone_s_ptr, CELL, G, X, SAVED, H, WIDE, READS_H, APART, PACKED, PROJECTED, PARAMS,
                CLIPS, GRAD_CLIP, LENGTHS, RESET, ZONE, ZONE_PARTS, ALL_STATES, WIDTH, KEPT_H, 0,
            )  # fmt: skip
        arrive(counter_ptr)
        arrivals += programs
        patience = wait(counter_ptr, arrivals, failed_ptr, patience)
