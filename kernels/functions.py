"""The gate functions on tiles of float32 or float64.

Stated errors, held by ``tests/test_triton.py``: `sigmoid` 4 ulp of float32 down to -15, and
below that an absolute error under 1e-12; `tanh` 4 ulp. Built on the hardware's exp2 (2 ulp), never
on its approximate tanh (1e-3 in absolute terms).
"""

import triton
import triton.language as tl


@triton.jit
def sigmoid(x):
    # exp overflows to infinity for x below -88, and 1/inf is the 0 that is wanted.
    return 1.0 / (1.0 + tl.exp(-x))


@triton.jit
def tanh(x):
    # Near 0 the exponential's form cancels. There: for float32 a polynomial, x + x^3 P(x^2), fitted
    # to relative error over |x| < 0.6 (0.05 ulp before rounding); for float64 the doubling formula
    # tanh(2y) = 2 tanh(y) / (1 + tanh(y)^2), three times, on a series for |y| < 0.075.
    size = tl.abs(x)
    if x.dtype == tl.float64:
        y = x * 0.125
        t = y * y
        p = t * (21844.0 / 6081075.0) - 1382.0 / 155925.0
        p = p * t + 62.0 / 2835.0
        p = p * t - 17.0 / 315.0
        p = p * t + 2.0 / 15.0
        p = p * t - 1.0 / 3.0
        near = y + y * (t * p)
        for _ in tl.static_range(3):
            near = 2.0 * near / (1.0 + near * near)
    else:
        t = x * x
        p = t * -0.005895156413316727 + 0.020795969292521477
        p = p * t - 0.053783830255270004
        p = p * t + 0.13331924378871918
        p = p * t - 0.33333298563957214
        near = x + x * (t * p)
    far = 1.0 - 2.0 / (tl.exp(2.0 * size) + 1.0)
    return tl.where(size < 0.6, near, tl.where(x < 0, -far, far))


@triton.jit
def number(VALUE: tl.constexpr, x):
    """In the dtype of x: comparisons and `where` round a bare one to float32 (Triton 3.6)."""
    return tl.full([], VALUE, x.dtype)


@triton.jit
def bounded(x, BOUND: tl.constexpr):
    """Between -BOUND and BOUND, and NaN where it is."""
    if BOUND > 0:
        bound = number(BOUND, x)
        x = tl.where(x > bound, bound, tl.where(x < -bound, -bound, x))
    return x


@triton.jit
def reached(x, BOUND: tl.constexpr):
    """Whether `bounded` returned a bound."""
    bound = number(BOUND, x)
    return (x >= bound) | (x <= -bound)


@triton.jit
def within(dx, x, BOUND: tl.constexpr):
    """`bounded` backward, from its result: where a bound was reached, no gradient passes."""
    if BOUND > 0:
        dx = tl.where(reached(x, BOUND), 0.0, dx)
    return dx


@triton.jit
def log_sigmoid(x):
    """``min(x, 0) - log(1 + e)``, e = exp(-|x|), by a series in e / (2 + e), a third at most."""
    TERMS: tl.constexpr = 18 if x.dtype == tl.float64 else 8
    e = tl.exp(-tl.abs(x))
    s = e / (2.0 + e)
    square = s * s
    total = s * 0.0
    for i in tl.static_range(TERMS):
        total = total * square + 1.0 / (2 * (TERMS - i) - 1)
    return tl.where(x < 0, x, 0.0) - 2.0 * s * total
