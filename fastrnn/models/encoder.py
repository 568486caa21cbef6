"""An encoder: embedding and recurrent layers over a padded batch of sequences."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from ..modules import GRU, LSTM

__all__ = ["Encoded", "Encoder", "reverse"]

LAYERS: dict[str, type[GRU] | type[LSTM]] = {"gru": GRU, "lstm": LSTM}


class Encoded(NamedTuple):
    """What an encoder read.

    Attributes:
        states: ``[B, T, M]``, of every step, both directions side by side; 0 behind the lengths.
        lengths: ``[B]``.
        final: ``[L, B, M]``, of each layer's last step.
    """

    states: Tensor
    lengths: Tensor
    final: Tensor


class Encoder(nn.Module):
    """Reads sequences of tokens, or of vectors, of different lengths.

    Args:
        vocabulary: number of tokens V; 0: the input is vectors already, ``size`` wide.
        size: width of the embeddings.
        hidden: H, of a direction.
        cell: ``"gru"`` or ``"lstm"``.
        layers: L.
        bidirectional: reads from both ends; then M = 2 H, else H.
        backwards: reads from the end to the start (Sutskever et al. 2014: the source reversed
            brings its beginning near to the target's). Its states keep the places of the input.
        dropout: of the embeddings and between layers, in training.

    Raises:
        ValueError: unknown cell.
    """

    def __init__(
        self,
        vocabulary: int,
        size: int,
        hidden: int,
        *,
        cell: str = "gru",
        layers: int = 1,
        bidirectional: bool = False,
        backwards: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if cell not in LAYERS:
            raise ValueError(f"cell should be one of {', '.join(LAYERS)}, got: {cell!r}")
        self.embedding = nn.Embedding(vocabulary, size) if vocabulary else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.recurrent = LAYERS[cell](
            size, hidden, layers, batch_first=True, bidirectional=bidirectional,
            dropout=dropout if layers > 1 else 0.0,
        )  # fmt: skip
        self.backwards = backwards
        self.layers, self.memory_size = layers, hidden * (2 if bidirectional else 1)

    def forward(self, source: Tensor, lengths: Tensor) -> Encoded:
        """Source ``[B, T]`` int64 (or ``[B, T, size]``) and its lengths ``[B]``, int64, all > 0."""
        if self.backwards:
            source = reverse(source, lengths)
        packed = pack_padded_sequence(
            self.dropout(self.embedding(source)), lengths.cpu(), True, enforce_sorted=False
        )
        output, hx = self.recurrent(packed)
        states, _ = pad_packed_sequence(output, batch_first=True, total_length=source.shape[1])
        if self.backwards:
            states = reverse(states, lengths)
        last = hx[0] if isinstance(hx, tuple) else hx
        # [L * directions, B, H] to the directions side by side, as in the states.
        final = last.unflatten(0, (self.layers, -1)).transpose(1, 2).flatten(2)
        return Encoded(states, lengths, final)


def reverse(sequence: Tensor, lengths: Tensor) -> Tensor:
    """Each row of ``[B, T, ...]`` from its end to its start; what is behind the end stays."""
    place = torch.arange(sequence.shape[1], device=sequence.device).expand(len(lengths), -1)
    end = lengths.to(sequence.device).unsqueeze(1)
    place = torch.where(place < end, end - 1 - place, place)
    return sequence[torch.arange(len(lengths), device=sequence.device).unsqueeze(1), place]
