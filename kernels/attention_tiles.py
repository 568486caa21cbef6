"""What flash attention's kernels share: where rows lie, who sees whom, what a score goes through.

A tile is queries by keys, or keys by queries (the gradients of keys and values). These functions
take positions already spread, ``[queries, 1]`` and ``[1, keys]`` or the other way round, and so
serve both. Scores are kept times ``log2(e)``, for exp2 is what the hardware has.

Letters: ``t`` a query, ``s`` a key, ``n`` a head of queries counted through the batch.
"""

import triton
import triton.language as tl

from .functions import tanh
from .tiles import dot

LOG2E: tl.constexpr = tl.constexpr(1.4426950408889634)
LN2: tl.constexpr = tl.constexpr(0.6931471805599453)
INFINITY: tl.constexpr = tl.constexpr(float("inf"))


@triton.jit
def wide(x):
    """An index or a stride as 64 bits: offsets of whole tensors outgrow 32."""
    return tl.cast(x, tl.int64)


@triton.jit
def product(a, b, PRECISION: tl.constexpr):
    """``a b`` summed in float32; the matrix units want 16 rows, a single one is multiplied out."""
    if a.shape[0] == 1:
        c = tl.sum(tl.trans(a).to(tl.float32) * b.to(tl.float32), 0)[None, :]
    elif a.shape[1] == 1:
        c = a.to(tl.float32) * b.to(tl.float32)
    elif b.shape[1] == 1:
        c = tl.sum(a.to(tl.float32) * tl.trans(b).to(tl.float32), 1)[:, None]
    else:
        c = dot(a, b, PRECISION)
    return c


@triton.jit
def rows_of(at, there, WIDTH: tl.constexpr, COLUMNS: tl.constexpr, PART: tl.constexpr):
    """The rows that ``at`` points to, zero where not ``there``; with PART the pointers alone, for
    `product_of_rows`."""
    if PART > 0:
        x = (at, there)
    else:
        c = tl.arange(0, COLUMNS)
        x = tl.load(at[:, None] + c[None, :], mask=there[:, None] & (c < WIDTH)[None, :], other=0.0)
    return x


@triton.jit
def product_of_rows(a, b, WIDTH: tl.constexpr, PART: tl.constexpr, PRECISION: tl.constexpr):
    """``a bT`` of `rows_of`; with PART so many columns at a time.

    A product in three takes both operands twice in registers, and whole rows are more than these.
    """
    if PART > 0:
        a_at, a_there = a
        b_at, b_there = b
        x = tl.zeros([a_at.shape[0], b_at.shape[0]], tl.float32)
        for start in range(0, WIDTH, PART):
            c = start + tl.arange(0, PART)
            there = a_there[:, None] & (c < WIDTH)[None, :]
            a_part = tl.load(a_at[:, None] + c[None, :], mask=there, other=0.0)
            there = b_there[:, None] & (c < WIDTH)[None, :]
            b_part = tl.load(b_at[:, None] + c[None, :], mask=there, other=0.0)
            x += product(a_part, tl.trans(b_part), PRECISION)
    else:
        x = product(a, tl.trans(b), PRECISION)
    return x


@triton.jit
def lines_at(ptr, start, step, low, high, ROWS: tl.constexpr):
    """Where ROWS rows from ``start`` on begin, and which of them are from ``low`` to ``high``."""
    row = start + tl.arange(0, ROWS)
    return ptr + wide(start) * step + tl.arange(0, ROWS) * step, (row >= low) & (row < high)


@triton.jit
def rows_at(ptr, start, step, low, high, WIDTH: tl.constexpr, ROWS: tl.constexpr,
            COLUMNS: tl.constexpr):  # fmt: skip
    """ROWS of a matrix from ``start`` on, zero but for those from ``low`` to ``high``.

    Zero, not what is there: what nobody sees may be anything, and 0 * NaN is none of ours.
    """
    row = tl.arange(0, ROWS)
    column = tl.arange(0, COLUMNS)
    ptrs = ptr + wide(start) * step + (row[:, None] * step + column[None, :])
    inside = (start + row >= low) & (start + row < high)
    if WIDTH == COLUMNS:
        x = tl.load(ptrs, mask=inside[:, None], other=0.0)
    else:
        x = tl.load(ptrs, mask=inside[:, None] & (column < WIDTH)[None, :], other=0.0)
    return x


