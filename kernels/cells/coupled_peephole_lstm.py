"""Peephole LSTM whose forget gate is 1 - i; gates i, g, o, parameters of i, o."""

import triton
import triton.language as tl

from ..functions import bounded, tanh, within
from ..gates import sigmoid, sigmoid_slope, tanh_slope
from ..gates import tanh as gate_tanh


@triton.jit
def forward(x, a, h_prev, s, params, CLIPS: tl.constexpr, H: tl.constexpr):
    i = sigmoid(x[0] + a[0] + params[0] * s[0], CLIPS)
    g = gate_tanh(x[1] + a[1], CLIPS)
    c = bounded(s[0] + i * (g - s[0]), CLIPS[0])
    o = sigmoid(x[2] + a[2] + params[1] * c, CLIPS)
    return o * tanh(c), (c,), (i, g, o, c)


@triton.jit
def backward(saved, h, h_prev, s_prev, dh, ds, params, CLIPS: tl.constexpr, H: tl.constexpr):
    i, g, o, c = saved[0], saved[1], saved[2], saved[3]
    y = tanh(c)
    da_o = dh * y * sigmoid_slope(o, CLIPS)
    dc = within(ds[0] + dh * o * (1.0 - y * y) + da_o * params[1], c, CLIPS[0])
    da_i = dc * (g - s_prev[0]) * sigmoid_slope(i, CLIPS)
    da = (da_i, dc * i * tanh_slope(g, CLIPS), da_o)
    ds_prev = dc * (1.0 - i) + da_i * params[0]
    return da, da, (ds_prev,), tl.zeros_like(dh), (da_i * s_prev[0], da_o * c)
