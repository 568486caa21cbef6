"""LSTM whose gates see the cell state; gates i, f, g, o, parameters of i, f, o."""

import triton
import triton.language as tl

from ..functions import bounded, tanh, within
from ..gates import sigmoid, sigmoid_slope, tanh_slope
from ..gates import tanh as gate_tanh


@triton.jit
def forward(x, a, h_prev, s, params, CLIPS: tl.constexpr, H: tl.constexpr):
    i = sigmoid(x[0] + a[0] + params[0] * s[0], CLIPS)
    f = sigmoid(x[1] + a[1] + params[1] * s[0], CLIPS)
    g = gate_tanh(x[2] + a[2], CLIPS)
    c = bounded(f * s[0] + i * g, CLIPS[0])
    o = sigmoid(x[3] + a[3] + params[2] * c, CLIPS)
    return o * tanh(c), (c,), (i, f, g, o, c)


@triton.jit
def backward(saved, h, h_prev, s_prev, dh, ds, params, CLIPS: tl.constexpr, H: tl.constexpr):
    i, f, g, o, c = saved[0], saved[1], saved[2], saved[3], saved[4]
    y = tanh(c)
    da_o = dh * y * sigmoid_slope(o, CLIPS)
    dc = within(ds[0] + dh * o * (1.0 - y * y) + da_o * params[2], c, CLIPS[0])
    da_i = dc * g * sigmoid_slope(i, CLIPS)
    da_f = dc * s_prev[0] * sigmoid_slope(f, CLIPS)
    da = (da_i, da_f, dc * i * tanh_slope(g, CLIPS), da_o)
    ds_prev = dc * f + da_i * params[0] + da_f * params[1]
    dparams = (da_i * s_prev[0], da_f * s_prev[0], da_o * c)
    return da, da, (ds_prev,), tl.zeros_like(dh), dparams
