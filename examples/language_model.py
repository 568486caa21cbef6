"""The English manual, character by character and word by word: counting against learning.

n-grams with add-alpha and with back-off, a feed-forward network, RNN, LSTM, GRU, a deep GRU, one
with dropout, a Transformer, and models of words, all in bits per character of held-out topics; text
drawn greedily, by temperature and by beam search; and three ways to end a sentence:

    python examples/language_model.py [--steps 1000 --hidden 256 --layers torch]
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import fastrnn
from data import Alphabet, manual
from fastrnn.models.beam_search import beam_search
from fastrnn.models.feed_forward import FeedForwardLanguageModel
from fastrnn.models.language_model import EMBEDDING, LanguageModel
from fastrnn.models.ngram import NGram
from fastrnn.models.sampling import sample
from fastrnn.models.transformer_language_model import TransformerLanguageModel
from harness import Metric, Options, Result, build, compare, fit, main, picture, table
from sentences import compare_ends
from words import Words

LENGTH, BATCH = 128, 8
PROMPT, SAMPLE = "The ", 160
ALPHAS, DISCOUNTS, ORDERS = (0.003, 0.01, 0.03), (0.3, 0.5, 0.75), (3, 4, 5, 6, 7)
RECURRENT = ("RNN", "LSTM", "GRU", "GRU, deep", "GRU, dropout")
REMARK = (
    "the manual is short (340,000 characters) and full of set phrases, which back-off knows by "
    "heart after one pass; a network learns its training text faster than the language: three "
    "times the steps, with dropout, gain the GRU less than 0.01 bits on text held out"
)


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(batch[0])[0].flatten(0, 1), batch[1].flatten())


def windows(
    tokens: Tensor, device: str, length: int, size: int
) -> Callable[[torch.Generator], tuple[Tensor, Tensor]]:
    """Draws random windows and what follows, ``[length, size]`` each."""

    def batch(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        first = torch.randint(len(tokens) - length, (size,), generator=generator)
        window = tokens[first + torch.arange(length + 1)[:, None]].to(device)
        return window[:-1], window[1:]

    return batch


@torch.inference_mode()
def bits(model: nn.Module, tokens: Tensor, device: str) -> float:
    """Sum of -log2 p over all tokens but the first, read in one stream."""
    total, hx = 0.0, None
    for part in (tokens[i : i + LENGTH // 2 + 1] for i in range(0, len(tokens) - 1, LENGTH // 2)):
        part = part.to(device).unsqueeze(1)
        logits, hx = model(part[:-1], hx)
        total += nn.functional.cross_entropy(logits[:, 0], part[1:, 0], reduction="sum").item()
    return total / math.log(2)


def counted(training: list[int], held_out: list[int], vocabulary: int) -> dict[str, float]:
    """The best n-grams of both kinds, chosen on the end of the training text; bits a token."""
    cut = len(training) * 9 // 10
    chosen = NGram(training[:cut], vocabulary, max(ORDERS))
    model = NGram(training, vocabulary, max(ORDERS))
    found = {}
    for name, key, values in (("add-α", "alpha", ALPHAS), ("back-off", "discount", DISCOUNTS)):
        choices: list[dict[str, Any]] = [{"order": n, key: v} for n in ORDERS for v in values]
        best = min(choices, key=lambda how: chosen.bits(training[cut:], **how))
        label = f"{best['order']}-gram, {name} ({key} {best[key]:g})"
        found[label] = model.bits(held_out, **best) / len(held_out)
    return found


def networks(vocabulary: int, hidden: int) -> dict[str, Callable[[], nn.Module]]:
    def recurrent(cell: Any, layers: int = 1, dropout: float = 0.0) -> Callable[[], nn.Module]:
        def make() -> nn.Module:
            layer = cell(EMBEDDING, hidden, num_layers=layers)
            return LanguageModel(vocabulary, layer, hidden, dropout)

        return make

    return {
        "feed-forward": lambda: FeedForwardLanguageModel(vocabulary, 10, 32, hidden),
        "RNN": recurrent(fastrnn.RNN),
        "LSTM": recurrent(fastrnn.LSTM),
        "GRU": recurrent(fastrnn.GRU),
        "GRU, deep": recurrent(fastrnn.GRU, layers=2),
        "GRU, dropout": recurrent(fastrnn.GRU, dropout=0.2),
        "Transformer": lambda: TransformerLanguageModel(vocabulary, hidden // 16 * 8, 4, 3, LENGTH),
    }


def texts(model: nn.Module, alphabet: Alphabet, options: Options) -> str:
    """The same beginning continued in four ways, as a Markdown list."""
    prompt = alphabet.encode(PROMPT)
    lines = []
    for name, temperature in (("greedy", 0.0), ("temperature 0.5", 0.5), ("temperature 1", 1.0)):
        generator = torch.Generator().manual_seed(options.seed)
        drawn = sample(model, prompt, SAMPLE, temperature, generator)
        lines.append((name, alphabet.decode(drawn)))

    def step(token: Tensor, hx: Any) -> tuple[Tensor, Any]:
        logits, hx = model(token.unsqueeze(0), hx)
        return torch.log_softmax(logits[0], -1), hx

    with torch.no_grad():
        _, hx = model(prompt[:-1].to(options.device).unsqueeze(1))
        found = beam_search(
            step, hx, prompt[-1:].to(options.device), int(alphabet.encode(".")),
            rows=1, beams=8, limit=SAMPLE, select=lambda hx, rows: hx.index_select(1, rows),
        )  # fmt: skip
    lines.append(("beam search of 8, to the full stop", alphabet.decode(found.tokens[0, 0].cpu())))
    shown = ((name, " ".join((PROMPT + text).replace("`", "'").split())) for name, text in lines)
    return "\n".join(f"- {name}: `{text}`" for name, text in shown)


def run(options: Options) -> Result:
    training, held_out = ("\n\n".join(paragraphs) for paragraphs in manual())
    alphabet = Alphabet(training)
    tokens, tests = alphabet.encode(training), alphabet.encode(held_out)
    table_of = counted(tokens.tolist(), tests.tolist(), len(alphabet))
    best = min(table_of.values())

    result, curves = Result(), {}
    batch = windows(tokens, options.device, LENGTH, BATCH)
    models: dict[str, nn.Module] = {}
    for name, make in networks(len(alphabet), options.hidden).items():
        model = models[name] = build(options, make)
        if name in ("RNN", "LSTM", "GRU", "Transformer"):
            result.comparisons[name] = compare(model, batch, loss, options, seconds=3)
        rate = {"RNN": 3e-3, "Transformer": 2e-3}.get(name, 5e-3)
        curves[name] = fit(model, batch, loss, options, name, rate=rate)
        table_of[name] = bits(model, tests, options.device) / (len(tests) - 1)
    result.losses = dict(curves)

    words = Words(training)
    numbers, unseen = words.encode(held_out)
    by_count = counted(words.encode(training)[0].tolist(), numbers.tolist(), len(words))
    for name, each in by_count.items():
        table_of[f"words, {name}"] = (each * len(numbers) + unseen) / len(held_out)

    def word_model() -> nn.Module:
        layer = fastrnn.GRU(EMBEDDING, options.hidden // 2)
        return LanguageModel(len(words), layer, options.hidden // 2, 0.2)

    model = build(options, word_model)
    word_batch = windows(words.encode(training)[0], options.device, 32, 16)
    fit(model, word_batch, loss, options, "words", steps=max(1, options.steps // 3), rate=1e-2)
    of_words = bits(model, numbers, options.device) + unseen
    table_of["words, GRU, dropout"] = of_words / len(held_out)

    for name in RECURRENT:
        metric = f"bits a character below the best n-gram, {name}"
        result.metrics.append(Metric(metric, best - table_of[name], 0.3, remark=REMARK))
    rows = [[name, f"{value:.3f}"] for name, value in table_of.items()]
    result.details.append(table(["", "bits a character of held-out topics"], rows))
    result.details.append(f"Text by the GRU:\n\n{texts(models['GRU'], alphabet, options)}")
    result.details.append(compare_ends(options))

    with picture(options, 1, 2, (11, 4)) as axes:
        for name, losses in curves.items():
            smooth = torch.tensor(losses).unfold(0, min(20, len(losses)), 1).mean(1) / math.log(2)
            axes[0, 0].plot(smooth, label=name, linewidth=1)
        axes[0, 0].set(xlabel="step", ylabel="training loss, bits a character", ylim=(1, 4))
        axes[0, 0].legend(fontsize=8)
        colors = ["tab:gray" if "gram" in name else "tab:blue" for name in table_of]
        bars = axes[0, 1].barh(list(table_of), list(table_of.values()), color=colors)
        axes[0, 1].bar_label(bars, fmt="%.2f")
        axes[0, 1].axvline(best - 0.3, color="tab:red", linestyle=":")
        axes[0, 1].invert_yaxis()
        axes[0, 1].set(xlabel="bits a held-out character (dotted: the goal)")
    return result


if __name__ == "__main__":
    main(run, steps=1000, hidden=256)
