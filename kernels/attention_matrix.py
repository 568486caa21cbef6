"""What is as large as all weights, for those who ask: the weights themselves, or their logarithms,
and the gradient of a mask.

`matrix` writes a tile a program, from the log-sum-exp that the forward found. `mask_gradient` has a
tile of the mask a program and sums over everything that the mask was broadcast to, in one order; of
heads and batch a part at a time, so that a small mask keeps many programs busy.
"""

import triton
import triton.language as tl

from . import attention_additive as additive
from .attention_scores import bent, columns_of, gradient_of_weights, queries_by_keys, weighed
from .attention_tiles import INFINITY, LOG2E, bell, kept, ranges_of, rows_of, wide
from .tiles import store

_VARYING = ["H", "groups", "Tq", "Tk", "drawn", "threshold"]


@triton.jit
def _tile(
    b, h, q_tile, start, q_ptr, k_ptr, q_top_ptr, k_top_ptr, vector_ptr, first_ptr, last_ptr,
    mask_ptr, strides, H, groups, Tq, Tk, scale, cap,
    KIND: tl.constexpr, E: tl.constexpr, E2: tl.constexpr, BLOCK_E: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, RANGED: tl.constexpr, MASK: tl.constexpr,
    CAPPED: tl.constexpr, PART: tl.constexpr, PAIRED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A tile's scores, its queries, whether they see any key."""
    q_b, q_h, q_t, k_b, k_h, k_t, r_b, r_h, r_t, m_b, m_h, m_t, m_s = strides
    t = q_tile * BLOCK_M + tl.arange(0, BLOCK_M)
    s = (start + tl.arange(0, BLOCK_N))[None, :]
    inside = t < Tq
    first, last, sees = ranges_of(first_ptr, last_ptr, b * r_b + h * r_h + t.to(tl.int64) * r_t,
                                  inside, Tk, RANGED)  # fmt: skip
    low = tl.min(tl.where(sees, first, Tk), 0)
    high = tl.max(tl.where(sees, last, 0), 0)
    q = 0.0
    columns = (0,)
    k_at = k_ptr + b * k_b + h // groups * k_h
    if KIND == "dot":
        at = q_ptr + b * q_b + h * q_h + t.to(tl.int64) * q_t
        q = rows_of(at, sees, E, BLOCK_E, PART)
    else:
        k_head = b * (H // groups) + h // groups
        k_at = k_ptr + k_head * (2 * E2) * wide(k_t)
        q_at, q_step, q_there, q_top, vector_at = columns_of(
            q_ptr, q_t, q_top_ptr, vector_ptr, b * H + h, t * 0, t, sees, E2
        )
        top_at = k_top_ptr + k_head * (k_t // additive.TOP)
        columns = (q_at, q_step, q_there, q_top, top_at, vector_at)
    x, _, _ = queries_by_keys(q, k_at, k_t, start, low, high, columns, KIND, E, E2, BLOCK_E,
                              BLOCK_M, BLOCK_N, PART, PAIRED, PRECISION)  # fmt: skip
    mask_at = (mask_ptr + b * m_b + h * m_h + t.to(tl.int64) * m_t)[:, None]
    x, _ = bent(x, s, first[:, None], last[:, None], True, mask_at, wide(m_s),
                inside[:, None] & (s < Tk), scale, cap, MASK, CAPPED)  # fmt: skip
    return x, t, s, inside, sees, low, high


@triton.jit(do_not_specialize=_VARYING)
def matrix(
    q_ptr, k_ptr, q_top_ptr, k_top_ptr, vector_ptr, first_ptr, last_ptr, mask_ptr, centre_ptr,
    width_ptr, seed_ptr, lse_ptr, out_ptr,
    q_b, q_h, q_t, k_b, k_h, k_t, r_b, r_h, r_t, m_b, m_h, m_t, m_s,
    H, groups, Tq, Tk, drawn, threshold, scale, cap, rescale,
    KIND: tl.constexpr, E: tl.constexpr, E2: tl.constexpr, BLOCK_E: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, RANGED: tl.constexpr, MASK: tl.constexpr,
    CAPPED: tl.constexpr, GAUSS: tl.constexpr, DROP: tl.constexpr, EXTRA: tl.constexpr,
    PART: tl.constexpr, PAIRED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """``out [B, H, Tq, Tk]``: the weights (EXTRA 1) or the logarithms of the softmax (2)."""
    pid = tl.program_id(0)
    k_tiles = tl.cdiv(Tk, BLOCK_N)
    q_tiles = tl.cdiv(Tq, BLOCK_M)
    start = pid % k_tiles * BLOCK_N
    head = (pid // k_tiles // q_tiles).to(tl.int64)
    strides = (q_b, q_h, q_t, k_b, k_h, k_t, r_b, r_h, r_t, m_b, m_h, m_t, m_s)
    x, t, s, inside, sees, _, _ = _tile(
        head // H, head % H, pid // k_tiles % q_tiles, start, q_ptr, k_ptr, q_top_ptr, k_top_ptr,
        vector_ptr, first_ptr, last_ptr, mask_ptr, strides, H, groups, Tq, Tk, scale, cap,
        KIND, E, E2, BLOCK_E, BLOCK_M, BLOCK_N, RANGED, MASK, CAPPED, PART, PAIRED, PRECISION,
    )  # fmt: skip
    line = head * Tq + t
    lse = tl.load(lse_ptr + line, mask=sees, other=-INFINITY)[:, None]
    if EXTRA == 2:
        found = tl.where(lse == -INFINITY, -INFINITY, x / LOG2E - lse)
    else:
        found = tl.exp2(x - tl.where(lse == -INFINITY, INFINITY, lse * LOG2E))
        if DROP:
            keep = kept(tl.load(seed_ptr), (head % drawn).to(tl.int32), t[:, None], start,
                        threshold, BLOCK_M, BLOCK_N, 1)  # fmt: skip
            found = tl.where(keep, found * rescale, 0.0)
        if GAUSS:
            centre = tl.load(centre_ptr + line, mask=inside, other=0.0)[:, None]
            width = tl.load(width_ptr + line, mask=inside, other=1.0)[:, None]
            g, _ = bell(s, centre, width)
            found *= g
    store(out_ptr, line[:, None] * Tk + s, inside[:, None] & (s < Tk), found)


@triton.jit(do_not_specialize=[*_VARYING, "B", "mask_b", "mask_h", "parts"])
def mask_gradient(
    q_ptr, k_ptr, v_ptr, q_top_ptr, k_top_ptr, vector_ptr, first_ptr, last_ptr, mask_ptr,
    centre_ptr, width_ptr, seed_ptr, shift_ptr, grad_out_ptr, extra_ptr, delta_ptr, dmask_ptr,
    q_b, q_h, q_t, k_b, k_h, k_t, v_b, v_h, v_t, r_b, r_h, r_t, m_b, m_h, m_t, m_s, o_b, o_h, o_t,
    B, H, groups, Tq, Tk, mask_b, mask_h, parts, drawn, threshold, scale, cap, rescale,
    KIND: tl.constexpr, E: tl.constexpr, EV: tl.constexpr, E2: tl.constexpr,
    BLOCK_E: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    RANGED: tl.constexpr, CAPPED: tl.constexpr, GAUSS: tl.constexpr, DROP: tl.constexpr,
    EXTRA: tl.constexpr, OVER_T: tl.constexpr, OVER_S: tl.constexpr, PART: tl.constexpr,
    PAIRED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """``dmask [parts, mask_b, mask_h, Tq, Tk]``, to be summed over its parts; with OVER_T or OVER_S
    the mask has one row or column for all, and so has its gradient."""
    pid = tl.program_id(0)
    q_tiles = tl.cdiv(Tq, BLOCK_M)
    k_tiles = tl.cdiv(Tk, BLOCK_N)
    own_q = 1 if OVER_T else q_tiles
    own_k = 1 if OVER_S else k_tiles
    j = pid % own_k
    i = pid // own_k % own_q
    rest = pid // own_k // own_q
    mask_head = (rest % (mask_b * mask_h)).to(tl.int64)
    part = rest // (mask_b * mask_h)
    # Batches and heads that share this tile of the mask, a part of them.
    over_b = B // mask_b
    over_h = H // mask_h
    each = tl.cdiv(over_b * over_h, parts)
    begin = part * each
    end = tl.minimum(begin + each, over_b * over_h)
    q_end = q_tiles if OVER_T else i + 1
    k_end = k_tiles if OVER_S else j + 1
    strides = (q_b, q_h, q_t, k_b, k_h, k_t, r_b, r_h, r_t, m_b, m_h, m_t, m_s)
    seed = 0
    if DROP:
        seed = tl.load(seed_ptr)
    found = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for which in range(begin, end):
        b = tl.where(mask_b == 1, which // over_h, mask_head // mask_h).to(tl.int64)
        h = tl.where(mask_h == 1, which % over_h, mask_head % mask_h).to(tl.int64)
        head = b * H + h
        for q_tile in range(i, q_end):
            for k_tile in range(j, k_end):
                start = k_tile * BLOCK_N
                x, t, s, inside, sees, low, high = _tile(
                    b, h, q_tile, start, q_ptr, k_ptr, q_top_ptr, k_top_ptr, vector_ptr,
                    first_ptr, last_ptr, mask_ptr, strides, H, groups, Tq, Tk, scale, cap,
                    KIND, E, E2, BLOCK_E, BLOCK_M, BLOCK_N, RANGED, 2, CAPPED, PART, PAIRED,
                    PRECISION,
                )  # fmt: skip
                line = head * Tq + t
                shift = tl.load(shift_ptr + line, mask=sees, other=INFINITY)[:, None]
                delta = tl.load(delta_ptr + line, mask=sees, other=0.0)[:, None]
                centre = 0.0
                width = 1.0
                if GAUSS:
                    centre = tl.load(centre_ptr + line, mask=inside, other=0.0)[:, None]
                    width = tl.load(width_ptr + line, mask=inside, other=1.0)[:, None]
                at = grad_out_ptr + b * o_b + h * o_h + t.to(tl.int64) * o_t
                do = rows_of(at, sees, EV, BLOCK_V, PART)
                dw = gradient_of_weights(
                    do, v_ptr + b * v_b + h // groups * v_h, v_t, start, low, high, EV, BLOCK_V,
                    BLOCK_M, BLOCK_N, PART, PRECISION,
                )  # fmt: skip
                _, _, ds = weighed(
                    x, dw, shift, delta, s, t[:, None], (head % drawn).to(tl.int32), start, centre,
                    width, seed, threshold, rescale, (extra_ptr + line * Tk)[:, None] + s,
                    inside[:, None] & (s < Tk), BLOCK_M, BLOCK_N, 1, True, GAUSS, DROP, EXTRA,
                )  # fmt: skip
                if OVER_T:
                    ds = tl.where(inside[:, None], ds, 0.0)
                if OVER_S:
                    ds = tl.where(s < Tk, ds, 0.0)
                found += ds
    rows = 1 if OVER_T else Tq
    keys = 1 if OVER_S else Tk
    to = dmask_ptr + (part * (mask_b * mask_h) + mask_head) * rows * wide(keys)
    t = i * BLOCK_M + tl.arange(0, BLOCK_M)
    s = j * BLOCK_N + tl.arange(0, BLOCK_N)
    if OVER_T and OVER_S:
        tl.store(to, tl.sum(tl.sum(found, 1), 0))
    elif OVER_T:
        tl.store(to + s, tl.sum(found, 0), mask=s < Tk)
    elif OVER_S:
        tl.store(to + t, tl.sum(found, 1), mask=t < Tq)
    else:
        there = (t < Tq)[:, None] & (s < Tk)[None, :]
        tl.store(to + t.to(tl.int64)[:, None] * Tk + s[None, :], found, mask=there)
