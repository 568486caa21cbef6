"""minLSTM: gates f, i, n of the input alone; of f and i what precedes them is kept."""

import triton
import triton.language as tl

from .. import functions
from ..functions import bounded, log_sigmoid, within


@triton.jit
def shares(f, i):
    # f / (f + i) and i / (f + i), of gates that may both underflow: see the cell's specification.
    apart = log_sigmoid(f) - log_sigmoid(i)
    return functions.sigmoid(apart), functions.sigmoid(-apart)


@triton.jit
def forward(x, a, h_prev, s, params, CLIPS: tl.constexpr, H: tl.constexpr):
    f, i = bounded(x[0] + a[0], CLIPS[1]), bounded(x[1] + a[1], CLIPS[1])
    n = bounded(x[2] + a[2], CLIPS[1])
    old, new = shares(f, i)
    return old * h_prev + new * n, (), (f, i, n)


@triton.jit
def backward(saved, h, h_prev, s_prev, dh, ds, params, CLIPS: tl.constexpr, H: tl.constexpr):
    f, i, n = saved[0], saved[1], saved[2]
    old, new = shares(f, i)
    apart = dh * (h_prev - n) * old * new
    df, di = apart * functions.sigmoid(-f), -apart * functions.sigmoid(-i)
    da = (within(df, f, CLIPS[1]), within(di, i, CLIPS[1]), within(dh * new, n, CLIPS[1]))
    return da, da, (), dh * old, ()
