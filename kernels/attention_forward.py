"""Flash attention, forward: a tile of queries meets its keys tile by tile, with a running softmax.

A program has BLOCK_M queries of one head (TOGETHER: of all heads that share keys) and those tiles
of keys that any of them sees; those that all see whole go without a comparison. SPLIT: for few
queries and many keys the tiles are dealt out to several programs, whose results `combine` weighs by
their log-sum-exp (Dao et al., *Flash-decoding for long-context inference*, 2023).

The running softmax is Milakov and Gimelshein's (*Online normalizer calculation for softmax*, 2018),
the form Dao's (*FlashAttention-2*, 2023).

Bound: the products, ``2 BLOCK_M BLOCK_N (E + EV)`` a tile on matrix units; at E = 64 and bfloat16
the exponentials, ``BLOCK_M BLOCK_N`` at 16 a cycle, take as long as these on Hopper.
"""

import triton
import triton.language as tl

from . import attention_additive as additive
from .attention_scores import bent, columns_of, queries_by_keys
from .attention_tiles import (
    INFINITY,
    LN2,
    LOG2E,
    bell,
    hull,
    kept,
    product,
    queries_of,
    ranges_of,
    rows_at,
    rows_of,
    wide,
)
from .tiles import narrow, store

_VARYING = ["H", "groups", "Tq", "Tk", "splits", "part_step", "drawn", "threshold"]


