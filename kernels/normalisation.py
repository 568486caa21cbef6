"""Layer normalisation of whole rows: tiles ``[sequences, units]``, H columns of which are there."""

import triton
import triton.language as tl

EPS: tl.constexpr = tl.constexpr(1e-5)  # torch's


@triton.jit
def _mean(tiles, H: tl.constexpr):
    """Over the columns of all tiles together, ``[sequences, 1]``."""
    there = tl.arange(0, tiles[0].shape[1])[None, :] < H
    total = tl.where(there, tiles[0], 0.0)
    for i in tl.static_range(1, len(tiles)):
        total += tl.where(there, tiles[i], 0.0)
    return (tl.sum(total, 1) * (1.0 / (len(tiles) * H)))[:, None]


@triton.jit
def normalised(tiles, H: tl.constexpr):
    """The tiles with mean 0 and variance 1, and by what they were multiplied.

    The variance is that of the differences: no cancellation.
    """
    mean = _mean(tiles, H)
    apart, squares = (), ()
    for i in tl.static_range(len(tiles)):
        d = tiles[i] - mean
        apart, squares = apart + (d,), squares + (d * d,)
    scale = 1.0 / tl.sqrt(_mean(squares, H) + EPS)
    normal = ()
    for i in tl.static_range(len(tiles)):
        normal = normal + (apart[i] * scale,)
    return normal, scale


@triton.jit
def through_normalised(d, normal, scale, H: tl.constexpr):
    """`normalised` backward, from what it returned."""
    products = ()
    for i in tl.static_range(len(d)):
        products = products + (d[i] * normal[i],)
    mean, slope = _mean(d, H), _mean(products, H)
    found = ()
    for i in tl.static_range(len(d)):
        found = found + (scale * (d[i] - mean - normal[i] * slope),)
    return found
