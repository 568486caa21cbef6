"""Elman network with tanh: h = tanh(x + a)."""

import triton
import triton.language as tl

from ..gates import tanh, tanh_slope


@triton.jit
def forward(x, a, h_prev, s, params, CLIPS: tl.constexpr, H: tl.constexpr):
    return tanh(x[0] + a[0], CLIPS), (), ()


@triton.jit
def backward(saved, h, h_prev, s_prev, dh, ds, params, CLIPS: tl.constexpr, H: tl.constexpr):
    da = (dh * tanh_slope(h, CLIPS),)
    return da, da, (), tl.zeros_like(dh), ()
