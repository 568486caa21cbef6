"""A language model from a saved checkpoint, fed one character at a time: how long each one takes.

Trains a character model for a while, saves it, loads it into fastrnn's layer and into torch's, and
steps both through held-out text as it would arrive, in turn. The latency is that of a whole
character: embedding, layer and output. The text is read five times, and of a character's five times
the least counts, so that what else goes on in the machine is left out:

    python examples/streaming.py [--steps 100 --hidden 256 --layers torch]
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import fastrnn
from data import Alphabet, manual
from fastrnn.models.language_model import EMBEDDING, LanguageModel
from harness import Comparison, Metric, Options, Result, build, fit, main, on_torch, picture, table

LENGTH, BATCH, CHARACTERS, PASSES = 64, 16, 1500, 5
PERCENTILES = (50, 90, 99)


def save(model: LanguageModel, characters: str, hidden: int, path: Path) -> None:
    checkpoint = {"weights": model.state_dict(), "characters": characters, "hidden": hidden}
    torch.save(checkpoint, path)


def load(path: Path, device: str) -> LanguageModel:
    """The model on fastrnn's layer; the same weights fit torch's."""
    checkpoint = torch.load(path, map_location=device, weights_only=True)
    hidden = checkpoint["hidden"]
    layer = fastrnn.LSTM(EMBEDDING, hidden)
    model = LanguageModel(len(checkpoint["characters"]), layer, hidden).to(device)
    model.load_state_dict(checkpoint["weights"])
    return model.eval()


def stream(model: LanguageModel, tokens: Tensor) -> Iterator[tuple[Tensor, float]]:
    """Logits after each token, ``[V]``, and the seconds that they took."""
    hx: Any = None
    for token in tokens.view(-1, 1, 1):
        start = time.perf_counter()
        with torch.inference_mode():
            logits, hx = model(token, hx)
        if logits.is_cuda:
            torch.cuda.synchronize()
        yield logits[0, 0], time.perf_counter() - start


def run(options: Options) -> Result:
    training, held_out = ("\n\n".join(paragraphs) for paragraphs in manual())
    alphabet = Alphabet(training)
    tokens = alphabet.encode(training).to(options.device)

    def batch(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        first = torch.randint(len(tokens) - LENGTH - 1, (BATCH,), generator=generator)
        window = tokens[(first + torch.arange(LENGTH + 1)[:, None]).to(options.device)]
        return window[:-1], window[1:]

    def loss(model: LanguageModel, drawn: tuple[Tensor, Tensor]) -> Tensor:
        return nn.functional.cross_entropy(model(drawn[0])[0].flatten(0, 1), drawn[1].flatten())

    def make() -> LanguageModel:
        layer = fastrnn.LSTM(EMBEDDING, options.hidden)
        return LanguageModel(len(alphabet), layer, options.hidden)

    result = Result()
    model = build(options, make)
    result.losses["LSTM"] = fit(model, batch, loss, options, "LSTM", rate=5e-3)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.pt"
        save(model, alphabet.characters, options.hidden, path)
        models = load(path, options.device), on_torch(load(path, options.device))

    text = alphabet.encode(held_out[:CHARACTERS]).to(options.device)
    seconds = torch.full((2, len(text)), torch.inf)
    furthest = 0.0
    for _ in range(PASSES):
        pairs = zip(*(stream(model, text) for model in models), strict=True)
        for i, ((ours, mine), (theirs, other)) in enumerate(pairs):
            seconds[:, i] = torch.minimum(seconds[:, i], torch.tensor([mine, other]))
            difference = (ours - theirs).abs() / theirs.abs().clamp(min=1)
            furthest = max(furthest, difference.max().item())
    warm = seconds[:, min(100, len(text) // 2) :]
    ranks = torch.tensor([p / 100 for p in PERCENTILES])
    ours, theirs = (torch.quantile(row, ranks) * 1e6 for row in warm)
    # Float32 sums of a few hundred terms, over thousands of steps of a contracting recurrence.
    ratio = (theirs[0] / ours[0]).item()
    result.comparisons["LSTM, a character"] = Comparison(
        ratio, furthest, furthest < 1e-4, warm.shape[1]
    )
    for i, percentile in enumerate(PERCENTILES):
        name = f"torch's latency over fastrnn's, percentile {percentile}"
        result.metrics.append(Metric(name, (theirs[i] / ours[i]).item(), 1.0 if i == 0 else None))
    rows = [
        [str(p), f"{a:.0f}", f"{b:.0f}", f"{b / a:.2f}"]
        for p, a, b in zip(PERCENTILES, ours.tolist(), theirs.tolist(), strict=True)
    ]
    header = ["percentile", "fastrnn, µs a character", "torch, µs a character", "ratio"]
    result.details.append(table(header, rows))

    with picture(options, 1, 1, (6, 3.6)) as axes:
        for row, name in zip(warm, ("fastrnn", "torch"), strict=True):
            ranked = row.sort().values * 1e6
            axes[0, 0].semilogx(ranked, torch.linspace(0, 100, len(ranked)), label=name)
        axes[0, 0].set(xlabel="µs a character", ylabel="% of characters that take at most that")
        axes[0, 0].legend()
    return result


if __name__ == "__main__":
    main(run, steps=100, hidden=256)
