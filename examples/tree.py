"""Work out nested list operations: an LSTM over the tree against one over the flat string.

``[MAX 2 9 [MIN 4 7] 0]`` is 9. Expressions are drawn fresh for every step and never seen twice
(ListOps of Nangia & Bowman 2018, without its sum); trees of a batch are computed together, height
by height. Trained up to depth 5, tested up to 7:

    python examples/tree.py [--steps 600 --hidden 96 --layers torch]
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence

import fastrnn
from fastrnn.models.tree import ChildSumTreeLSTM, Forest, Tree
from harness import Metric, Options, Result, build, compare, fit, main, picture, table


def median(numbers: Sequence[int]) -> int:
    return int(statistics.median(numbers))


OPERATIONS: dict[int, tuple[str, Callable[[Sequence[int]], int]]]
OPERATIONS = {10: ("MIN", min), 11: ("MAX", max), 12: ("MED", median)}
CLOSE, TOKENS = 13, 14
BATCH, DEPTH, DEEPEST = 64, 5, 7


def draw(depth: int, dice: random.Random) -> Tree:
    """An expression of exactly that depth; 0 is a digit."""
    if depth == 0:
        return Tree(dice.randrange(10))
    below = [
        depth - 1,
        *(max(0, depth - dice.choice((1, 2, 9))) for _ in range(dice.randint(1, 2))),
    ]
    dice.shuffle(below)
    return Tree(dice.choice(tuple(OPERATIONS)), [draw(d, dice) for d in below])


def value(tree: Tree) -> int:
    if not tree.children:
        return tree.token
    return OPERATIONS[tree.token][1]([value(child) for child in tree.children])


def flat(tree: Tree) -> list[int]:
    """The string: an operation opens a bracket."""
    if not tree.children:
        return [tree.token]
    return [tree.token, *(token for child in tree.children for token in flat(child)), CLOSE]


def words(tree: Tree) -> str:
    if not tree.children:
        return str(tree.token)
    return f"[{OPERATIONS[tree.token][0]} {' '.join(words(child) for child in tree.children)}]"


class Batch(NamedTuple):
    trees: list[Tree]
    values: Tensor


class OverTree(nn.Module):
    """Trees to scores of their values, ``[B, 10]``."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(TOKENS, 32)
        self.recursive = ChildSumTreeLSTM(32, hidden)
        self.head = nn.Linear(hidden, 10)

    def forward(self, trees: list[Tree]) -> Tensor:
        forest = Forest.of(trees).to(self.head.weight.device)
        h, _ = self.recursive(self.embedding(forest.tokens), forest)
        return self.head(h[forest.roots])


class OverString(nn.Module):
    """The same from the flat string, packed."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(TOKENS, 32)
        self.recurrent = fastrnn.LSTM(32, hidden)
        self.head = nn.Linear(hidden, 10)

    def forward(self, trees: list[Tree]) -> Tensor:
        device = self.head.weight.device
        rows = [self.embedding(torch.tensor(flat(tree), device=device)) for tree in trees]
        _, (h, _) = self.recurrent(pack_sequence(rows, enforce_sorted=False))
        return self.head(h[-1])


def loss(model: nn.Module, batch: Batch) -> Tensor:
    return nn.functional.cross_entropy(model(batch.trees), batch.values)


@torch.no_grad()
def accuracy(model: nn.Module, batch: Batch) -> float:
    return (model(batch.trees).argmax(1) == batch.values).double().mean().item()


def run(options: Options) -> Result:
    def drawn(depths: list[int], seed: int) -> Batch:
        dice = random.Random(seed)
        trees = [draw(depth, dice) for depth in depths]
        return Batch(trees, torch.tensor([value(t) for t in trees], device=options.device))

    def batch(generator: torch.Generator) -> Batch:
        depths = torch.randint(1, DEPTH + 1, (BATCH,), generator=generator).tolist()
        return drawn(depths, int(torch.randint(2**62, (), generator=generator)))

    tests = {depth: drawn([depth] * 200, -depth) for depth in range(1, DEEPEST + 1)}
    result, found = Result(), {}
    models: dict[str, type[OverTree] | type[OverString]] = {"tree": OverTree, "string": OverString}
    for name, kind in models.items():
        model = build(options, lambda k=kind: k(options.hidden))  # type: ignore[misc]
        if name == "string":
            result.comparisons["LSTM over the string"] = compare(model, batch, loss, options)
        result.losses[name] = fit(model, batch, loss, options, f"over the {name}", rate=1e-2)
        found[name] = {depth: accuracy(model, test) for depth, test in tests.items()}
    seen = range(1, DEPTH + 1)
    tree, string = (statistics.mean(found[name][depth] for depth in seen) for name in models)
    result.metrics = [
        Metric(f"accuracy at depths 1 to {DEPTH}, tree", tree),
        Metric(f"accuracy at depths 1 to {DEPTH}, string", string),
        Metric("difference", tree - string, 0.0),
        Metric(f"accuracy at depth {DEEPEST}, never trained, tree", found["tree"][DEEPEST]),
        Metric(f"accuracy at depth {DEEPEST}, never trained, string", found["string"][DEEPEST]),
    ]
    rows = [
        [str(depth), f"{100 * found['tree'][depth]:.1f} %", f"{100 * found['string'][depth]:.1f} %"]
        for depth in tests
    ]
    result.details.append(table(["depth", "tree", "string"], rows))
    example = tests[3].trees[0]
    result.details.append(f"An expression of depth 3: `{words(example)}` = {value(example)}")

    with picture(options, 1, 2, (10, 3.6)) as axes:
        for name in models:
            axes[0, 0].plot(result.losses[name], label=f"over the {name}", linewidth=0.8)
            axes[0, 1].plot(list(tests), [100 * a for a in found[name].values()], "o-", label=name)
        axes[0, 0].set(xlabel="step", ylabel="training loss, nats")
        axes[0, 0].legend()
        axes[0, 1].axvspan(DEPTH + 0.5, DEEPEST + 0.2, color="gray", alpha=0.2)
        axes[0, 1].set(xlabel="depth (gray: never trained)", ylabel="right, %", ylim=(0, 102))
        axes[0, 1].legend()
    return result


if __name__ == "__main__":
    main(run, steps=600, hidden=96)
