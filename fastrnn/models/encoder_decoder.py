"""Sequence to sequence: an encoder and a decoder, and the ways to train them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .decoder import Decoder, DecoderState
from .encoder import Encoder
from .picture_encoder import PictureEncoder

__all__ = ["EncoderDecoder"]


class EncoderDecoder(nn.Module):
    """Reads one sequence and writes another.

    (Cho et al. 2014; Sutskever et al. 2014; with attention Bahdanau et al. 2015.)

    >>> model = EncoderDecoder(encoder, decoder)
    >>> logits, _ = model(source, lengths, target[:, :-1])  # learns target[:, 1:]
    >>> state = model.start(source, lengths)
    >>> tokens, _ = greedy(model.step, state, START, END, rows=len(source), limit=20)
    """

    def __init__(self, encoder: Encoder | PictureEncoder, decoder: Decoder) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def forward(
        self, source: Tensor, lengths: Tensor, previous: Tensor, need_weights: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Teacher forcing: every step is told what should have been written before it.

        Args:
            source, lengths: what the encoder reads: ``[B, Tk]`` int64 and ``[B]``.
            previous: ``[B, Tq]`` int64: the target, one step late.
            need_weights: whether to return the attention's weights.

        Returns:
            logits ``[B, Tq, V]`` and the weights ``[B, Tq, Tk]`` or None.
        """
        logits, _, weights = self.decoder(previous, self.start(source, lengths), need_weights)
        return logits, weights

    def scheduled(self, source: Tensor, lengths: Tensor, previous: Tensor, truth: float) -> Tensor:
        """Scheduled sampling: with probability ``truth`` the target, else what was drawn.

        What the model would have written is drawn from its own distribution, and no gradient
        flows through the drawing (Bengio et al. 2015). Arguments and logits as `forward`'s.
        """
        state = self.start(source, lengths)
        token = previous[:, :1]
        logits: list[Tensor] = []
        for step in range(previous.shape[1]):
            if step:
                odds = torch.softmax(logits[-1].detach().squeeze(1), -1)
                drawn = torch.multinomial(odds, 1)
                told = torch.rand(drawn.shape, device=drawn.device) < truth
                token = torch.where(told, previous[:, step : step + 1], drawn)
            scores, state, _ = self.decoder(token, state)
            logits.append(scores)
        return torch.cat(logits, 1)

    def start(self, source: Tensor, lengths: Tensor) -> DecoderState:
        """The decoder's state when all is read and nothing written."""
        return self.decoder.start(self.encoder(source, lengths))

    def step(self, token: Tensor, state: DecoderState) -> tuple[Tensor, DecoderState]:
        """One token a row, ``[B]``, and log-probabilities of the next, ``[B, V]``."""
        return self.decoder.step(token, state)

    def select(self, state: DecoderState, rows: Tensor) -> DecoderState:
        """The state of these rows of the batch."""
        return self.decoder.select(state, rows)
