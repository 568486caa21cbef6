"""Light GRU: no reset gate, relu; gates z, n."""

import triton
import triton.language as tl

from ..gates import relu, sigmoid, sigmoid_slope, through_relu


@triton.jit
def forward(x, a, h_prev, s, params, CLIPS: tl.constexpr, H: tl.constexpr):
    z = sigmoid(x[0] + a[0], CLIPS)
    n = relu(x[1] + a[1], CLIPS)
    return n + z * (h_prev - n), (), (z, n)


@triton.jit
def backward(saved, h, h_prev, s_prev, dh, ds, params, CLIPS: tl.constexpr, H: tl.constexpr):
    z, n = saved[0], saved[1]
    dz = dh * (h_prev - n) * sigmoid_slope(z, CLIPS)
    da = (dz, through_relu(dh * (1.0 - z), n, CLIPS))
    return da, da, (), dh * z, ()
