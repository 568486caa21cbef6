"""Tell from one line of text, without what is around it, which kind of text it is.

Code, comment or docstring of the standard library's sources, or prose of the manual, by an LSTM
over its characters. How the states of all steps become one vector: the last one, their maximum,
their mean, or a mean weighted by attention, whose weights are drawn:

    python examples/classification.py [--steps 400 --hidden 64 --layers torch]
"""

from __future__ import annotations

import ast
import io
import random
import tokenize

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import fastrnn
from data import Alphabet, manual, sources
from harness import Metric, Options, Result, build, compare, fit, main, picture, table

KINDS = ("code", "comment", "docstring", "prose")
POOLINGS = ("last", "max", "mean", "attention")
BATCH, LONGEST = 32, 80
Line = tuple[str, int]


def lines_of_source(text: str) -> list[Line]:
    """Lines of code, of comments and of docstrings, without their indentation and marks."""
    kinds = dict.fromkeys(range(1, text.count("\n") + 2), "code")
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT and token.line.lstrip().startswith("#"):
            kinds[token.start[0]] = "comment"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(
            node
        ):
            quoted = node.body[0]
            for number in range(quoted.lineno, (quoted.end_lineno or quoted.lineno) + 1):
                kinds[number] = "docstring"
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        # Without the marks that would give it away.
        line = line.strip().lstrip("#").removesuffix('"""').removeprefix('"""').strip()
        if len(line) >= 12:
            found.append((line[:LONGEST], KINDS.index(kinds[number])))
    return found


def lines(files: list[tuple[str, str]], paragraphs: list[str], seed: int) -> list[Line]:
    """As many lines of each kind."""
    found = [line for _, text in files for line in lines_of_source(text)]
    prose = [line.strip() for paragraph in paragraphs for line in paragraph.splitlines()]
    found += [(line[:LONGEST], KINDS.index("prose")) for line in prose if len(line) >= 12]
    random.Random(seed).shuffle(found)
    each = [[line for line in dict.fromkeys(found) if line[1] == kind] for kind in range(4)]
    least = min(len(of_kind) for of_kind in each)
    mixed = [line for of_kind in each for line in of_kind[:least]]
    random.Random(seed).shuffle(mixed)
    return mixed


class Classifier(nn.Module):
    """Padded characters ``[B, T]`` and lengths ``[B]`` to scores ``[B, kinds]``."""

    def __init__(self, vocabulary: int, hidden: int, pooling: str) -> None:
        super().__init__()
        self.pooling = pooling
        self.embedding = nn.Embedding(vocabulary, 32)
        self.recurrent = fastrnn.LSTM(32, hidden, batch_first=True)
        if pooling == "attention":
            # One question, learnt, is asked of every line.
            self.question = nn.Parameter(torch.randn(1, hidden) * hidden**-0.5)
            self.attention = fastrnn.Attention(hidden, hidden, score="additive")
        self.head = nn.Linear(hidden, len(KINDS))

    def pool(self, characters: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor | None]:
        """One vector a line, and attention's weights ``[B, T]``."""
        packed = pack_padded_sequence(
            self.embedding(characters), lengths.cpu(), batch_first=True, enforce_sorted=False
        )
        out, (h, _) = self.recurrent(packed)
        if self.pooling == "last":
            return h[-1], None
        states, _ = pad_packed_sequence(out, batch_first=True)
        if self.pooling == "attention":
            question = self.question.expand(len(characters), -1)
            return self.attention(question, states, lengths)
        padding = torch.arange(states.shape[1], device=states.device) >= lengths[:, None]
        if self.pooling == "max":
            return states.masked_fill(padding[:, :, None], -torch.inf).amax(1), None
        return states.sum(1) / lengths[:, None], None  # padding is zero

    def forward(self, characters: Tensor, lengths: Tensor) -> Tensor:
        return self.head(self.pool(characters, lengths)[0])


Batch = tuple[Tensor, Tensor, Tensor]


def loss(model: Classifier, batch: Batch) -> Tensor:
    return nn.functional.cross_entropy(model(batch[0], batch[1]), batch[2])


def run(options: Options) -> Result:
    (files, tests), (paragraphs, held_out) = sources(), manual()
    training, testing = lines(files, paragraphs, 0), lines(tests, held_out, 0)
    alphabet = Alphabet("".join(line for line, _ in training))

    def collate(rows: list[Line]) -> Batch:
        encoded = [alphabet.encode(line) for line, _ in rows]
        lengths = torch.tensor([len(row) for row in encoded])
        padded = nn.utils.rnn.pad_sequence(encoded, batch_first=True)
        kinds = torch.tensor([kind for _, kind in rows])
        return padded.to(options.device), lengths.to(options.device), kinds.to(options.device)

    def batch(generator: torch.Generator) -> Batch:
        drawn = torch.randint(len(training), (BATCH,), generator=generator)
        return collate([training[i] for i in drawn.tolist()])

    result, accuracies, confused = Result(), {}, {}
    questions = collate(testing)
    for pooling in POOLINGS:
        model = build(options, lambda p=pooling: Classifier(len(alphabet), options.hidden, p))  # type: ignore[misc]
        if pooling in ("last", "attention"):
            result.comparisons[pooling] = compare(model, batch, loss, options)
        result.losses[pooling] = fit(model, batch, loss, options, pooling, rate=1e-2)
        with torch.no_grad():
            guessed = model(*questions[:2]).argmax(1)
        accuracies[pooling] = (guessed == questions[2]).double().mean().item()
        confused[pooling] = torch.bincount(4 * questions[2] + guessed, minlength=16).view(4, 4)
    for pooling, accuracy in accuracies.items():
        result.metrics.append(
            Metric(f"accuracy on {len(testing)} held-out lines, {pooling}", accuracy)
        )
    counts = confused["attention"]
    rows = [
        [kind, *(f"{100 * n / counts[i].sum():.0f} %" for n in counts[i])]
        for i, kind in enumerate(KINDS)
    ]
    result.details.append(table(["is \\ taken for, attention", *KINDS], rows))

    shown = [
        next(row for row in testing if row[1] == kind and len(row[0]) > 40) for kind in range(4)
    ]
    with torch.no_grad():
        _, weights = model.pool(*collate(shown)[:2])
    assert weights is not None
    with picture(options, 4, 1, (10, 4.2)) as axes:
        for axis, (line, kind), row in zip(axes.flat, shown, weights.cpu(), strict=True):
            axis.imshow(row[None, : len(line)], cmap="Oranges", aspect="auto", vmin=0)
            axis.set_xticks(range(len(line)), list(line), family="monospace", fontsize=8)
            axis.set(yticks=[], ylabel=KINDS[kind])
            axis.tick_params(length=0)
    return result


if __name__ == "__main__":
    main(run, steps=400, hidden=64)
