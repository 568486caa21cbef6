"""Long short-term memory; gates i, f, g, o."""

import triton
import triton.language as tl

from ..functions import bounded, sigmoid, tanh, within


@triton.jit
def forward(x, a, h_prev, s, params, CLIP: tl.constexpr):
    i = sigmoid(x[0] + a[0])
    f = sigmoid(x[1] + a[1])
    g = tanh(x[2] + a[2])
    o = sigmoid(x[3] + a[3])
    c = bounded(f * s[0] + i * g, CLIP)
    return o * tanh(c), (c,), (i, f, g, o, c)


@triton.jit
def backward(saved, h, h_prev, s_prev, dh, ds, params, CLIP: tl.constexpr):
    i, f, g, o = saved[0], saved[1], saved[2], saved[3]
    y = tanh(saved[4])
    dc = within(ds[0] + dh * o * (1.0 - y * y), saved[4], CLIP)
    da_i = dc * g * (i * (1.0 - i))
    da_f = dc * s_prev[0] * (f * (1.0 - f))
    da_g = dc * i * (1.0 - g * g)
    da_o = dh * y * (o * (1.0 - o))
    da = (da_i, da_f, da_g, da_o)
    return da, da, (dc * f,), tl.zeros_like(dh), ()
