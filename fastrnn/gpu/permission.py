"""The caller's leave to record CUDA graphs (`fastrnn.gpu.graphs`).

Without Triton, so that anybody can import it.
"""

from __future__ import annotations

import os


def _check(value: str) -> bool:
    """Whether the environment permits it; ValueError for what is neither yes nor no."""
    if value.lower() in ("1", "true", "on", "yes", "y"):
        return True
    if value.lower() in ("", "0", "false", "off", "no", "n"):
        return False
    raise ValueError(f"FASTRNN_CUDA_GRAPHS should be 1 or 0 (true, on, yes; no), got: {value!r}")


given = _check(os.environ.get("FASTRNN_CUDA_GRAPHS", ""))


class use_cuda_graphs:  # a context manager, named as `use_backend` is
    """Within this context calls of the Triton backend that launch several kernels a step may be
    recorded as a CUDA graph at their second time, and replayed from then on.

    It holds for the whole process, since a backward runs on a thread of PyTorch's own. The
    environment variable ``FASTRNN_CUDA_GRAPHS=1`` permits it from the beginning. Recording waits
    for the device, and a graph keeps memory of its own, as much as its call's tensors; where one
    cannot be recorded the call is served without it, and a warning says why, once.

    Args:
        permitted: whether graphs may be used.
    """

    def __init__(self, permitted: bool = True) -> None:
        self._permitted = bool(permitted)

    def __enter__(self) -> None:
        global given
        self._before, given = given, self._permitted

    def __exit__(self, *_: object) -> None:
        global given
        given = self._before
