"""What a scan does to its sequences beside running a cell over them: lengths, resets, recurrent
dropout, zoneout. Functions on tiles, of any orientation: ``b`` and ``u`` are whatever spans one.

Before a step the states that it begins with are made from those that the step before left: where
the sequence is reset they are replaced. A step that is not there replaces nothing, so the states
after the last one are final.

Everything is off where the constant of its name is False or 0, and costs nothing then.
"""

import triton
import triton.language as tl

from .functions import bounded
from .tiles import load, rows_of_step, store

ZERO: tl.constexpr = tl.constexpr(1)
INITIAL: tl.constexpr = tl.constexpr(2)
GIVEN: tl.constexpr = tl.constexpr(3)
MASKS: tl.constexpr = tl.constexpr(1)  # of zoneout
PARTS: tl.constexpr = tl.constexpr(2)


@triton.jit
def present(b, p, T, B, reverse, active, lengths_ptr, LENGTHS: tl.constexpr):
    """Whether a sequence has the p-th step that its recurrence meets."""
    here = b < active
    if LENGTHS:
        t = tl.where(reverse, T - 1 - p, p)
        here = here & (t < tl.load(lengths_ptr + b, mask=b < B, other=0))
    return here


@triton.jit
def is_reset(reset_ptr, row, here):
    return tl.load(reset_ptr + row, mask=here, other=0) != 0


@triton.jit
def replaced(x, reset, initial_ptr, initial_offs, given_ptr, given_offs, RESET: tl.constexpr,
             inside):  # fmt: skip
    """The state a step begins with; ``reset`` holds only where there is a step."""
    if RESET == ZERO:
        x = tl.where(reset, 0.0, x)
    elif RESET == INITIAL:
        x = tl.where(reset, load(initial_ptr, initial_offs, reset & inside, x.dtype), x)
    elif RESET == GIVEN:
        x = tl.where(reset, load(given_ptr, given_offs, reset & inside, x.dtype), x)
    return x


@triton.jit
def cut(dx, reset, dinitial_ptr, initial_offs, dgiven_ptr, given_offs, RESET: tl.constexpr, inside):
    """`replaced` backward: the gradient of what was replaced is none, and goes to the other."""
    if RESET == INITIAL:
        before = load(dinitial_ptr, initial_offs, reset & inside, dx.dtype)
        store(dinitial_ptr, initial_offs, reset & inside, before + dx)
    elif RESET == GIVEN:
        store(dgiven_ptr, given_offs, reset & inside, dx)
    if RESET:
        dx = tl.where(reset, 0.0, dx)
    return dx


@triton.jit
def kept(zone_ptr, offs, mask, ZONE: tl.constexpr, PART: tl.constexpr, DTYPE: tl.constexpr):
    """The part of the previous state that zoneout keeps."""
    if ZONE == MASKS:
        part = load(zone_ptr, offs, mask, DTYPE)
    else:
        part = tl.full(offs.shape, PART, DTYPE)
    return part


@triton.jit
def zoned(new, old, part, ZONE: tl.constexpr):
    """The state after zoneout, of a mask or of a part."""
    if ZONE == MASKS:
        found = tl.where(part != 0, old, new)
    else:
        found = new + part * (old - new)
    return found


@triton.jit
def bounded_each(tiles, BOUND: tl.constexpr):
    found = ()
    for i in tl.static_range(len(tiles)):
        found = found + (bounded(tiles[i], BOUND),)
    return found


@triton.jit
def begun(x, p, n, reverse, b, u, T, B, N, step_given, starts_ptr, lengths_ptr, reset_ptr,
           initial_ptr, given_ptr, W: tl.constexpr, PACKED: tl.constexpr, LENGTHS: tl.constexpr,
           RESET: tl.constexpr):  # fmt: skip
    """What states of W columns are when the p-th step begins."""
    if RESET:
        start, active = rows_of_step(starts_ptr, p, T, B, reverse, PACKED)
        here = present(b, p, T, B, reverse, active, lengths_ptr, LENGTHS)
        row = (start + b) * N + n
        x = replaced(
            x, is_reset(reset_ptr, row, here), initial_ptr, (n * B + b) * W + u,
            given_ptr, row * W + u + step_given, RESET, u < W,
        )  # fmt: skip
    return x


@triton.jit
def entering(h, dropout_ptr, offs, inside, DROPOUT: tl.constexpr):
    """What enters the product in h's place."""
    if DROPOUT:
        h = h * load(dropout_ptr, offs, inside, h.dtype)
    return h


@triton.jit
def arrived(dh, p, n, reverse, b, u, T, B, N, starts_ptr, lengths_ptr, reset_ptr, dinitial_ptr,
            dgiven_ptr, W: tl.constexpr, PACKED: tl.constexpr, LENGTHS: tl.constexpr,
            RESET: tl.constexpr):  # fmt: skip
    """`begun` backward: of the gradient at the beginning of the p-th step what goes further."""
    if RESET:
        start, active = rows_of_step(starts_ptr, p, T, B, reverse, PACKED)
        here = present(b, p, T, B, reverse, active, lengths_ptr, LENGTHS)
        row = (start + b) * N + n
        dh = cut(
            dh, is_reset(reset_ptr, row, here), dinitial_ptr, (n * B + b) * W + u,
            dgiven_ptr, row * W + u, RESET, u < W,
        )  # fmt: skip
    return dh
