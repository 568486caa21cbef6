"""minLSTM: gates f, i, n of the input alone; f and i are scaled to sum to 1."""

import triton
import triton.language as tl

from ..functions import bounded, within
from ..gates import sigmoid, sigmoid_slope


@triton.jit
def forward(x, a, h_prev, s, params, CLIPS: tl.constexpr, H: tl.constexpr):
    f = sigmoid(x[0] + a[0], CLIPS)
    i = sigmoid(x[1] + a[1], CLIPS)
    n = bounded(x[2] + a[2], CLIPS[1])
    return (f * h_prev + i * n) / (f + i), (), (f, i, n)


@triton.jit
def backward(saved, h, h_prev, s_prev, dh, ds, params, CLIPS: tl.constexpr, H: tl.constexpr):
    f, i, n = saved[0], saved[1], saved[2]
    share = dh / (f + i)
    # Of f, and the opposite of i's: by how much the old state counts for more than the new one.
    apart = share * (h_prev - n) / (f + i)
    df, di = apart * i * sigmoid_slope(f, CLIPS), -apart * f * sigmoid_slope(i, CLIPS)
    da = (df, di, within(share * i, n, CLIPS[1]))
    return da, da, (), share * f, ()
