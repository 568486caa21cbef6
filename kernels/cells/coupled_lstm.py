"""LSTM whose forget gate is 1 - i; gates i, g, o."""

import triton
import triton.language as tl

from ..functions import bounded, tanh, within
from ..gates import sigmoid, sigmoid_slope, tanh_slope
from ..gates import tanh as gate_tanh


@triton.jit
def forward(x, a, h_prev, s, params, CLIPS: tl.constexpr, H: tl.constexpr):
    i = sigmoid(x[0] + a[0], CLIPS)
    g = gate_tanh(x[1] + a[1], CLIPS)
    o = sigmoid(x[2] + a[2], CLIPS)
    c = bounded(s[0] + i * (g - s[0]), CLIPS[0])
    return o * tanh(c), (c,), (i, g, o, c)


@triton.jit
def backward(saved, h, h_prev, s_prev, dh, ds, params, CLIPS: tl.constexpr, H: tl.constexpr):
    i, g, o, c = saved[0], saved[1], saved[2], saved[3]
    y = tanh(c)
    dc = within(ds[0] + dh * o * (1.0 - y * y), c, CLIPS[0])
    da_i = dc * (g - s_prev[0]) * sigmoid_slope(i, CLIPS)
    da = (da_i, dc * i * tanh_slope(g, CLIPS), dh * y * sigmoid_slope(o, CLIPS))
    return da, da, (dc * (1.0 - i),), tl.zeros_like(dh), ()
