"""One step of a tile of sequences and units, of any orientation, without its products.

The simple form and the streamed one share this. States lie in buffers ``[N, B, ...]`` that a step
rewrites in place: ``wide`` and ``extra`` hold h and the others as the next step begins with them,
``enters`` what enters its product; ``dh`` and ``dextra`` their gradients. Where a sequence has no
step its states stay. ``n, reverse, b, u`` are a tile's place, ``start, here`` its rows of step p.

A step that saves keeps WIDTH numbers of a row: those of the cell for each unit, what `Call.kept`
names for each, and last where a projected h reached its bound.
"""

import triton
import triton.language as tl

from .functions import bounded, reached
from .sequence import arrived, begun, bounded_each, entering, kept, present, zoned
from .tiles import accumulate_each, load, load_each, rows_of_step, store, store_each


@triton.jit
def begin_h(n, reverse, b, u, T, B, N, enters_ptr, wide_ptr, h_0_ptr, starts_ptr, lengths_ptr,
            reset_ptr, given_h_ptr, dropout_ptr, K: tl.constexpr, WIDE: tl.constexpr,
            PACKED: tl.constexpr, LENGTHS: tl.constexpr, RESET: tl.constexpr,
            DROPOUT: tl.constexpr):  # fmt: skip
    """h as the first step begins with it."""
    inside, state = (b < B) & (u < K), (n * B + b) * K + u
    h = begun(
        load(h_0_ptr, state, inside, WIDE), 0, n, reverse, b, u, T, B, N, 0, starts_ptr,
        lengths_ptr, reset_ptr, h_0_ptr, given_h_ptr, K, PACKED, LENGTHS, RESET,
    )  # fmt: skip
    store(wide_ptr, state, inside, h)
    store(enters_ptr, state, inside, entering(h, dropout_ptr, state, inside, DROPOUT))


@triton.jit
def begin_others(n, reverse, b, u, S, T, B, N, extra_ptr, extra_0_ptr, starts_ptr, lengths_ptr,
                 reset_ptr, given_s_ptr, X: tl.constexpr, H: tl.constexpr, WIDE: tl.constexpr,
                 PACKED: tl.constexpr, LENGTHS: tl.constexpr, RESET: tl.constexpr):  # fmt: skip
    """The states beside h as the first step begins with them."""
    inside, state = (b < B) & (u < H), (n * B + b) * H + u
    step_x = N * B.to(tl.int64) * H
    for j in tl.static_range(X):
        s = begun(
            load(extra_0_ptr, state + j * step_x, inside, WIDE), 0, n, reverse, b, u, T, B, N,
            j * (S.to(tl.int64) * N * H), starts_ptr, lengths_ptr, reset_ptr,
            extra_0_ptr + j * step_x, given_s_ptr, H, PACKED, LENGTHS, RESET,
        )  # fmt: skip
        store(extra_ptr, state + j * step_x, inside, s)


@triton.jit
def biased(a, bias_ptr, n, u, H: tl.constexpr, BIAS: tl.constexpr, ALL: tl.constexpr,
           FIRST: tl.constexpr):  # fmt: skip
    """The gates from the first one on, of ALL that the bias has."""
    if BIAS:
        bias = load_each(
            bias_ptr, n * (ALL * H) + FIRST * H + u, u < H, H, len(a), a[0].dtype
        )  # fmt: skip
        sums = ()
        for g in tl.static_range(len(a)):
            sums = sums + (a[g] + bias[g],)
        a = sums
    return a


@triton.jit
def leave_h(h_new, h, n, reverse, b, u, start, here, p, T, B, N, enters_ptr, wide_ptr, h_0_ptr,
            out_ptr, starts_ptr, lengths_ptr, reset_ptr, given_h_ptr, dropout_ptr, zone_h_ptr,
            K: tl.constexpr, WIDE: tl.constexpr, PACKED: tl.constexpr, LENGTHS: tl.constexpr,
            RESET: tl.constexpr, DROPOUT: tl.constexpr, ZONE: tl.constexpr,
            ZONE_PARTS: tl.constexpr):  # fmt: skip
    """A step's h becomes its output, and what the next step begins with."""
    inside, mask = (b < B) & (u < K), here & (u < K)
    state, row = (n * B + b) * K + u, ((start + b) * N + n) * K + u
    if ZONE:
        part = kept(zone_h_ptr, row, mask, ZONE, ZONE_PARTS[0], WIDE)
        h_new = zoned(h_new, h, part, ZONE)
    store(out_ptr, row, mask, h_new)
    h = begun(
        tl.where(here, h_new, h), p + 1, n, reverse, b, u, T, B, N, 0, starts_ptr,
        lengths_ptr, reset_ptr, h_0_ptr, given_h_ptr, K, PACKED, LENGTHS, RESET,
    )  # fmt: skip
    store(wide_ptr, state, inside, h)
    store(enters_ptr, state, inside, entering(h, dropout_ptr, state, inside, DROPOUT))


