"""Gated recurrent unit, reset before the product; gates r, z, and n of the second product."""

import triton
import triton.language as tl

from ..gates import sigmoid, sigmoid_slope, tanh, tanh_slope


@triton.jit
def forward(x, a, h_prev, s, params, CLIPS: tl.constexpr, H: tl.constexpr):
    r = sigmoid(x[0] + a[0], CLIPS)
    z = sigmoid(x[1] + a[1], CLIPS)
    n = tanh(x[2] + a[2], CLIPS)
    return n + z * (h_prev - n), (), (r, z, n)


@triton.jit
def backward(saved, h, h_prev, s_prev, dh, ds, params, CLIPS: tl.constexpr, H: tl.constexpr):
    z, n = saved[1], saved[2]
    dz = dh * (h_prev - n) * sigmoid_slope(z, CLIPS)
    da = (tl.zeros_like(dh), dz, dh * (1.0 - z) * tanh_slope(n, CLIPS))
    return da, da, (), dh * z, ()


@triton.jit
def operand(x, a, h, CLIPS: tl.constexpr):
    return sigmoid(x[0] + a[0], CLIPS) * h


@triton.jit
def through_operand(saved, h, doperand, CLIPS: tl.constexpr):
    r = saved[0]
    dr = doperand * h * sigmoid_slope(r, CLIPS)
    return (dr, tl.zeros_like(dr)), doperand * r, r * h
