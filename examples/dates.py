"""Dates as people write them, and in ISO form: the task of `seq2seq` and `transformer`.

    ``the twenty-third of march nineteen eighty-seven``  →  ``1987-03-23``

Every day from 1900 to 2099; a thousand of them are held out, none of which is trained on in any
phrase. Backwards, from the ISO form, the phrase to write is the spoken one.
"""

from __future__ import annotations

import datetime
import random
from dataclasses import dataclass

import torch
from torch import Tensor

PAD, START, END = 0, 1, 2
CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789 ,.-/"
VOCABULARY = 3 + len(CHARACTERS)

MONTHS = (
    "january february march april may june july august september october november december"
).split()
ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen"
).split()
TENS = "zero ten twenty thirty forty fifty sixty seventy eighty ninety".split()
ORDINALS = (
    "zeroth first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth "
    "thirteenth fourteenth fifteenth sixteenth seventeenth eighteenth nineteenth"
).split()


def number(n: int) -> str:
    """Below a hundred, in words."""
    if n < 20:
        return ONES[n]
    return TENS[n // 10] + (f"-{ONES[n % 10]}" if n % 10 else "")


def ordinal(n: int) -> str:
    if n < 20:
        return ORDINALS[n]
    return f"{TENS[n // 10]}-{ORDINALS[n % 10]}" if n % 10 else TENS[n // 10][:-1] + "ieth"


def short_ordinal(n: int) -> str:
    ends = {1: "st", 2: "nd", 3: "rd"}
    return f"{n}{'th' if 10 < n < 20 else ends.get(n % 10, 'th')}"


def year(n: int) -> str:
    """As it is spoken: nineteen oh five, two thousand and seven, twenty fifteen."""
    century, rest = divmod(n, 100)
    if n == 2000:
        return "two thousand"
    if century == 20 and rest < 10:
        return f"two thousand and {ONES[rest]}"
    if rest < 10:
        return f"{number(century)} " + (f"oh {ONES[rest]}" if rest else "hundred")
    return f"{number(century)} {number(rest)}"


def spoken(day: datetime.date) -> str:
    return f"the {ordinal(day.day)} of {MONTHS[day.month - 1]} {year(day.year)}"


def phrase(day: datetime.date, chance: random.Random) -> str:
    """One of many ways to write it, of 10 to 55 letters."""
    month, weekday = MONTHS[day.month - 1], f"{day:%A}".lower()
    ways = (
        spoken(day),
        f"{weekday} the {ordinal(day.day)} of {month} {year(day.year)}",
        f"{month} the {ordinal(day.day)}, {year(day.year)}",
        f"{weekday}, {month} {short_ordinal(day.day)}, {day.year}",
        f"{day.day} {month} {day.year}",
        f"{month} {day.day}, {day.year}",
        f"{day.day} {month[:3]}. {day.year}",
        f"the {short_ordinal(day.day)} of {month}, {day.year}",
        f"{day.day}.{day.month}.{day.year}",
        f"{day.month}/{day.day}/{day.year}",
    )
    return chance.choice(ways)


@dataclass(frozen=True)
class Pairs:
    """Sources and targets, padded: ``[N, T]`` int64, and their lengths ``[N]``.

    Targets begin with START and end with END, both counted.
    """

    source: Tensor
    source_lengths: Tensor
    target: Tensor
    target_lengths: Tensor

    def draw(self, generator: torch.Generator, size: int = 64) -> Pairs:
        rows = torch.randint(len(self.source), (size,), generator=generator)
        return self.take(rows.to(self.source.device))

    def take(self, rows: Tensor) -> Pairs:
        """These rows, no longer than the longest of them."""
        lengths, target_lengths = self.source_lengths[rows], self.target_lengths[rows]
        return Pairs(
            self.source[rows, : int(lengths.max())], lengths,
            self.target[rows, : int(target_lengths.max())], target_lengths,
        )  # fmt: skip


def encode(text: str) -> list[int]:
    return [3 + CHARACTERS.index(character) for character in text]


def decode(tokens: Tensor) -> str:
    """Up to the end."""
    found = tokens.tolist()
    found = found[: found.index(END)] if END in found else found
    return "".join(CHARACTERS[token - 3] for token in found if token > END)


def pad(rows: list[list[int]]) -> tuple[Tensor, Tensor]:
    lengths = [len(row) for row in rows]
    longest = max(lengths)
    padded = [row + [PAD] * (longest - len(row)) for row in rows]
    return torch.tensor(padded), torch.tensor(lengths)


def pairs(
    backwards: bool = False, train: int = 10_000, seed: int = 0, device: str = "cpu"
) -> tuple[Pairs, Pairs]:
    """For training, and of a thousand days held out."""
    chance = random.Random(seed)
    first = datetime.date(1900, 1, 1).toordinal()
    days = list(range(first, datetime.date(2099, 12, 31).toordinal() + 1))
    chance.shuffle(days)

    def made(ordinals: list[int]) -> Pairs:
        sources, targets = [], []
        for n in ordinals:
            day = datetime.date.fromordinal(n)
            read, written = phrase(day, chance), day.isoformat()
            if backwards:
                read, written = written, spoken(day)
            sources.append(encode(read))
            targets.append([START, *encode(written), END])
        return Pairs(*(t.to(device) for t in (*pad(sources), *pad(targets))))

    return made([chance.choice(days[1000:]) for _ in range(train)]), made(days[:1000])
