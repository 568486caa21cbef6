"""How exactly float32 layers multiply: as `torch.get_float32_matmul_precision()`, or an override.

``"highest"`` is as exact as float32's own products. Where the processor has matrix tiles for
bfloat16 (AMX), each number is split into the sum of three bfloat16 terms, and six products of
terms, added up in float32, take the place of one: less work than float32's own. ``"high"`` is two
terms and three products there, to some 2^-16 of what is multiplied. ``"medium"`` lets the C++
kernels round what they multiply to bfloat16, where the processor multiplies pairs of bfloat16
faster than float32. All of it is forward and backward, of the cells that torch has (and of those
as simple); sums, states and gates stay float32. Elsewhere, and with splitting switched off,
``"highest"`` and ``"high"`` are float32's own products, and so is ``"medium"`` without pairs.

What holds is the setting while a kernel runs: of the backward, that of the call to
``backward()``. A single step without gradients, whose time is the weights' way from memory, is
never split nor rounded.
"""

from __future__ import annotations

import os
import threading

import torch

NAMES = ("highest", "high", "medium")

LEAST_ROWS = {"highest": 16, "high": 8}
"""Rows, of a step or of a product by itself, from which on it pays to split.

Derived, not measured: a core's rates on a processor with AMX are 2,800 GFLOP/s by tiles, 170 by
FMA, and 86 GB/s of weights from the second-level cache, 28 from the third. A block of 16 units
takes R rows 0.19 R ns for each k by FMA. Three terms take 1.1 ns of products for up to 16 rows,
and weights of 6 bytes, of which 2 are read twice: 1.5 ns from the second-level cache and 3.4 from
the third, as much as 8 and 18 rows by FMA. Two terms take half of the products and 4 bytes: 6 and
12 rows. It is a matter of shapes alone, so that threads change no bit.
"""

_thread = threading.local()


def _check(name: str | None) -> str | None:
    if name is not None and name not in NAMES:
        raise ValueError(f"precision should be one of {', '.join(NAMES)} or None, got: {name!r}")
    return name


def _splitting_from(text: str) -> bool:
    if text not in ("", "0", "1"):
        raise ValueError(f"FASTRNN_SPLITTING should be 0 or 1, got: {text!r}")
    return text != "0"


_from_environment = _check(os.environ.get("FASTRNN_PRECISION") or None)
_splitting_from_environment = _splitting_from(os.environ.get("FASTRNN_SPLITTING", ""))


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


class use_splitting:
    """Whether float32 products may be those of bfloat16 terms, whatever FASTRNN_SPLITTING says.

    Without it ``"highest"`` and ``"high"`` are float32's own products on every processor. It
    holds as `use_precision` does.

    Args:
        on: True or False.

    Raises:
        TypeError: it is neither.
    """

    def __init__(self, on: bool) -> None:
        if not isinstance(on, bool):
            raise TypeError(f"splitting should be True or False, got: {on!r}")
        self._on = on

    def __enter__(self) -> None:
        self._before = getattr(_thread, "splitting", None)
        _thread.splitting = self._on

    def __exit__(self, *_: object) -> None:
        _thread.splitting = self._before


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


def splitting() -> bool:
    """Whether splitting is on: by context, else by environment, else it is."""
    on: bool | None = getattr(_thread, "splitting", None)
    return _splitting_from_environment if on is None else on


def terms(rows: int) -> int:
    """Into how many terms a product of so many rows may split its numbers; 0: it must not.

    The one decision between float32's own products and those of terms, for a processor that has
    both. A scan's rows are its batch.
    """
    name = precision()
    if name == "medium":
        return 1
    if rows < LEAST_ROWS[name] or not splitting():
        return 0
    return 3 if name == "highest" else 2
