"""Light GRU: no reset gate, relu; gates z, n."""

import triton
import triton.language as tl

from ..functions import sigmoid


@triton.jit
def forward(x, a, h_prev, s, params, CLIP: tl.constexpr):
    z = sigmoid(x[0] + a[0])
    total = x[1] + a[1]
    n = tl.where(total <= 0.0, 0.0, total)  # in this order NaN stays NaN
    return n + z * (h_prev - n), (), (z, n)


@triton.jit
def backward(saved, h, h_prev, s_prev, dh, ds, params, CLIP: tl.constexpr):
    z, n = saved[0], saved[1]
    da = (dh * (h_prev - n) * (z * (1.0 - z)), tl.where(n <= 0.0, 0.0, dh * (1.0 - z)))
    return da, da, (), dh * z, ()
