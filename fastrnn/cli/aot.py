"""``python -m fastrnn aot``: compile the Triton kernels without a GPU, and see what they need."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import sys
from collections.abc import Sequence

from fastrnn import gpu


def main(argv: Sequence[str]) -> int:
    """Print a line a kernel; return 1 if one that would be chosen spills or exceeds its device."""
    if gpu.INTERPRETED:
        print("TRITON_INTERPRET is set, and the interpreter compiles nothing", file=sys.stderr)
        return 2
    if importlib.util.find_spec("triton") is None:
        print("Triton is not installed: pip install 'fastrnn[gpu]'", file=sys.stderr)
        return 2
    from fastrnn.gpu import aot, attention_aot

    parser = argparse.ArgumentParser(prog="python -m fastrnn aot", description=__doc__)
    parser.add_argument("--targets", default=",".join(aot.TARGETS), help="default: %(default)s")
    parser.add_argument("--grid", action="store_true", help="all shapes of the benchmark's grid")
    parser.add_argument("--only", default="", help='shapes that contain this, as "lstm bfloat16"')
    options = parser.parse_args(argv)
    shapes: list[aot.Shape | attention_aot.Shape]
    if options.grid:
        shapes = [*aot.of_the_grid()]
    else:
        shapes = [*aot.representative(), *attention_aot.representative()]
    found = [shape for shape in shapes if options.only in str(shape)]
    if not found:
        names = "\n  ".join(dict.fromkeys(map(str, shapes)))
        parser.error(f"no shape's name contains {options.only!r}; there are:\n  {names}")
    shapes = found
    status = 0
    for target in options.targets.split(","):
        if target not in aot.TARGETS:
            parser.error(f"targets should be among {', '.join(aot.TARGETS)}, got: {target!r}")
        device = aot.TARGETS[target]
        print(f"\n{target}: {device.processors} multiprocessors, {device.shared >> 10} KB shared")
        print(f"{'shape':46}{'kernel':21}{'programs':>8}{'warps':>6}{'registers':>10}"
              f"{'stack':>6}{'spills':>7}{'shared':>8}{'at once':>8}"
              "  matrix instructions")  # fmt: skip
        seen = set()
        for shape in shapes:
            if isinstance(shape, attention_aot.Shape):
                launches = attention_aot.launches(shape, device)
            else:
                launches = aot.launches(shape, device)
            for launch in launches:
                report = aot.compiled(launch, device)
                # A line for each kernel; what differs in the number of programs is checked as well.
                same = dataclasses.replace(launch, grid=())
                if same in seen and not report.faults:
                    continue
                seen.add(same)
                print(f"{shape!s:46}{report.name:21}{report.programs:8}{report.warps:6}"
                      f"{report.registers:10}{report.stack:6}{report.spills:7}{report.shared:8}"
                      f"{report.occupancy:8}  {report.matrix}", flush=True)  # fmt: skip
                for fault in report.faults:
                    print(f"  FAULT: {fault}", flush=True)
                    status = 1
    return status
