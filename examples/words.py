"""Text as words, without losing a character: what `language_model.py` counts in bits."""

from __future__ import annotations

import math
import re
from collections import Counter

import torch
from torch import Tensor

from fastrnn.models.ngram import NGram

ALPHA = 0.1


class Words:
    """Numbers for words, with the space before, for runs of space, and for signs.

    Those that the training text has once are unknown, number 0; each is spelled out letter by
    letter by a trigram of letters, so that the bits of a text are those of all its characters.
    """

    def __init__(self, text: str) -> None:
        counts = Counter(self.split(text))
        self.vocabulary = ["", *sorted(word for word, count in counts.items() if count > 1)]
        self._number = {word: number for number, word in enumerate(self.vocabulary)}
        rare = [word for word in counts if word not in self._number]
        # Letters by their code; what is not ASCII counts as one letter, 1. 0 ends a word.
        spelled = [code for word in rare for code in self._spell(word)]
        self._letters = NGram(spelled, 128, 3)

    @staticmethod
    def split(text: str) -> list[str]:
        return re.findall(r" ?[A-Za-z]+|\s+|[^\sA-Za-z]", text)

    @staticmethod
    def _spell(word: str) -> list[int]:
        return [*(ord(c) if c.isascii() else 1 for c in word), 0]

    def __len__(self) -> int:
        return len(self.vocabulary)

    def encode(self, text: str) -> tuple[Tensor, float]:
        """Numbers ``[words]``, and the bits that it takes to spell the unknown ones."""
        words = self.split(text)
        unknown = (word for word in words if word not in self._number)
        spelling = sum(self._spelling(word) for word in unknown)
        return torch.tensor([self._number.get(word, 0) for word in words]), spelling

    def _spelling(self, word: str) -> float:
        codes = [0, *self._spell(word)]
        pairs = ((codes[max(0, i - 2) : i], codes[i]) for i in range(1, len(codes)))
        return -sum(math.log2(self._letters.add(h, code, ALPHA)) for h, code in pairs)
