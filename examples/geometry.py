"""Points in the unit square, their convex hulls and shortest tours: what `pointer` learns."""

from __future__ import annotations

import numpy as np
import torch
from scipy.spatial import ConvexHull
from torch import Tensor


def points(rows: int, number: int, generator: torch.Generator) -> Tensor:
    """``[rows, number, 2]``, uniform."""
    return torch.rand(rows, number, 2, generator=generator)


def hulls(given: Tensor) -> Tensor:
    """Places of each hull's corners from 1 on, ``[rows, number + 1]``, 0 behind the last.

    Against the clock, from the leftmost point.
    """
    found = torch.zeros(given.shape[0], given.shape[1] + 1, dtype=torch.int64)
    for row, corners in zip(found, given.numpy(), strict=True):
        around = ConvexHull(corners).vertices
        first = int(np.argmin(corners[around, 0]))
        row[: len(around)] = torch.from_numpy(np.roll(around, -first).astype(np.int64)) + 1
    return found


def tours(given: Tensor) -> Tensor:
    """Places of each shortest tour from 1 on, ``[rows, number + 1]``, a 0 at the end.

    Exact, by dynamic programming over subsets (Held & Karp 1962), for all rows at once; against the
    clock, from the leftmost point.
    """
    rows, number, _ = given.shape
    everyone = torch.arange(rows)
    # The leftmost point in front; the others are 0 to m - 1 in the subsets' bits.
    first = given[:, :, 0].argmin(1)
    order = torch.arange(number).repeat(rows, 1)
    order[everyone, first], order[:, 0] = 0, first
    sorted_points = given.gather(1, order.unsqueeze(2).expand(-1, -1, 2))
    far = torch.cdist(sorted_points, sorted_points)
    m = number - 1
    between = far[:, 1:, 1:]
    length = torch.full((rows, 1 << m, m), torch.inf)  # through a subset, ending at one of it
    before = torch.zeros(rows, 1 << m, m, dtype=torch.int64)
    for j in range(m):
        length[:, 1 << j, j] = far[:, 0, 1 + j]
    for subset in range(1, 1 << m):
        for j in range(m):
            rest = subset & ~(1 << j)
            if rest and rest != subset:
                through = length[:, rest] + between[:, :, j]
                length[:, subset, j], before[:, subset, j] = through.min(1)
    left = torch.full((rows,), (1 << m) - 1)
    last = (length[:, -1] + far[:, 1:, 0]).argmin(1)
    backwards = []
    for _ in range(m):
        backwards.append(last + 1)
        last, left = before[everyone, left, last], left - (1 << last)
    found = torch.stack([torch.zeros_like(last), *reversed(backwards)], 1)
    places = order.gather(1, found)
    clockwise = areas(given, places + 1) < 0
    turned = torch.cat([places[:, :1], places[:, 1:].flip(1)], 1)
    places = torch.where(clockwise.unsqueeze(1), turned, places)
    return torch.nn.functional.pad(places + 1, (0, 1))


def areas(given: Tensor, places: Tensor) -> Tensor:
    """Signed areas ``[rows]`` of polygons, places from 1 on and 0 behind the last; as `hulls`."""
    x, y = _corners(given, places).unbind(2)
    return 0.5 * (x * y.roll(-1, 1) - y * x.roll(-1, 1)).sum(1)


def lengths(given: Tensor, places: Tensor) -> Tensor:
    """Lengths ``[rows]`` of closed tours, places as for `areas`."""
    corners = _corners(given, places)
    return (corners - corners.roll(-1, 1)).norm(dim=2).sum(1)


def _corners(given: Tensor, places: Tensor) -> Tensor:
    """``[rows, T, 2]``; behind the last the first again, which adds no length and no area."""
    places = torch.where(places == 0, places[:, :1], places)
    return given.gather(1, (places - 1).clamp_min(0).unsqueeze(2).expand(-1, -1, 2))


def simple(corners: Tensor) -> bool:
    """Whether the polygon ``[T, 2]`` has three corners at least and no sides that cross."""
    count = len(corners)
    if count < 3:
        return False
    start, end = corners, corners.roll(-1, 0)

    def side(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        """On which side of the line from a to b lies c."""
        u, v = b - a, c - a
        return u[..., 0] * v[..., 1] - u[..., 1] * v[..., 0] > 0

    a, b, c, d = start.unsqueeze(1), end.unsqueeze(1), start.unsqueeze(0), end.unsqueeze(0)
    cross = (side(a, b, c) != side(a, b, d)) & (side(c, d, a) != side(c, d, b))
    apart = (torch.arange(count).unsqueeze(1) - torch.arange(count)).abs()
    return not bool((cross & (apart > 1) & (apart < count - 1)).any())
