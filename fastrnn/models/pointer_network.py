"""A pointer network: the answer is a list of places in the input."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..modules import LSTM, Attention, PointerAttention
from .encoder import Encoder

__all__ = ["PointerNetwork", "PointerState"]


class PointerState(NamedTuple):
    """What the decoder keeps between steps, rows first.

    Attributes:
        h, c: ``[B, H]``, of the decoder's LSTM.
        memory: ``[B, 1 + Tk, M]``: the place 0 is the end, the others are the input's.
        places: ``[B]``: how many of them there are.
        open: bool ``[B, 1 + Tk]``: where it may still point.
    """

    h: Tensor
    c: Tensor
    memory: Tensor
    places: Tensor
    open: Tensor


class PointerNetwork(nn.Module):
    r"""Reads a set of vectors and points at some of them, one after the other.

    .. math::
        p(y_t = s) = \mathrm{softmax}_s(v \cdot \tanh(W_1 e_s + W_2 d_t))

    (Vinyals et al., *Pointer networks*, 2015.) The place 0, a learned vector, means the end; the
    input's vectors are places 1 to Tk, and none is pointed at twice. Before it points the decoder
    takes a glimpse of the memory by an additive attention (Vinyals et al., *Order matters*, 2016).
    All steps of a known answer are one call each of the decoder, the glimpse and the pointer.

    Args:
        size: width of the input's vectors.
        hidden: H, of the decoder; the encoder has two directions of H / 2.
        layers: of the encoder.
        all: whether every place has to be pointed at before the end (a tour), else the end may
            come at any time (a hull).
    """

    def __init__(self, size: int, hidden: int, *, layers: int = 1, all: bool = False) -> None:
        super().__init__()
        self.lift = nn.Sequential(nn.Linear(size, hidden), nn.Tanh())
        self.encoder = Encoder(
            0, hidden, hidden // 2, cell="lstm", layers=layers, bidirectional=True
        )
        width = self.encoder.memory_size
        self.end = nn.Parameter(torch.randn(width) * width**-0.5)
        self.decoder = LSTM(width, hidden, batch_first=True)
        self.bridge = nn.Linear(width, hidden)
        self.glimpse = Attention(hidden, width, hidden)
        self.combine = nn.Linear(hidden + width, hidden)
        self.pointer = PointerAttention(hidden, width, hidden)
        self.all = all

    def start(self, source: Tensor, lengths: Tensor) -> PointerState:
        """Vectors ``[B, Tk, size]`` and their numbers ``[B]``, read; nothing pointed at yet."""
        encoded = self.encoder(self.lift(source), lengths)
        rows, longest = source.shape[:2]
        memory = torch.cat([self.end.expand(rows, 1, -1), encoded.states], 1)
        places = lengths.to(source.device) + 1
        open = torch.arange(longest + 1, device=source.device) < places.unsqueeze(1)
        h = torch.tanh(self.bridge(encoded.final[-1]))
        return PointerState(h, torch.zeros_like(h), memory, places, open)

    def forward(self, source: Tensor, lengths: Tensor, target: Tensor) -> Tensor:
        """The mean negative log-likelihood of the places ``target`` (``[B, Tq]`` int64).

        Each row ends with a 0; what is behind it counts for nothing.
        """
        state = self.start(source, lengths)
        previous = nn.functional.pad(target[:, :-1], (1, 0))
        queries, _ = self._queries(previous, state)
        ended = (target == 0).cumsum(1) - (target == 0).long()  # how many ends before a step
        return self.pointer.nll(
            queries, state.memory, target.masked_fill(ended > 0, -100),
            attn_mask=self._open(previous, state.open),
        )  # fmt: skip

    def step(self, place: Tensor, state: PointerState) -> tuple[Tensor, PointerState]:
        """One place a row, ``[B]`` (0 to begin with), and log-probabilities of the next.

        Returns:
            ``[B, 1 + Tk]``, -inf where it must not point, and the state after.
        """
        queries, (h, c) = self._queries(place.unsqueeze(1), state)
        open = self._open(place.unsqueeze(1), state.open)
        found = self.pointer(queries, state.memory, attn_mask=open).squeeze(1)
        return found, state._replace(h=h, c=c, open=open.squeeze(1))

    def _queries(
        self, previous: Tensor, state: PointerState
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """What the decoder asks for after each place of ``[B, Tq]``, ``[B, Tq, H]``."""
        rows = torch.arange(len(previous), device=previous.device).unsqueeze(1)
        hx = state.h.unsqueeze(0), state.c.unsqueeze(0)
        states, (h, c) = self.decoder(state.memory[rows, previous], hx)
        context, _ = self.glimpse(states, state.memory, state.places, need_weights=False)
        queries = torch.tanh(self.combine(torch.cat([states, context], -1)))
        return queries, (h[0], c[0])

    def _open(self, previous: Tensor, open: Tensor) -> Tensor:
        """Where each step may point, bool ``[B, Tq, 1 + Tk]``, after what came before it."""
        places = open.shape[1]
        taken = nn.functional.one_hot(previous, places).cumsum(1) > 0
        taken[:, :, 0] = False
        free = open.unsqueeze(1) & ~taken
        if self.all:
            # The end is there when, and only when, nothing else is.
            free[:, :, 0] = ~free[:, :, 1:].any(2)
        return free
