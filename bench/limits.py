"""What this machine can do at best: measured with torch's own plain operations, first in each run.

A limit is the best of many repetitions, since everything that disturbs makes it smaller.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

# Of a side of the matrices of the product.
_SIDE = 1024
# Of each of the two arrays of the copy: beyond any cache that one virtual machine gets.
_COPY_BYTES = 128 << 20

HOW = {
    "product": f"`torch.mm` of two {_SIDE} x {_SIDE} matrices, FLOP/s; not the processor's nominal "
    "peak, so a kernel that does better than torch's product can pass 100 %",
    "L2": "one core reads an array of half the L2's size, B/s: the best of `torch.sum`, "
    "`torch.dot` and `torch.mv`, less what the same call takes on next to nothing; "
    "each core has an L2 of its own",
    "L3": "all threads read an array of half the L3's size (32 MiB at most), B/s, as above",
    "copy": f"`Tensor.copy_` of {_COPY_BYTES >> 20} MiB by all threads, bytes read plus bytes "
    "written, B/s",
}


@dataclass(frozen=True)
class Limits:
    """Rates in FLOP/s and B/s; None where the size of a cache is not known.

    Attributes:
        threads: what "all" means below; torch's.
        one_core: product rate by dtype.
        all_cores: the same on all threads.
        l2: read rate of one core from its L2.
        l3: read rate of all threads from the L3.
        copy: of main memory, bytes read and bytes written.
        l2_bytes, l3_bytes: sizes, as the system tells.
    """

    threads: int
    one_core: dict[str, float]
    all_cores: dict[str, float]
    l2: float | None
    l3: float | None
    copy: float
    l2_bytes: int | None
    l3_bytes: int | None


def measure(seconds: float = 0.3) -> Limits:
    """Measure; ``seconds`` for each of a dozen figures."""
    threads = torch.get_num_threads()
    l2_bytes, l3_bytes = cache_bytes(2), cache_bytes(3)
    if l3_bytes is not None and l3_bytes <= 2 * (l2_bytes or 0) * threads:
        l3_bytes = None  # what its half holds, the L2 caches hold as well
    dtypes = ("float32", "bfloat16")
    with _threads(1):
        one = {dtype: _product(dtype, seconds) for dtype in dtypes}
        l2 = None if l2_bytes is None else _read(l2_bytes // 2, seconds)
    return Limits(
        threads,
        one,
        # Where others keep a core busy, two can read as less than one; as a limit they are not.
        {dtype: max(one[dtype], _product(dtype, seconds)) for dtype in dtypes},
        l2,
        None if l3_bytes is None else _read(min(l3_bytes // 2, 32 << 20), seconds),
        _copy(seconds),
        l2_bytes,
        l3_bytes,
    )


def cache_bytes(level: int) -> int | None:
    """The size of the first core's data cache of a level, None if the system does not tell."""
    for index in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*"):
        try:
            found = {key: (index / key).read_text().strip() for key in ("level", "type", "size")}
        except OSError:
            continue
        if found["level"] == str(level) and found["type"] != "Instruction":
            return int(found["size"].removesuffix("K")) << 10
    return None


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _best(call: Callable[[], Any], seconds: float) -> float:
    """The shortest of as many calls as fit, three at least."""
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def _product(dtype: str, seconds: float) -> float:
    left, right = (torch.randn(_SIDE, _SIDE).to(getattr(torch, dtype)) for _ in range(2))
    out = torch.empty_like(left)
    return 2 * _SIDE**3 / _best(lambda: torch.mm(left, right, out=out), seconds)


def _read(size: int, seconds: float) -> float:
    """Of the ways to read an array of ``size`` bytes, the fastest."""
    array = torch.randn(size // 4096, 1024)
    few = torch.randn(2, 16)
    rates = []
    for way in (_sum, _dot, _mv):
        overhead = _best(way(few), seconds / 6)
        rates.append(array.nbytes / (_best(way(array), seconds / 6) - overhead))
    return max(rates)


def _sum(array: torch.Tensor) -> Callable[[], Any]:
    return lambda: torch.sum(array)


def _dot(array: torch.Tensor) -> Callable[[], Any]:
    first, second = array.flatten().chunk(2)
    return lambda: torch.dot(first, second)


def _mv(array: torch.Tensor) -> Callable[[], Any]:
    vector = torch.randn(array.shape[1])
    return lambda: torch.mv(array, vector)


def _copy(seconds: float) -> float:
    source = torch.ones(_COPY_BYTES // 4)
    target = torch.zeros(_COPY_BYTES // 4)
    return 2 * _COPY_BYTES / _best(lambda: target.copy_(source), seconds)