@triton.jit
def forward_cell(
    a, n, reverse, b, u, start, here, p, S, T, B, N,
    gates_x_ptr, bias_ptr, params_ptr, enters_ptr, wide_ptr, extra_ptr, h_0_ptr, extra_0_ptr,
    out_ptr, others_ptr, reserve_ptr, hidden_ptr, starts_ptr, lengths_ptr, reset_ptr, given_h_ptr,
    given_s_ptr, dropout_ptr, zone_h_ptr, zone_s_ptr,
    CELL: tl.constexpr, G: tl.constexpr, X: tl.constexpr, H: tl.constexpr, WIDE: tl.constexpr,
    BIAS: tl.constexpr, PACKED: tl.constexpr, SAVE: tl.constexpr, PROJECTED: tl.constexpr,
    PARAMS: tl.constexpr, CLIPS: tl.constexpr, LENGTHS: tl.constexpr, RESET: tl.constexpr,
    DROPOUT: tl.constexpr, ZONE: tl.constexpr, ZONE_PARTS: tl.constexpr, ALL_STATES: tl.constexpr,
    WIDTH: tl.constexpr, KEPT_H: tl.constexpr,
):  # fmt: skip
    """The cell, given its products ``a``. A hidden that is to be projected goes to ``enters [N, B,
    H]`` alone, and saved to ``hidden``."""
    inside, mask = (b < B) & (u < H), here & (u < H)
    row, state = (start + b) * N + n, (n * B + b) * H + u
    step_x, step_s = N * B.to(tl.int64) * H, S.to(tl.int64) * N * H
    x = load_each(gates_x_ptr, row * (G * H) + u, mask, H, G, WIDE)
    a = biased(a, bias_ptr, n, u, H, BIAS, G, 0)
    params = load_each(params_ptr, n * (PARAMS * H) + u, u < H, H, PARAMS, WIDE)
    h = tl.zeros_like(x[0])
    if not PROJECTED:
        h = load(wide_ptr, state, inside, WIDE)
    s = load_each(extra_ptr, state, inside, step_x, X, WIDE)

    h_new, s_new, saved = CELL(x, a, h, s, params, CLIPS, H)

    if SAVE:
        store_each(reserve_ptr, row * WIDTH + u, mask, H, saved)
        if KEPT_H >= 0:
            store(reserve_ptr, row * WIDTH + KEPT_H * H + u, mask, h_new)
    for j in tl.static_range(X):
        s_j = s_new[j]
        if ZONE:
            part = kept(zone_s_ptr, row * H + u + j * step_s, mask, ZONE, ZONE_PARTS[j + 1], WIDE)
            s_j = zoned(s_j, s[j], part, ZONE)
            if SAVE:
                store(reserve_ptr, row * WIDTH + (len(saved) + j) * H + u, mask, s_j)
        if ALL_STATES:
            store(others_ptr, row * H + u + j * step_s, mask, s_j)
        s_j = begun(
            tl.where(here, s_j, s[j]), p + 1, n, reverse, b, u, T, B, N, j * step_s, starts_ptr,
            lengths_ptr, reset_ptr, extra_0_ptr + j * step_x, given_s_ptr,
            H, PACKED, LENGTHS, RESET,
        )  # fmt: skip
        store(extra_ptr, state + j * step_x, inside, s_j)
    if PROJECTED:
        store(enters_ptr, state, mask, h_new)
        if SAVE:
            store(hidden_ptr, row * H + u, mask, h_new)
    else:
        leave_h(
            h_new, h, n, reverse, b, u, start, here, p, T, B, N, enters_ptr, wide_ptr, h_0_ptr,
            out_ptr, starts_ptr, lengths_ptr, reset_ptr, given_h_ptr, dropout_ptr, zone_h_ptr,
            H, WIDE, PACKED, LENGTHS, RESET, DROPOUT, ZONE, ZONE_PARTS,
        )  # fmt: skip


