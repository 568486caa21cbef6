"""Write a date's phrase in ISO form, and back, with attention alone.

The task of `seq2seq`, the same days held out, the same table: a Transformer of one layer and of
two, of `fastrnn.MultiheadAttention` and sinusoidal positions, and the recurrent model with additive
attention beside it:

    python examples/transformer.py [--steps 1000 --hidden 64 --layers torch]
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

import fastrnn
from date_scores import HEADER, Score, draw_lengths, draw_weights, look, score
from dates import PAD, VOCABULARY, Pairs, pairs
from fastrnn.models import Decoder, Encoder, EncoderDecoder, Transformer
from harness import Metric, Options, Result, build, compare, fit, main, picture, table


@dataclasses.dataclass(frozen=True)
class Variant:
    """A row of the table; without layers it is the recurrent model."""

    name: str
    layers: int
    heads: int
    rate: float = 3e-3
    back: bool = False

    def make(self, hidden: int) -> Transformer | EncoderDecoder:
        if self.layers:
            return Transformer(VOCABULARY, hidden, self.heads, self.layers, inner=2 * hidden)
        encoder = Encoder(VOCABULARY, hidden // 2, hidden // 2, bidirectional=True)
        attention = fastrnn.Attention(hidden, encoder.memory_size)
        decoder = Decoder(VOCABULARY, hidden // 2, hidden, encoder.memory_size, attention)
        return EncoderDecoder(encoder, decoder)


VARIANTS = (
    Variant("1 layer, 4 heads", 1, 4),
    Variant("2 layers, 4 heads", 2, 4),
    Variant("GRU, additive attention", 0, 1, rate=1e-2),
    Variant("back: 2 layers, 4 heads", 2, 4, back=True),
    Variant("back: GRU, additive attention", 0, 1, rate=1e-2, back=True),
)
DRAWN = ("2 layers, 4 heads", "GRU, additive attention", "back: 2 layers, 4 heads")


def loss(model: Transformer | EncoderDecoder, batch: Pairs) -> Tensor:
    logits, _ = model(batch.source, batch.source_lengths, batch.target[:, :-1])
    wanted = batch.target[:, 1:].flatten()
    return nn.functional.cross_entropy(logits.flatten(0, 1), wanted, ignore_index=PAD)


def run(options: Options) -> Result:
    data = {back: pairs(back, device=options.device) for back in (False, True)}
    result, scores, looked = Result(), dict[str, Score](), {}

    for variant in VARIANTS:
        train, test = data[variant.back]
        name, rate = variant.name, variant.rate

        def batch(generator: torch.Generator, train: Pairs = train) -> Pairs:
            return train.draw(generator)

        model = build(options, lambda v=variant: v.make(options.hidden))  # type: ignore[misc]
        if name == "2 layers, 4 heads":
            result.comparisons[name] = compare(model, batch, loss, options, seconds=3.0, rate=rate)
        result.losses[name] = fit(model, batch, loss, options, name, rate=rate)
        scores[name] = score(model, test)
        looked[name] = look(model, test, int(test.source_lengths[:50].argmax()))
    result.details.append(
        f"Of 1000 days held out, % written without a fault. Trained for {options.steps} batches "
        "of 64."
    )
    rows = [[name, *found.cells()] for name, found in scores.items()]
    result.details.append(table(("", *HEADER), rows))
    for name, found in scores.items():
        goal = 0.98 if "2 layers, 4 heads" in name else None
        result.metrics.append(Metric(f"exact match, {name}", found.greedy, goal))

    with picture(options, 2, 2, (11, 7)) as axes:
        lines = {name: found for name, found in scores.items() if not name.startswith("back")}
        draw_lengths(axes[0, 0], lines)
        for axis, name in zip(axes.flat[1:], DRAWN, strict=False):
            draw_weights(axis, name, looked[name])
    return result


if __name__ == "__main__":
    main(run, steps=1000, hidden=64)
