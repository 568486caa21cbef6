"""``python -m fastrnn info``: what runs here, on what, and why not otherwise."""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fastrnn import _C, backends
from fastrnn.cli.openmp import loaded_openmp_runtimes

PACKAGES = ("fastrnn", "torch", "triton", "numpy")


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


def _instruction_set() -> str:
    text = f"{_C.isa()} (this processor runs: {', '.join(_C.isas())})"
    cap = os.environ.get("FASTRNN_ISA")
    return f"{text}, capped by FASTRNN_ISA={cap}" if cap else text


def _machine() -> Table:
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("Python", sys.version.split()[0])
    for package in PACKAGES:
        table.add_row(package, _version(package))
    table.add_row("CPU", cpu_name())
    table.add_row("CPU features", " ".join(_C.cpu_features()))
    table.add_row("instruction set", _instruction_set())
    table.add_row("threads", str(torch.get_num_threads()))
    table.add_row("OpenMP runtime", _openmp())
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            table.add_row(f"cuda:{index}", torch.cuda.get_device_name(index))
    return table


def _backends() -> Table:
    table = Table("op", "backend", "state", title="Backends, in the order in which they are tried")
    for op, backend, reason in backends.report():
        state = "[green]on[/]" if reason is None else f"[yellow]off[/]: {escape(reason)}"
        table.add_row(op, backend, state)
    return table


def main(argv: Sequence[str], console: Console | None = None) -> int:
    """Print the tables; return the exit status."""
    argparse.ArgumentParser(prog="python -m fastrnn info", description=__doc__).parse_args(argv)
    console = console or Console()
    console.print(_machine(), highlight=False)
    console.print(_backends(), highlight=False)
    return 0
