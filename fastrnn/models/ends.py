"""Three ways for a recurrent model of whole sequences to say where one ends."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..modules import LSTM
from .sampling import draw

__all__ = ["ENDS", "SequenceModel"]

ENDS = ("symbol", "stop", "length")


class SequenceModel(nn.Module):
    r"""The probability of a whole sequence of tokens, its end included.

    * ``symbol``: the end is one more token of the vocabulary.
    * ``stop``: after each token a Bernoulli output says whether it was the last one.
    * ``length``: the length is drawn first, from a distribution of its own; at each step the
      network is told how many tokens are still to come (as its logarithm).

    (The three of Goodfellow, Bengio & Courville, *Deep learning*, 2016, section 10.2.3.)

    Args:
        vocabulary: number of tokens V.
        hidden: units of the LSTM.
        ends: one of the three.
        longest: the longest sequence, for ``length``.
    """

    def __init__(self, vocabulary: int, hidden: int, ends: str, longest: int) -> None:
        super().__init__()
        if ends not in ENDS:
            raise ValueError(f"ends should be one of {', '.join(ENDS)}, got: {ends!r}")
        self.vocabulary, self.ends, self.longest = vocabulary, ends, longest
        self.embedding = nn.Embedding(vocabulary + 1, hidden)  # the last one begins a sequence
        self.recurrent = LSTM(hidden + (ends == "length"), hidden)
        self.head = nn.Linear(hidden, vocabulary + (ends == "symbol"))
        if ends == "stop":
            self.stop = nn.Linear(hidden, 1)
        elif ends == "length":
            self.lengths = nn.Parameter(torch.zeros(longest))  # log-odds of 1 … longest

    def _inputs(self, tokens: Tensor, remaining: Tensor) -> Tensor:
        embedded = self.embedding(tokens)
        if self.ends != "length":
            return embedded
        return torch.cat([embedded, remaining.clamp(min=1).log().unsqueeze(-1)], -1)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Log-likelihoods of sequences, in nats.

        Args:
            tokens: ``[T, B]``, int64, padded with anything below V.
            lengths: ``[B]``, int64, from 1 to T.

        Returns:
            ``[B]``.
        """
        steps = torch.arange(len(tokens) + 1, device=tokens.device).unsqueeze(1)
        begin = tokens.new_full((1, tokens.shape[1]), self.vocabulary)
        inputs = self._inputs(torch.cat([begin, tokens]), (lengths - steps).float())
        out, _ = self.recurrent(inputs)
        within = steps < lengths  # [T + 1, B]
        log_p = F.log_softmax(self.head(out), -1)
        targets = torch.cat([tokens, begin - 1])
        if self.ends == "symbol":
            targets = torch.where(within, targets, self.vocabulary)
            within = steps <= lengths
        found = log_p.gather(2, targets.unsqueeze(2)).squeeze(2)
        total = torch.where(within, found, 0.0).sum(0)
        if self.ends == "length":
            return total + F.log_softmax(self.lengths, 0)[lengths - 1]
        if self.ends == "stop":
            # After token t, at step t: stop where it was the last one.
            odds = self.stop(out).squeeze(2)
            said = torch.where(steps == lengths, F.logsigmoid(odds), F.logsigmoid(-odds))
            total = total + torch.where((steps >= 1) & (steps <= lengths), said, 0.0).sum(0)
        return total

    @torch.no_grad()
    def sample(
        self, count: int, temperature: float, generator: torch.Generator | None = None
    ) -> list[list[int]]:
        """Draw so many sequences; one that does not end is cut off at ``longest``."""
        device = self.head.weight.device
        lengths = torch.full((count,), self.longest)
        if self.ends == "length":
            lengths = 1 + draw(self.lengths.expand(count, -1), 1.0, generator)
        token, hx = torch.full((count,), self.vocabulary), None
        written: list[list[int]] = [[] for _ in range(count)]
        live = torch.ones(count, dtype=torch.bool)
        for step in range(self.longest + 1):
            inputs = self._inputs(token.to(device), (lengths - step).float().to(device))
            out, hx = self.recurrent(inputs.unsqueeze(0), hx)
            if self.ends == "stop" and step > 0:
                odds = torch.sigmoid(self.stop(out[0]).squeeze(1)).cpu()
                live &= torch.rand(count, generator=generator) >= odds
            elif self.ends == "length":
                live &= step < lengths
            if step == self.longest or not bool(live.any()):
                break
            drawn = draw(self.head(out[0]), temperature, generator)
            live &= drawn != self.vocabulary
            token = drawn.clamp(max=self.vocabulary - 1)
            for i in live.nonzero().flatten().tolist():
                written[i].append(int(token[i]))
        return written