@triton.jit
def queries_of(tile, Tq, groups, BLOCK: tl.constexpr, TOGETHER: tl.constexpr):
    """Queries of a tile and their heads within the group; TOGETHER: all heads of a group that share
    keys are in one tile, so that a few queries fill it."""
    row = tile * BLOCK + tl.arange(0, BLOCK)
    if TOGETHER:
        t = row // groups
        g = row - t * groups
    else:
        t = row
        g = tl.zeros([BLOCK], tl.int32)
    return t, g


@triton.jit
def ranges_of(first_ptr, last_ptr, offsets, inside, Tk, RANGED: tl.constexpr):
    """First and last key of each query, and whether it sees any."""
    if RANGED:
        first = tl.load(first_ptr + offsets, mask=inside, other=0)
        last = tl.minimum(tl.load(last_ptr + offsets, mask=inside, other=0), Tk)
        first = tl.maximum(first, 0)
        sees = first < last
    else:
        first = tl.zeros_like(offsets).to(tl.int32)
        last = first + Tk
        sees = inside & (last > 0)
    return first, last, sees


@triton.jit
def hull(first, last, sees, Tk, BLOCK_N: tl.constexpr):
    """Keys from ``low`` to ``high`` that any query sees; from ``all_low`` to ``all_high``, in whole
    tiles, those that each does; and the first tile's start."""
    low = tl.min(tl.where(sees, first, Tk), 0)
    high = tl.max(tl.where(sees, last, 0), 0)
    low = tl.minimum(low, high)
    start = low // BLOCK_N * BLOCK_N
    all_low = tl.max(tl.where(sees, first, 0), 0)
    all_high = tl.min(tl.where(sees, last, Tk), 0) // BLOCK_N * BLOCK_N
    all_low = (all_low + BLOCK_N - 1) // BLOCK_N * BLOCK_N
    some = (all_high > all_low) & (high > low)
    return low, high, tl.where(some, all_low, start), tl.where(some, all_high, start), start


@triton.jit
def capped(x, scale, cap, CAPPED: tl.constexpr):
    """Score times ``log2(e)``, and the derivative of the cap."""
    slope = 1.0
    if CAPPED:
        bent = tanh(x * (scale / cap))
        slope = 1.0 - bent * bent
        x = bent * (cap * LOG2E)
    else:
        x = x * (scale * LOG2E)
    return x, slope


@triton.jit
def masked(x, ptrs, there, MASK: tl.constexpr):
    """A score with its mask: 1, whether to see; 2, numbers to add. ``there``: what may be read."""
    if MASK == 1:
        x = tl.where(tl.load(ptrs, mask=there, other=0) != 0, x, -INFINITY)
    elif MASK == 2:
        x += tl.load(ptrs, mask=there, other=0.0).to(tl.float32) * LOG2E
    return x


@triton.jit
def bell(s, centre, width):
    """The Gaussian of local-p, and its argument."""
    z = (s.to(tl.float32) - centre) / width
    return tl.exp2(z * z * (-0.5 * LOG2E)), z


@triton.jit
def kept(seed, n, t, start, threshold, QUERIES: tl.constexpr, KEYS: tl.constexpr,
         AXIS: tl.constexpr):  # fmt: skip
    """Which weights of a tile dropout keeps, by the stream of `fastrnn.philox`; keys along AXIS.

    ``threshold`` less 2^31, for numbers that Triton would take for signed.
    """
    if KEYS % 64 == 0:
        # Four words a counter: they are the rows of 16 keys that make up 64.
        i = tl.arange(0, KEYS // 4)
        i = (start // 64 + i // 16) * 16 + i % 16
        c0 = i[None, :] if AXIS == 1 else i[:, None]
        w0, w1, w2, w3 = tl.philox(seed, c0, t, n, tl.zeros_like(c0))
        words = tl.join(tl.join(w0, w2), tl.join(w1, w3))
        if AXIS == 1:
            words = tl.reshape(words, [QUERIES, KEYS // 64, 16, 2, 2])
            bits = tl.reshape(tl.permute(words, [0, 1, 3, 4, 2]), [QUERIES, KEYS])
        else:
            words = tl.reshape(words, [KEYS // 64, 16, QUERIES, 2, 2])
            bits = tl.reshape(tl.permute(words, [0, 3, 4, 1, 2]), [KEYS, QUERIES])
    else:
        s = start + tl.arange(0, KEYS)
        s = s[None, :] if AXIS == 1 else s[:, None]
        w0, w1, w2, w3 = tl.philox(seed, s // 64 * 16 + s % 16, t, n, tl.zeros_like(s))
        word = s // 16 % 4
        bits = tl.where(word < 2, tl.where(word == 0, w0, w1), tl.where(word == 2, w2, w3))
    return (bits ^ 0x80000000).to(tl.int32, bitcast=True) >= threshold
