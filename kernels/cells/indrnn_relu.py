"""Independently recurrent network with relu: h = max(x + a + u h, 0); parameter u."""

import triton
import triton.language as tl

from ..gates import relu, through_relu


@triton.jit
def forward(x, a, h_prev, s, params, CLIPS: tl.constexpr, H: tl.constexpr):
    return relu(x[0] + a[0] + params[0] * h_prev, CLIPS), (), ()


@triton.jit
def backward(saved, h, h_prev, s_prev, dh, ds, params, CLIPS: tl.constexpr, H: tl.constexpr):
    da = (through_relu(dh, h, CLIPS),)
    return da, da, (), da[0] * params[0], (da[0] * h_prev,)