@triton.jit
def bound_projected(h, n, b, u, start, here, N, reserve_ptr, K: tl.constexpr, WIDTH: tl.constexpr,
                    SAVE: tl.constexpr, PROJ_CLIP: tl.constexpr):  # fmt: skip
    """A projected h within its bound; where that is reached is kept for the backward."""
    if PROJ_CLIP > 0:
        if SAVE:
            place = ((start + b) * N + n) * WIDTH + (WIDTH - K) + u
            store(reserve_ptr, place, here & (u < K), reached(h, PROJ_CLIP).to(h.dtype))
        h = bounded(h, PROJ_CLIP)
    return h


@triton.jit
def unless_bounded(total, n, b, u, start, here, N, reserve_ptr, K: tl.constexpr,
                   WIDTH: tl.constexpr, PROJ_CLIP: tl.constexpr):  # fmt: skip
    """`bound_projected` backward."""
    if PROJ_CLIP > 0:
        place = ((start + b) * N + n) * WIDTH + (WIDTH - K) + u
        at_bound = load(reserve_ptr, place, here & (u < K), total.dtype)
        total = tl.where(at_bound != 0, 0.0, total)
    return total


@triton.jit
def meet_h(came, n, reverse, b, u, start, here, p, T, B, N, grad_out_ptr, dh_ptr, dh_initial_ptr,
           dgiven_h_ptr, starts_ptr, lengths_ptr, reset_ptr, dropout_ptr, zone_h_ptr,
           K: tl.constexpr, WIDE: tl.constexpr, PACKED: tl.constexpr, LENGTHS: tl.constexpr,
           RESET: tl.constexpr, DROPOUT: tl.constexpr, ZONE: tl.constexpr,
           ZONE_PARTS: tl.constexpr):  # fmt: skip
    """`leave_h` backward, ``came`` being what a later product gives back: h's gradient where no
    step is, that of the step's h, and what goes past the step."""
    inside, mask = (b < B) & (u < K), here & (u < K)
    state, row = (n * B + b) * K + u, ((start + b) * N + n) * K + u
    came = entering(came, dropout_ptr, state, inside, DROPOUT)
    dh = arrived(
        load(dh_ptr, state, inside, WIDE) + came, p + 1, n, reverse, b, u, T, B, N, starts_ptr,
        lengths_ptr, reset_ptr, dh_initial_ptr, dgiven_h_ptr, K, PACKED, LENGTHS, RESET,
    )  # fmt: skip
    total = dh + load(grad_out_ptr, row, mask, WIDE)
    past = tl.zeros_like(total)
    if ZONE:
        past = total * kept(zone_h_ptr, row, mask, ZONE, ZONE_PARTS[0], WIDE)
        total -= past
    return dh, total, past


@triton.jit
def previous_h(n, reverse, b, u, p, T, B, N, h_rows_ptr, h_0_ptr, starts_ptr, lengths_ptr,
               reset_ptr, given_h_ptr, H: tl.constexpr, WIDE: tl.constexpr, PACKED: tl.constexpr,
               LENGTHS: tl.constexpr, RESET: tl.constexpr):  # fmt: skip
    """The h that step p began with, of the sequences that have the step."""
    start, active = rows_of_step(starts_ptr, p, T, B, reverse, PACKED)
    mask = present(b, p, T, B, reverse, active, lengths_ptr, LENGTHS) & (u < H)
    start, active = rows_of_step(starts_ptr, p - 1, T, B, reverse, PACKED)
    before = present(b, p - 1, T, B, reverse, active, lengths_ptr, LENGTHS)
    h = load(h_rows_ptr, ((start + b) * N + n) * H + u, mask & before, WIDE)
    h += load(h_0_ptr, (n * B + b) * H + u, mask & (before == 0), WIDE)
    return begun(
        h, p, n, reverse, b, u, T, B, N, 0, starts_ptr, lengths_ptr, reset_ptr,
        h_0_ptr, given_h_ptr, H, PACKED, LENGTHS, RESET,
    )  # fmt: skip


