"""The peak of memory of one call of attention, each in a process of its own.

The process is forked from a server that has imported everything and run nothing, so that neither
what another case left in the allocator nor a pool of threads can be taken for the call's. There the
call runs once, for what happens only once; what it gave back goes back to the system; then it runs
again, and the peak of the resident memory over what there was before counts.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import re
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from .attention import Case

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak(case: Case, provider: str) -> int | None:
    """Bytes, forward and, where the case has one, backward; None where they cannot be known."""
    if not _RESET.exists():
        return None
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["bench.attention"])
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(case, provider, torch.get_num_threads(), theirs))
    process.start()
    theirs.close()
    try:
        found: int = ours.recv()
    except EOFError:
        return None
    finally:
        process.join()
    return found


def _child(case: Case, provider: str, threads: int, to: Connection) -> None:
    from . import attention

    torch.set_num_threads(threads)
    if case.mode == "backward":
        case = replace(case, mode="both")
    call = attention.call_of(attention.PROVIDERS[provider](case), case, attention.draw(case, 0))
    call()
    ctypes.CDLL(None).malloc_trim(0)
    _RESET.write_text("5")  # the peak starts anew
    before = _read("VmRSS")
    call()
    to.send(max(0, _read("VmHWM") - before))


def _read(field: str) -> int:
    found = re.search(rf"^{field}:\s*(\d+) kB", _STATUS.read_text(), re.M)
    assert found, field
    return int(found[1]) * 1024
