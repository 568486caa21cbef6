"""Gates: the function of a bounded pre-activation, and its slope from its value.

CLIPS are the bounds of the cell state and of pre-activations, 0 for none. No gradient passes where
a bound of pre-activations was reached. The gate's value, which is what is saved, says so in its
last bit: half a unit in the last place on average, and only where there is a bound.
"""

import triton
import triton.language as tl

from . import functions
from .functions import bounded, number, reached


@triton.jit
def _marked(y, x, BOUND: tl.constexpr):
    """``y`` with 1 for its last bit where x had reached the bound, else 0."""
    if BOUND > 0:
        BITS: tl.constexpr = tl.int64 if y.dtype == tl.float64 else tl.int32
        bits = y.to(BITS, bitcast=True)
        mark = reached(x, BOUND).to(BITS)
        y = (bits - (bits & 1) + mark).to(y.dtype, bitcast=True)
    return y


@triton.jit
def unless_clipped(dy, y, CLIPS: tl.constexpr):
    """0 in place of dy where y is marked."""
    if CLIPS[1] > 0:
        BITS: tl.constexpr = tl.int64 if y.dtype == tl.float64 else tl.int32
        dy = tl.where((y.to(BITS, bitcast=True) & 1) != 0, 0.0, dy)
    return dy


@triton.jit
def sigmoid(x, CLIPS: tl.constexpr):
    return _marked(functions.sigmoid(bounded(x, CLIPS[1])), x, CLIPS[1])


@triton.jit
def tanh(x, CLIPS: tl.constexpr):
    return _marked(functions.tanh(bounded(x, CLIPS[1])), x, CLIPS[1])


@triton.jit
def relu(x, CLIPS: tl.constexpr):
    x = bounded(x, CLIPS[1])
    return tl.where(x <= 0.0, 0.0, x)  # in this order NaN stays NaN


@triton.jit
def sigmoid_slope(y, CLIPS: tl.constexpr):
    return unless_clipped(y * (1.0 - y), y, CLIPS)


@triton.jit
def tanh_slope(y, CLIPS: tl.constexpr):
    return unless_clipped(1.0 - y * y, y, CLIPS)


@triton.jit
def through_relu(dy, y, CLIPS: tl.constexpr):
    """`relu` backward, from its value."""
    dy = tl.where(y <= 0.0, 0.0, dy)
    if CLIPS[1] > 0:
        dy = tl.where(y >= number(CLIPS[1], y), 0.0, dy)
    return dy
