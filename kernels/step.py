"""One time step of any cell, without its products: the simple form, for any size and dtype.

A program has BLOCK_B sequences and BLOCK_H units of one recurrence. States live in buffers
``[N, B, ...]`` that a step rewrites in place; rows that a packed step does not reach keep theirs.

Bound: bytes. A forward step reads G and writes up to 2 + SAVED numbers a unit; at H = 1024, B = 64
and bfloat16 that is 2.4 MB with what the backward wants, 0.6 us at 4 TB/s: the launch, some
microseconds, is what counts, unless a CUDA graph holds it.
"""

import triton
import triton.language as tl

from .tiles import each_where, load, load_each, rows_of_step, store, store_each

_VARYING = ["p", "T", "B", "N"]  # no value of these is worth a compilation of its own


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
def forward_step(
    gates_x_ptr, gates_h_ptr, bias_ptr, h_ptr, wide_ptr, extra_ptr, out_ptr, reserve_ptr,
    hidden_ptr, starts_ptr, reverse_ptr, p, T, B, N,
    CELL: tl.constexpr, G: tl.constexpr, X: tl.constexpr, H: tl.constexpr, WIDE: tl.constexpr,
    READS_H: tl.constexpr, BIAS: tl.constexpr, PACKED: tl.constexpr, SAVE: tl.constexpr,
    PROJECTED: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_H: tl.constexpr,
):  # fmt: skip
    """The cell, given ``gates_h [N, B, G*H]``. A projected h goes to ``h_ptr`` alone, and saved
    to ``hidden_ptr``; the product and `place_projected` follow. ``wide_ptr`` is h unrounded."""
    n, b, u, _, start, active = _place(
        p, T, B, starts_ptr, reverse_ptr, H, PACKED, BLOCK_B, BLOCK_H
    )
    mask = (b < active) & (u < H)
    row = (start + b) * N + n
    state = (n * B + b) * H + u

    x = load_each(gates_x_ptr, row * (G * H) + u, mask, H, G, WIDE)
    a = load_each(gates_h_ptr, (n * B + b) * (G * H) + u, mask, H, G, WIDE)
    if BIAS:
        bias = load_each(bias_ptr, n * (G * H) + u, u < H, H, G, WIDE)
        biased = ()
        for g in tl.static_range(G):
            biased = biased + (a[g] + bias[g],)
        a = biased
    h_prev = tl.zeros([BLOCK_B, BLOCK_H], WIDE)
    if READS_H:
        h_prev = load(wide_ptr, state, mask, WIDE)
    s = load_each(extra_ptr, state, mask, N * B.to(tl.int64) * H, X, WIDE)

    h, s, saved = CELL(x, a, h_prev, s)

    store_each(extra_ptr, state, mask, N * B.to(tl.int64) * H, s)
    store(h_ptr, state, mask, h)
    if READS_H:
        store(wide_ptr, state, mask, h)
    if PROJECTED:
        if SAVE:
            store(hidden_ptr, row * H + u, mask, h)
    else:
        store(out_ptr, row * H + u, mask, h)
    if SAVE:
        store_each(reserve_ptr, row * (len(saved) * H) + u, mask, H, saved)


@triton.jit(do_not_specialize=_VARYING)
def place_projected(
    projected_ptr, h_ptr, out_ptr, starts_ptr, reverse_ptr, p, T, B, N,
    K: tl.constexpr, WIDE: tl.constexpr, PACKED: tl.constexpr,
    BLOCK_B: tl.constexpr, BLOCK_H: tl.constexpr,
):  # fmt: skip
    """``projected [N, B, K]`` becomes h and the step's output."""
    n, b, k, _, start, active = _place(
        p, T, B, starts_ptr, reverse_ptr, K, PACKED, BLOCK_B, BLOCK_H
    )
    mask = (b < active) & (k < K)
    h = load(projected_ptr, (n * B + b) * K + k, mask, WIDE)
    store(h_ptr, (n * B + b) * K + k, mask, h)
    store(out_ptr, ((start + b) * N + n) * K + k, mask, h)


