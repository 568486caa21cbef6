"""Whole sentences of the manual, ended in three ways: the last part of `language_model.py`."""

from __future__ import annotations

import math
import re

import torch
from torch import Tensor, nn

from data import Alphabet, manual
from fastrnn.models.ends import ENDS, SequenceModel
from harness import Options, build, fit, table

LONGEST, BATCH = 80, 32
Batch = tuple[Tensor, Tensor]


def sentences(paragraphs: list[str]) -> list[str]:
    """From a capital to a full stop, in one line."""
    text = " ".join(" ".join(paragraphs).split())
    found = re.findall(r"(?<=[.:] )[A-Z][^.:]{10,}\.(?= )", text)
    return [sentence for sentence in dict.fromkeys(found) if len(sentence) <= LONGEST]


def compare_ends(options: Options, samples: int = 64) -> str:
    """Trains a model of each kind for a third of the steps; a Markdown table and examples."""
    training, held_out = (sentences(paragraphs) for paragraphs in manual())
    alphabet = Alphabet("".join(training))

    def collate(rows: list[str]) -> Batch:
        encoded = [alphabet.encode(row) for row in rows]
        lengths = torch.tensor([len(row) for row in encoded], device=options.device)
        return nn.utils.rnn.pad_sequence(encoded).to(options.device), lengths

    def batch(generator: torch.Generator) -> Batch:
        drawn = torch.randint(len(training), (BATCH,), generator=generator)
        return collate([training[i] for i in drawn.tolist()])

    def loss(model: SequenceModel, drawn: Batch) -> Tensor:
        return -model(*drawn).sum() / drawn[1].sum()

    tests = collate(held_out)
    mean = tests[1].double().mean().item()
    rows = [["held-out sentences", "", f"{mean:.0f}", "100 %"]]
    examples = []
    for ends in ENDS:
        model = build(
            options,
            lambda e=ends: SequenceModel(len(alphabet), options.hidden // 2, e, LONGEST),  # type: ignore[misc]
        )
        steps = max(1, options.steps // 3)
        fit(model, batch, loss, options, f"ends by {ends}", steps=steps, rate=1e-2)
        with torch.no_grad():
            each = -model(*tests).sum().item() / tests[1].sum().item() / math.log(2)
        generator = torch.Generator().manual_seed(options.seed)
        drawn = [
            alphabet.decode(torch.tensor(row)) for row in model.sample(samples, 0.7, generator)
        ]
        length = sum(map(len, drawn)) / samples
        stopped = sum(text.endswith(".") for text in drawn) / samples
        rows.append([ends, f"{each:.3f}", f"{length:.0f}", f"{100 * stopped:.0f} %"])
        examples.append(
            f"- {ends}: `{next((text for text in drawn if text), '').replace('`', ' ')}`"
        )
    header = ["end by", "bits a character, end included", "mean length", "end with a full stop"]
    return f"{table(header, rows)}\n\nSentences drawn:\n\n" + "\n".join(examples)
