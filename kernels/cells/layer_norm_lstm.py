"""LSTM with layer normalisation of the recurrent side and of c; gates i, f, g, o.

Parameters: the gains of the recurrent side's gates, gain and bias of c's.
"""

import triton
import triton.language as tl

from ..functions import bounded, tanh, within
from ..gates import sigmoid, sigmoid_slope, tanh_slope
from ..gates import tanh as gate_tanh
from ..normalisation import normalised, through_normalised


@triton.jit
def forward(x, a, h_prev, s, params, CLIPS: tl.constexpr, H: tl.constexpr):
    side, _ = normalised(a, H)
    i = sigmoid(x[0] + side[0] * params[0], CLIPS)
    f = sigmoid(x[1] + side[1] * params[1], CLIPS)
    g = gate_tanh(x[2] + side[2] * params[2], CLIPS)
    o = sigmoid(x[3] + side[3] * params[3], CLIPS)
    c = bounded(f * s[0] + i * g, CLIPS[0])
    cell, _ = normalised((c,), H)
    h = o * tanh(cell[0] * params[4] + params[5])
    return h, (c,), (i, f, g, o, a[0], a[1], a[2], a[3], c)


@triton.jit
def backward(saved, h, h_prev, s_prev, dh, ds, params, CLIPS: tl.constexpr, H: tl.constexpr):
    i, f, g, o, c = saved[0], saved[1], saved[2], saved[3], saved[8]
    cell, cell_scale = normalised((c,), H)
    y = tanh(cell[0] * params[4] + params[5])
    dy = dh * o * (1.0 - y * y)
    dc = ds[0] + through_normalised((dy * params[4],), cell, cell_scale, H)[0]
    dc = within(dc, c, CLIPS[0])
    dx_i = dc * g * sigmoid_slope(i, CLIPS)
    dx_f = dc * s_prev[0] * sigmoid_slope(f, CLIPS)
    dx_g = dc * i * tanh_slope(g, CLIPS)
    dx_o = dh * y * sigmoid_slope(o, CLIPS)
    side, scale = normalised((saved[4], saved[5], saved[6], saved[7]), H)
    d = (dx_i * params[0], dx_f * params[1], dx_g * params[2], dx_o * params[3])
    da = through_normalised(d, side, scale, H)
    of_gains = (dx_i * side[0], dx_f * side[1], dx_g * side[2], dx_o * side[3])
    dx = (dx_i, dx_f, dx_g, dx_o)
    return dx, da, (dc * f,), tl.zeros_like(dh), of_gains + (dy * cell[0], dy)