@triton.jit(do_not_specialize=_VARYING)
def arrive_projected(
    product_ptr, dh_ptr, grad_out_ptr, arrived_ptr, dproj_ptr, starts_ptr, reverse_ptr, p, T, B, N,
    K: tl.constexpr, WIDE: tl.constexpr, PACKED: tl.constexpr,
    BLOCK_B: tl.constexpr, BLOCK_H: tl.constexpr,
):  # fmt: skip
    """The whole gradient of a projected h: to ``dproj``, and to ``arrived`` for the product."""
    n, b, k, _, start, active = _place(
        p, T, B, starts_ptr, reverse_ptr, K, PACKED, BLOCK_B, BLOCK_H
    )
    here, inside = b < active, (b < B) & (k < K)
    state = (n * B + b) * K + k
    row = ((start + b) * N + n) * K + k
    dh = load(dh_ptr, state, inside, WIDE) + load(product_ptr, state, inside, WIDE)
    total = dh + load(grad_out_ptr, row, inside & here, WIDE)
    store(dproj_ptr, row, inside & here, total)
    store(arrived_ptr, state, inside, tl.where(here, total, 0.0))
    store(dh_ptr, state, inside, tl.where(here, 0.0, dh))


@triton.jit(do_not_specialize=_VARYING)
def backward_step(
    reserve_ptr, h_rows_ptr, h_0_ptr, extra_0_ptr, grad_out_ptr, product_ptr, dh_ptr, dextra_ptr,
    da_ptr, dgates_x_ptr, dgates_h_ptr, starts_ptr, reverse_ptr, p, T, B, N,
    CELL: tl.constexpr, G: tl.constexpr, X: tl.constexpr, SAVED: tl.constexpr, H: tl.constexpr,
    WIDE: tl.constexpr, READS_H: tl.constexpr, APART: tl.constexpr, PACKED: tl.constexpr,
    PROJECTED: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_H: tl.constexpr,
):  # fmt: skip
    """The cell's backward; ``product [N, B, H]`` is what came to h through later gates, or, with a
    projection, all that came to h. ``da [N, B, G*H]``, for the next product, is zero where there is
    no step. ``h_rows`` is the output, or h before the projection."""
    n, b, u, reverse, start, active = _place(
        p, T, B, starts_ptr, reverse_ptr, H, PACKED, BLOCK_B, BLOCK_H
    )
    start_prev, active_prev = rows_of_step(starts_ptr, p - 1, T, B, reverse, PACKED)
    here, inside = b < active, (b < B) & (u < H)
    mask, later = inside & here, inside & (b < active_prev)
    first = mask & (b >= active_prev)
    later = mask & later
    row, before = (start + b) * N + n, (start_prev + b) * N + n
    state = (n * B + b) * H + u
    step_x = N * B.to(tl.int64) * H

    dh = load(product_ptr, state, inside, WIDE)
    if not PROJECTED:
        dh_later = dh + load(dh_ptr, state, inside, WIDE)
        dh = dh_later + load(grad_out_ptr, row * H + u, mask, WIDE)
    saved = load_each(reserve_ptr, row * (SAVED * H) + u, mask, H, SAVED, WIDE)
    h = load(h_rows_ptr, row * H + u, mask, WIDE)
    h_prev = tl.zeros([BLOCK_B, BLOCK_H], WIDE)
    if READS_H:
        h_prev = load(h_rows_ptr, before * H + u, later, WIDE)
        h_prev += load(h_0_ptr, state, first, WIDE)
    s_prev = each_where(
        first,
        load_each(extra_0_ptr, state, first, step_x, X, WIDE),
        load_each(reserve_ptr, before * (SAVED * H) + (SAVED - X) * H + u, later, H, X, WIDE),
    )
    ds_later = load_each(dextra_ptr, state, inside, step_x, X, WIDE)

    dx, da, ds, dh_prev = CELL(saved, h, h_prev, s_prev, dh, ds_later)

    store_each(dgates_x_ptr, row * (G * H) + u, mask, H, dx)
    if APART:
        store_each(dgates_h_ptr, row * (G * H) + u, mask, H, da)
    for g in tl.static_range(G):
        offs = (n * B + b) * (G * H) + g * H + u
        store(da_ptr, offs, inside, tl.where(here, da[g], 0.0))
    store_each(dextra_ptr, state, inside, step_x, each_where(here, ds, ds_later))
    if not PROJECTED:
        store(dh_ptr, state, inside, tl.where(here, dh_prev, dh_later))
