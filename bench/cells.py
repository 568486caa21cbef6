"""Layers that torch has not, beside the loop that is written instead, and beside the plain layer.

    python -m bench.cells [--words PeepholeLSTM …] [--rounds 7] [--shapes 8x128 …] [--compiled]

Training, forward and backward, float32, T = 100, I = H, one thread, CPU time. A case is timed only
where fastrnn errs, against the same layer on the reference in float64, at most twice as much as
the loop plus a floor. The loop takes its input product for all steps at once, as a careful writer's
does. For some cells it is written here and scripted (`torch.jit.script`); for the others, and with
``--compiled`` for all, it calls the cell's compiled step (`bench.loops`). All run in turn; figures
are ratios of medians.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm

import fastrnn

from .gate import CheckFailed, _rule
from .loops import loop_of

STEPS = 100
SHAPES = ((1, 128), (8, 128), (32, 128), (8, 256), (32, 256))  # B, H


@torch.jit.script
def peephole_lstm(x: Tensor, w_ih: Tensor, w_hh: Tensor, b: Tensor, p: Tensor) -> Tensor:
    gates_x = x @ w_ih.t() + b
    h = torch.zeros([x.shape[1], w_hh.shape[1]], dtype=x.dtype)
    c = h
    p_i, p_f, p_o = p.chunk(3)
    out: list[Tensor] = []
    for t in range(x.shape[0]):
        i, f, g, o = (gates_x[t] + h @ w_hh.t()).chunk(4, 1)
        i, f = torch.sigmoid(i + p_i * c), torch.sigmoid(f + p_f * c)
        c = f * c + i * torch.tanh(g)
        h = torch.sigmoid(o + p_o * c) * torch.tanh(c)
        out.append(h)
    return torch.stack(out)


@torch.jit.script
def layer_norm_lstm(
    x: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b: Tensor,
    gain_h: Tensor,
    gain_c: Tensor,
    bias_c: Tensor,
    gain_x: Tensor,
) -> Tensor:
    width = w_hh.shape[1]
    gates_x = layer_norm(x @ w_ih.t(), [4 * width], gain_x) + b
    h = torch.zeros([x.shape[1], width], dtype=x.dtype)
    c = h
    out: list[Tensor] = []
    for t in range(x.shape[0]):
        gates = gates_x[t] + layer_norm(h @ w_hh.t(), [4 * width], gain_h)
        i, f, g, o = gates.chunk(4, 1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(layer_norm(c, [width], gain_c, bias_c))
        out.append(h)
    return torch.stack(out)


@torch.jit.script
def layer_norm_gru(
    x: Tensor, w_ih: Tensor, w_hh: Tensor, b: Tensor, gain: Tensor, bias: Tensor
) -> Tensor:
    width = w_hh.shape[1]
    gates_x = x @ w_ih.t() + b
    h = torch.zeros([x.shape[1], width], dtype=x.dtype)
    out: list[Tensor] = []
    for t in range(x.shape[0]):
        gates = layer_norm(gates_x[t] + h @ w_hh.t(), [3 * width], gain, bias)
        r, u, n = gates.chunk(3, 1)
        u = torch.sigmoid(u - 1)
        h = u * torch.tanh(torch.sigmoid(r) * n) + (1 - u) * h
        out.append(h)
    return torch.stack(out)


@torch.jit.script
def zoneout_lstm(x: Tensor, w_ih: Tensor, w_hh: Tensor, b: Tensor) -> Tensor:
    gates_x = x @ w_ih.t() + b
    h = torch.zeros([x.shape[1], w_hh.shape[1]], dtype=x.dtype)
    c = h
    out: list[Tensor] = []
    for t in range(x.shape[0]):
        i, f, g, o = (gates_x[t] + h @ w_hh.t()).chunk(4, 1)
        c_new = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h_new = torch.sigmoid(o) * torch.tanh(c_new)
        h = torch.where(torch.rand_like(h) < 0.1, h, h_new)
        c = torch.where(torch.rand_like(c) < 0.1, c, c_new)
        out.append(h)
    return torch.stack(out)


@dataclass(frozen=True)
class Peer:
    """A layer and what it is measured beside.

    Attributes:
        plain: the layer of torch's kind.
        name, options: of the layer, where they are not the row's name and nothing.
        scripted: a loop that is written here, if one is.
        drawn: whether the results are drawn, so that no two calls agree.
    """

    plain: str
    name: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    scripted: Callable[..., Tensor] | None = None
    drawn: bool = False


PEERS = {
    "PeepholeLSTM": Peer("LSTM", scripted=peephole_lstm),
    "LayerNormLSTM": Peer("LSTM", scripted=layer_norm_lstm),
    "LayerNormGRU": Peer("GRU", scripted=layer_norm_gru),
    "zoneout": Peer("LSTM", "LSTM", {"bias": "single", "zoneout": 0.1}, zoneout_lstm, drawn=True),
    "CoupledLSTM": Peer("LSTM"),
    "reset before": Peer("GRU", "GRU", {"bias": "single", "reset_after": False}),
    "4 heads": Peer("LSTM", "LSTM", {"bias": "single", "num_heads": 4}),
    "IndRNN": Peer("RNN", options={"nonlinearity": "tanh"}),
    "LightGRU": Peer("GRU", options={"norm": "layer"}),
    "MinGRU": Peer("GRU"),
    "MinLSTM": Peer("GRU"),
    "SLSTM": Peer("LSTM"),
}

Train = Callable[[], list[Tensor]]


def of_layer(layer: nn.Module, x: Tensor, grad: Tensor) -> Train:
    """One training call of a layer: output and gradients."""
    x = x.clone().requires_grad_()
    wanted = [x, *layer.parameters()]

    def train() -> list[Tensor]:
        output, _ = layer(x)
        return [output, *torch.autograd.grad(output, wanted, grad)]

    return train


def of_loop(loop: Callable[..., Tensor], layer: nn.Module, x: Tensor, grad: Tensor) -> Train:
    """The same of the loop with the layer's weights."""
    x = x.clone().requires_grad_()
    weights = list(layer.parameters())

    def train() -> list[Tensor]:
        output = loop(x, *weights)
        return [output, *torch.autograd.grad(output, [x, *weights], grad)]

    return train


