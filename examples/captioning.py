"""Read out the digits of a picture, line by line, looking at one after the other.

A picture holds two to four of scikit-learn's scanned digits, somewhere on two lines. Convolutions
make regions of it, and an LSTM with additive attention over the regions writes what it sees. A
fifth of the digits is in no picture of the training:

    python examples/captioning.py [--steps 1800 --hidden 96 --layers torch]
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import fastrnn
from data import digits
from fastrnn.models import Decoder, EncoderDecoder, PictureEncoder, beam_search, greedy
from harness import Metric, Options, Result, build, compare, fit, main, picture, table

LINES, COLUMNS, CELL = 2, 4, 11  # a digit of 8 x 8 points lies anywhere in a cell
HEIGHT, WIDTH = LINES * CELL, COLUMNS * CELL
LEAST, MOST = 2, 4
TEST = 2000
START, END = 10, 11  # behind the ten digits
Batch = tuple[Tensor, Tensor]  # pictures, and what is to be written: START digits END END ...


def compose(
    images: Tensor, labels: Tensor, rows: int, generator: torch.Generator, warp: bool
) -> Batch:
    """Pictures ``[rows, HEIGHT, WIDTH]`` and what they say, ``[rows, MOST + 2]``."""
    cells = LINES * COLUMNS
    chosen = torch.randint(len(images), (rows, cells), generator=generator)
    count = torch.randint(LEAST, MOST + 1, (rows,), generator=generator)
    order = torch.rand(rows, cells, generator=generator).argsort(1).argsort(1)
    filled = order < count.unsqueeze(1)
    tiles = images[chosen.to(images.device)].flatten(0, 1)
    # Each tile is moved within its cell, in training also turned and resized by a little.
    angle, size = torch.rand(2, rows * cells, generator=generator) * 2 - 1
    angle, size = (0.2 * angle, 1 + 0.12 * size) if warp else (0 * angle, 1 + 0 * size)
    shift = torch.randint(0, CELL - 7, (rows * cells, 2), generator=generator) - (CELL - 8) / 2
    zoom = CELL / 8 / size
    turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], 1).view(-1, 2, 2)
    move = torch.cat([zoom.view(-1, 1, 1) * turn, -(shift / 4).unsqueeze(2)], 2)
    grid = nn.functional.affine_grid(move, [rows * cells, 1, CELL, CELL], align_corners=False)
    tiles = nn.functional.grid_sample(
        tiles.unsqueeze(1), grid.to(images.device), align_corners=False
    ).view(rows, LINES, COLUMNS, CELL, CELL)  # fmt: skip
    tiles = tiles * filled.view(rows, LINES, COLUMNS, 1, 1).to(images.device)
    pictures = tiles.transpose(2, 3).reshape(rows, HEIGHT, WIDTH)

    # The digits in front, in the order of their cells, then ends.
    said = labels[chosen.to(labels.device)].masked_fill(~filled.to(labels.device), END)
    first = (~filled).long().to(labels.device).argsort(dim=1, stable=True)
    said = said.gather(1, first)[:, : MOST + 1]
    return pictures, nn.functional.pad(said, (1, 0), value=START)


def make(hidden: int) -> EncoderDecoder:
    encoder = PictureEncoder(HEIGHT, WIDTH, (16, 32, hidden), dropout=0.1)
    attention = fastrnn.Attention(hidden, encoder.memory_size)
    # Input feeding tells where it looked before: of two equal digits the second comes next.
    decoder = Decoder(
        12, hidden // 2, hidden, encoder.memory_size, attention, cell="lstm", input_feeding=True,
        dropout=0.1,
    )  # fmt: skip
    return EncoderDecoder(encoder, decoder)


def loss(model: EncoderDecoder, batch: Batch) -> Tensor:
    pictures, said = batch
    logits, _ = model(pictures, _none(pictures), said[:, :-1])
    # One end is learned; what is behind it counts for nothing.
    wanted = said[:, 1:].clone()
    wanted[:, 1:].masked_fill_(wanted[:, :-1].eq(END), -100)
    return nn.functional.cross_entropy(logits.flatten(0, 1), wanted.flatten())


def _none(pictures: Tensor) -> Tensor:
    """Pictures have no lengths."""
    return pictures.new_empty(len(pictures))


@torch.no_grad()
def write(model: EncoderDecoder, pictures: Tensor, beams: int = 1) -> Tensor:
    """What it reads, ``[B, T]``, END from the end on."""
    rows, limit, device = len(pictures), MOST + 1, pictures.device
    state = model.start(pictures, _none(pictures))
    if beams == 1:
        return greedy(
            model.step, state, START, END, rows=rows, limit=limit, device=device
        )[0]  # fmt: skip
    return beam_search(
        model.step, state, START, END, rows=rows, beams=beams, limit=limit, select=model.select,
        device=device,
    ).tokens[:, 0]  # fmt: skip


def right(tokens: Tensor, said: Tensor) -> Tensor:
    """Which rows are written without a fault."""
    tokens = nn.functional.pad(tokens, (0, MOST + 1 - tokens.shape[1]), value=END)
    return (tokens == said[:, 1:]).all(1)


def batches(images: Tensor, labels: Tensor) -> Callable[[torch.Generator], Batch]:
    return lambda generator: compose(images, labels, 64, generator, warp=True)


@torch.no_grad()
def draw(axes: Any, model: EncoderDecoder, shown: Tensor) -> None:
    """A row for each picture: itself, and where the model looked as it wrote each letter."""
    tokens = write(model, shown)
    previous = nn.functional.pad(tokens[:, :-1], (1, 0), value=START)
    _, weights = model(shown, _none(shown), previous, need_weights=True)
    encoder = model.encoder
    maps = weights.unflatten(2, (encoder.rows, encoder.columns)).unsqueeze(1)
    size = (HEIGHT, WIDTH)
    for i, row in enumerate(axes):
        row[0].imshow(shown[i].cpu(), cmap="gray_r")
        for axis, token, found in zip(row[1:], tokens[i], maps[i, 0], strict=False):
            large = nn.functional.interpolate(found[None, None], size, mode="bilinear")[0, 0]
            axis.imshow(shown[i].cpu(), cmap="gray_r")
            axis.imshow(large.cpu(), cmap="inferno", alpha=0.6, vmin=0)
            axis.set_title("end" if token == END else str(int(token)), fontsize=10)
            if token == END:
                break
        for axis in row:
            axis.set(xticks=[], yticks=[])
            axis.set_visible(bool(axis.images))


def run(options: Options) -> Result:
    (images, labels), (test_images, test_labels) = (
        tuple(part.to(options.device) for part in half) for half in digits()
    )
    batch = batches(images, labels)
    pictures, said = compose(
        test_images, test_labels, TEST, torch.Generator().manual_seed(1), warp=False
    )
    model = build(options, lambda: make(options.hidden))
    result = Result()
    result.comparisons["LSTM, additive attention"] = compare(
        model, batch, loss, options, seconds=3.0
    )
    result.losses["captioning"] = fit(model, batch, loss, options, "captioning", rate=4e-3)

    found = {"greedy": right(write(model, pictures), said),
             "beam of 4": right(write(model, pictures, 4), said)}  # fmt: skip
    count = (said[:, 1:] != END).sum(1)
    rows = [
        [name, f"{100 * ok.double().mean():.2f}"]
        + [f"{100 * ok[count == n].double().mean():.2f}" for n in range(LEAST, MOST + 1)]
        for name, ok in found.items()
    ]
    header = ("", "all", *(f"{n} digits" for n in range(LEAST, MOST + 1)))
    result.details.append(f"% of {len(said)} pictures of digits held out read without a fault.")
    result.details.append(table(header, rows))
    share = found["greedy"].double().mean().item()
    result.metrics.append(Metric("pictures read without a fault", share, 0.95))
    mean = count.double().mean().item()
    result.metrics.append(Metric("digits right, from that", math.pow(share, 1 / mean)))
    with picture(options, 4, MOST + 2, (12, 4.6)) as axes:
        draw(axes, model, pictures[:4])
    return result


if __name__ == "__main__":
    main(run, steps=1800, hidden=96)
