"""A recurrent language model: embedding, any recurrent layer, linear."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

__all__ = ["EMBEDDING", "LanguageModel"]

EMBEDDING = 64


class LanguageModel(nn.Module):
    r"""Predicts the next token from those before it.

    .. math::
        h_t = \mathrm{cell}(h_{t-1}, e(w_t)) \qquad
        p(w_{t+1} | w_1 … w_t) = \mathrm{softmax}(V h_t + b)

    (Mikolov et al., *Recurrent neural network based language model*, 2010.)

    Args:
        vocabulary: number of tokens V.
        layer: a recurrent layer of ``EMBEDDING`` inputs, of torch.nn or of fastrnn; it may be
            deep, with dropout between its layers.
        hidden: width of the layer's output.
        dropout: of the layer's input and output, in training (Zaremba et al. 2014).
    """

    def __init__(
        self, vocabulary: int, layer: nn.Module, hidden: int, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, EMBEDDING)
        self.recurrent = layer
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(hidden, vocabulary)

    def forward(self, tokens: Tensor, hx: Any = None) -> tuple[Tensor, Any]:
        """``[T, B]`` tokens and a state give ``[T, B, V]`` logits and the next state."""
        out, hx = self.recurrent(self.dropout(self.embedding(tokens)), hx)
        return self.head(self.dropout(out)), hx
