"""``python -m fastrnn info``: what runs here, on what, and why not otherwise."""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

import fastrnn
from fastrnn import backends, precision
from fastrnn.cli.openmp import loaded_openmp_runtimes

PACKAGES = ("triton", "numpy")


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def cpu_name() -> str:
    """The processor's name, as far as the system tells."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        found = re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(), re.MULTILINE)
        if found:
            return found[1]
    return platform.processor() or platform.machine()


def _openmp() -> str:
    runtimes = loaded_openmp_runtimes()
    if runtimes is None:
        return "not known on this system"
    if len(runtimes) == 1:
        return runtimes[0]
    return f"{len(runtimes)} runtimes loaded, where one is right: {', '.join(runtimes) or 'none'}"


def _extension() -> Iterator[tuple[str, str]]:
    try:
        from fastrnn import _C
    except ImportError as error:
        yield "extension", f"cannot be imported: {error}"
        return
    yield "CPU features", " ".join(_C.cpu_features()) or "none that the kernels use"
    isa = f"{_C.isa()} (built and runnable here: {', '.join(_C.isas())})"
    cap = os.environ.get("FASTRNN_ISA")
    yield "instruction set", f"{isa}, capped by FASTRNN_ISA={cap}" if cap else isa
    splitting = "on" if precision.splitting() else "off"
    yield (
        "splitting",
        splitting if _C.splits() else f"{splitting}, but this set has no tiles for it",
    )


def _machine() -> Iterator[tuple[str, str]]:
    yield "fastrnn", fastrnn.__version__
    yield "Python", platform.python_version()
    yield "torch", torch.__version__  # which tells the build as well
    for package in PACKAGES:
        yield package, _version(package)
    yield "CPU", cpu_name()
    yield from _extension()
    yield "products", precision.precision()
    yield "threads", str(torch.get_num_threads())
    yield "OpenMP runtime", _openmp()
    for index in range(torch.cuda.device_count()):
        yield f"cuda:{index}", torch.cuda.get_device_name(index)


def _backends() -> Iterator[str]:
    rows = [("op", "backend", "state")] + [
        (op, backend, "on" if reason is None else f"off: {reason}")
        for op, backend, reason in backends.report()
    ]
    ops, names, _ = (max(map(len, column)) for column in zip(*rows, strict=True))
    for op, name, state in rows:
        yield f"{op:{ops}}  {name:{names}}  {state}"


def main(argv: Sequence[str]) -> int:
    """Print the tables; return the exit status.

    Plain text, for which nothing has to be installed: it is what goes into a report of a fault.
    """
    argparse.ArgumentParser(prog="python -m fastrnn info", description=__doc__).parse_args(argv)
    for name, value in _machine():
        print(f"{name:16}{value}")
    print("\nBackends, in the order in which they are tried:")
    print("\n".join(_backends()))
    return 0
