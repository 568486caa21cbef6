"""GRU with one layer normalisation over all gates, r, u, n; parameters: gains, then biases."""

import triton
import triton.language as tl

from ..gates import sigmoid, sigmoid_slope, tanh, tanh_slope
from ..normalisation import normalised, through_normalised


@triton.jit
def forward(x, a, h_prev, s, params, CLIPS: tl.constexpr, H: tl.constexpr):
    total = (x[0] + a[0], x[1] + a[1], x[2] + a[2])
    normal, _ = normalised(total, H)
    r = sigmoid(normal[0] * params[0] + params[3], CLIPS)
    u = sigmoid(normal[1] * params[1] + params[4] - 1.0, CLIPS)
    n = tanh(r * (normal[2] * params[2] + params[5]), CLIPS)
    return h_prev + u * (n - h_prev), (), (r, u, n, total[0], total[1], total[2])


@triton.jit
def backward(saved, h, h_prev, s_prev, dh, ds, params, CLIPS: tl.constexpr, H: tl.constexpr):
    r, u, n = saved[0], saved[1], saved[2]
    normal, scale = normalised((saved[3], saved[4], saved[5]), H)
    dn = dh * u * tanh_slope(n, CLIPS)
    dy_r = dn * (normal[2] * params[2] + params[5]) * sigmoid_slope(r, CLIPS)
    dy_u = dh * (n - h_prev) * sigmoid_slope(u, CLIPS)
    dy_n = dn * r
    d = (dy_r * params[0], dy_u * params[1], dy_n * params[2])
    da = through_normalised(d, normal, scale, H)
    of_gains = (dy_r * normal[0], dy_u * normal[1], dy_n * normal[2])
    return da, da, (), dh * (1.0 - u), of_gains + (dy_r, dy_u, dy_n)
