"""Gated recurrent unit, reset after the product; gates r, z, n."""

import triton
import triton.language as tl

from ..functions import sigmoid, tanh


@triton.jit
def forward(x, a, h_prev, s, params, CLIP: tl.constexpr):
    r = sigmoid(x[0] + a[0])
    z = sigmoid(x[1] + a[1])
    n = tanh(x[2] + r * a[2])
    return n + z * (h_prev - n), (), (r, z, n, a[2])


@triton.jit
def backward(saved, h, h_prev, s_prev, dh, ds, params, CLIP: tl.constexpr):
    r, z, n, n_h = saved[0], saved[1], saved[2], saved[3]
    dn = dh * (1.0 - z) * (1.0 - n * n)
    dr = dn * n_h * (r * (1.0 - r))
    dz = dh * (h_prev - n) * (z * (1.0 - z))
    return (dr, dz, dn), (dr, dz, dn * r), (), dh * z, ()
