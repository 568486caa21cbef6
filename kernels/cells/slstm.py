"""sLSTM: exponential input gate; gates i, f, g, o, states c, n and m beside h."""

import triton
import triton.language as tl

from ..functions import log_sigmoid, sigmoid, tanh


@triton.jit
def forward(x, a, h_prev, s, params, CLIP: tl.constexpr):
    into, forget = x[0] + a[0], x[1] + a[1]
    left = log_sigmoid(forget) + s[2]
    m = tl.where((s[1] == 0.0) | (left <= into), into, left)
    # From nothing f may be as large as it likes: there is nothing to keep.
    excess = tl.where(left > m, 0.0, left - m)
    i, f, g, o = tl.exp(into - m), tl.exp(excess), tanh(x[2] + a[2]), sigmoid(x[3] + a[3])
    c, n = f * s[0] + i * g, f * s[1] + i
    return o * c / n, (c, n, m), (i, f, g, o, sigmoid(-forget), c, n, m)


@triton.jit
def backward(saved, h, h_prev, s_prev, dh, ds, params, CLIP: tl.constexpr):
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
    da_o = dh * y * (o * (1.0 - o))
    da = (di + (dm - of_f), df_total * slope, dc * i * (1.0 - g * g), da_o)
    return da, da, (dc * f, dn * f, df_total), tl.zeros_like(dh), ()
