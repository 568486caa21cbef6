"""Independently recurrent network with tanh: h = tanh(x + a + u h); parameter u."""

import triton
import triton.language as tl

from ..gates import tanh, tanh_slope


@triton.jit
def forward(x, a, h_prev, s, params, CLIPS: tl.constexpr, H: tl.constexpr):
    return tanh(x[0] + a[0] + params[0] * h_prev, CLIPS), (), ()


@triton.jit
def backward(saved, h, h_prev, s_prev, dh, ds, params, CLIPS: tl.constexpr, H: tl.constexpr):
    da = (dh * tanh_slope(h, CLIPS),)
    return da, da, (), da[0] * params[0], (da[0] * h_prev,)
