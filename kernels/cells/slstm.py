"""sLSTM: exponential input gate; gates i, f, g, o, states c, n and m beside h."""

import triton
import triton.language as tl

from ..functions import bounded, log_sigmoid, reached
from ..gates import sigmoid, sigmoid_slope, tanh, tanh_slope, unless_clipped


@triton.jit
def forward(x, a, h_prev, s, params, CLIPS: tl.constexpr, H: tl.constexpr):
    total = x[0] + a[0]
    into, forget = bounded(total, CLIPS[1]), bounded(x[1] + a[1], CLIPS[1])
    left = log_sigmoid(forget) + s[2]
    m = tl.where((s[1] == 0.0) | (left <= into), into, left)
    # From nothing f may be as large as it likes: there is nothing to keep.
    excess = tl.where(left > m, 0.0, left - m)
    i, f = tl.exp(into - m), tl.exp(excess)
    g, o = tanh(x[2] + a[2], CLIPS), sigmoid(x[3] + a[3], CLIPS)
    slope = sigmoid(-(x[1] + a[1]), CLIPS)  # marked where f's bound was reached
    if CLIPS[1] > 0:  # the sign says whether i's bound was reached, which i itself does not tell
        slope = tl.where(reached(total, CLIPS[1]), -slope, slope)
    c, n = f * s[0] + i * g, f * s[1] + i
    return o * c / n, (c, n, m), (i, f, g, o, slope, c, n, m)


@triton.jit
def backward(saved, h, h_prev, s_prev, dh, ds, params, CLIPS: tl.constexpr, H: tl.constexpr):
    i, f, g, o, slope = saved[0], saved[1], saved[2], saved[3], saved[4]
    share = 1.0 / saved[6]
    y = saved[5] * share
    dc = ds[0] + dh * o * share
    dn = ds[1] - dh * o * y * share
    di = (dc * g + dn) * i
    df = (dc * s_prev[0] + dn * s_prev[1]) * f
    df = tl.where((s_prev[1] == 0.0) & (f >= 1.0), 0.0, df)
    dm = ds[2] - di - df
    # m is the larger of the two exponents, whose gate is then exp(0) = 1; both, if they are equal.
    of_f = tl.where((s_prev[1] == 0.0) | (f < 1.0), 0.0, tl.where(i < 1.0, dm, 0.5 * dm))
    df_total = df + of_f
    da_i = tl.where(slope < 0.0, 0.0, di + (dm - of_f))
    slope = tl.abs(slope)
    da_f = df_total * unless_clipped(slope, slope, CLIPS)
    da = (da_i, da_f, dc * i * tanh_slope(g, CLIPS), dh * y * sigmoid_slope(o, CLIPS))
    return da, da, (dc * f, dn * f, df_total), tl.zeros_like(dh), ()
