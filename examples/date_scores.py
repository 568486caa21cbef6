"""How well a model writes dates: exact match, by length of the source, and where it looked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dates import END, PAD, START, Pairs, decode
from fastrnn.models import beam_search, greedy

# Letters of the source: of each class the least, and one more than the most.
LENGTHS = ((0, 15), (15, 25), (25, 35), (35, 45), (45, 65))
BEAMS = 4


@dataclass(frozen=True)
class Score:
    """Shares of sources written without a fault.

    Attributes:
        greedy, beam: how the model was decoded.
        by_length: greedily, for each class of `LENGTHS`; None where there is no such source.
    """

    greedy: float
    beam: float
    by_length: list[float | None]

    def cells(self) -> list[str]:
        """Percentages, for a table with `HEADER`."""
        return [
            "" if share is None else f"{100 * share:.1f}"
            for share in (self.greedy, self.beam, *self.by_length)
        ]


HEADER = ("greedy", f"beam of {BEAMS}", *(f"{low}–{high - 1} letters" for low, high in LENGTHS))


@torch.no_grad()
def score(model: Any, test: Pairs) -> Score:
    """Of a model with ``start``, ``step`` and ``select``."""
    model.eval()
    rows, limit = len(test.source), test.target.shape[1]
    device = test.source.device

    def state() -> Any:
        return model.start(test.source, test.source_lengths)

    tokens, _ = greedy(model.step, state(), START, END, rows=rows, limit=limit, device=device)
    found = beam_search(
        model.step, state(), START, END, rows=rows, beams=BEAMS, limit=limit, select=model.select,
        device=device,
    )  # fmt: skip
    right = exact(tokens, test)
    by_length: list[float | None] = []
    for low, high in LENGTHS:
        here = right[(test.source_lengths >= low) & (test.source_lengths < high)]
        by_length.append(here.double().mean().item() if len(here) else None)
    return Score(
        right.double().mean().item(), exact(found.tokens[:, 0], test).double().mean().item(),
        by_length,
    )  # fmt: skip


def exact(tokens: Tensor, test: Pairs) -> Tensor:
    """Which rows of ``[N, T]`` are their targets, ends included."""
    wanted = test.target[:, 1:]
    width = max(tokens.shape[1], wanted.shape[1])

    def padded(rows: Tensor) -> Tensor:
        return torch.nn.functional.pad(rows, (0, width - rows.shape[1]), value=PAD)

    behind = torch.arange(tokens.shape[1], device=tokens.device) > _ends(tokens).unsqueeze(1)
    return (padded(tokens.masked_fill(behind, PAD)) == padded(wanted)).all(1)


def _ends(tokens: Tensor) -> Tensor:
    """The place of each row's first END, or the last place."""
    ended = tokens == END
    return torch.where(ended.any(1), ended.int().argmax(1), tokens.shape[1] - 1)


@torch.no_grad()
def look(model: Any, test: Pairs, row: int) -> tuple[str, str, Tensor]:
    """What was read, what was written, and the weights ``[written, read]`` of each letter."""
    one = test.take(torch.tensor([row], device=test.source.device))
    state = model.start(one.source, one.source_lengths)
    tokens, _ = greedy(
        model.step, state, START, END, rows=1, limit=test.target.shape[1],
        device=one.source.device,
    )  # fmt: skip
    previous = torch.cat([one.target[:, :1], tokens[:, :-1]], 1)
    _, weights = model(one.source, one.source_lengths, previous, need_weights=True)
    written = decode(tokens[0])
    return decode(one.source[0]), written, weights[0, : len(written)].cpu()


def draw_weights(axis: Any, title: str, looked: tuple[str, str, Tensor]) -> None:
    """A heat map: what was read along the bottom, what was written from above."""
    read, written, weights = looked
    axis.imshow(weights, cmap="viridis", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    axis.set_xticks(range(len(read)), list(read.replace(" ", "␣")), fontsize=7)
    axis.set_yticks(range(len(written)), list(written.replace(" ", "␣")), fontsize=7)
    axis.set_title(title, fontsize=9)


def draw_lengths(axis: Any, scores: dict[str, Score], dashed: Sequence[str] = ()) -> None:
    """Exact match against the source's length, a line a model."""
    for name, found in scores.items():
        known = [(i, s) for i, s in enumerate(found.by_length) if s is not None]
        axis.plot(
            [i for i, _ in known], [100 * s for _, s in known], "o--" if name in dashed else "o-",
            label=name, markersize=3,
        )  # fmt: skip
    axis.set_xticks(range(len(LENGTHS)), [f"{low}–{high - 1}" for low, high in LENGTHS])
    axis.set(xlabel="letters of the source", ylabel="% right", ylim=(-4, 104))
    axis.legend(fontsize=7, loc="best")
