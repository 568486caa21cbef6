"""From queries and keys to scores and, in the backward, from weights to the scores' gradients.

All of it is either orientation's: positions come spread (`attention_tiles`).
"""

import triton
import triton.language as tl

from . import attention_additive as additive
from .attention_tiles import (
    INFINITY,
    bell,
    capped,
    kept,
    lines_at,
    masked,
    product_of_rows,
    rows_at,
    wide,
)


@triton.jit
def queries_by_keys(
    q, k_ptr, k_t, start, low, high, columns, KIND: tl.constexpr, E: tl.constexpr,
    E2: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    PART: tl.constexpr, PAIRED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Scores as they come from the product or the sum; ``k_ptr`` of one head, or its columns.

    Returns them, the keys, and what `additive.pull` wants to know of the tile.
    """
    if KIND == "dot":
        k = rows_at(k_ptr, start, k_t, low, high, E, BLOCK_N, BLOCK_E)
        if PART > 0:
            k_rows = lines_at(k_ptr, start, k_t, low, high, BLOCK_N)
            x = product_of_rows(q, k_rows, E, PART, PRECISION)
        else:
            x = product_of_rows(q, k, E, PART, PRECISION)
        pair = (0,)
    else:
        q_at, q_step, q_there, q_top, top_ptr, vector_ptr = columns
        s = start + tl.arange(0, BLOCK_N)
        paired = additive.in_pairs(q_top, top_of(top_ptr, start, BLOCK_N), PAIRED)
        k_there = (s >= low) & (s < high)
        pair = ((k_ptr + s)[None, :], k_there[None, :], paired)
        x = additive.scores(q_at, pair[0], q_step, wide(k_t), q_there, pair[1], vector_ptr, paired,
                            E2, BLOCK_M, BLOCK_N)  # fmt: skip
        k = x
    return x, k, pair


@triton.jit
def gradient_of_weights(
    do, v_ptr, v_t, start, low, high, EV: tl.constexpr, BLOCK_V: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, PART: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """``do vT``, of queries by keys."""
    dw = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    if EV > 0:
        if PART > 0:
            v = lines_at(v_ptr, start, v_t, low, high, BLOCK_N)
        else:
            v = rows_at(v_ptr, start, v_t, low, high, EV, BLOCK_N, BLOCK_V)
        dw = product_of_rows(do, v, EV, PART, PRECISION)
    return dw


@triton.jit
def top_of(top_ptr, start, BLOCK: tl.constexpr):
    """The largest number of a tile of BLOCK rows, or of more."""
    if BLOCK < additive.TOP:
        top = tl.load(top_ptr + start // additive.TOP)
    else:
        tops = tl.arange(0, BLOCK // additive.TOP)
        top = tl.max(tl.load(top_ptr + start // additive.TOP + tops), 0)
    return top


@triton.jit
def columns_of(q_ptr, q_t, top_ptr, vector_ptr, head, h, t, sees, E2: tl.constexpr):
    """The queries' side of `queries_by_keys`: ``head`` counts query heads through the batch; ``h``
    and ``t`` are each row's own."""
    own = head + h
    tops = tl.load(top_ptr + own * (q_t // additive.TOP) + t // additive.TOP, mask=sees, other=0.0)
    at = q_ptr + own * (2 * E2) * wide(q_t) + t
    return at[:, None], wide(q_t), sees[:, None], tl.max(tops, 0), vector_ptr + head * E2


@triton.jit
def bent(
    x, s, first, last, edge, mask_ptrs, m_s, readable, scale, cap,
    MASK: tl.constexpr, CAPPED: tl.constexpr,
):  # fmt: skip
    """Scaled, capped, masked: the score times ``log2(e)``, and the derivative of the cap.

    ``edge``: not every query sees every key of the tile.
    """
    x, slope = capped(x, scale, cap, CAPPED)
    if MASK > 0:
        x = masked(x, mask_ptrs + s * m_s, readable, MASK)
    if edge:
        x = tl.where((s >= first) & (s < last), x, -INFINITY)
    return x, slope


@triton.jit
def weighed(
    x, dw, shift, delta, s, t, n, start, centre, width, seed, threshold, rescale, extra_ptrs, there,
    QUERIES: tl.constexpr, KEYS: tl.constexpr, AXIS: tl.constexpr, CAREFUL: tl.constexpr,
    GAUSS: tl.constexpr, DROP: tl.constexpr, EXTRA: tl.constexpr,
):  # fmt: skip
    """From ``dw = do v``, the gradient of each weight: the weight, its gradient, that of its score.

    ``shift`` is the log-sum-exp times ``log2(e)``, infinite where a query sees nothing. CAREFUL:
    there may be keys that a mask hides, whose numbers may be NaN.
    """
    p = tl.exp2(x - shift)
    w = p
    if EXTRA == 1:
        dw += tl.load(extra_ptrs, mask=there, other=0.0).to(tl.float32)
    dp = dw
    if DROP:
        keep = kept(seed, n, t, start, threshold, QUERIES, KEYS, AXIS)
        w = tl.where(keep, w * rescale, 0.0)
        dp = tl.where(keep, dp * rescale, 0.0)
    if GAUSS:
        g, _ = bell(s, centre, width)
        w *= g
        dp *= g
    ds = p * (dp - delta)
    if CAREFUL:
        ds = tl.where(p == 0.0, 0.0, ds)
    if EXTRA == 2:
        # Of the logarithm: the weight may be too small for a number, and the gradient is not.
        log_gradient = tl.load(extra_ptrs, mask=there, other=0.0).to(tl.float32)
        ds += tl.where((x == -INFINITY) | (shift == INFINITY), 0.0, log_gradient)
    return w, dw, ds