@triton.jit
def backward_cell(
    dh, total, past, n, reverse, b, u, start, here, p, S, T, B, N,
    params_ptr, reserve_ptr, h_rows_ptr, h_0_ptr, extra_0_ptr, grad_others_ptr, dh_ptr, dextra_ptr,
    ds_initial_ptr, dgiven_s_ptr, dparams_ptr, da_ptr, waiting_ptr, dgates_x_ptr, dgates_h_ptr,
    starts_ptr, lengths_ptr, reset_ptr, given_h_ptr, given_s_ptr, zone_s_ptr,
    CELL: tl.constexpr, G: tl.constexpr, X: tl.constexpr, SAVED: tl.constexpr, H: tl.constexpr,
    WIDE: tl.constexpr, READS_H: tl.constexpr, APART: tl.constexpr, PACKED: tl.constexpr,
    PROJECTED: tl.constexpr, PARAMS: tl.constexpr, CLIPS: tl.constexpr, GRAD_CLIP: tl.constexpr,
    LENGTHS: tl.constexpr, RESET: tl.constexpr, ZONE: tl.constexpr, ZONE_PARTS: tl.constexpr,
    ALL_STATES: tl.constexpr, WIDTH: tl.constexpr, KEPT_H: tl.constexpr, WAITING: tl.constexpr,
):  # fmt: skip
    """The cell's backward; ``total`` is all that came to its h. ``h_rows`` is the output, or h
    before the projection. ``da [N, B, G*H]``, for the next product, is zero where there is no step.

    Of a cell with two products the first gates are WAITING for what the second gives back: their
    gradients go to ``waiting [N, B, WAITING*H]``, and ``da`` has those of the last gates alone.
    """
    STATES: tl.constexpr = SAVED if ZONE else SAVED - X  # where those that a step left lie
    start_prev, active_prev = rows_of_step(starts_ptr, p - 1, T, B, reverse, PACKED)
    here_prev = present(b, p - 1, T, B, reverse, active_prev, lengths_ptr, LENGTHS)
    inside, mask = (b < B) & (u < H), here & (u < H)
    later, first = mask & here_prev, mask & (here_prev == 0)
    row, before = (start + b) * N + n, (start_prev + b) * N + n
    state = (n * B + b) * H + u
    step_x, step_s = N * B.to(tl.int64) * H, S.to(tl.int64) * N * H

    saved = load_each(reserve_ptr, row * WIDTH + u, mask, H, SAVED, WIDE)
    if KEPT_H >= 0:
        h = load(reserve_ptr, row * WIDTH + KEPT_H * H + u, mask, WIDE)
    else:
        h = load(h_rows_ptr, row * H + u, mask, WIDE)
    h_prev = tl.zeros_like(total)
    if READS_H:
        h_prev = previous_h(
            n, reverse, b, u, p, T, B, N, h_rows_ptr, h_0_ptr, starts_ptr, lengths_ptr, reset_ptr,
            given_h_ptr, H, WIDE, PACKED, LENGTHS, RESET,
        )  # fmt: skip
    s_prev, ds, ds_past = (), (), ()
    for j in tl.static_range(X):
        s_j = load(reserve_ptr, before * WIDTH + (STATES + j) * H + u, later, WIDE)
        s_j += load(extra_0_ptr, state + j * step_x, first, WIDE)
        s_prev = s_prev + (begun(
            s_j, p, n, reverse, b, u, T, B, N, j * step_s, starts_ptr, lengths_ptr,
            reset_ptr, extra_0_ptr + j * step_x, given_s_ptr, H, PACKED, LENGTHS, RESET,
        ),)  # fmt: skip
        ds_j = load(dextra_ptr, state + j * step_x, inside, WIDE)
        if ALL_STATES:
            ds_j += load(grad_others_ptr, row * H + u + j * step_s, mask, WIDE)
        past_j = tl.zeros_like(total)
        if ZONE:
            past_j = ds_j * kept(
                zone_s_ptr, row * H + u + j * step_s, mask, ZONE, ZONE_PARTS[j + 1], WIDE
            )
            ds_j -= past_j
        ds, ds_past = ds + (ds_j,), ds_past + (past_j,)
    params = load_each(params_ptr, n * (PARAMS * H) + u, u < H, H, PARAMS, WIDE)

    dx, da, ds_new, dh_new, dparams = CELL(saved, h, h_prev, s_prev, total, ds, params, CLIPS, H)

    accumulate_each(dparams_ptr, state, mask, step_x, dparams)
    for g in tl.static_range(WAITING):
        offs = (n * B + b) * (WAITING * H) + g * H + u
        store(waiting_ptr, offs, inside, tl.where(here, dx[g], 0.0))
    dx, da = bounded_each(dx, GRAD_CLIP), bounded_each(da, GRAD_CLIP)
    for g in tl.static_range(WAITING, G):
        store(dgates_x_ptr, row * (G * H) + g * H + u, mask, dx[g])
        offs = (n * B + b) * ((G - WAITING) * H) + (g - WAITING) * H + u
        store(da_ptr, offs, inside, tl.where(here, da[g], 0.0))
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
