"""The Transformer: encoder and decoder of attention alone."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..modules import MultiheadAttention
from .beam_search import select_rows
from .positions import sinusoids

__all__ = ["Transformer", "TransformerLayer", "TransformerState"]


class TransformerLayer(nn.Module):
    r"""One layer: each part adds to what it is given.

    .. math::
        x \mathrel{+}= \mathrm{self}(\mathrm{LN}(x)) \qquad
        x \mathrel{+}= \mathrm{cross}(\mathrm{LN}(x), m) \qquad
        x \mathrel{+}= W_2\, \mathrm{relu}(W_1 \mathrm{LN}(x))

    The norm stands before each part (Xiong et al. 2020), which needs no warm-up; Vaswani et al.
    2017 have it behind the sum.

    Args:
        size: width of the vectors.
        heads: of the attentions.
        inner: width of the feed-forward part.
        cross: whether it looks at a memory.
        dropout: of what each part adds, in training.
    """

    def __init__(
        self, size: int, heads: int, inner: int, *, cross: bool = False, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.norm_self = nn.LayerNorm(size)
        self.self_attention = MultiheadAttention(size, heads, batch_first=True)
        self.norm_cross = nn.LayerNorm(size) if cross else None
        self.cross_attention = MultiheadAttention(size, heads, batch_first=True) if cross else None
        self.norm_feed = nn.LayerNorm(size)
        self.feed = nn.Sequential(nn.Linear(size, inner), nn.ReLU(), nn.Linear(inner, size))
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        *,
        past: Tensor | None = None,
        padding: Tensor | None = None,
        causal: Tensor | None = None,
        memory: Tensor | None = None,
        memory_padding: Tensor | None = None,
        need_weights: bool = False,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Vectors ``[B, T, size]``.

        Args:
            past: ``[B, P, size]``: normalised inputs of steps before, which are seen as well.
            padding: bool ``[B, T]``, True where there is nothing.
            causal: bool ``[T, T]``, True where a step must not look.
            memory, memory_padding: of a layer that looks at one.
            need_weights: of the cross attention.

        Returns:
            ``[B, T, size]``; the normalised inputs, ``past`` before them; weights ``[B, T, Tk]``,
            the mean over the heads, or None.
        """
        normed = self.norm_self(x)
        seen = normed if past is None else torch.cat([past, normed], 1)
        found, _ = self.self_attention(
            normed, seen, seen, key_padding_mask=padding, attn_mask=causal,
            is_causal=causal is not None, need_weights=False,
        )  # fmt: skip
        x = x + self.dropout(found)
        weights = None
        if self.cross_attention is not None and self.norm_cross is not None:
            found, weights = self.cross_attention(
                self.norm_cross(x), memory, memory, key_padding_mask=memory_padding,
                need_weights=need_weights,
            )  # fmt: skip
            x = x + self.dropout(found)
        return x + self.dropout(self.feed(self.norm_feed(x))), seen, weights


class TransformerState(NamedTuple):
    """What a decoder keeps between steps, rows first.

    Attributes:
        memory: ``[B, Tk, size]``, padding: bool ``[B, Tk]``.
        past: of each layer ``[B, P, size]``, its normalised inputs so far.
    """

    memory: Tensor
    padding: Tensor
    past: tuple[Tensor, ...]


class Transformer(nn.Module):
    """Reads one sequence of tokens and writes another (Vaswani et al. 2017).

    Embeddings are multiplied by the root of their width, and sinusoidal positions added.

    Args:
        vocabulary: number of tokens V, of both sequences.
        size: width of the vectors, even.
        heads: of each attention; divides ``size``.
        layers: of the encoder, and of the decoder.
        inner: width of the feed-forward parts; None: 4 ``size``.
        dropout: in training.
    """

    def __init__(
        self,
        vocabulary: int,
        size: int,
        heads: int,
        layers: int,
        *,
        inner: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        inner = inner or 4 * size
        self.size = size
        self.read = nn.Embedding(vocabulary, size)
        self.written = nn.Embedding(vocabulary, size)
        for embedding in (self.read, self.written):
            nn.init.normal_(embedding.weight, std=size**-0.5)
        self.encoder = nn.ModuleList(
            TransformerLayer(size, heads, inner, dropout=dropout) for _ in range(layers)
        )
        self.decoder = nn.ModuleList(
            TransformerLayer(size, heads, inner, cross=True, dropout=dropout) for _ in range(layers)
        )
        self.norm_memory, self.norm_output = nn.LayerNorm(size), nn.LayerNorm(size)
        self.output = nn.Linear(size, vocabulary)
        self.dropout = nn.Dropout(dropout)

    def start(self, source: Tensor, lengths: Tensor) -> TransformerState:
        """Source ``[B, Tk]`` int64 and its lengths ``[B]``, read; nothing written yet."""
        place = torch.arange(source.shape[1], device=source.device)
        padding = place >= lengths.to(source.device).unsqueeze(1)
        x = self._embed(self.read, source, 0)
        for layer in self.encoder:
            x, _, _ = layer(x, padding=padding)
        nothing = x.new_empty(x.shape[0], 0, self.size)
        return TransformerState(self.norm_memory(x), padding, (nothing,) * len(self.decoder))

    def forward(
        self, source: Tensor, lengths: Tensor, previous: Tensor, need_weights: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Teacher forcing, all steps at once.

        Args:
            source: ``[B, Tk]`` int64, and its lengths ``[B]``.
            previous: ``[B, Tq]`` int64: the target, one step late.
            need_weights: whether to return the last layer's weights on the source.

        Returns:
            logits ``[B, Tq, V]`` and the weights ``[B, Tq, Tk]``, mean of the heads, or None.
        """
        state = self.start(source, lengths)
        steps = previous.shape[1]
        causal = torch.ones(steps, steps, dtype=torch.bool, device=previous.device).triu(1)
        x, weights = self._embed(self.written, previous, 0), None
        for layer in self.decoder:
            x, _, weights = layer(
                x, causal=causal, memory=state.memory, memory_padding=state.padding,
                need_weights=need_weights,
            )  # fmt: skip
        return self.output(self.norm_output(x)), weights

    def step(self, token: Tensor, state: TransformerState) -> tuple[Tensor, TransformerState]:
        """One token a row, ``[B]``, and log-probabilities of the next, ``[B, V]``."""
        x = self._embed(self.written, token.unsqueeze(1), state.past[0].shape[1])
        past = []
        for layer, before in zip(self.decoder, state.past, strict=True):
            x, seen, _ = layer(x, past=before, memory=state.memory, memory_padding=state.padding)
            past.append(seen)
        logits = self.output(self.norm_output(x.squeeze(1)))
        return torch.log_softmax(logits, -1), state._replace(past=tuple(past))

    @staticmethod
    def select(state: TransformerState, rows: Tensor) -> TransformerState:
        """The state of these rows of the batch."""
        return select_rows(state, rows)

    def _embed(self, embedding: nn.Module, tokens: Tensor, start: int) -> Tensor:
        vectors = embedding(tokens) * math.sqrt(self.size)
        return self.dropout(vectors + sinusoids(tokens.shape[1], self.size, vectors, start))
