"""Random bits of dropout, from a counter: Philox4x32-10, so that every backend draws one mask.

The bits of a weight depend on nothing but the seed and on where the weight stands. Weight
``(n, t, s)``, of head n (``b*H + h``, modulo ``drawn_heads``), query t and key s, takes word
``w`` of the block with

    counter = (16 * (s // 64) + s % 16, t, n, 0),  w = (s // 16) % 4,
    key     = (low 32 bits of the seed, high 32 bits).

Of 64 keys in a row, 16 lanes with four words each are one call on vectors of 16.

(Salmon et al., *Parallel random numbers: as easy as 1, 2, 3*, 2011.)
"""

from __future__ import annotations

import torch
from torch import Tensor

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_LOW = 0xFFFFFFFF


def _multiply(a: int, b: Tensor) -> tuple[Tensor, Tensor]:
    """The high and low 32 bits of a product, in int64, which has no unsigned 64 bits."""
    high, low = b >> 16, b & 0xFFFF
    return (a * high + (a * low >> 16)) >> 16, (a * b) & _LOW


def philox(counter: tuple[Tensor, Tensor, Tensor, Tensor], seed: Tensor) -> tuple[Tensor, ...]:
    """Four words of 32 random bits, as int64, for each counter of four such words."""
    c0, c1, c2, c3 = counter
    k0, k1 = seed & _LOW, (seed >> 32) & _LOW
    for _ in range(10):
        high0, low0 = _multiply(_MULTIPLIERS[0], c0)
        high1, low1 = _multiply(_MULTIPLIERS[1], c2)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + _WEYL[0]) & _LOW, (k1 + _WEYL[1]) & _LOW
    return c0, c1, c2, c3


def threshold(probability: float) -> int:
    """Bits below this drop a weight."""
    return round(probability * 2**32)


def kept(
    seed: Tensor, probability: float, shape: tuple[int, int, int, int], drawn_heads: int
) -> Tensor:
    """Which weights of ``[B, H, Tq, Tk]`` dropout keeps, as bool."""
    batch, heads, queries, keys = shape
    device = seed.device
    s = torch.arange(-(-keys // 64) * 16, device=device)
    t = torch.arange(queries, device=device).unsqueeze(1)
    n = torch.arange(batch * heads, device=device).view(batch, heads, 1, 1) % max(drawn_heads, 1)
    counter = torch.broadcast_tensors(s, t, n, torch.zeros_like(s))
    words = torch.stack(philox(counter, seed), -1)
    # [..., chunk of 64, lane, word] -> keys in order
    bits = words.unflatten(-2, (-1, 16)).transpose(-1, -2).flatten(-3)[..., :keys]
    return bits >= threshold(probability)
