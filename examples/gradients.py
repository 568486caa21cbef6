"""Where gradients vanish and explode, and what it costs: RNN, LSTM and GRU on copy memory.

Two symbols are shown, a long blank follows, then they have to be told. How much of the last step's
gradient reaches the step k before it is measured at initialisation and after training; the same
task is learnt by backpropagation through all steps and truncated to windows of 25:

    python examples/gradients.py [--steps 1600 --hidden 64 --layers torch]
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

import fastrnn
from harness import Metric, Options, Result, build, compare, fit, main, picture, table

SYMBOLS, COPIED, LAG, BATCH, WINDOW = 8, 2, 100, 32, 25
BLANK, TELL = SYMBOLS, SYMBOLS + 1
CELLS = {"RNN": fastrnn.RNN, "LSTM": fastrnn.LSTM, "GRU": fastrnn.GRU}


class Copier(nn.Module):
    """One-hot symbols ``[T, B]`` to scores of what was shown, ``[COPIED, B, SYMBOLS]``.

    Args:
        scale: factor of the recurrent weights of an RNN: above 1 its gradients explode.
        window: backpropagation reaches so many steps back; 0: all.
    """

    def __init__(self, cell: str, hidden: int, scale: float = 1.0, window: int = 0) -> None:
        super().__init__()
        self.window = window
        self.recurrent: nn.Module = CELLS[cell](SYMBOLS + 2, hidden)
        self.head = nn.Linear(hidden, SYMBOLS)
        with torch.no_grad():
            if cell == "RNN":
                # Spectral radius ``scale``: the circular law says sqrt(H) times the deviation.
                self.recurrent.weight_hh_l0.normal_(std=scale * hidden**-0.5)
                return
            # Units remember from 1 to LAG steps: a gate of 1 - 1/n lets a gradient n steps far
            # (Tallec & Ollivier 2018). Gates are i, f, g, o and r, z, n.
            keep = torch.empty(hidden).uniform_(1, LAG - 1).log()
            for bias in (self.recurrent.bias_ih_l0, self.recurrent.bias_hh_l0):
                bias.zero_()
            self.recurrent.bias_ih_l0[hidden : 2 * hidden] = keep
            if cell == "LSTM":
                self.recurrent.bias_ih_l0[:hidden] = -keep

    def states(self, inputs: Tensor) -> Tensor:
        if not self.window:
            return self.recurrent(inputs)[0]
        hx: Any = None
        outputs = []
        for part in inputs.split(self.window):
            if hx is not None:
                hx = tuple(h.detach() for h in hx) if isinstance(hx, tuple) else hx.detach()
            output, hx = self.recurrent(part, hx)
            outputs.append(output)
        return torch.cat(outputs)

    def forward(self, symbols: Tensor) -> Tensor:
        inputs = nn.functional.one_hot(symbols, SYMBOLS + 2).to(self.head.weight.dtype)
        return self.head(self.states(inputs)[-COPIED:])


def batch_of(lag: int, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    shown = torch.randint(SYMBOLS, (COPIED, size), generator=generator)
    blank = torch.full((lag, size), BLANK)
    return torch.cat([shown, blank, torch.full((COPIED, size), TELL)]), shown


def loss(model: Copier, batch: tuple[Tensor, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(batch[0]).flatten(0, 1), batch[1].flatten())


def norms(model: Copier, options: Options) -> Tensor:
    """Norm of the last state's gradient at each step's input, relative to its own: ``[T]``."""
    symbols, _ = batch_of(LAG, BATCH, torch.Generator().manual_seed(options.seed))
    inputs = nn.functional.one_hot(symbols.to(options.device), SYMBOLS + 2).float()
    inputs.requires_grad_()
    last = model.recurrent(inputs)[0][-1]
    direction = torch.randn(last.shape, generator=torch.Generator().manual_seed(options.seed))
    (last * direction.to(last)).sum().backward()
    assert inputs.grad is not None
    found = inputs.grad.flatten(1).norm(dim=1).flip(0).cpu()
    return found / found[0]


def run(options: Options) -> Result:
    def batch(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        symbols, shown = batch_of(LAG, BATCH, generator)
        return symbols.to(options.device), shown.to(options.device)

    cases: dict[str, tuple[str, dict[str, Any]]] = {
        "RNN, radius 0.7": ("RNN", {"scale": 0.7}),
        "RNN, radius 1": ("RNN", {"scale": 1.0}),
        "RNN, radius 2": ("RNN", {"scale": 2.0}),
        "LSTM": ("LSTM", {}),
        "LSTM, truncated": ("LSTM", {"window": WINDOW}),
        "GRU": ("GRU", {}),
    }
    result, before, after = Result(), {}, {}
    accuracies: dict[str, float] = {}
    tests = batch(torch.Generator().manual_seed(options.seed + 1))
    for name, (cell, how) in cases.items():
        model = build(options, lambda c=cell, h=how: Copier(c, options.hidden, **h))  # type: ignore[misc]
        before[name] = norms(model, options)
        if name in ("RNN, radius 1", "LSTM", "GRU"):
            result.comparisons[cell] = compare(model, batch, loss, options)
        rate = 1e-3 if cell == "RNN" else 2e-2
        result.losses[name] = fit(model, batch, loss, options, name, rate=rate)
        after[name] = norms(model, options)
        with torch.no_grad():
            right = model(tests[0]).argmax(-1) == tests[1]
        accuracies[name] = right.double().mean().item()

    rnn = max(accuracies[name] for name in cases if name.startswith("RNN"))
    result.metrics = [
        Metric(f"symbols recalled at lag {LAG}, LSTM", accuracies["LSTM"], 0.99),
        Metric(f"symbols recalled at lag {LAG}, GRU", accuracies["GRU"], 0.99),
        Metric(f"symbols recalled at lag {LAG}, best RNN (does not solve it)", rnn, 0.5, False),
        Metric("the same, LSTM truncated", accuracies["LSTM, truncated"], 0.5, False),
        # Vanishing and exploding, as powers of ten over the lag.
        Metric("log10 of gradient at lag 100, RNN of radius 0.7", exponent(before, 0.7), -6, False),
        Metric("log10 of gradient at lag 100, RNN of radius 2", exponent(before, 2), 2),
    ]
    rows = [
        [
            name,
            f"{100 * accuracies[name]:.0f} %",
            f"{before[name][LAG]:.0e}",
            f"{after[name][LAG]:.0e}",
        ]
        for name in cases
    ]
    header = ["", "recalled", "gradient at lag 100, before", "after training"]
    result.details.append(table(header, rows))

    colors = dict(zip(cases, ("C0", "C1", "C2", "C3", "C4", "C5"), strict=True))
    with picture(options, 1, 3, (13, 3.8)) as axes:
        for axis, found, title in zip(axes[0], (before, after), ("before", "after"), strict=False):
            for name, norm in found.items():
                if "truncated" not in name:
                    axis.semilogy(norm.clamp(min=1e-12), color=colors[name], label=name)
            axis.set(xlabel="lag", title=f"Gradient norm {title} training", ylim=(1e-12, None))
        for name, losses in result.losses.items():
            axes[0, 2].plot(losses, color=colors[name], label=name, linewidth=0.8)
        axes[0, 2].axhline(math.log(SYMBOLS), color="gray", linestyle=":")
        axes[0, 2].set(xlabel="step", title="Training loss; dotted: a guess")
        axes[0, 2].legend(fontsize=7)
    return result


def exponent(found: dict[str, Tensor], radius: float) -> float:
    return math.log10(max(found[f"RNN, radius {radius:g}"][LAG].item(), 1e-38))


if __name__ == "__main__":
    main(run, steps=1600, hidden=64)
