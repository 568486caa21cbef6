"""minGRU: gates u, n of the input alone; u lets the new value in."""

import triton
import triton.language as tl

from ..functions import bounded, within
from ..gates import sigmoid, sigmoid_slope


@triton.jit
def forward(x, a, h_prev, s, params, CLIPS: tl.constexpr, H: tl.constexpr):
    u = sigmoid(x[0] + a[0], CLIPS)
    n = bounded(x[1] + a[1], CLIPS[1])
    return h_prev + u * (n - h_prev), (), (u, n)


@triton.jit
def backward(saved, h, h_prev, s_prev, dh, ds, params, CLIPS: tl.constexpr, H: tl.constexpr):
    u, n = saved[0], saved[1]
    da = (dh * (n - h_prev) * sigmoid_slope(u, CLIPS), within(dh * u, n, CLIPS[1]))
    return da, da, (), dh * (1.0 - u), ()