def check(ours: Train, theirs: Train, oracle: Train) -> None:
    """Raises CheckFailed if fastrnn errs by more than the rule allows."""
    rule = _rule()
    for our, their, exact in zip(ours(), theirs(), oracle(), strict=True):
        norms = [
            rule.error([tensor.detach()], [exact.detach().double()]) for tensor in (our, their)
        ]
        for mine, other in zip(*norms, strict=True):
            if not mine <= 2 * other + rule.FLOOR[our.dtype]:
                raise CheckFailed(f"error {mine:.3g}, the loop's {other:.3g}")


def measure(
    name: str, batch: int, width: int, rounds: int, steps: int = STEPS, compiled: bool | None = None
) -> dict[str, Any]:
    """How many times as fast as the loop, and the time in terms of the plain layer's.

    ``compiled``: whether the loop is of compiled steps, or of plain ones; None: the scripted one.
    """
    peer = PEERS[name]
    torch.manual_seed(0)
    layer = getattr(fastrnn, peer.name or name)(width, width, **peer.options)
    loop = peer.scripted
    if loop is None or compiled is not None:
        loop = loop_of(layer, compiled is not False)
    exact = copy.deepcopy(layer).double()
    exact.backend = "reference"
    x, grad = torch.randn(2, steps, batch, width)
    calls = {
        "fastrnn": of_layer(layer, x, grad),
        "plain": of_layer(getattr(fastrnn, peer.plain)(width, width, bias="single"), x, grad),
        "loop": of_loop(loop, layer, x, grad),
    }
    oracle = of_layer(exact, x.double(), grad.double())
    if not peer.drawn:
        check(calls["fastrnn"], calls["loop"], oracle)
    for _ in range(2):  # the script's profiling runs
        calls["loop"]()
    times: dict[str, list[float]] = {key: [] for key in calls}
    for turn in range(rounds):
        for key in list(calls)[:: 1 if turn % 2 == 0 else -1]:
            start = time.process_time()
            calls[key]()
            times[key].append(time.process_time() - start)
    median = {key: statistics.median(each) for key, each in times.items()}
    return {
        "case": f"{name} B{batch} H{width}",
        "times the loop": median["loop"] / median["fastrnn"],
        "of the plain layer": median["fastrnn"] / median["plain"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.cells", description=__doc__)
    parser.add_argument("--words", nargs="*", default=list(PEERS), choices=list(PEERS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--shapes", nargs="*", default=[f"{b}x{h}" for b, h in SHAPES])
    parser.add_argument("--compiled", action="store_true", help="the loop of compiled steps")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.words:
        for shape in options.shapes:
            batch, width = map(int, shape.split("x"))
            row = measure(name, batch, width, options.rounds, compiled=options.compiled or None)
            scripted = PEERS[name].scripted and not options.compiled
            print(
                f"{row['case']}: {row['times the loop']:.2f} times the "
                f"{'scripted loop' if scripted else 'loop of compiled steps'}, "
                f"{row['of the plain layer']:.2f} of the plain layer's time",
                flush=True,
            )


if __name__ == "__main__":
    main()
