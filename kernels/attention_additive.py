"""The additive score, ``sum_e v_e tanh(q_e + k_e)``, on tiles: a rank-one update for each e.

The tensor of all tanh exists one tile and one pair of e at a time. Queries and keys are read as
columns, ``[E, T]`` in float32 and padded to whole tiles, which `columns` lays out; beside each lies
``exp(2x)``, because

    tanh(q + k) = 1 - 2 / (1 + e^2q e^2k),    w1 / x1 + w2 / x2 = (w1 x2 + w2 x1) / (x1 x2),

so that two tanh cost one reciprocal. x1 x2 must not overflow, so max|q| + max|k| < 22; and where
all tanh are small, 1 - 2 r would lose their last digits, so from 1/4 on. Elsewhere a tile takes
tanh itself.

Bound: the special functions, 16 a cycle and multiprocessor: half of one a tanh in pairs, two (and
18 other instructions) with tanh itself; pairs take 3.5 other instructions, 128 a cycle.
"""

import triton
import triton.language as tl

from .functions import tanh
from .tiles import INTERPRETED

TOP: tl.constexpr = tl.constexpr(32)  # so many rows have one largest number
SOME: tl.constexpr = tl.constexpr(16)
_FROM: tl.constexpr = tl.constexpr(0.25)
_TO: tl.constexpr = tl.constexpr(22.0)


@triton.jit
def reciprocal(x):
    """To 1 ulp, without a division's care for denormal numbers: x is 1 and more."""
    if INTERPRETED:
        y = 1.0 / x
    else:
        code: tl.constexpr = "rcp.approx.ftz.f32 $0, $1;"
        y = tl.inline_asm_elementwise(code, "=f,f", [x], tl.float32, True, 1)
    return y


