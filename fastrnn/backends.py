"""Who serves a scan: an ordered list of backends, each of which says in words why it cannot.

The automatic choice takes the first that has no objection. A backend that was asked
for (an argument, `use_backend`, the environment variable ``FASTRNN_BACKEND``) and has
an objection raises it: nothing falls back behind the user's back.
"""

from __future__ import annotations

import os
import threading
from typing import NamedTuple

import torch

from . import attention_cpp, cpp, gpu
from .cells import CELLS, CellSpec
from .gpu import attention_serves
from .options import PLAIN, Options
from .scores import SCORES, ScoreSpec


class Backend(NamedTuple):
    """A backend's name and its objection to serving a cell or a score, None if it has none."""

    name: str
    devices: str

    def why_not(
        self,
        spec: CellSpec | ScoreSpec,
        device: torch.device,
        dtype: torch.dtype,
        options: Options,  # no default here, which torch 2.6 could not trace
        widths: tuple[int, int] | None,
    ) -> str | None:
        if self.name == "cpp":
            if isinstance(spec, ScoreSpec):
                return attention_cpp.why_not(spec.kind, device, dtype)
            return cpp.why_not(spec, device, dtype, options)
        if self.name == "triton":
            if isinstance(spec, ScoreSpec):
                return attention_serves.why_not(spec.kind, device, dtype, widths)
            return gpu.why_not(spec, device, dtype, options)
        return None


BACKENDS = (
    Backend("cpp", "cpu"),
    Backend("triton", "cuda"),
    Backend("reference", "any"),
)
NAMES = tuple(backend.name for backend in BACKENDS)

# Each thread's own, as torch's modes are. `torch.compile` traces this and compiles anew
# when it changes; it would not trace a ContextVar, nor notice a subclass's default.
_thread = threading.local()


def check_name(name: str | None) -> str | None:
    """Returns ``name`` if it is None or a backend's; raises ValueError otherwise."""
    if name is not None and name not in NAMES:
        raise ValueError(f"backend should be one of {', '.join(NAMES)} or None, got: {name!r}")
    return name


_from_environment = check_name(os.environ.get("FASTRNN_BACKEND") or None)


class use_backend:  # a context manager, named as torch names its own
    """Within this context every call without a ``backend`` of its own uses this one.

    It holds for the thread that enters it.

    Args:
        name: ``"cpp"``, ``"triton"``, ``"reference"``, or None for the automatic choice.

    Raises:
        ValueError: there is no backend of that name.
    """

    def __init__(self, name: str | None) -> None:
        self._name = check_name(name) or "auto"

    def __enter__(self) -> None:
        self._before = getattr(_thread, "requested", None)
        _thread.requested = self._name

    def __exit__(self, *_: object) -> None:
        _thread.requested = self._before


def requested(argument: str | None) -> str | None:
    """The backend asked for: by argument, else by context, else by environment."""
    if argument is not None:
        return check_name(argument)
    context = getattr(_thread, "requested", None)
    if context is not None:
        return None if context == "auto" else context
    return _from_environment


def choose(
    spec: CellSpec | ScoreSpec,
    device: torch.device,
    dtype: torch.dtype,
    name: str | None,
    options: Options = PLAIN,
    widths: tuple[int, int] | None = None,
) -> str:
    """The name of the backend that serves a scan with these options, or an attention.

    ``name`` is the one asked for, if any.

    ``widths`` are those of attention's keys and values.

    Raises:
        RuntimeError: the backend asked for cannot serve; the text says why.
    """
    for backend in BACKENDS:
        if name is not None and backend.name != name:
            continue
        if name is None and backend.devices == "cuda" and device.type != "cuda":
            continue  # Triton's interpreter serves whoever asks for it
        reason = backend.why_not(spec, device, dtype, options, widths)
        if reason is None:
            return backend.name
        if name is not None:
            raise RuntimeError(
                f"backend {name!r} was asked for but cannot serve {spec.name!r} "
                f"on device {device} with dtype {dtype}: {reason}"
            )
    raise AssertionError("the reference backend serves everything")


def report() -> list[tuple[str, str, str | None]]:
    """For each op and backend: why it is off on its own device in float32, None if it is on."""
    rows = []
    specs: dict[str, CellSpec | ScoreSpec] = {**CELLS}
    specs |= {f"attention: {name}": spec for name, spec in SCORES.items()}
    for name, spec in specs.items():
        for backend in BACKENDS:
            device = torch.device("cuda" if backend.devices == "cuda" else "cpu")
            rows.append(
                (name, backend.name, backend.why_not(spec, device, torch.float32, PLAIN, None))
            )
    return rows
