"""One time step of any cell, without its products: the simple form, for any size and dtype.

A program has BLOCK_B sequences and BLOCK_H units of one recurrence. States live in buffers
``[N, B, ...]`` that a step rewrites in place; rows that a packed step does not reach keep theirs.

Bound: bytes. A forward step reads G and writes up to 2 + SAVED numbers a unit; at H = 1024, B = 64
and bfloat16 that is 2.4 MB with what the backward wants, 0.6 us at 4 TB/s: the launch, some
microseconds, is what counts, unless a CUDA graph holds it.
"""

import triton
import triton.language as tl

from .sequence import arrived, begun, bounded_each, entering, kept, present, zoned
from .tiles import accumulate_each, load, load_each, rows_of_step, store, store_each

_VARYING = ["p", "S", "T", "B", "N"]  # no value of these is worth a compilation of its own


@triton.jit
def _place(p, T, B, starts_ptr, reverse_ptr, W: tl.constexpr, PACKED: tl.constexpr,
           BLOCK_B: tl.constexpr, BLOCK_W: tl.constexpr):  # fmt: skip
    """A program's recurrence, sequences, columns of W, and rows of the step it is at."""
    pid = tl.program_id(0)
    blocks_w = tl.cdiv(W, BLOCK_W)
    blocks_b = tl.cdiv(B, BLOCK_B)
    n = (pid // blocks_w // blocks_b).to(tl.int64)
    offs_b = (pid // blocks_w % blocks_b).to(tl.int64) * BLOCK_B + tl.arange(0, BLOCK_B)
    offs_w = pid % blocks_w * BLOCK_W + tl.arange(0, BLOCK_W)
    reverse = tl.load(reverse_ptr + n) != 0
    start, active = rows_of_step(starts_ptr, p, T, B, reverse, PACKED)
    return n, offs_b[:, None], offs_w[None, :], reverse, start, active


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
    n, b, u, reverse, _, _ = _place(
        0, T, B, starts_ptr, reverse_ptr, WIDTH, PACKED, BLOCK_B, BLOCK_H
    )
    inside, state = (b < B) & (u < K), (n * B + b) * K + u
    h = begun(
        load(h_0_ptr, state, inside, WIDE), 0, n, reverse, b, u, T, B, N, 0, starts_ptr,
        lengths_ptr, reset_ptr, h_0_ptr, given_h_ptr, K, PACKED, LENGTHS, RESET,
    )  # fmt: skip
    store(wide_ptr, state, inside, h)
    store(h_ptr, state, inside, entering(h, dropout_ptr, state, inside, DROPOUT))
    step_x = N * B.to(tl.int64) * H
    inside, state = (b < B) & (u < H), (n * B + b) * H + u
    for j in tl.static_range(X):
        s = begun(
            load(extra_0_ptr, state + j * step_x, inside, WIDE), 0, n, reverse, b, u, T, B, N,
            j * (S.to(tl.int64) * N * H), starts_ptr, lengths_ptr, reset_ptr,
            extra_0_ptr + j * step_x, given_s_ptr, H, PACKED, LENGTHS, RESET,
        )  # fmt: skip
        store(extra_ptr, state + j * step_x, inside, s)


@triton.jit(do_not_specialize=_VARYING)
def forward_step(
    gates_x_ptr, gates_h_ptr, bias_ptr, params_ptr, h_ptr, wide_ptr, extra_ptr, h_0_ptr,
    extra_0_ptr, out_ptr, others_ptr, reserve_ptr, hidden_ptr, starts_ptr, reverse_ptr, lengths_ptr,
    reset_ptr, given_h_ptr, given_s_ptr, dropout_ptr, zone_h_ptr, zone_s_ptr, p, S, T, B, N,
    CELL: tl.constexpr, G: tl.constexpr, X: tl.constexpr, H: tl.constexpr, WIDE: tl.constexpr,
    READS_H: tl.constexpr, BIAS: tl.constexpr, PACKED: tl.constexpr, SAVE: tl.constexpr,
    PROJECTED: tl.constexpr, PARAMS: tl.constexpr, CELL_CLIP: tl.constexpr, LENGTHS: tl.constexpr,
    RESET: tl.constexpr, DROPOUT: tl.constexpr, ZONE: tl.constexpr, ZONE_PARTS: tl.constexpr,
    ALL_STATES: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_H: tl.constexpr,
):  # fmt: skip
    """The cell, given ``gates_h [N, B, G*H]``. A projected h goes to ``h_ptr`` alone, and saved
    to ``hidden_ptr``; the product and `place_projected` follow. ``wide`` and ``extra`` are the
    states that the next step begins with, ``h_ptr`` what enters its product."""
    n, b, u, reverse, start, active = _place(
        p, T, B, starts_ptr, reverse_ptr, H, PACKED, BLOCK_B, BLOCK_H
    )
    here = present(b, p, T, B, reverse, active, lengths_ptr, LENGTHS)
    inside, mask = (b < B) & (u < H), here & (u < H)
    row = (start + b) * N + n
    state = (n * B + b) * H + u
    step_x, step_s = N * B.to(tl.int64) * H, S.to(tl.int64) * N * H

    x = load_each(gates_x_ptr, row * (G * H) + u, mask, H, G, WIDE)
    a = load_each(gates_h_ptr, (n * B + b) * (G * H) + u, mask, H, G, WIDE)
    if BIAS:
        bias = load_each(bias_ptr, n * (G * H) + u, u < H, H, G, WIDE)
        biased = ()
        for g in tl.static_range(G):
            biased = biased + (a[g] + bias[g],)
        a = biased
    params = load_each(params_ptr, n * (PARAMS * H) + u, u < H, H, PARAMS, WIDE)
    h = tl.zeros([BLOCK_B, BLOCK_H], WIDE)
    if not PROJECTED:
        h = load(wide_ptr, state, inside, WIDE)
    s = load_each(extra_ptr, state, inside, step_x, X, WIDE)

    h_new, s_new, saved = CELL(x, a, h, s, params, CELL_CLIP)

    WIDTH: tl.constexpr = len(saved) + (X + (0 if PROJECTED else 1) if ZONE else 0)
    if SAVE:
        store_each(reserve_ptr, row * (WIDTH * H) + u, mask, H, saved)
    for j in tl.static_range(X):
        s_j = s_new[j]
        if ZONE:
            part = kept(zone_s_ptr, row * H + u + j * step_s, mask, ZONE, ZONE_PARTS[j + 1], WIDE)
            s_j = zoned(s_j, s[j], part, ZONE)
            if SAVE:
                store(reserve_ptr, row * (WIDTH * H) + (len(saved) + j) * H + u, mask, s_j)
        if ALL_STATES:
            store(others_ptr, row * H + u + j * step_s, mask, s_j)
        s_j = begun(
            tl.where(here, s_j, s[j]), p + 1, n, reverse, b, u, T, B, N, j * step_s, starts_ptr,
            lengths_ptr, reset_ptr, extra_0_ptr + j * step_x, given_s_ptr,
            H, PACKED, LENGTHS, RESET,
        )  # fmt: skip
        store(extra_ptr, state + j * step_x, inside, s_j)
    if PROJECTED:
        store(h_ptr, state, mask, h_new)
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
        store(h_ptr, state, inside, entering(h, dropout_ptr, state, inside, DROPOUT))


@triton.jit(do_not_specialize=_VARYING)
def place_projected(
    projected_ptr, h_ptr, wide_ptr, h_0_ptr, out_ptr, starts_ptr, reverse_ptr, lengths_ptr,
    reset_ptr, given_h_ptr, given_s_ptr, dropout_ptr, zone_h_ptr, zone_s_ptr, p, S, T, B, N,
    K: tl.constexpr, WIDE: tl.constexpr, PACKED: tl.constexpr, LENGTHS: tl.constexpr,
    RESET: tl.constexpr, DROPOUT: tl.constexpr, ZONE: tl.constexpr, ZONE_PARTS: tl.constexpr,
    ALL_STATES: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_H: tl.constexpr,
):  # fmt: skip
    """``projected [N, B, K]`` becomes the step's output, and h as the next step begins with it."""
    n, b, k, reverse, start, active = _place(
        p, T, B, starts_ptr, reverse_ptr, K, PACKED, BLOCK_B, BLOCK_H
    )
    here = present(b, p, T, B, reverse, active, lengths_ptr, LENGTHS)
    inside, mask = (b < B) & (k < K), here & (k < K)
    state = (n * B + b) * K + k
    row = ((start + b) * N + n) * K + k
    h_new = load(projected_ptr, state, mask, WIDE)
    h = load(wide_ptr, state, inside, WIDE)
    if ZONE:
        part = kept(zone_h_ptr, row, mask, ZONE, ZONE_PARTS[0], WIDE)
        h_new = zoned(h_new, h, part, ZONE)
    store(out_ptr, row, mask, h_new)
    h = begun(
        tl.where(here, h_new, h), p + 1, n, reverse, b, k, T, B, N, 0, starts_ptr,
        lengths_ptr, reset_ptr, h_0_ptr, given_h_ptr, K, PACKED, LENGTHS, RESET,
    )  # fmt: skip
    store(wide_ptr, state, inside, h)
    store(h_ptr, state, inside, entering(h, dropout_ptr, state, inside, DROPOUT))


@triton.jit(do_not_specialize=_VARYING)
def arrive_projected(
    product_ptr, dh_ptr, dh_initial_ptr, dgiven_h_ptr, grad_out_ptr, arrived_ptr, dproj_ptr,
    starts_ptr, reverse_ptr, lengths_ptr, reset_ptr, given_h_ptr, given_s_ptr, dropout_ptr,
    zone_h_ptr, zone_s_ptr, p, S, T, B, N,
    K: tl.constexpr, WIDE: tl.constexpr, PACKED: tl.constexpr, LENGTHS: tl.constexpr,
    RESET: tl.constexpr, DROPOUT: tl.constexpr, ZONE: tl.constexpr, ZONE_PARTS: tl.constexpr,
    ALL_STATES: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_H: tl.constexpr,
):  # fmt: skip
    """The whole gradient of a projected h: to ``dproj``, and to ``arrived`` for the product. At
    step -1 it is that of the initial state, in ``dh``."""
    n, b, k, reverse, start, active = _place(
        p, T, B, starts_ptr, reverse_ptr, K, PACKED, BLOCK_B, BLOCK_H
    )
    here = present(b, p, T, B, reverse, active, lengths_ptr, LENGTHS)
    inside, mask = (b < B) & (k < K), here & (k < K)
    state = (n * B + b) * K + k
    row = ((start + b) * N + n) * K + k
    came = entering(load(product_ptr, state, inside, WIDE), dropout_ptr, state, inside, DROPOUT)
    dh = arrived(
        load(dh_ptr, state, inside, WIDE) + came, p + 1, n, reverse, b, k, T, B, N, starts_ptr,
        lengths_ptr, reset_ptr, dh_initial_ptr, dgiven_h_ptr, K, PACKED, LENGTHS, RESET,
    )  # fmt: skip
    total = dh + load(grad_out_ptr, row, mask, WIDE)
    past = tl.zeros([BLOCK_B, BLOCK_H], WIDE)
    if ZONE:
        past = total * kept(zone_h_ptr, row, mask, ZONE, ZONE_PARTS[0], WIDE)
        total -= past
    store(dproj_ptr, row, mask, total)
    store(arrived_ptr, state, inside, tl.where(here, total, 0.0))
    store(dh_ptr, state, inside, tl.where(here, past, dh))


@triton.jit(do_not_specialize=_VARYING)
def backward_step(
    params_ptr, reserve_ptr, h_rows_ptr, h_0_ptr, extra_0_ptr, grad_out_ptr, grad_others_ptr,
    product_ptr, dh_ptr, dextra_ptr, dh_initial_ptr, ds_initial_ptr, dgiven_h_ptr, dgiven_s_ptr,
    dparams_ptr, da_ptr, dgates_x_ptr, dgates_h_ptr, starts_ptr, reverse_ptr, lengths_ptr,
    reset_ptr, given_h_ptr, given_s_ptr, dropout_ptr, zone_h_ptr, zone_s_ptr, p, S, T, B, N,
    CELL: tl.constexpr, G: tl.constexpr, X: tl.constexpr, SAVED: tl.constexpr, H: tl.constexpr,
    WIDE: tl.constexpr, READS_H: tl.constexpr, APART: tl.constexpr, PACKED: tl.constexpr,
    PROJECTED: tl.constexpr, PARAMS: tl.constexpr, CELL_CLIP: tl.constexpr,
    GRAD_CLIP: tl.constexpr, LENGTHS: tl.constexpr, RESET: tl.constexpr, DROPOUT: tl.constexpr,
    ZONE: tl.constexpr, ZONE_PARTS: tl.constexpr, ALL_STATES: tl.constexpr,
    BLOCK_B: tl.constexpr, BLOCK_H: tl.constexpr,
):  # fmt: skip
    """The cell's backward; ``product [N, B, H]`` is what came to h through later gates, or, with a
    projection, all that came to h. ``da [N, B, G*H]``, for the next product, is zero where there is
    no step; at step -1 nothing but ``dh`` is left to do. ``h_rows`` is the output, or h before the
    projection."""
    WIDTH: tl.constexpr = SAVED + (X + (0 if PROJECTED else 1) if ZONE else 0)
    STATES: tl.constexpr = SAVED if ZONE else SAVED - X  # where those that a step left lie
    n, b, u, reverse, start, active = _place(
        p, T, B, starts_ptr, reverse_ptr, H, PACKED, BLOCK_B, BLOCK_H
    )
    start_prev, active_prev = rows_of_step(starts_ptr, p - 1, T, B, reverse, PACKED)
    here = present(b, p, T, B, reverse, active, lengths_ptr, LENGTHS)
    here_prev = present(b, p - 1, T, B, reverse, active_prev, lengths_ptr, LENGTHS)
    inside, mask = (b < B) & (u < H), here & (u < H)
    later, first = mask & here_prev, mask & (here_prev == 0)
    row, before = (start + b) * N + n, (start_prev + b) * N + n
    state = (n * B + b) * H + u
    step_x, step_s = N * B.to(tl.int64) * H, S.to(tl.int64) * N * H

    total = load(product_ptr, state, inside, WIDE)
    dh = total
    past = tl.zeros([BLOCK_B, BLOCK_H], WIDE)
    if not PROJECTED:
        came = entering(total, dropout_ptr, state, inside, DROPOUT)
        dh = arrived(
            load(dh_ptr, state, inside, WIDE) + came, p + 1, n, reverse, b, u, T, B, N, starts_ptr,
            lengths_ptr, reset_ptr, dh_initial_ptr, dgiven_h_ptr, H, PACKED, LENGTHS, RESET,
        )  # fmt: skip
        total = dh + load(grad_out_ptr, row * H + u, mask, WIDE)
        if ZONE:
            past = total * kept(zone_h_ptr, row * H + u, mask, ZONE, ZONE_PARTS[0], WIDE)
            total -= past
    saved = load_each(reserve_ptr, row * (WIDTH * H) + u, mask, H, SAVED, WIDE)
    h = load(h_rows_ptr, row * H + u, mask, WIDE)
    if ZONE and not PROJECTED:
        h = load(reserve_ptr, row * (WIDTH * H) + (SAVED + X) * H + u, mask, WIDE)
    h_prev = tl.zeros([BLOCK_B, BLOCK_H], WIDE)
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
            past_j = ds_j * kept(
                zone_s_ptr, row * H + u + j * step_s, mask, ZONE, ZONE_PARTS[j + 1], WIDE
            )
            ds_j -= past_j
        ds, ds_past = ds + (ds_j,), ds_past + (past_j,)
    params = load_each(params_ptr, n * (PARAMS * H) + u, u < H, H, PARAMS, WIDE)

    dx, da, ds_new, dh_new, dparams = CELL(saved, h, h_prev, s_prev, total, ds, params, CELL_CLIP)

    accumulate_each(dparams_ptr, state, mask, step_x, dparams)
    dx, da = bounded_each(dx, GRAD_CLIP), bounded_each(da, GRAD_CLIP)
    store_each(dgates_x_ptr, row * (G * H) + u, mask, H, dx)
    if APART:
        store_each(dgates_h_ptr, row * (G * H) + u, mask, H, da)
    for g in tl.static_range(G):
        offs = (n * B + b) * (G * H) + g * H + u
        store(da_ptr, offs, inside, tl.where(here, da[g], 0.0))
    for j in tl.static_range(X):
        ds_j = arrived(
            ds_new[j] + ds_past[j], p, n, reverse, b, u, T, B, N, starts_ptr, lengths_ptr,
            reset_ptr, ds_initial_ptr + j * step_x, dgiven_s_ptr + j * step_s,
            H, PACKED, LENGTHS, RESET,
        )  # fmt: skip
        store(dextra_ptr, state + j * step_x, mask, ds_j)
    if not PROJECTED:
        store(dh_ptr, state, inside, tl.where(here, dh_new + past, dh))
