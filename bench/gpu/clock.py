"""Timing in turns, by the device's own clock."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

_FEWEST, _MOST = 5, 25


def medians(
    calls: Mapping[str, Callable[[], Any]], device: torch.device, seconds: float
) -> dict[str, float]:
    """Median seconds of each call, taken in turns for about so long; warm ones are left out."""
    for call in calls.values():
        for _ in range(3 if device.type == "cuda" else 1):
            call()
    once = sum(_time(call, device) for call in calls.values())
    rounds = min(max(int(seconds / max(once, 1e-9)), _FEWEST), _MOST)
    times: dict[str, list[float]] = {name: [] for name in calls}
    for index in range(rounds if device.type == "cuda" else 1):
        for name in list(calls)[:: 1 if index % 2 == 0 else -1]:
            times[name].append(_time(calls[name], device))
    return {name: statistics.median(each) for name, each in times.items()}


def _time(call: Callable[[], Any], device: torch.device) -> float:
    if device.type != "cuda":
        start = time.perf_counter()
        call()
        return time.perf_counter() - start
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    first.record()
    call()
    last.record()
    last.synchronize()
    return first.elapsed_time(last) / 1000


def clear(device: torch.device) -> None:
    """Give the device's memory back, after a case that failed."""
    gc.collect()
    if device.type == "cuda":
        try:
            torch.cuda.empty_cache()
        except RuntimeError:  # the device is lost, which `lost` tells
            pass


def lost(device: torch.device) -> bool:
    """Whether a kernel's fault has made the device useless to this process."""
    if device.type != "cuda":
        return False
    try:
        torch.cuda.synchronize(device)
        return torch.ones(1, device=device).item() != 1
    except RuntimeError:
        return True
