"""A recursive network: the LSTM over trees instead of chains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

__all__ = ["ChildSumTreeLSTM", "Forest", "Tree"]


class Tree(NamedTuple):
    """A token and the trees below it."""

    token: int
    children: Sequence[Tree] = ()


class Forest(NamedTuple):
    """A batch of trees whose nodes are numbered by height: leaves first, all of a height at once.

    Attributes:
        tokens: ``[N]``, int64, of all nodes.
        sizes: number of nodes of each height.
        children, parents: for each height above 0, ``[E]`` of all edges to that height: the
            child's number, and its parent's place among the nodes of that height.
        roots: ``[B]``, numbers of the trees' roots.
    """

    tokens: Tensor
    sizes: list[int]
    children: list[Tensor]
    parents: list[Tensor]
    roots: Tensor

    @classmethod
    def of(cls, trees: Sequence[Tree]) -> Forest:
        """Number the nodes of ``trees``; RecursionError for one a thousand nodes high."""
        levels: list[list[tuple[int, list[tuple[int, int]]]]] = []

        def visit(tree: Tree) -> tuple[int, int]:
            """Height, and place among the nodes of that height."""
            below = [visit(child) for child in tree.children]
            height = 1 + max((h for h, _ in below), default=-1)
            while len(levels) <= height:
                levels.append([])
            levels[height].append((tree.token, below))
            return height, len(levels[height]) - 1

        places = [visit(tree) for tree in trees]
        first = [0]
        for level in levels:
            first.append(first[-1] + len(level))
        children, parents = [], []
        for level in levels[1:]:
            edges = [(first[h] + i, p) for p, (_, below) in enumerate(level) for h, i in below]
            numbers = torch.tensor(edges)
            children.append(numbers[:, 0])
            parents.append(numbers[:, 1])
        return cls(
            torch.tensor([token for level in levels for token, _ in level]),
            [len(level) for level in levels],
            children,
            parents,
            torch.tensor([first[h] + i for h, i in places]),
        )

    def to(self, device: torch.device | str) -> Forest:
        return Forest(
            self.tokens.to(device),
            self.sizes,
            [numbers.to(device) for numbers in self.children],
            [numbers.to(device) for numbers in self.parents],
            self.roots.to(device),
        )


class ChildSumTreeLSTM(nn.Module):
    r"""An LSTM whose node has any number of predecessors, its children k.

    .. math::
        \tilde h &= \sum_k h_k \qquad
        i, o, g = \sigma, \sigma, \tanh(W x + U \tilde h + b) \\
        f_k &= \sigma(W_f x + U_f h_k + b_f) \\
        c &= i \odot g + \sum_k f_k \odot c_k \qquad h = o \odot \tanh(c)

    (Tai, Socher & Manning, *Improved semantic representations from tree-structured long
    short-term memory networks*, 2015.) A chain makes it an LSTM. All nodes of a height are one
    step, so the time goes with the height of the tallest tree, not with the number of nodes.

    Args:
        input_size, hidden_size: I and H.
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.input = nn.Linear(input_size, 4 * hidden_size)  # i, o, g, f
        self.summed = nn.Linear(hidden_size, 3 * hidden_size, bias=False)  # i, o, g
        self.forget = nn.Linear(hidden_size, hidden_size, bias=False)
        with torch.no_grad():
            self.input.bias[3 * hidden_size :] = 1.0

    def forward(self, input: Tensor, forest: Forest) -> tuple[Tensor, Tensor]:
        """States of all nodes.

        Args:
            input: ``[N, I]``, in the forest's order.

        Returns:
            h and c, ``[N, H]`` each; those of the trees are ``h[forest.roots]``.
        """
        if input.shape[0] != len(forest.tokens):
            raise ValueError(f"input should have {len(forest.tokens)} rows, got {input.shape[0]}")
        levels = self.input(input).split(forest.sizes)
        h, c = self._node(levels[0][:, : 3 * self.hidden_size], 0.0)
        for level, children, parents in zip(
            levels[1:], forest.children, forest.parents, strict=True
        ):
            gates, forget = level.split(3 * self.hidden_size, 1)
            below = h[children]
            kept = torch.sigmoid(forget[parents] + self.forget(below)) * c[children]
            zero = kept.new_zeros(len(level), self.hidden_size)
            summed = zero.index_add(0, parents, below)
            new_h, new_c = self._node(gates + self.summed(summed), zero.index_add(0, parents, kept))
            h, c = torch.cat([h, new_h]), torch.cat([c, new_c])
        return h, c

    @staticmethod
    def _node(gates: Tensor, kept: Tensor | float) -> tuple[Tensor, Tensor]:
        i, o, g = gates.chunk(3, 1)
        c = torch.sigmoid(i) * torch.tanh(g) + kept
        return torch.sigmoid(o) * torch.tanh(c), c
