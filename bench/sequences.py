"""What resets, lengths, all states and zoneout cost: against the plain layer, and a loop in torch.

    python -m bench.sequences [--threads 1] [--seconds 2] [--output FILE]

Training, float32, T = 128, I = H. A feature's price is its time over the plain layer's; its gain
that of a loop of torch's cell that does the same, over its own. Calls run in turn in one process;
figures are ratios of medians. A case is timed only where layer and loop agree.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import fastrnn

from .timing import interleave, ratio

STEPS = 128
FEATURES = ("reset", "reset to initial", "lengths", "all states", "zoneout")
SHAPES = tuple((batch, hidden) for batch in (8, 32, 64) for hidden in (128, 256, 512))

Call = Callable[[], list[Tensor]]


def calls(cell: str, feature: str, batch: int, hidden: int, seed: int = 0) -> dict[str, Call]:
    """The plain layer, the layer with the feature, and the loop: each forward and backward."""
    torch.manual_seed(seed)
    plain = getattr(fastrnn, cell)(hidden, hidden)
    setting = {"zoneout": 0.1} if feature == "zoneout" else {}
    ours = getattr(fastrnn, cell)(hidden, hidden, **setting)
    ours.load_state_dict(plain.state_dict())
    step = getattr(torch.nn, f"{cell}Cell")(hidden, hidden)
    step.load_state_dict({k.removesuffix("_l0"): v for k, v in plain.state_dict().items()})
    x = torch.randn(STEPS, batch, hidden, requires_grad=True)
    call: dict[str, Any] = {}
    if feature.startswith("reset"):
        call["reset"] = torch.rand(STEPS, batch) < 0.05
        call["reset_to"] = "initial" if feature.endswith("initial") else "zero"
    if feature == "lengths":
        call["lengths"] = torch.full((batch,), STEPS)  # of as many steps as the plain layer has
    if feature == "all states":
        call["return_all_states"] = True

    def trained(run: Callable[[], list[Tensor]], module: torch.nn.Module) -> Call:
        leaves = [x, *module.parameters()]

        def both() -> list[Tensor]:
            results = run()
            loss = results[0].sum() + results[-1].sum()
            return [results[0].detach(), *torch.autograd.grad(loss, leaves)]

        return both

    def layer(module: Any, **call: Any) -> list[Tensor]:
        output, hx, *states = module(x, **call)
        last = states[0] if states else hx
        return [output, *(last if isinstance(last, tuple) else (last,))]

    return {
        "plain": trained(lambda: layer(plain), plain),
        "fastrnn": trained(lambda: layer(ours, **call), ours),
        "loop": trained(lambda: _loop(step, x, call, feature), step),
    }


def _loop(step: Any, x: Tensor, call: dict[str, Any], feature: str) -> list[Tensor]:
    count = 2 if isinstance(step, torch.nn.LSTMCell) else 1
    states = [x.new_zeros(x.shape[1], x.shape[2]) for _ in range(count)]
    every = []
    for t in range(len(x)):
        if "reset" in call:
            keep = (~call["reset"][t]).unsqueeze(1).to(x.dtype)
            states = [state * keep for state in states]
        new = step(x[t], tuple(states) if count == 2 else states[0])
        new = list(new) if count == 2 else [new]
        if "lengths" in call:
            here = (call["lengths"] > t).unsqueeze(1)
            new = [torch.where(here, a, b) for a, b in zip(new, states, strict=True)]
        if feature == "zoneout":
            masks = [torch.rand_like(a) < 0.1 for a in new]
            new = [torch.where(*each) for each in zip(masks, states, new, strict=True)]
        states = new
        every.append(states)
    stacked = [torch.stack(kind) for kind in zip(*every, strict=True)]
    return [stacked[0], *(stacked if "return_all_states" in call else states)]


def measure(cell: str, feature: str, batch: int, hidden: int, seconds: float) -> dict[str, Any]:
    found = calls(cell, feature, batch, hidden)
    if feature != "zoneout":  # whose masks differ
        for ours, theirs in zip(found["fastrnn"](), found["loop"](), strict=True):
            torch.testing.assert_close(
                ours, theirs, rtol=1e-3, atol=1e-3 * float(theirs.abs().max())
            )
    rounds = interleave(found, seconds, dict.fromkeys(found, "torch")).rounds
    return {
        "cell": cell, "feature": feature, "batch": batch, "hidden": hidden,
        "price": ratio(rounds["fastrnn"], rounds["plain"]),
        "gain": ratio(rounds["loop"], rounds["fastrnn"]),
    }  # fmt: skip


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.sequences", description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--cells", nargs="*", default=["LSTM", "GRU"])
    parser.add_argument("--features", nargs="*", default=FEATURES)
    parser.add_argument("--batch", nargs="*", type=int)
    parser.add_argument("--hidden", nargs="*", type=int)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    records = []
    for cell in options.cells:
        for batch, hidden in SHAPES:
            if hidden not in (options.hidden or [hidden]) or batch not in (
                options.batch or [batch]
            ):
                continue
            for feature in options.features:
                record = measure(cell, feature, batch, hidden, options.seconds)
                records.append(record)
                price, gain = record["price"], record["gain"]
                print(
                    f"{cell} B {batch} H {hidden} {feature}: {price['median']:.2f} of plain "
                    f"({price['q1']:.2f} to {price['q3']:.2f}), {gain['median']:.1f} x a loop",
                    flush=True,
                )
    if options.output:
        options.output.write_text(json.dumps(records, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
