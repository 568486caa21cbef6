"""A decoder: from what was read, and what was written so far, to the next token."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..modules import Attention, LocalAttention
from .encoder import LAYERS, Encoded

__all__ = ["Decoder", "DecoderState"]


class DecoderState(NamedTuple):
    """All that a decoder carries from step to step.

    Attributes:
        hx: of the recurrent layers, ``[L, B, H]`` or a pair of it.
        memory: what the attention made of the encoder's states, its lengths included.
        feed: ``[B, H]``, the attentional state of the step before, with input feeding.
        position: number of steps done.
    """

    hx: Any
    memory: Any
    feed: Tensor | None
    position: int


class Decoder(nn.Module):
    r"""Recurrent layers over the tokens written, with or without attention.

    .. math::
        s_t = \mathrm{cell}(e(y_{t-1}), s_{t-1}) \qquad c_t = \sum_s \alpha_{ts} m_s \qquad
        \tilde s_t = \tanh(W_c [c_t; s_t]) \qquad p(y_t) = \mathrm{softmax}(W_o \tilde s_t)

    (Luong et al. 2015.) The first state is ``tanh(W_b f)`` of the encoder's last state f of the
    same layer; without attention it is all that the decoder knows of the source (Sutskever et
    al. 2014), and :math:`\tilde s_t = s_t`. Without input feeding all steps of a known target
    are one call of the layer and one of the attention.

    Args:
        vocabulary: number of tokens V.
        size: width of the embeddings.
        hidden: H.
        memory_size: M, the width of the encoder's states.
        attention: an `Attention` or `LocalAttention` of H and M, or None.
        cell: ``"gru"`` or ``"lstm"``.
        layers: L, the encoder's.
        input_feeding: the attentional state of a step is an input of the next one.
        dropout: of the embeddings, between layers, and before the output, in training.

    Raises:
        ValueError: unknown cell; input feeding without attention.
    """

    def __init__(
        self,
        vocabulary: int,
        size: int,
        hidden: int,
        memory_size: int,
        attention: Attention | None = None,
        *,
        cell: str = "gru",
        layers: int = 1,
        input_feeding: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if cell not in LAYERS:
            raise ValueError(f"cell should be one of {', '.join(LAYERS)}, got: {cell!r}")
        if input_feeding and attention is None:
            raise ValueError("input_feeding needs an attention")
        self.embedding = nn.Embedding(vocabulary, size)
        self.dropout = nn.Dropout(dropout)
        self.recurrent = LAYERS[cell](
            size + (hidden if input_feeding else 0), hidden, layers, batch_first=True,
            dropout=dropout if layers > 1 else 0.0,
        )  # fmt: skip
        self.bridge = nn.Linear(memory_size, hidden)
        self.attention = attention
        self.combine = nn.Linear(memory_size + hidden, hidden) if attention is not None else None
        self.output = nn.Linear(hidden, vocabulary)
        self.cell, self.input_feeding = cell, input_feeding

    def start(self, encoded: Encoded) -> DecoderState:
        """The state before the first step."""
        h = torch.tanh(self.bridge(encoded.final))
        hx = (h, torch.zeros_like(h)) if self.cell == "lstm" else h
        memory = None
        if self.attention is not None:
            memory = self.attention.project(encoded.states, encoded.lengths)
        return DecoderState(hx, memory, h.new_zeros(h.shape[1:]) if self.input_feeding else None, 0)

    def forward(
        self, previous: Tensor, state: DecoderState, need_weights: bool = False
    ) -> tuple[Tensor, DecoderState, Tensor | None]:
        """Reads ``previous`` (``[B, Tq]`` int64: what was written before each step).

        Returns:
            logits ``[B, Tq, V]``, the state after the last step, and the weights
            ``[B, Tq, Tk]``, None without attention or unless asked for.
        """
        if self.input_feeding and previous.shape[1] != 1:
            return self._one_by_one(previous, state, need_weights)
        embedded = self.dropout(self.embedding(previous))
        if state.feed is not None:
            embedded = torch.cat([embedded, state.feed.unsqueeze(1)], -1)
        states, hx = self.recurrent(embedded, state.hx)
        weights = None
        if self.attention is not None and self.combine is not None:
            # A monotone window has to be told where it stands.
            place = {"start": state.position} if isinstance(self.attention, LocalAttention) else {}
            context, weights = self.attention(
                states, state.memory, need_weights=need_weights, **place
            )
            states = torch.tanh(self.combine(torch.cat([context, states], -1)))
        feed = states[:, -1] if self.input_feeding else None
        after = DecoderState(hx, state.memory, feed, state.position + previous.shape[1])
        return self.output(self.dropout(states)), after, weights

    def _one_by_one(
        self, previous: Tensor, state: DecoderState, need_weights: bool
    ) -> tuple[Tensor, DecoderState, Tensor | None]:
        logits, weights = [], []
        for token in previous.split(1, 1):
            scores, state, looked = self(token, state, need_weights)
            logits.append(scores)
            weights.append(looked)
        return torch.cat(logits, 1), state, torch.cat(weights, 1) if need_weights else None

    def step(self, token: Tensor, state: DecoderState) -> tuple[Tensor, DecoderState]:
        """One token a row, ``[B]``, and log-probabilities of the next, ``[B, V]``."""
        logits, state, _ = self(token.unsqueeze(1), state)
        return torch.log_softmax(logits.squeeze(1), -1), state

    @staticmethod
    def select(state: DecoderState, rows: Tensor) -> DecoderState:
        """The state of these rows of the batch: what `beam_search` wants to be told."""

        def of_layers(hx: Any) -> Any:
            if isinstance(hx, tuple):
                return tuple(part.index_select(1, rows) for part in hx)
            return hx.index_select(1, rows)

        memory = state.memory
        if memory is not None:
            keys = memory.keys.index_select(0, rows)
            # Where keys are the memory itself, they stay one tensor.
            same = memory.values is memory.keys
            values = keys if same else memory.values.index_select(0, rows)
            lengths = memory.lengths.index_select(0, rows)
            memory = memory._replace(keys=keys, values=values, lengths=lengths)
        feed = None if state.feed is None else state.feed.index_select(0, rows)
        return DecoderState(of_layers(state.hx), memory, feed, state.position)
