"""Read a scanned digit row by row: eight steps of eight points, then one answer.

scikit-learn's 1797 real digits, a fifth of them held out. RNN, LSTM (forget bias 1) and GRU, in one
direction and in both, classify from their last state:

    python examples/digits.py [--steps 600 --hidden 128 --layers torch]
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

import fastrnn
from data import digits
from harness import Metric, Options, Result, build, compare, fit, main, picture, table

KINDS = {"RNN": fastrnn.RNN, "LSTM": fastrnn.LSTM, "GRU": fastrnn.GRU}


class Reader(nn.Module):
    """Rows ``[B, T, I]`` to scores ``[B, 10]``."""

    def __init__(self, kind: str, hidden: int, bidirectional: bool) -> None:
        super().__init__()
        self.recurrent: nn.Module = KINDS[kind](
            8, hidden, batch_first=True, bidirectional=bidirectional
        )
        self.head = nn.Linear(hidden * (1 + bidirectional), 10)
        if kind == "LSTM":
            for name, bias in self.recurrent.named_parameters():
                if "bias_ih" in name:  # gates i, f, g, o
                    bias.data[hidden : 2 * hidden] = 1.0

    def forward(self, rows: Tensor) -> Tensor:
        _, state = self.recurrent(rows)
        h = state[0] if isinstance(state, tuple) else state
        return self.head(h.transpose(0, 1).flatten(1))


def loss(model: Reader, batch: tuple[Tensor, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


@torch.no_grad()
def predict(model: Reader, images: Tensor) -> Tensor:
    return model(images).argmax(1)


def run(options: Options) -> Result:
    (images, labels), (test_images, test_labels) = digits()
    images, labels = images.to(options.device), labels.to(options.device)
    test_images, test_labels = test_images.to(options.device), test_labels.to(options.device)

    def batch(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        drawn = torch.randint(len(labels), (64,), generator=generator)
        return images[drawn], labels[drawn]

    result, rows = Result(), []
    accuracies: dict[str, float] = {}
    wrong = None
    for kind in KINDS:
        for bidirectional in (False, True):
            name = f"{kind}{', both directions' if bidirectional else ''}"
            model = build(options, lambda k=kind, b=bidirectional: Reader(k, options.hidden, b))  # type: ignore[misc]
            if not bidirectional:
                result.comparisons[kind] = compare(model, batch, loss, options)
            result.losses[name] = fit(model, batch, loss, options, name, rate=1e-2)
            guessed = predict(model, test_images)
            right = guessed == test_labels
            accuracies[name] = right.double().mean().item()
            rows.append([name, f"{100 * accuracies[name]:.1f} %", str(int((~right).sum()))])
            if name == "LSTM":
                wrong = (~right).nonzero().flatten(), guessed
    result.details.append(table(["", "test accuracy", "wrong of 360"], rows))
    for name, accuracy in accuracies.items():
        goal = 0.97 if name.startswith("LSTM") else None
        result.metrics.append(Metric(f"test accuracy, {name}", accuracy, goal))

    assert wrong is not None
    with picture(options, 2, 8, (10, 4)) as axes:
        # The LSTM's mistakes first, then what follows.
        missed, guessed = wrong
        others = torch.arange(16 - min(len(missed), 8))
        for axis, i in zip(axes.flat, [*missed[:8].tolist(), *others.tolist()], strict=False):
            axis.imshow(test_images[i].cpu(), cmap="gray_r")
            ok = guessed[i] == test_labels[i]
            axis.set_title(
                f"{guessed[i]}" + ("" if ok else f", is {test_labels[i]}"),
                color="black" if ok else "tab:red",
            )
            axis.set(xticks=[], yticks=[])
    return result


if __name__ == "__main__":
    main(run, steps=600, hidden=128)
