"""int8 weights: speed and error beside float32 and torch's own dynamic quantisation.

    python -m bench.quantized [--threads 2] [--seconds 1] [--steps 100 1] [--shapes 1x512 8x512]

Inference, I = H. Calls run in turn in one process; figures are ratios of medians, how many times as
fast int8 is as each of the others. Errors are root mean squares over that of the float64 outputs.
"""

from __future__ import annotations

import argparse
import statistics
import warnings
from typing import Any

import torch
from torch import nn

import fastrnn

from .cases import Case
from .providers import PROVIDERS
from .timing import interleave
from .workload import build, draw

HIDDENS = (64, 128, 256, 512, 1024)
BATCHES = (1, 2, 4, 8)
SHAPES = tuple(f"{batch}x{hidden}" for hidden in HIDDENS for batch in BATCHES)


def measure(cell: str, batch: int, hidden: int, steps: int, seconds: float) -> dict[str, Any]:
    """Ratios and errors of one case."""
    case = Case(cell, "inference", batch, hidden, steps=steps)
    workload = draw(case, 0)
    given = (workload.input, workload.hx)
    calls = {
        name: provider.prepare(workload)
        for name, provider in PROVIDERS.items()
        if provider.why_not(case) is None
    }
    pools = {name: PROVIDERS[name].pool for name in calls}
    ours = build(fastrnn, case)
    ours.load_state_dict(workload.weights)
    quantized = fastrnn.quantize_dynamic(ours)
    calls["int8"] = lambda: quantized(*given)
    if cell != "rnn":  # torch's has cells of it alone
        theirs = build(nn, case)
        theirs.load_state_dict(workload.weights)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            holder = torch.ao.quantization.quantize_dynamic(nn.Sequential(theirs))
        calls["torch int8"] = lambda: holder[0](*given)
    pools |= dict.fromkeys(("int8", "torch int8"), "openmp")
    oracle = build(fastrnn, case, dtype=torch.float64, backend="reference")
    oracle.load_state_dict(workload.weights)
    exact = oracle(workload.input.double(), _double(workload.hx))[0]
    norm = exact.square().mean().sqrt()
    errors = {
        name: float((calls[name]()[0] - exact).square().mean().sqrt() / norm)
        for name in ("int8", "torch int8", "fastrnn")
        if name in calls
    }
    times = {
        name: statistics.median(rounds)
        for name, rounds in interleave(calls, seconds, pools).rounds.items()
    }
    return {
        "case": f"{cell} T{steps} B{batch} H{hidden}",
        "ratios": {name: t / times["int8"] for name, t in times.items() if name != "int8"},
        "errors": errors,
    }


def _double(hx: Any) -> Any:
    if hx is None or isinstance(hx, torch.Tensor):
        return hx if hx is None else hx.double()
    return tuple(state.double() for state in hx)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.quantized", description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument(
        "--cells", nargs="*", default=["lstm", "gru"], choices=["lstm", "gru", "rnn"]
    )
    parser.add_argument("--steps", nargs="*", type=int, default=[100, 1])
    parser.add_argument("--shapes", nargs="*", default=list(SHAPES))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with torch.inference_mode():
        for cell in options.cells:
            for steps in options.steps:
                for shape in options.shapes:
                    batch, hidden = map(int, shape.split("x"))
                    row = measure(cell, batch, hidden, steps, options.seconds)
                    ratios = ", ".join(f"{name} {r:.2f}" for name, r in row["ratios"].items())
                    errors = ", ".join(f"{name} {e:.1e}" for name, e in row["errors"].items())
                    print(f"{row['case']}: times as fast as {ratios}; errors {errors}", flush=True)


if __name__ == "__main__":
    main()
