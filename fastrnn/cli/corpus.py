"""Real text that every Python has: the topics of its ``help()``, as numbered characters."""

from __future__ import annotations

from pydoc_data.topics import topics

import torch
from torch import Tensor


class Corpus:
    """The language reference as one row of character numbers.

    Attributes:
        characters: the alphabet; a character's number is its place in it.
        tokens: ``[length of the text]``, int64.
    """

    def __init__(self) -> None:
        text = "\n\n".join(topics[name] for name in sorted(topics))
        self.characters = "".join(sorted(set(text)))
        self._number = {character: number for number, character in enumerate(self.characters)}
        self.tokens = self.encode(text)

    def encode(self, text: str) -> Tensor:
        """Numbers of the characters of ``text``; KeyError for one that the alphabet lacks."""
        return torch.tensor([self._number[character] for character in text])

    def decode(self, tokens: Tensor) -> str:
        """The text of character numbers ``[length]``."""
        return "".join(self.characters[number] for number in tokens.tolist())

    def batch(self, length: int, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """``size`` random windows of the text: characters and the ones that follow them.

        Returns:
            Inputs and targets, both ``[length, size]``, int64.
        """
        last = len(self.tokens) - length
        if last < 1:
            raise ValueError(f"length must be below {len(self.tokens)}, got {length}")
        starts = torch.randint(last, (size,), generator=generator)
        windows = self.tokens[starts + torch.arange(length + 1).unsqueeze(1)]
        return windows[:-1], windows[1:]
