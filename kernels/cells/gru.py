"""Gated recurrent unit, reset after the product; gates r, z, n."""

import triton
import triton.language as tl

from ..gates import sigmoid, sigmoid_slope, tanh, tanh_slope


@triton.jit
def forward(x, a, h_prev, s, params, CLIPS: tl.constexpr, H: tl.constexpr):
    r = sigmoid(x[0] + a[0], CLIPS)
    z = sigmoid(x[1] + a[1], CLIPS)
    n = tanh(x[2] + r * a[2], CLIPS)
    return n + z * (h_prev - n), (), (r, z, n, a[2])


@triton.jit
def backward(saved, h, h_prev, s_prev, dh, ds, params, CLIPS: tl.constexpr, H: tl.constexpr):
    r, z, n, n_h = saved[0], saved[1], saved[2], saved[3]
    dn = dh * (1.0 - z) * tanh_slope(n, CLIPS)
    dr = dn * n_h * sigmoid_slope(r, CLIPS)
    dz = dh * (h_prev - n) * sigmoid_slope(z, CLIPS)
    return (dr, dz, dn), (dr, dz, dn * r), (), dh * z, ()
