"""An attention decoder learns which letters to look at, and draws where it looked.

The task, made of the standard library's own text: read some words, write them in reverse order.
The letters of each word keep their order, so the alignment is a staircase of diagonals that no
position alone could tell. An encoder and a decoder of one GRU each, joined by additive
attention; every query of a training step is one fused call.

    python examples/alignment.py --steps 150 --output alignment.png
"""

from __future__ import annotations

import argparse
import random
import re
import time
from pathlib import Path
from pydoc_data.topics import topics

import torch
from torch import Tensor, nn

import fastrnn

PAD, START, END = 0, 1, 2
LETTERS = "abcdefghijklmnopqrstuvwxyz "


def encode(text: str) -> list[int]:
    return [3 + LETTERS.index(letter) for letter in text]


def phrases() -> list[list[str]]:
    """Rows of three neighbouring words, of two to six letters."""
    text = " ".join(topics[name] for name in sorted(topics)).lower()
    words = re.findall(r"\b[a-z]{2,6}\b", text)
    return [words[i : i + 3] for i in range(0, len(words) - 2, 3)]


def pad(rows: list[list[int]]) -> tuple[Tensor, Tensor]:
    """``[B, T]`` and the lengths ``[B]``."""
    lengths = torch.tensor([len(row) for row in rows])
    padded = torch.full((len(rows), int(lengths.max())), PAD)
    for row, numbers in zip(padded, rows, strict=True):
        row[: len(numbers)] = torch.tensor(numbers)
    return padded, lengths


class Reverser(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(3 + len(LETTERS), size)
        self.encoder = fastrnn.GRU(size, size, batch_first=True, bidirectional=True)
        self.decoder = fastrnn.GRU(size, size, batch_first=True)
        self.attention = fastrnn.Attention(size, 2 * size, size, score="additive")
        self.output = nn.Linear(3 * size, 3 + len(LETTERS))

    def forward(
        self, source: Tensor, lengths: Tensor, previous: Tensor, need_weights: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Scores of each next letter ``[B, Tq, letters]``, given those before it, and weights."""
        memory, _ = self.encoder(self.embedding(source))
        states, _ = self.decoder(self.embedding(previous))
        context, weights = self.attention(states, memory, lengths, need_weights=need_weights)
        return self.output(torch.cat([states, context], -1)), weights


def batch(rows: list[list[str]]) -> tuple[Tensor, Tensor, Tensor]:
    source, lengths = pad([encode(" ".join(row)) for row in rows])
    target, _ = pad([[START, *encode(" ".join(reversed(row))), END] for row in rows])
    return source, lengths, target


def train(model: Reverser, data: list[list[str]], steps: int, size: int = 64) -> float:
    """Returns the last loss."""
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    start, value = time.perf_counter(), float("nan")
    for step in range(1, steps + 1):
        source, lengths, target = batch(random.choices(data, k=size))
        scores, _ = model(source, lengths, target[:, :-1])
        loss = nn.functional.cross_entropy(
            scores.flatten(0, 1), target[:, 1:].flatten(), ignore_index=PAD
        )
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        value = loss.item()
        if step % max(1, steps // 10) == 0 or step == 1:
            each = (time.perf_counter() - start) / step
            print(f"step {step:5}  loss {value:.3f}  {1e3 * each:.0f} ms a step", flush=True)
    return value


@torch.no_grad()
def align(model: Reverser, row: list[str]) -> tuple[str, str, Tensor]:
    """What was read, what is written letter by letter, and the weights ``[Tq, Tk]``."""
    model.eval()
    source, lengths, _ = batch([row])
    written, found = [START], []
    for _ in range(source.shape[1] + 5):
        scores, weights = model(source, lengths, torch.tensor([written]), need_weights=True)
        assert weights is not None
        found.append(weights[0, -1])
        written.append(int(scores[0, -1].argmax()))
        if written[-1] == END:
            break
    letters = "".join(LETTERS[n - 3] if n > 2 else "·" for n in written[1:])
    return " ".join(row), letters, torch.stack(found)


def draw(read: str, written: str, weights: Tensor, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(0.35 * len(read) + 1.5, 0.35 * len(written) + 1.2))
    image = axes.imshow(weights, cmap="viridis", vmin=0, vmax=1)
    axes.set_xticks(range(len(read)), list(read.replace(" ", "␣")))
    axes.set_yticks(range(len(written)), list(written.replace(" ", "␣")))
    axes.set_xlabel("read")
    axes.set_ylabel("written")
    axes.set_title("Attention weights")
    figure.colorbar(image, shrink=0.8)
    figure.savefig(path, dpi=150, bbox_inches="tight")
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("alignment.png"))
    args = parser.parse_args()
    random.seed(args.seed)
    torch.manual_seed(args.seed)
    data = phrases()
    random.shuffle(data)
    held_out, data = data[:200], data[200:]
    model = Reverser(args.size)
    train(model, data, args.steps)
    right = 0
    for row in held_out[:50]:
        _, written, _ = align(model, row)
        right += written.rstrip("·") == " ".join(reversed(row))
    print(f"of 50 phrases never seen, {right} written without a fault")
    read, written, weights = align(model, held_out[0])
    draw(read, written, weights, args.output)
    print(f"{read!r} became {written!r}; where it looked: {args.output}")


if __name__ == "__main__":
    main()
