"""Write a date's phrase in ISO form, and back: encoders and decoders, with every attention.

Without attention the decoder starts from the encoder's last state, and that is all it knows: the
source reversed, a second layer, a second direction. With attention it looks at all states: every
score there is, and two windows. Trained by teacher forcing or by scheduled sampling, decoded
greedily and by beam search, and judged on a thousand days that no training phrase names:

    python examples/seq2seq.py [--steps 450 --hidden 64 --layers torch]
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor, nn

import fastrnn
from date_scores import HEADER, Score, draw_lengths, draw_weights, look, score
from dates import PAD, VOCABULARY, Pairs, pairs
from fastrnn.models import Decoder, Encoder, EncoderDecoder
from harness import Metric, Options, Result, build, compare, fit, main, picture, table

WINDOW = 8  # D of the local attentions: 17 letters are in sight
FIXED = 2  # times as many steps without attention: as much time, and still they lag
Batch = tuple[Pairs, float]  # pairs, and how often the truth is told


@dataclasses.dataclass(frozen=True)
class Variant:
    """A row of the table.

    Attributes:
        attention: a score, or ``"monotone"`` or ``"predicted"`` (local), or None.
        source_reversed, layers, bidirectional: of the encoder.
        input_feeding: of the decoder.
        scheduled: trained by scheduled sampling, else by teacher forcing.
        back: from the ISO form to the spoken phrase.
    """

    name: str
    attention: str | None = None
    source_reversed: bool = False
    layers: int = 1
    bidirectional: bool = True
    input_feeding: bool = False
    scheduled: bool = False
    back: bool = False

    def make(self, hidden: int) -> EncoderDecoder:
        """Of the same width, whatever the number of directions."""
        encoder = Encoder(
            VOCABULARY, hidden // 2, hidden // 2 if self.bidirectional else hidden,
            layers=self.layers, bidirectional=self.bidirectional, backwards=self.source_reversed,
        )  # fmt: skip
        decoder = Decoder(
            VOCABULARY, hidden // 2, hidden, encoder.memory_size,
            self._attention(hidden, encoder.memory_size), layers=self.layers,
            input_feeding=self.input_feeding,
        )  # fmt: skip
        return EncoderDecoder(encoder, decoder)

    def _attention(self, query: int, memory: int) -> fastrnn.Attention | None:
        if self.attention is None:
            return None
        if self.attention in ("monotone", "predicted"):
            return fastrnn.LocalAttention(
                query, memory, WINDOW, predictive=self.attention == "predicted"
            )
        longest = 64 if self.attention == "location" else None
        found = fastrnn.Attention(query, memory, score=self.attention, positions=longest)
        if self.attention == "cosine":
            nn.init.constant_(found.temperature, 10.0)  # within ±1 nothing can be pointed at
        return found


VARIANTS = (
    Variant("fixed context", bidirectional=False),
    Variant("fixed, source reversed", bidirectional=False, source_reversed=True),
    Variant("fixed, deep", bidirectional=False, layers=2),
    Variant("fixed, bidirectional"),
    Variant("dot", "dot"),
    Variant("scaled dot", "scaled_dot"),
    Variant("general", "general"),
    Variant("additive", "additive"),
    Variant("location", "location"),
    Variant("cosine", "cosine"),
    Variant("local, monotone", "monotone"),
    Variant("local, predicted", "predicted"),
    Variant("additive, one direction", "additive", bidirectional=False),
    Variant("additive, deep", "additive", layers=2),
    Variant("additive, input feeding", "additive", input_feeding=True),
    Variant("additive, scheduled sampling", "additive", scheduled=True),
    Variant("back: fixed context", bidirectional=False, back=True),
    Variant("back: general", "general", back=True),
    Variant("back: additive", "additive", back=True),
)
# As lines against the source's length, and as heat maps.
LINES = (
    "fixed context", "fixed, source reversed", "fixed, deep", "fixed, bidirectional", "general",
    "additive", "local, predicted",
)  # fmt: skip
DRAWN = ("additive", "general", "location", "local, predicted", "back: additive")


def loss(model: EncoderDecoder, batch: Batch) -> Tensor:
    drawn, truth = batch
    previous = drawn.target[:, :-1]
    if truth < 1:
        logits = model.scheduled(drawn.source, drawn.source_lengths, previous, truth)
    else:
        logits, _ = model(drawn.source, drawn.source_lengths, previous)
    wanted = drawn.target[:, 1:].flatten()
    return nn.functional.cross_entropy(logits.flatten(0, 1), wanted, ignore_index=PAD)


def batches(train: Pairs, steps: int, scheduled: bool) -> Callable[[torch.Generator], Batch]:
    """64 pairs; with scheduled sampling the truth is told ever less often, at last never."""
    done = 0

    def draw(generator: torch.Generator) -> Batch:
        nonlocal done
        truth = max(0.0, 1 - done / (0.75 * steps)) if scheduled else 1.0
        done += 1
        return train.draw(generator), truth

    return draw


def run(options: Options) -> Result:
    data = {back: pairs(back, device=options.device) for back in (False, True)}
    result, scores = Result(), dict[str, Score]()
    looked = {}
    for variant in VARIANTS:
        train, test = data[variant.back]
        name = variant.name
        model = build(options, lambda v=variant: v.make(options.hidden))  # type: ignore[misc]
        steps = options.steps * (1 if variant.attention else FIXED)
        batch = batches(train, steps, variant.scheduled)
        if name in ("fixed context", "additive"):
            result.comparisons[name] = compare(model, batch, loss, options, seconds=3.0, rate=1e-2)
        result.losses[name] = fit(model, batch, loss, options, name, steps=steps, rate=1e-2)
        scores[name] = score(model, test)
        if variant.attention is not None:
            longest = int(test.source_lengths[:50].argmax())
            looked[name] = look(model, test, longest)
    rows = [[name, *found.cells()] for name, found in scores.items()]
    result.details.append(
        f"Of 1000 days held out, % written without a fault. Trained for {options.steps} batches of "
        f"64; without attention, where a step is cheaper, {FIXED} times as many."
    )
    result.details.append(table(("", *HEADER), rows))
    for name, found in scores.items():
        goal = 0.98 if name in ("additive", "general", "back: additive") else None
        result.metrics.append(Metric(f"exact match, {name}", found.greedy, goal))

    with picture(options, 2, 3, (15, 7)) as axes:
        lines = {name: scores[name] for name in LINES if name in scores}
        draw_lengths(axes[0, 0], lines, dashed=[n for n in lines if n.startswith("fixed")])
        for axis, name in zip(axes.flat[1:], DRAWN, strict=False):
            draw_weights(axis, name, looked[name])
    return result


if __name__ == "__main__":
    main(run, steps=450, hidden=64)
