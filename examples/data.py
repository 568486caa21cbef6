"""Real data that every machine with these requirements has: no download.

The English manual behind Python's ``help()``, the sources of its standard library, and
scikit-learn's scanned digits.
"""

from __future__ import annotations

import sysconfig
from pathlib import Path
from pydoc_data.topics import topics

import torch
from torch import Tensor


def manual() -> tuple[list[str], list[str]]:
    """Paragraphs of the manual, for training and (every tenth topic) held out.

    Topics quote one another at length: a paragraph is kept once, and none of those held out is
    trained on.
    """
    names = sorted(topics)
    held_out = names[5::10]
    seen: set[str] = set()

    def paragraphs(of: list[str]) -> list[str]:
        found = [paragraph for name in of for paragraph in topics[name].split("\n\n")]
        new = [p for p in dict.fromkeys(found) if p.strip() and p not in seen]
        seen.update(new)
        return new

    kept = paragraphs(held_out)
    return paragraphs([name for name in names if name not in held_out]), kept


def sources() -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Name and text of the standard library's top modules, for training and (every tenth) held out.

    Files without other than ASCII characters, of 2,000 to 200,000 characters.
    """
    files = []
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        text = path.read_text(encoding="utf-8", errors="replace")
        if text.isascii() and 2_000 <= len(text) <= 200_000:
            files.append((path.name, text))
    return [f for i, f in enumerate(files) if i % 10 != 5], files[5::10]


def digits() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Scanned digits of 8 × 8 points from 0 to 1, and what they show: for training, and for test.

    Returns:
        ``[N, 8, 8]`` float32 and ``[N]`` int64, twice: 1437 and 360 of them, shuffled alike in
        every run.
    """
    from sklearn.datasets import load_digits

    found = load_digits()
    images = torch.tensor(found.images, dtype=torch.float32) / 16
    labels = torch.tensor(found.target, dtype=torch.int64)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    images, labels = images[order], labels[order]
    cut = len(labels) * 4 // 5
    return (images[:cut], labels[:cut]), (images[cut:], labels[cut:])


class Alphabet:
    """Numbers for characters: those of ``text`` from 1 on, 0 for all others."""

    def __init__(self, text: str) -> None:
        self.characters = "\N{REPLACEMENT CHARACTER}" + "".join(sorted(set(text)))
        self._number = {character: number for number, character in enumerate(self.characters)}

    def __len__(self) -> int:
        return len(self.characters)

    def encode(self, text: str) -> Tensor:
        """``[length of the text]``, int64."""
        return torch.tensor([self._number.get(character, 0) for character in text])

    def decode(self, tokens: Tensor) -> str:
        return "".join(self.characters[number] for number in tokens.tolist())
