"""On what the figures were measured."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
from pathlib import Path
from typing import Any

import torch

import fastrnn
from fastrnn import _C
from fastrnn.cli.info import cpu_name


def describe() -> dict[str, Any]:
    """Processor, instruction set, threads and versions."""
    return {
        "cpu": cpu_name(),
        "cpu_model": _cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "isa": _C.isa(),
        "isa_cap": os.environ.get("FASTRNN_ISA"),
        "torch_isa": torch.backends.cpu.get_cpu_capability(),
        "cpu_features": _C.cpu_features(),
        "versions": {
            "python": platform.python_version(),
            "fastrnn": fastrnn.__version__,
            "torch": torch.__version__,
            **{name: _version(name) for name in ("onnxruntime", "numpy")},
        },
    }


def _cpu_model() -> str | None:
    """Family and model: in a virtual machine the name alone often says little."""
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text() if cpuinfo.exists() else ""
    found = [re.search(rf"^{key}\s*:\s*(\d+)$", text, re.M) for key in ("cpu family", "model")]
    if None in found:
        return None
    return "family {}, model {}".format(*(match[1] for match in found if match))


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def slug(machine: dict[str, Any]) -> str:
    """The machine as the name of a folder."""
    words = re.sub(r"\((R|TM)\)|CPU|@.*|Processor", " ", machine["cpu"], flags=re.IGNORECASE)
    name = f"{words} {machine['threads']} threads {machine['isa']}"
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
