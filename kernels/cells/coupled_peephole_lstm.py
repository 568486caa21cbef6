"""Peephole LSTM whose forget gate is 1 - i; gates i, g, o, parameters of i, o."""

import triton
import triton.language as tl

from ..functions import bounded, sigmoid, tanh, within


@triton.jit
def forward(x, a, h_prev, s, params, CLIP: tl.constexpr):
    i = sigmoid(x[0] + a[0] + params[0] * s[0])
    g = tanh(x[1] + a[1])
    c = bounded(s[0] + i * (g - s[0]), CLIP)
    o = sigmoid(x[2] + a[2] + params[1] * c)
    return o * tanh(c), (c,), (i, g, o, c)


@triton.jit
def backward(saved, h, h_prev, s_prev, dh, ds, params, CLIP: tl.constexpr):
    i, g, o, c = saved[0], saved[1], saved[2], saved[3]
    y = tanh(c)
    da_o = dh * y * (o * (1.0 - o))
    dc = within(ds[0] + dh * o * (1.0 - y * y) + da_o * params[1], c, CLIP)
    da_i = dc * (g - s_prev[0]) * (i * (1.0 - i))
    da = (da_i, dc * i * (1.0 - g * g), da_o)
    ds_prev = dc * (1.0 - i) + da_i * params[0]
    return da, da, (ds_prev,), tl.zeros_like(dh), (da_i * s_prev[0], da_o * c)
