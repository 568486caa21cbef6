"""Tag every character of real Python source with the class of its token.

The standard library's own files, tagged by `tokenize`, every tenth file held out. To know whether a
letter is in a keyword, a name, a string or a comment takes what is before it, and what comes after:
a bidirectional LSTM against one that only reads forward:

    python examples/tagging.py [--steps 300 --hidden 96 --layers torch]
"""

from __future__ import annotations

import io
import keyword
import tokenize
from itertools import accumulate

import torch
from torch import Tensor, nn

import fastrnn
from data import Alphabet, sources
from harness import Metric, Options, Result, build, compare, fit, main, picture, table

CLASSES = ("space", "name", "keyword", "operator", "number", "string", "comment")
LENGTH, BATCH = 128, 32


def tags(text: str) -> list[int]:
    """The class of each character, by Python's own tokenizer."""
    starts = [0, *accumulate(len(line) for line in text.splitlines(keepends=True))]
    found = [0] * len(text)
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        name = tokenize.tok_name[token.type]
        if name == "NAME":
            name = "keyword" if keyword.iskeyword(token.string) else "name"
        name = {"OP": "operator"}.get(name, name).lower()
        if name.startswith("fstring"):  # Python 3.12 takes them apart
            name = "string"
        if name in CLASSES:
            first = starts[token.start[0] - 1] + token.start[1]
            last = starts[token.end[0] - 1] + token.end[1]
            found[first:last] = [CLASSES.index(name)] * (last - first)
    return found


class Tagger(nn.Module):
    """Characters ``[B, T]`` to scores ``[B, T, classes]``."""

    def __init__(self, vocabulary: int, hidden: int, bidirectional: bool) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, 32)
        self.recurrent = fastrnn.LSTM(32, hidden, batch_first=True, bidirectional=bidirectional)
        self.head = nn.Linear(hidden * (1 + bidirectional), len(CLASSES))

    def forward(self, characters: Tensor) -> Tensor:
        return self.head(self.recurrent(self.embedding(characters))[0])


def loss(model: Tagger, batch: tuple[Tensor, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(batch[0]).flatten(0, 1), batch[1].flatten())


@torch.no_grad()
def test(model: Tagger, files: list[tuple[Tensor, Tensor]]) -> tuple[float, Tensor]:
    """Accuracy over whole files, each read in one go, and that of each class."""
    right, of = torch.zeros(len(CLASSES)), torch.zeros(len(CLASSES))
    for characters, classes in files:
        hit = model(characters[None])[0].argmax(1) == classes
        right += torch.bincount(classes[hit].cpu(), minlength=len(CLASSES))
        of += torch.bincount(classes.cpu(), minlength=len(CLASSES))
    return (right.sum() / of.sum()).item(), right / of.clamp(min=1)


def run(options: Options) -> Result:
    training, held_out = sources()
    text = "".join(text for _, text in training)
    alphabet = Alphabet(text)

    def numbers(files: list[tuple[str, str]]) -> list[tuple[Tensor, Tensor]]:
        return [
            (alphabet.encode(text).to(options.device), torch.tensor(tags(text)).to(options.device))
            for _, text in files
        ]

    characters, classes = (torch.cat(part) for part in zip(*numbers(training), strict=True))
    tests = numbers(held_out)

    def batch(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        first = torch.randint(len(characters) - LENGTH, (BATCH, 1), generator=generator)
        window = (first + torch.arange(LENGTH)).to(options.device)
        return characters[window], classes[window]

    result, found = Result(), {}
    for name in ("forward only", "both directions"):
        model = build(
            options,
            lambda n=name: Tagger(len(alphabet), options.hidden, n == "both directions"),  # type: ignore[misc]
        )
        result.comparisons[name] = compare(model, batch, loss, options)
        result.losses[name] = fit(model, batch, loss, options, name, rate=1e-2)
        found[name] = test(model, tests)
    one, both = found.values()
    result.metrics = [
        Metric("accuracy on held-out files, both directions", both[0], 0.97),
        Metric("accuracy on held-out files, forward only", one[0]),
        Metric("difference", both[0] - one[0]),
    ]
    rows = [
        [name, f"{100 * one[1][i]:.1f} %", f"{100 * both[1][i]:.1f} %"]
        for i, name in enumerate(CLASSES)
    ]
    result.details.append(table(["class of character", "forward only", "both directions"], rows))

    with picture(options, 1, 2, (10, 3.6)) as axes:
        for name, losses in result.losses.items():
            axes[0, 0].semilogy(losses, label=name, linewidth=0.8)
        axes[0, 0].set(xlabel="step", ylabel="training loss, nats a character")
        axes[0, 0].legend()
        places = torch.arange(len(CLASSES))
        axes[0, 1].bar(places - 0.2, 100 * (1 - one[1]), 0.4, label="forward only")
        axes[0, 1].bar(places + 0.2, 100 * (1 - both[1]), 0.4, label="both directions")
        axes[0, 1].set_xticks(places, CLASSES, rotation=30)
        axes[0, 1].set(ylabel="wrong, % of held-out characters")
        axes[0, 1].legend()
    return result


if __name__ == "__main__":
    main(run, steps=300, hidden=96)
