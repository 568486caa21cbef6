"""Gates: the function of a bounded pre-activation, and its slope from its value.

CLIPS are the bounds of the cell state and of pre-activations, 0 for none. No gradient passes where
a bound was reached. That is seen from the gate's value, which is what was saved: within a few units
in its last place of what the bound gives, a bound counts as reached.
"""

import triton
import triton.language as tl

from . import functions
from .functions import bounded, number


@triton.jit
def sigmoid(x, CLIPS: tl.constexpr):
    return functions.sigmoid(bounded(x, CLIPS[1]))


@triton.jit
def tanh(x, CLIPS: tl.constexpr):
    return functions.tanh(bounded(x, CLIPS[1]))


@triton.jit
def relu(x, CLIPS: tl.constexpr):
    x = bounded(x, CLIPS[1])
    return tl.where(x <= 0.0, 0.0, x)  # in this order NaN stays NaN


@triton.jit
def _at(y, BOUND: tl.constexpr):
    """The bound as a number of y's dtype, and 1 + some units in its last place."""
    ULPS: tl.constexpr = 2.0**-50 if y.dtype == tl.float64 else 2.0**-22
    return tl.full([1, 1], BOUND, y.dtype), 1.0 + ULPS


@triton.jit
def unless_clipped(dy, y, CLIPS: tl.constexpr):
    """0 where y is what `sigmoid` gives at a bound, in place of dy."""
    if CLIPS[1] > 0:
        bound, more = _at(y, CLIPS[1])
        high, low = functions.sigmoid(bound), functions.sigmoid(-bound)
        dy = tl.where((y * more >= high) | (y <= low * more), 0.0, dy)
    return dy


@triton.jit
def sigmoid_slope(y, CLIPS: tl.constexpr):
    return unless_clipped(y * (1.0 - y), y, CLIPS)


@triton.jit
def tanh_slope(y, CLIPS: tl.constexpr):
    slope = 1.0 - y * y
    if CLIPS[1] > 0:
        bound, more = _at(y, CLIPS[1])
        slope = tl.where(tl.abs(y) * more >= functions.tanh(bound), 0.0, slope)
    return slope


@triton.jit
def through_relu(dy, y, CLIPS: tl.constexpr):
    """`relu` backward, from its value."""
    dy = tl.where(y <= 0.0, 0.0, dy)
    if CLIPS[1] > 0:
        dy = tl.where(y >= number(CLIPS[1], y), 0.0, dy)
    return dy
