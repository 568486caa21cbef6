"""Flash attention, backward: weights anew from the log-sum-exp, gradients tile by tile, no atomics.

`of_queries`: a program has a tile of queries and goes through its keys; it also leaves
``delta = o . do - d lse``, the part of a score's gradient that all of a query's scores share, and
the log-sum-exp as the others want it: times ``log2(e)``, infinite for a query that sees nothing.
`of_keys`: a program has a tile of keys and goes through all queries of all heads that share them,
so each gradient is summed by one program, in one order: the same bits every time. For that scores
are computed twice, seven products a tile where five would do with atomics (Dao, *FlashAttention-2*,
2023).

Under ranges `spans` and `seers` find first which queries a tile of keys is seen by.
"""

import triton
import triton.language as tl

from . import attention_additive as additive
from .attention_scores import (
    bent,
    columns_of,
    gradient_of_weights,
    queries_by_keys,
    top_of,
    weighed,
)
from .attention_tiles import (
    INFINITY,
    LOG2E,
    bell,
    hull,
    lines_at,
    product,
    product_of_rows,
    queries_of,
    ranges_of,
    rows_of,
    wide,
)
from .tiles import load, narrow, store

_VARYING = ["H", "groups", "Tq", "Tk", "drawn", "threshold"]


@triton.jit
def _of_queries_meet(
    state, start, edge, q, do, lse, delta, rows, keys, values, bounds, mask_at, extra_at, noise,
    score, columns, grads,
    KIND: tl.constexpr, E: tl.constexpr, EV: tl.constexpr, E2: tl.constexpr,
    BLOCK_E: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    MASK: tl.constexpr, CAPPED: tl.constexpr, GAUSS: tl.constexpr,
    DROP: tl.constexpr, EXTRA: tl.constexpr, PART: tl.constexpr, PAIRED: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    dq, dcentre, dwidth = state
    t, n, inside, first, last, centre, width = rows
    low, high, Tk = bounds
    seed, threshold, rescale = noise
    scale, cap = score
    ptrs, m_s = mask_at
    s = (start + tl.arange(0, BLOCK_N))[None, :]
    there = inside & (s < Tk)
    x, k, pair = queries_by_keys(q, keys[0], keys[1], start, low, high, columns, KIND, E, E2,
                                 BLOCK_E, BLOCK_M, BLOCK_N, PART, PAIRED, PRECISION)  # fmt: skip
    x, slope = bent(x, s, first, last, edge, ptrs, m_s, there, scale, cap, MASK, CAPPED)
    dw = gradient_of_weights(do, values[0], values[1], start, low, high, EV, BLOCK_V, BLOCK_M,
                             BLOCK_N, PART, PRECISION)  # fmt: skip
    w, dw, ds = weighed(
        x, dw, lse, delta, s, t, n, start, centre, width, seed, threshold, rescale, extra_at + s,
        there, BLOCK_M, BLOCK_N, 1, MASK > 0, GAUSS, DROP, EXTRA,
    )  # fmt: skip
    if GAUSS:
        _, z = bell(s, centre, width)
        c = tl.where(w == 0.0, 0.0, w * dw * z)
        dcentre += tl.sum(c, 1)
        dwidth += tl.sum(c * z, 1)
    ds *= slope
    if KIND == "dot":
        dq += product(narrow(ds, k.dtype), k, PRECISION)
    else:
        q_at, q_step, q_there, _, _, vector_at = columns
        k_at, k_there, paired = pair
        additive.pull(ds * scale, q_at, k_at, q_step, wide(keys[1]), q_there, k_there, vector_at,
                      paired, grads[0], q_step, grads[1], True, E2)  # fmt: skip
    return dq, dcentre, dwidth


@triton.jit(do_not_specialize=_VARYING)
def of_queries(
    q_ptr, k_ptr, v_ptr, q_top_ptr, k_top_ptr, vector_ptr, first_ptr, last_ptr, mask_ptr,
    centre_ptr, width_ptr, seed_ptr, out_ptr, lse_ptr, grad_out_ptr, grad_row_ptr, extra_ptr,
    delta_ptr, shift_ptr, dq_ptr, dvector_ptr, dcentre_ptr, dwidth_ptr,
    q_b, q_h, q_t, k_b, k_h, k_t, v_b, v_h, v_t, r_b, r_h, r_t, m_b, m_h, m_t, m_s, o_b, o_h, o_t,
    H, groups, Tq, Tk, drawn, threshold, scale, cap, rescale,
    KIND: tl.constexpr, E: tl.constexpr, EV: tl.constexpr, E2: tl.constexpr,
    BLOCK_E: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    RANGED: tl.constexpr, MASK: tl.constexpr, CAPPED: tl.constexpr, GAUSS: tl.constexpr,
    DROP: tl.constexpr, EXTRA: tl.constexpr, ROW: tl.constexpr, PART: tl.constexpr,
    PAIRED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """``dq [B, H, Tq, E]``, or, additive, ``dq`` and ``dvector [B, H, E2, padded]``, both zero
    before, the latter to be summed over the queries; ``delta``, ``shift`` (of the log-sum-exp),
    ``dcentre``, ``dwidth [B, H, Tq]``."""
    pid = tl.program_id(0)
    blocks = tl.cdiv(Tq, BLOCK_M)
    tile = blocks - 1 - pid % blocks
    head = (pid // blocks).to(tl.int64)
    b = head // H
    h = head % H
    kv = h // groups
    t, _ = queries_of(tile, Tq, groups, BLOCK_M, False)
    inside = t < Tq
    line = head * Tq + t
    first, last, sees = ranges_of(first_ptr, last_ptr, b * r_b + h * r_h + t.to(tl.int64) * r_t,
                                  inside, Tk, RANGED)  # fmt: skip
    low, high, all_low, all_high, start = hull(first, last, sees, Tk, BLOCK_N)

    q = 0.0
    columns = (0,)
    grads = (0,)
    k_at = k_ptr + b * k_b + kv * k_h
    e = tl.arange(0, BLOCK_E)
    if KIND == "dot":
        at = q_ptr + b * q_b + h * q_h + t.to(tl.int64) * q_t
        q = rows_of(at, sees, E, BLOCK_E, PART)
    else:
        k_head = b * (H // groups) + kv
        k_at = k_ptr + k_head * (2 * E2) * wide(k_t)
        q_at, q_step, q_there, q_top, vector_at = columns_of(
            q_ptr, q_t, q_top_ptr, vector_ptr, head, t * 0, t, sees, E2
        )
        top_at = k_top_ptr + k_head * (k_t // additive.TOP)
        columns = (q_at, q_step, q_there, q_top, top_at, vector_at)
        to = head * E2 * wide(q_t) + t
        grads = (dq_ptr + to, dvector_ptr + to)
    centre = 0.0
    width = 1.0
    if GAUSS:
        centre = tl.load(centre_ptr + line, mask=inside, other=0.0)[:, None]
        width = tl.load(width_ptr + line, mask=inside, other=1.0)[:, None]
    seed = 0
    if DROP:
        seed = tl.load(seed_ptr)
    lse = tl.load(lse_ptr + line, mask=sees, other=-INFINITY)
    lse = tl.where(lse == -INFINITY, INFINITY, lse * LOG2E)
    delta = tl.zeros([BLOCK_M], tl.float32)
    do = 0.0
    if EV > 0:
        v = tl.arange(0, BLOCK_V)
        there = sees[:, None] & (v < EV)[None, :]
        at = grad_out_ptr + b * o_b + h * o_h + t.to(tl.int64) * o_t
        do = rows_of(at, sees, EV, BLOCK_V, 0)
        out = load(out_ptr, line[:, None] * EV + v[None, :], there, tl.float32)
        delta = tl.sum(out * do.to(tl.float32), 1)
        if PART > 0:
            do = (at, sees)
    if ROW:
        delta -= tl.load(grad_row_ptr + line, mask=sees, other=0.0)
    tl.store(delta_ptr + line, delta, mask=inside)
    tl.store(shift_ptr + line, lse, mask=inside)

    mask_at = ((mask_ptr + b * m_b + h * m_h + t.to(tl.int64) * m_t)[:, None], wide(m_s))
    extra_at = (extra_ptr + line * Tk)[:, None]
    n = (head % drawn).to(tl.int32)
    rows = (t[:, None], n, inside[:, None], first[:, None], last[:, None], centre, width)
    keys = (k_at, k_t)
    values = (v_ptr + b * v_b + kv * v_h, v_t)
    bounds = (low, high, Tk)
    noise = (seed, threshold, rescale)
    score = (scale, cap)
    dq = tl.zeros([BLOCK_M, BLOCK_E], tl.float32)
    dcentre = tl.zeros([BLOCK_M], tl.float32)
    dwidth = tl.zeros([BLOCK_M], tl.float32)
    for s in range(start, high, BLOCK_N):
        edge = (s < all_low) | (s + BLOCK_N > all_high)
        dq, dcentre, dwidth = _of_queries_meet(
            (dq, dcentre, dwidth), s, edge, q, do, lse[:, None], delta[:, None], rows, keys,
            values, bounds, mask_at, extra_at, noise, score, columns, grads,
            KIND, E, EV, E2, BLOCK_E, BLOCK_V, BLOCK_M, BLOCK_N, MASK, CAPPED, GAUSS, DROP, EXTRA,
            PART, PAIRED, PRECISION,
        )  # fmt: skip
    if KIND == "dot":
        there = inside[:, None] & (e < E)[None, :]
        store(dq_ptr, line[:, None] * E + e[None, :], there, dq * scale)
    if GAUSS:
        tl.store(dcentre_ptr + line, dcentre / tl.reshape(width, [BLOCK_M]), mask=inside)
        tl.store(dwidth_ptr + line, dwidth / tl.reshape(width, [BLOCK_M]), mask=inside)


@triton.jit
def _seen(s, t, first_ptr, last_ptr, offset, r_t, Tq, Tk, RANGED: tl.constexpr):
    """Which keys are seen by which queries: ``[keys, queries]``."""
    at = offset + t.to(tl.int64) * r_t
    first, last, _ = ranges_of(first_ptr, last_ptr, at, t < Tq, Tk, RANGED)
    return (s[:, None] >= first[None, :]) & (s[:, None] < last[None, :])


@triton.jit
def _of_keys_meet(
    state, tile, edge, start, k, v, k_top, b, h, bases, steps, sizes, noise, score,
    KIND: tl.constexpr, E: tl.constexpr, EV: tl.constexpr, E2: tl.constexpr,
    BLOCK_E: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    RANGED: tl.constexpr, MASK: tl.constexpr, CAPPED: tl.constexpr,
    GAUSS: tl.constexpr, DROP: tl.constexpr, EXTRA: tl.constexpr, PART: tl.constexpr,
    PAIRED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    dk, dv = state
    (q_ptr, q_top_ptr, vector_ptr, first_ptr, last_ptr, mask_ptr, centre_ptr, width_ptr, shift_ptr,
     grad_out_ptr, extra_ptr, delta_ptr, dk_at, k_at) = bases  # fmt: skip
    q_b, q_h, q_t, k_step, r_b, r_h, r_t, m_b, m_h, m_t, m_s, o_b, o_h, o_t = steps
    H, Tq, Tk, drawn = sizes
    seed, threshold, rescale = noise
    scale, cap = score
    t = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    inside = t < Tq
    head = b * H + h
    line = head * Tq + t
    s = start + tl.arange(0, BLOCK_N)
    shift = tl.load(shift_ptr + line, mask=inside, other=INFINITY)
    sees = shift != INFINITY
    delta = tl.load(delta_ptr + line, mask=inside, other=0.0)[None, :]
    centre = 0.0
    width = 1.0
    if GAUSS:
        centre = tl.load(centre_ptr + line, mask=inside, other=0.0)[None, :]
        width = tl.load(width_ptr + line, mask=inside, other=1.0)[None, :]
    q = 0.0
    if KIND == "dot":
        at = q_ptr + b * q_b + h * q_h + tile.to(tl.int64) * BLOCK_M * q_t
        at = at + tl.arange(0, BLOCK_M) * q_t
        q = rows_of(at, sees, E, BLOCK_E, 0)
        x = product_of_rows(k, (at, sees) if PART > 0 else q, E, PART, PRECISION)
    else:
        q_top = top_of(q_top_ptr + head * (q_t // additive.TOP), tile * BLOCK_M, BLOCK_M)
        paired = additive.in_pairs(q_top, k_top, PAIRED)
        q_at = (q_ptr + head * (2 * E2) * wide(q_t) + t)[None, :]
        vector_at = vector_ptr + head * E2
        k_there = s[:, None] < Tk
        if RANGED:
            seen = _seen(s, t, first_ptr, last_ptr, b * r_b + h * r_h, r_t, Tq, Tk, RANGED)
            k_there = (tl.max(seen.to(tl.int32), 1) > 0)[:, None]
        x = additive.scores(q_at, k_at, wide(q_t), k_step, sees[None, :], k_there, vector_at,
                            paired, E2, BLOCK_N, BLOCK_M)  # fmt: skip
    there = inside[None, :] & (s < Tk)[:, None]
    mask_at = (mask_ptr + b * m_b + h * m_h + t.to(tl.int64) * m_t)[None, :]
    x, slope = bent(x, s[:, None], 0, Tk, False, mask_at, wide(m_s), there, scale, cap, MASK,
                    CAPPED)  # fmt: skip
    dw = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
    do = 0.0
    if EV > 0:
        at = grad_out_ptr + b * o_b + h * o_h + tile.to(tl.int64) * BLOCK_M * o_t
        at = at + tl.arange(0, BLOCK_M) * o_t
        do = rows_of(at, sees, EV, BLOCK_V, 0)
        dw = product_of_rows(v, (at, sees) if PART > 0 else do, EV, PART, PRECISION)
    if edge:  # a key that nobody sees may be NaN
        seen = _seen(s, t, first_ptr, last_ptr, b * r_b + h * r_h, r_t, Tq, Tk, RANGED)
        x = tl.where(seen, x, -INFINITY)
        dw = tl.where(seen, dw, 0.0)
    w, _, ds = weighed(
        x, dw, shift[None, :], delta, s[:, None], t[None, :], (head % drawn).to(tl.int32), start,
        centre, width, seed, threshold, rescale, (extra_ptr + line * Tk)[None, :] + s[:, None],
        there, BLOCK_M, BLOCK_N, 0, MASK > 0, GAUSS, DROP, EXTRA,
    )  # fmt: skip
    if EV > 0:
        dv += product(narrow(w, do.dtype), do, PRECISION)
    ds *= slope
    if KIND == "dot":
        dk += product(narrow(ds, q.dtype), q, PRECISION)
    else:
        additive.pull(ds * scale, q_at, k_at, wide(q_t), k_step, sees[None, :], k_there, vector_at,
                      paired, dk_at, k_step, dk_at, False, E2)  # fmt: skip
    return dk, dv


@triton.jit(do_not_specialize=[*_VARYING, "q_tiles"])
def of_keys(
    q_ptr, k_ptr, v_ptr, q_top_ptr, k_top_ptr, vector_ptr, first_ptr, last_ptr, mask_ptr,
    centre_ptr, width_ptr, seed_ptr, shift_ptr, grad_out_ptr, extra_ptr, delta_ptr, seers_ptr,
    dk_ptr, dv_ptr,
    q_b, q_h, q_t, k_b, k_h, k_t, v_b, v_h, v_t, r_b, r_h, r_t, m_b, m_h, m_t, m_s, o_b, o_h, o_t,
    H, groups, Tq, Tk, drawn, threshold, scale, cap, rescale,
    KIND: tl.constexpr, E: tl.constexpr, EV: tl.constexpr, E2: tl.constexpr,
    BLOCK_E: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    RANGED: tl.constexpr, MASK: tl.constexpr, CAPPED: tl.constexpr, GAUSS: tl.constexpr,
    DROP: tl.constexpr, EXTRA: tl.constexpr, PART: tl.constexpr, PAIRED: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """``dk [B, Hk, Tk, E]`` and ``dv [B, Hk, Tk, EV]``; additive: ``dk [B, Hk, E2, padded]``, zero
    before. Tiles are ``[keys, queries]``, so that a key's gradients are sums along a row."""
    pid = tl.program_id(0)
    blocks = tl.cdiv(Tk, BLOCK_N)
    tile = pid % blocks
    head = (pid // blocks).to(tl.int64)
    b = head // (H // groups)
    kv = head % (H // groups)
    start = tile * BLOCK_N
    e = tl.arange(0, BLOCK_E)
    c = tl.arange(0, BLOCK_V)
    s = start + tl.arange(0, BLOCK_N)
    line = head * Tk + s
    k = 0.0
    v = 0.0
    k_top = 0.0
    k_at = k_ptr
    dk_at = dk_ptr
    k_step = wide(k_t)
    if KIND == "dot":
        at, there = lines_at(k_ptr + b * k_b + kv * k_h, start, k_t, 0, Tk, BLOCK_N)
        k = rows_of(at, there, E, BLOCK_E, PART)
    else:
        k_top = top_of(k_top_ptr + head * (k_t // additive.TOP), start, BLOCK_N)
        k_at = (k_ptr + head * (2 * E2) * k_step + s)[:, None]
        dk_at = dk_ptr + head * E2 * k_step + s
    if EV > 0:
        at, there = lines_at(v_ptr + b * v_b + kv * v_h, start, v_t, 0, Tk, BLOCK_N)
        v = rows_of(at, there, EV, BLOCK_V, PART)
    seed = 0
    if DROP:
        seed = tl.load(seed_ptr)
    bases = (q_ptr, q_top_ptr, vector_ptr, first_ptr, last_ptr, mask_ptr, centre_ptr, width_ptr,
             shift_ptr, grad_out_ptr, extra_ptr, delta_ptr, dk_at, k_at)  # fmt: skip
    steps = (q_b, q_h, q_t, k_step, r_b, r_h, r_t, m_b, m_h, m_t, m_s, o_b, o_h, o_t)
    sizes = (H, Tq, Tk, drawn)
    noise = (seed, threshold, rescale)
    score = (scale, cap)
    dk = tl.zeros([BLOCK_N, BLOCK_E], tl.float32)
    dv = tl.zeros([BLOCK_N, BLOCK_V], tl.float32)
    q_from = 0
    q_to = tl.cdiv(Tq, BLOCK_M)
    all_from = 0
    all_to = tl.where(start + BLOCK_N <= Tk, q_to, 0)
    for g in range(groups):
        h = kv * groups + g
        if RANGED:
            seen_by = seers_ptr + ((b * H + h) * blocks + tile) * 4
            q_from = tl.load(seen_by)
            q_to = tl.load(seen_by + 1)
            all_from = tl.load(seen_by + 2)
            all_to = tl.load(seen_by + 3)
        for i in range(q_from, q_to):
            edge = (i < all_from) | (i >= all_to)
            dk, dv = _of_keys_meet(
                (dk, dv), tl.cast(i, tl.int32), edge, start, k, v, k_top, b, h, bases, steps,
                sizes, noise, score, KIND, E, EV, E2, BLOCK_E, BLOCK_V, BLOCK_M, BLOCK_N, RANGED,
                MASK, CAPPED, GAUSS, DROP, EXTRA, PART, PAIRED, PRECISION,
            )  # fmt: skip
    inside = (s < Tk)[:, None]
    if KIND == "dot":
        there = inside & (e < E)[None, :]
        store(dk_ptr, line[:, None] * E + e[None, :], there, dk * scale)
    if EV > 0:
        store(dv_ptr, line[:, None] * EV + c[None, :], inside & (c < EV)[None, :], dv)
