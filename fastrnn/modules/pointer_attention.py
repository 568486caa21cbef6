"""Attention whose distribution over the memory is the output: a pointer."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..functional_attention import pointer_log_probs, pointer_nll
from . import attention_sizes as sizes
from .attention import Attention, Memory, of_queries

__all__ = ["PointerAttention"]


class PointerAttention(Attention):
    r"""A distribution over the memory as the output itself (Vinyals et al. 2015).

    .. math::
        p(y_t = s) = \mathrm{softmax}_s(v \cdot \tanh(W_1 m_s + W_2 q_t))

    Arguments are those of `Attention`, but for ``dropout``: a distribution has none. A call returns
    log-probabilities ``[B, Tq, Tk]`` (``[B, Tk]`` for one step), -inf behind the lengths; `nll` the
    loss, which never writes them.
    """

    def __init__(
        self,
        query_size: int,
        memory_size: int,
        attention_size: int | None = None,
        **options: Any,
    ) -> None:
        if options.get("dropout"):
            raise ValueError("PointerAttention returns a distribution, which has no dropout")
        super().__init__(query_size, memory_size, attention_size, **options)

    def forward(  # type: ignore[override]
        self,
        query: Tensor,
        memory: Tensor | Memory,
        lengths: Tensor | None = None,
        *,
        attn_mask: Tensor | None = None,
        previous_weights: Tensor | None = None,
    ) -> Tensor:
        """Log-probabilities over the memory, ``[B, Tq, Tk]``, or ``[B, Tk]`` for one step.

        Args:
            query: ``[B, Tq, Q]``, or ``[B, Q]`` for one step.
            memory: ``[B, Tk, M]``, or what `project` made of it.
            lengths: int ``[B]``: how much of the memory counts; None: all.
            attn_mask, previous_weights: as `Attention` takes them.
        """
        step, query, memory = self._queries(query, memory, lengths)
        options = self._options(query, memory, of_queries(attn_mask, step), previous_weights)
        found = pointer_log_probs(query, memory.keys, **options)
        return found.squeeze(1) if step else found

    def nll(
        self,
        query: Tensor,
        memory: Tensor | Memory,
        target: Tensor,
        lengths: Tensor | None = None,
        *,
        attn_mask: Tensor | None = None,
        previous_weights: Tensor | None = None,
        reduction: str = "mean",
        ignore_index: int = -100,
    ) -> Tensor:
        """As `fastrnn.functional.pointer_nll`; target ``[B, Tq]``, or ``[B]`` for one step.

        A target behind the lengths has the probability zero, and so a loss of infinity.
        """
        given = query
        step, query, memory = self._queries(query, memory, lengths)
        sizes.check_target(target, given)
        options = self._options(query, memory, of_queries(attn_mask, step), previous_weights)
        loss = pointer_nll(
            query, memory.keys, target.unsqueeze(1) if step else target, reduction=reduction,
            ignore_index=ignore_index, **options,
        )  # fmt: skip
        return loss.squeeze(1) if step and reduction == "none" else loss

    def _options(
        self,
        query: Tensor,
        memory: Memory,
        attn_mask: Tensor | None,
        previous_weights: Tensor | None,
    ) -> dict[str, Any]:
        return {
            "score": self.score, "attn_mask": attn_mask, "lengths_k": memory.lengths,
            "backend": self.backend, **self._operands(query, memory, previous_weights),
        }  # fmt: skip
