"""`recompute=True`: time of a training call, and bytes kept, over the plain layer's.

    python -m bench.recompute [--threads 2] [--seconds 2] [--shapes 32x256]

T = 100, I = H, two layers, float32; calls in turn in one process, ratios of medians.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import fastrnn

from .timing import interleave

KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "recompute": {"recompute": True},
    "checkpoint_every": {"checkpoint_every": 10},
}


def kept(run: Callable[[], Any]) -> int:
    """Bytes that autograd holds on to after a forward."""
    found: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = run()
    del result
    return sum(found.values())


def measure(
    cell: str, batch: int, hidden: int, seconds: float
) -> dict[str, tuple[float, float | None]]:
    """Of each kind, time and bytes over the plain layer's, weights and input not counted.

    What checkpointing keeps autograd does not see: no bytes of it.
    """
    x = torch.randn(100, batch, hidden, requires_grad=True)
    grad = torch.randn(100, batch, hidden)
    calls, sizes = {}, {}
    for kind, options in KINDS.items():
        layer = getattr(fastrnn, cell)(hidden, hidden, num_layers=2, **options)
        wanted = [x, *layer.parameters()]

        def train(layer: Any = layer, wanted: Any = wanted) -> Any:
            return torch.autograd.grad(layer(x)[0], wanted, grad)

        calls[kind] = train
        sizes[kind] = kept(lambda layer=layer: layer(x)) - sum(t.nbytes for t in wanted)
    rounds = interleave(calls, seconds, dict.fromkeys(calls, "openmp")).rounds
    times = {kind: statistics.median(each) for kind, each in rounds.items()}
    return {
        kind: (
            times[kind] / times["plain"],
            None if "checkpoint_every" in options else sizes[kind] / sizes["plain"],
        )
        for kind, options in KINDS.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.recompute", description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--cells", nargs="*", default=["LSTM", "GRU"])
    parser.add_argument("--shapes", nargs="*", default=["8x128", "32x256", "32x512"])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for cell in options.cells:
        for shape in options.shapes:
            row = measure(cell, *map(int, shape.split("x")), options.seconds)
            text = ", ".join(
                f"{kind} {t:.2f}" + ("" if b is None else f" ({b:.2f})")
                for kind, (t, b) in row.items()
            )
            print(f"{cell} {shape}: time (bytes kept) {text}", flush=True)


if __name__ == "__main__":
    main()
