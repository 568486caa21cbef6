"""Long short-term memory; gates i, f, g, o."""

import triton
import triton.language as tl

from ..functions import bounded, tanh, within
from ..gates import sigmoid, sigmoid_slope, tanh_slope
from ..gates import tanh as gate_tanh


@triton.jit
def forward(x, a, h_prev, s, params, CLIPS: tl.constexpr, H: tl.constexpr):
    i = sigmoid(x[0] + a[0], CLIPS)
    f = sigmoid(x[1] + a[1], CLIPS)
    g = gate_tanh(x[2] + a[2], CLIPS)
    o = sigmoid(x[3] + a[3], CLIPS)
    c = bounded(f * s[0] + i * g, CLIPS[0])
    return o * tanh(c), (c,), (i, f, g, o, c)


@triton.jit
def backward(saved, h, h_prev, s_prev, dh, ds, params, CLIPS: tl.constexpr, H: tl.constexpr):
    i, f, g, o = saved[0], saved[1], saved[2], saved[3]
    y = tanh(saved[4])
    dc = within(ds[0] + dh * o * (1.0 - y * y), saved[4], CLIPS[0])
    da_i = dc * g * sigmoid_slope(i, CLIPS)
    da_f = dc * s_prev[0] * sigmoid_slope(f, CLIPS)
    da_g = dc * i * tanh_slope(g, CLIPS)
    da_o = dh * y * sigmoid_slope(o, CLIPS)
    da = (da_i, da_f, da_g, da_o)
    return da, da, (dc * f,), tl.zeros_like(dh), ()
