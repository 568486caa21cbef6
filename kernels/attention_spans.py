"""Which queries see a tile of keys, found from which keys each query sees."""

import triton
import triton.language as tl

from .attention_tiles import hull, ranges_of

_VARYING = ["H", "Tq", "Tk"]


@triton.jit(do_not_specialize=_VARYING)
def spans(first_ptr, last_ptr, out_ptr, r_b, r_h, r_t, H, Tq, Tk,
          BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):  # fmt: skip
    """``out [B, H, tiles of queries, 4]``: `hull` of each, its whole tiles 0 to 0 where none is."""
    pid = tl.program_id(0)
    blocks = tl.cdiv(Tq, BLOCK_M)
    head = (pid // blocks).to(tl.int64)
    t = pid % blocks * BLOCK_M + tl.arange(0, BLOCK_M)
    offsets = head // H * r_b + head % H * r_h + t.to(tl.int64) * r_t
    first, last, sees = ranges_of(first_ptr, last_ptr, offsets, t < Tq, Tk, True)
    low, high, all_low, all_high, _ = hull(first, last, sees, Tk, BLOCK_N)
    to = out_ptr + pid.to(tl.int64) * 4
    tl.store(to, low)
    tl.store(to + 1, high)
    tl.store(to + 2, all_low)
    tl.store(to + 3, all_high)


@triton.jit(do_not_specialize=["Tk", "q_tiles"])
def seers(spans_ptr, out_ptr, Tk, q_tiles, BLOCK_N: tl.constexpr, CHUNK: tl.constexpr):
    """``out [B, H, tiles of keys, 4]``: the tiles of queries that see any of a tile's keys lie from
    the first to the second number; from the third to the fourth each query sees all of them."""
    pid = tl.program_id(0)
    blocks = tl.cdiv(Tk, BLOCK_N)
    start = pid % blocks * BLOCK_N
    at = spans_ptr + (pid // blocks).to(tl.int64) * q_tiles * 4
    begin = q_tiles
    end = 0
    whole = q_tiles  # the first that sees all
    for c in range(0, q_tiles, CHUNK):
        i, low, high, all_low, all_high = _chunk(at, c, q_tiles, CHUNK)
        some = (low < start + BLOCK_N) & (high > start)
        begin = tl.minimum(begin, tl.min(tl.where(some, i, q_tiles), 0))
        end = tl.maximum(end, tl.max(tl.where(some, i + 1, 0), 0))
        all_of_it = (all_low <= start) & (all_high >= start + BLOCK_N)
        whole = tl.minimum(whole, tl.min(tl.where(all_of_it, i, q_tiles), 0))
    stop = q_tiles  # the first behind it that does not
    for c in range(0, q_tiles, CHUNK):
        i, low, high, all_low, all_high = _chunk(at, c, q_tiles, CHUNK)
        all_of_it = (all_low <= start) & (all_high >= start + BLOCK_N)
        stop = tl.minimum(stop, tl.min(tl.where((i > whole) & (all_of_it == 0), i, q_tiles), 0))
    begin = tl.minimum(begin, end)
    none = whole >= q_tiles
    to = out_ptr + pid.to(tl.int64) * 4
    tl.store(to, begin)
    tl.store(to + 1, end)
    tl.store(to + 2, tl.where(none, begin, whole))
    tl.store(to + 3, tl.where(none, begin, stop))


@triton.jit
def _chunk(at, c, q_tiles, CHUNK: tl.constexpr):
    i = c + tl.arange(0, CHUNK)
    there = i < q_tiles
    low = tl.load(at + i * 4, mask=there, other=0)
    high = tl.load(at + i * 4 + 1, mask=there, other=0)
    all_low = tl.load(at + i * 4 + 2, mask=there, other=0)
    all_high = tl.load(at + i * 4 + 3, mask=there, other=0)
    return i, low, high, all_low, all_high
