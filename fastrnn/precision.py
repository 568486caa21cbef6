"""How exactly float32 layers multiply: as `torch.get_float32_matmul_precision()`, or an override.

``"highest"`` and ``"high"`` are float32's own products. ``"medium"`` lets the C++ kernels of the
cells that torch has (and of those as simple) round what they multiply to bfloat16, forward and
backward, where the processor multiplies pairs of bfloat16 faster than float32; sums, states and
gates stay float32. Elsewhere it changes nothing. What holds is the setting while a kernel runs:
of the backward, that of the call to ``backward()``. A single step without gradients, whose time is
the weights' way from memory, is never rounded.
"""

from __future__ import annotations

import os
import threading

import torch

NAMES = ("highest", "high", "medium")

_thread = threading.local()


def _check(name: str | None) -> str | None:
    if name is not None and name not in NAMES:
        raise ValueError(f"precision should be one of {', '.join(NAMES)} or None, got: {name!r}")
    return name


_from_environment = _check(os.environ.get("FASTRNN_PRECISION") or None)


class use_precision:  # a context manager, named as torch names its own
    """Within this context float32 layers multiply so, whatever torch and FASTRNN_PRECISION say.

    It holds for the thread that enters it; a backward runs in the thread that calls it, for CPU
    tensors.

    Args:
        name: ``"highest"``, ``"high"``, ``"medium"``, or None for torch's own setting.

    Raises:
        ValueError: there is no precision of that name.
    """

    def __init__(self, name: str | None) -> None:
        self._name = _check(name) or "torch"

    def __enter__(self) -> None:
        self._before = getattr(_thread, "requested", None)
        _thread.requested = self._name

    def __exit__(self, *_: object) -> None:
        _thread.requested = self._before


def precision() -> str:
    """The precision in force: by context, else by environment, else torch's."""
    requested = getattr(_thread, "requested", None) or _from_environment
    if requested is not None and requested != "torch":
        return requested
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:
        # Set by torch.backends as well, after which torch has no one name for all devices.
        of_cpu = torch.backends.mkldnn.matmul.fp32_precision  # type: ignore[attr-defined]
        return {"bf16": "medium", "tf32": "high"}.get(of_cpu, "highest")


def rounds() -> bool:
    """Whether products may round what they multiply to bfloat16."""
    return precision() == "medium"