@triton.jit(do_not_specialize=["H", "T"])
def columns(x_ptr, out_ptr, top_ptr, x_b, x_h, x_t, H, T,
            E: tl.constexpr, E2: tl.constexpr, BLOCK_E: tl.constexpr,
            TOP: tl.constexpr):  # fmt: skip
    """``x [B, H, T, E]`` as ``out [B, H, 2, E2, padded]``, x and ``exp(2x)``, E2 even, the padding
    zero; ``top [B, H, padded / TOP]``: the largest ``|x|``. A program has TOP rows."""
    pid = tl.program_id(0)
    blocks = tl.cdiv(T, 128) * (128 // TOP)
    head = (pid // blocks).to(tl.int64)
    block = pid % blocks
    padded = blocks * TOP
    t = block * TOP + tl.arange(0, TOP)
    rows = x_ptr + head // H * x_b + head % H * x_h + t.to(tl.int64) * x_t
    top = tl.zeros([TOP], tl.float32)
    for start in range(0, E2, BLOCK_E):
        e = start + tl.arange(0, BLOCK_E)
        there = (t < T)[:, None] & (e < E)[None, :]
        x = tl.load(rows[:, None] + e[None, :], mask=there, other=0.0).to(tl.float32)
        top = tl.maximum(top, tl.max(tl.abs(x), 1))
        to = out_ptr + (head * (2 * E2) + e[None, :]) * padded + t[:, None]
        inside = (e < E2)[None, :] & (t >= 0)[:, None]
        tl.store(to, x, mask=inside)
        tl.store(to + E2 * padded.to(tl.int64), tl.exp(2.0 * x), mask=inside)
    tl.store(top_ptr + head * blocks + block, tl.max(top, 0))


@triton.jit
def in_pairs(q_top, k_top, PAIRED: tl.constexpr):
    """Whether a tile's numbers allow for pairs."""
    reach = q_top + k_top
    return PAIRED & (reach > _FROM) & (reach < _TO)


@triton.jit
def scores(q_at, k_at, q_step, k_step, q_there, k_there, vector_ptr, paired,
           E2: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):  # fmt: skip
    """A tile of scores ``[ROWS, COLUMNS]``; ``q_at`` and ``k_at`` point to where e is 0, one of
    them ``[ROWS, 1]`` and one ``[1, COLUMNS]``."""
    sums = tl.zeros([ROWS, COLUMNS], tl.float32)
    if paired:
        # -score / 2 = sum w r - sum w / 2, by SOME at a time, each sum of its own: one sum of all
        # w r would be rounded E / 2 times as the large number that it becomes.
        for start in range(0, E2, SOME):
            total = 0.0
            some = tl.zeros([ROWS, COLUMNS], tl.float32)
            for e in range(start, min(start + SOME, E2), 2):
                w1 = tl.load(vector_ptr + e)
                w2 = tl.load(vector_ptr + e + 1)
                q1 = tl.load(q_at + (E2 + e) * q_step, mask=q_there, other=0.0)
                k1 = tl.load(k_at + (E2 + e) * k_step, mask=k_there, other=0.0)
                q2 = tl.load(q_at + (E2 + e + 1) * q_step, mask=q_there, other=0.0)
                k2 = tl.load(k_at + (E2 + e + 1) * k_step, mask=k_there, other=0.0)
                x1 = q1 * k1 + 1.0
                x2 = q2 * k2 + 1.0
                some += (w1 * x2 + w2 * x1) * reciprocal(x1 * x2)
                total += w1 + w2
            sums += some - 0.5 * total
        sums = -2.0 * sums
    else:
        for e in range(E2):
            q1 = tl.load(q_at + e * q_step, mask=q_there, other=0.0)
            k1 = tl.load(k_at + e * k_step, mask=k_there, other=0.0)
            sums += tl.load(vector_ptr + e) * tanh(q1 + k1)
    return sums


@triton.jit
def pull(ds, q_at, k_at, q_step, k_step, q_there, k_there, vector_ptr, paired, to_ptrs, to_step,
         grad_vector_ptrs, VECTOR: tl.constexpr, E2: tl.constexpr):  # fmt: skip
    """Adds a tile's part, ``sum v_e ds (1 - tanh^2)`` over axis 1, to ``to [E2, rows]``, and with
    VECTOR ``sum ds tanh`` to ``grad_vector [E2, rows]``.

    These lie in memory, for registers cannot be counted through; a program has its rows alone.
    """
    # What another thread wrote for the tile before is read below.
    tl.debug_barrier()
    sums = tl.sum(ds, 1)
    if paired:
        for e in range(0, E2, 2):
            q1 = tl.load(q_at + (E2 + e) * q_step, mask=q_there, other=0.0)
            k1 = tl.load(k_at + (E2 + e) * k_step, mask=k_there, other=0.0)
            q2 = tl.load(q_at + (E2 + e + 1) * q_step, mask=q_there, other=0.0)
            k2 = tl.load(k_at + (E2 + e + 1) * k_step, mask=k_there, other=0.0)
            x1 = q1 * k1 + 1.0
            x2 = q2 * k2 + 1.0
            r = reciprocal(x1 * x2)
            r1 = r * x2
            r2 = r * x1
            a1 = ds * r1
            a2 = ds * r2
            s1 = tl.sum(a1, 1)
            s2 = tl.sum(a2, 1)
            # 1 - tanh^2 = 4 r (1 - r)
            c1 = 4.0 * (s1 - tl.sum(a1 * r1, 1))
            c2 = 4.0 * (s2 - tl.sum(a2 * r2, 1))
            to = to_ptrs + e * to_step
            tl.store(to, tl.load(to) + c1 * tl.load(vector_ptr + e))
            to = to_ptrs + (e + 1) * to_step
            tl.store(to, tl.load(to) + c2 * tl.load(vector_ptr + e + 1))
            if VECTOR:
                to = grad_vector_ptrs + e * to_step
                tl.store(to, tl.load(to) + sums - 2.0 * s1)
                to = grad_vector_ptrs + (e + 1) * to_step
                tl.store(to, tl.load(to) + sums - 2.0 * s2)
    else:
        for e in range(E2):
            q1 = tl.load(q_at + e * q_step, mask=q_there, other=0.0)
            k1 = tl.load(k_at + e * k_step, mask=k_there, other=0.0)
            y = tanh(q1 + k1)
            c1 = tl.sum(ds * (1.0 - y * y), 1)
            to = to_ptrs + e * to_step
            tl.store(to, tl.load(to) + c1 * tl.load(vector_ptr + e))
            if VECTOR:
                to = grad_vector_ptrs + e * to_step
                tl.store(to, tl.load(to) + tl.sum(ds * y, 1))
