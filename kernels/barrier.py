"""A barrier among the programs of a group, which all run at once (a cooperative launch).

The counter only grows: one more for each program and step, so nothing is ever reset. A wait is
bounded: a program that loses its patience leaves a mark in ``failed`` and waits no more, so that a
fault becomes an error on the host in place of a device that hangs.

Cost: an atomic's way to the L2 cache and a load's way back, about 1 us on Hopper.
"""

import triton
import triton.language as tl

from .tiles import INTERPRETED


@triton.jit
def _poll(counter_ptr):
    # Triton's own atomics would put two barriers of the block around each look.
    if INTERPRETED:
        count = tl.load(counter_ptr, volatile=True)
    else:
        count = tl.inline_asm_elementwise(
            "ld.acquire.gpu.global.s32 $0, [$1];", "=r,l", [counter_ptr],
            dtype=tl.int32, is_pure=False, pack=1,
        )  # fmt: skip
    return count


@triton.jit
def arrive(counter_ptr):
    """Announce that what this program wrote before is there for others to read."""
    tl.debug_barrier()  # the whole block's stores, not those of the thread that counts
    tl.atomic_add(counter_ptr, 1, sem="release", scope="gpu")


@triton.jit
def wait(counter_ptr, target, failed_ptr, patience):
    """Wait until ``target`` arrivals; returns the patience left for the next wait, none if lost."""
    left = patience
    count = _poll(counter_ptr)
    while (count < target) & (left > 0):
        count = _poll(counter_ptr)
        left -= 1
    if count < target:
        tl.store(failed_ptr, 1)
        patience = 0
    tl.debug_barrier()  # no warp reads before all have seen the others arrive
    return patience