@triton.jit
def _meet(
    state, start, edge, q, rows, keys, values, bounds, mask_at, noise, score, columns,
    KIND: tl.constexpr, E: tl.constexpr, EV: tl.constexpr, E2: tl.constexpr,
    BLOCK_E: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    MASK: tl.constexpr, CAPPED: tl.constexpr, POSITIVE: tl.constexpr,
    GAUSS: tl.constexpr, DROP: tl.constexpr, PART: tl.constexpr, PAIRED: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """The queries meet one tile of keys."""
    total, l, m = state
    t, n, inside, first, last, centre, width = rows
    k_ptr, k_t = keys
    v_ptr, v_t = values
    low, high, Tk = bounds
    scale, cap = score
    ptrs, m_s = mask_at
    s = (start + tl.arange(0, BLOCK_N))[None, :]
    x, _, _ = queries_by_keys(q, k_ptr, k_t, start, low, high, columns, KIND, E, E2, BLOCK_E,
                              BLOCK_M, BLOCK_N, PART, PAIRED, PRECISION)  # fmt: skip
    LINEAR: tl.constexpr = POSITIVE and not CAPPED and MASK == 0
    if LINEAR:  # the scale goes into the difference
        if edge:
            x = tl.where((s >= first) & (s < last), x, -INFINITY)
        m_new = tl.maximum(m, tl.max(x, 1) * (scale * LOG2E))
    else:
        x, _ = bent(x, s, first, last, edge, ptrs, m_s, inside & (s < Tk), scale, cap,
                    MASK, CAPPED)  # fmt: skip
        m_new = tl.maximum(m, tl.max(x, 1))
    shift = tl.where(m_new == -INFINITY, 0.0, m_new)
    if LINEAR:
        p = tl.exp2(x * (scale * LOG2E) - shift[:, None])
    else:
        p = tl.exp2(x - shift[:, None])
    shrink = tl.exp2(m - shift)
    l = l * shrink + tl.sum(p, 1)
    if EV > 0:
        if GAUSS:
            g, _ = bell(s, centre, width)
            p *= g
        if DROP:
            seed, threshold = noise
            keep = kept(seed, n, t, start, threshold, BLOCK_M, BLOCK_N, 1)
            p = tl.where(keep, p, 0.0)
        v = rows_at(v_ptr, start, v_t, low, high, EV, BLOCK_N, BLOCK_V)
        total = total * shrink[:, None] + product(narrow(p, v.dtype), v, PRECISION)
    return total, l, m_new


@triton.jit(do_not_specialize=_VARYING)
def forward(
    q_ptr, k_ptr, v_ptr, q_top_ptr, k_top_ptr, vector_ptr, first_ptr, last_ptr, mask_ptr,
    centre_ptr, width_ptr, seed_ptr, out_ptr, lse_ptr,
    q_b, q_h, q_t, k_b, k_h, k_t, v_b, v_h, v_t, r_b, r_h, r_t, m_b, m_h, m_t, m_s,
    H, groups, Tq, Tk, splits, part_step, drawn, threshold, scale, cap, rescale,
    KIND: tl.constexpr, E: tl.constexpr, EV: tl.constexpr, E2: tl.constexpr,
    BLOCK_E: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    TOGETHER: tl.constexpr, SPLIT: tl.constexpr, RANGED: tl.constexpr, MASK: tl.constexpr,
    CAPPED: tl.constexpr, POSITIVE: tl.constexpr, GAUSS: tl.constexpr, DROP: tl.constexpr,
    PART: tl.constexpr, PAIRED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """``out [splits, B, H, Tq, EV]`` and ``lse [splits, B, H, Tq]``, dense. For the additive score
    ``q_ptr`` and ``k_ptr`` are columns (`additive.columns`), the lengths padded their strides."""
    pid = tl.program_id(0)
    units = H // groups if TOGETHER else H
    in_tile = Tq * groups if TOGETHER else Tq
    blocks = tl.cdiv(in_tile, BLOCK_M)
    # The last queries first: under a causal mask they have the most keys.
    tile = blocks - 1 - pid % blocks
    rest = pid // blocks
    part = rest % splits
    unit = (rest // splits).to(tl.int64)
    b = unit // units
    h0 = unit % units * groups if TOGETHER else unit % units
    kv = h0 // groups
    t, g = queries_of(tile, Tq, groups, BLOCK_M, TOGETHER)
    inside = t < Tq
    h = h0 + g
    n = ((b * H + h) % drawn).to(tl.int32)
    line = (b * H + h) * Tq + t
    first, last, sees = ranges_of(first_ptr, last_ptr, b * r_b + h * r_h + t.to(tl.int64) * r_t,
                                  inside, Tk, RANGED)  # fmt: skip
    low, high, all_low, all_high, start = hull(first, last, sees, Tk, BLOCK_N)

    q = 0.0
    columns = (0,)
    k_at = k_ptr + b * k_b + kv * k_h
    if KIND == "dot":
        at = q_ptr + b * q_b + h * q_h + t.to(tl.int64) * q_t
        q = rows_of(at, sees, E, BLOCK_E, PART)
    else:
        k_head = b * (H // groups) + kv
        k_at = k_ptr + k_head * (2 * E2) * wide(k_t)
        q_at, q_step, q_there, q_top, vector_at = columns_of(
            q_ptr, q_t, q_top_ptr, vector_ptr, b * H + h0, g, t, sees, E2
        )
        top_at = k_top_ptr + k_head * (k_t // additive.TOP)
        columns = (q_at, q_step, q_there, q_top, top_at, vector_at)
    centre = 0.0
    width = 1.0
    if GAUSS:
        centre = tl.load(centre_ptr + line, mask=inside, other=0.0)[:, None]
        width = tl.load(width_ptr + line, mask=inside, other=1.0)[:, None]
    mask_at = (mask_ptr, m_s)
    if MASK > 0:
        at = mask_ptr + b * m_b + h * m_h + t.to(tl.int64) * m_t
        mask_at = (at[:, None], wide(m_s))
    noise = (0, 0)
    if DROP:
        noise = (tl.load(seed_ptr), threshold)
    rows = (t[:, None], n[:, None], inside[:, None], first[:, None], last[:, None], centre, width)
    keys = (k_at, k_t)
    values = (v_ptr + b * v_b + kv * v_h, v_t)
    bounds = (low, high, Tk)
    score = (scale, cap)

    total = tl.zeros([BLOCK_M, BLOCK_V], tl.float32)
    l = tl.zeros([BLOCK_M], tl.float32)
    m = tl.full([BLOCK_M], -INFINITY, tl.float32)
    end = high
    if SPLIT:
        each = tl.cdiv(tl.cdiv(high - start, BLOCK_N), splits) * BLOCK_N
        start += part * each
        end = tl.minimum(start + each, high)
    for s in range(start, end, BLOCK_N):
        edge = (s < all_low) | (s + BLOCK_N > all_high)
        total, l, m = _meet(
            (total, l, m), s, edge, q, rows, keys, values, bounds, mask_at, noise, score, columns,
            KIND, E, EV, E2, BLOCK_E, BLOCK_V, BLOCK_M, BLOCK_N, MASK, CAPPED, POSITIVE, GAUSS,
            DROP, PART, PAIRED, PRECISION,
        )  # fmt: skip

    empty = (l == 0.0) | (sees == 0)
    lse = tl.where(empty, -INFINITY, (m + tl.log2(tl.where(empty, 1.0, l))) * LN2)
    line += part * wide(part_step)
    tl.store(lse_ptr + line, lse, mask=inside)
    if EV > 0:
        v = tl.arange(0, BLOCK_V)
        out = tl.where(empty[:, None], 0.0, total * (rescale / tl.where(empty, 1.0, l))[:, None])
        store(out_ptr, line[:, None] * EV + v[None, :], inside[:, None] & (v < EV)[None, :], out)


@triton.jit(do_not_specialize=["count", "splits"])
def combine(parts_ptr, lses_ptr, out_ptr, lse_ptr, count, splits,
            EV: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_M: tl.constexpr):  # fmt: skip
    """``[splits, count, EV]`` and ``[splits, count]`` to ``[count, EV]`` and ``[count]``."""
    line = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    inside = line < count
    v = tl.arange(0, BLOCK_V)
    m = tl.full([BLOCK_M], -INFINITY, tl.float32)
    l = tl.zeros([BLOCK_M], tl.float32)
    total = tl.zeros([BLOCK_M, BLOCK_V], tl.float32)
    for part in range(splits):
        at = line + part * wide(count)
        x = tl.load(lses_ptr + at, mask=inside, other=-INFINITY) * LOG2E
        m_new = tl.maximum(m, x)
        # NaN has to go on: `maximum` drops it.
        shift = tl.where(m_new == -INFINITY, 0.0, m_new)
        shrink = tl.exp2(m - shift)
        weight = tl.exp2(x - shift)
        l = l * shrink + weight
        there = inside[:, None] & (v < EV)[None, :]
        o = tl.load(parts_ptr + at[:, None] * EV + v[None, :], mask=there, other=0.0)
        total = total * shrink[:, None] + o * weight[:, None]
        m = m_new
    empty = l == 0.0
    lse = tl.where(empty, -INFINITY, (m + tl.log2(tl.where(empty, 1.0, l))) * LN2)
    tl.store(lse_ptr + line, lse, mask=inside)
    if EV > 0:
        out = total / tl.where(empty, 1.0, l)[:, None]
        store(out_ptr, line[:, None] * EV + v[None, :], inside[:, None] & (v < EV)[None, :], out)
