"""The attentions of recurrent models: a decoder's queries against an encoder's memory."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import backends
from ..functional_attention import attention
from ..scores import SCORES
from . import attention_sizes as sizes
from .scripting import refuse_scripting

__all__ = ["Attention", "LocalAttention"]


class Memory(NamedTuple):
    """What a decoder attends to, projected once and used by every step.

    Attributes:
        keys: ``[B, Tk, K]``, values: ``[B, Tk, M]``, lengths: ``[B]`` or None.
    """

    keys: Tensor
    values: Tensor
    lengths: Tensor | None


class Attention(nn.Module):
    r"""Attention of queries ``[B, Tq, Q]`` to a memory ``[B, Tk, M]``, with any score.

    .. math::
        c_t = \sum_s \alpha_{ts} m_s \qquad \alpha_t = \mathrm{softmax}_s(score(q_t, m_s))

    Scores are those of `fastrnn.functional.attention`, with the parameters

    ============ ======================================================================
    additive     ``weight_query [A, Q]``, ``weight_key [A, M]``, ``bias [A]``,
                 ``vector [A]``; ``gain`` with ``normalize``; ``location_conv.weight``
                 and ``location_proj.weight`` with ``location_filters``
    general      ``weight [Q, M]``
    location     ``weight [positions, Q]``
    cosine       ``temperature``
    dot, scaled_dot (none; Q = M)
    ============ ======================================================================

    (Bahdanau et al. 2015, Luong et al. 2015, Chorowski et al. 2015.) A memory is projected
    by `project`, once for all the steps of a decoder:

    >>> attention = fastrnn.Attention(query_size=32, memory_size=48)
    >>> memory = attention.project(torch.randn(4, 20, 48), lengths=torch.tensor([20, 7, 1, 12]))
    >>> for query in torch.randn(5, 4, 32):  # [B, Q] at a time
    ...     context, weights = attention(query, memory)

    Args:
        query_size, memory_size: Q and M.
        attention_size: A, of the additive score; None: Q.
        score: its name.
        bias: whether the additive score has one.
        normalize: the additive score's vector is ``gain * vector / |vector|``.
        location_filters: so many filters over the previous step's weights enter the additive
            score (location-aware attention), one query a call.
        location_kernel: their width, odd.
        positions: of the location score: the longest memory.
        dropout: of the weights, in training.
        backend: who computes, as in `fastrnn.use_backend`; None: the first that can.

    Raises:
        ValueError: unknown score, or sizes that it cannot take.
    """

    __prepare_scriptable__ = refuse_scripting

    def __init__(
        self,
        query_size: int,
        memory_size: int,
        attention_size: int | None = None,
        *,
        score: str = "additive",
        bias: bool = True,
        normalize: bool = False,
        location_filters: int = 0,
        location_kernel: int = 31,
        positions: int | None = None,
        dropout: float = 0.0,
        device: Any = None,
        dtype: torch.dtype | None = None,
        backend: str | None = None,
    ) -> None:
        super().__init__()
        if score not in SCORES:
            raise ValueError(f"score should be one of {', '.join(SCORES)}, got: {score!r}")
        if min(query_size, memory_size) < 1:
            raise ValueError(f"sizes should be positive, got: {query_size} and {memory_size}")
        if score in ("dot", "scaled_dot", "cosine") and query_size != memory_size:
            raise ValueError(
                f"score {score!r} needs query_size and memory_size to be the same, got: "
                f"{query_size} and {memory_size}"
            )
        if not 0 <= dropout <= 1:
            raise ValueError(f"dropout should be a probability, got: {dropout}")
        if location_filters and (score != "additive" or location_kernel % 2 != 1):
            raise ValueError(
                'location_filters needs score="additive" and an odd location_kernel, '
                f"got: {score!r} and {location_kernel}"
            )
        self.query_size, self.memory_size, self.score = query_size, memory_size, score
        self.dropout, self.backend = dropout, backends.check_name(backend)
        size = attention_size or query_size
        factory = {"device": device, "dtype": dtype}

        def parameter(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(shape, **factory))

        self.location_conv: nn.Conv1d | None = None
        self.location_proj: nn.Linear | None = None
        if score == "additive":
            self.weight_query = parameter(size, query_size)
            self.weight_key = parameter(size, memory_size)
            self.register_parameter("bias", parameter(size) if bias else None)
            self.vector = parameter(size)
            self.register_parameter("gain", parameter() if normalize else None)
            if location_filters:
                self.location_conv = nn.Conv1d(
                    1, location_filters, location_kernel, padding=location_kernel // 2,
                    bias=False, **factory,
                )  # fmt: skip
                self.location_proj = nn.Linear(location_filters, size, bias=False, **factory)
        elif score == "general":
            self.weight = parameter(query_size, memory_size)
        elif score == "location":
            if not positions or positions < 1:
                raise ValueError("score 'location' needs positions, the longest memory")
            self.weight = parameter(positions, query_size)
        elif score == "cosine":
            self.temperature = parameter()
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Matrices Glorot-uniform, the vector from U(-1/sqrt(A), 1/sqrt(A)), biases zero."""
        for name, parameter in self.named_parameters(recurse=False):
            if parameter.dim() == 2:
                nn.init.xavier_uniform_(parameter)
            elif name == "vector":
                bound = parameter.shape[0] ** -0.5
                nn.init.uniform_(parameter, -bound, bound)
            elif name == "gain":
                nn.init.constant_(parameter, self.vector.shape[0] ** -0.5)
            else:
                nn.init.constant_(parameter, 1.0 if name == "temperature" else 0.0)

    def project(self, memory: Tensor, lengths: Tensor | None = None) -> Memory:
        """The memory ``[B, Tk, M]`` as its keys and values, for any number of calls."""
        additive = self.score == "additive"
        sizes.check_memory(memory, self.memory_size, self.weight_key if additive else None)
        sizes.check_lengths(lengths, memory)
        keys = F.linear(memory, self.weight_key) if additive else memory
        return Memory(keys, memory, lengths)

    def forward(
        self,
        query: Tensor,
        memory: Tensor | Memory,
        lengths: Tensor | None = None,
        *,
        attn_mask: Tensor | None = None,
        previous_weights: Tensor | None = None,
        need_weights: bool = True,
    ) -> tuple[Tensor, Tensor | None]:
        """Context and weights of each query.

        Args:
            query: ``[B, Tq, Q]``, or ``[B, Q]`` for one step.
            memory: ``[B, Tk, M]``, or what `project` made of it.
            lengths: ``[B]`` of the memory; belongs to `project` where that was called.
            attn_mask: broadcastable to ``[B, Tq, Tk]``, for one step also to ``[B, Tk]``; True
                takes part, or numbers to add.
            previous_weights: ``[B, Tk]`` of the step before, with location filters; None: 0.
            need_weights: whether to return them.

        Returns:
            context ``[B, Tq, M]`` and weights ``[B, Tq, Tk]``, without Tq for one step.
        """
        return self._attend(query, memory, lengths, attn_mask, previous_weights, need_weights, 0)

    def _attend(
        self,
        query: Tensor,
        memory: Tensor | Memory,
        lengths: Tensor | None,
        attn_mask: Tensor | None,
        previous_weights: Tensor | None,
        need_weights: bool,
        start: int,
    ) -> tuple[Tensor, Tensor | None]:
        step, query, memory = self._queries(query, memory, lengths)
        context, *weights = _as_tuple(
            attention(
                query, memory.keys, memory.values, of_queries(attn_mask, step),
                self.dropout if self.training else 0.0, score=self.score,
                lengths_k=memory.lengths, return_weights=need_weights, backend=self.backend,
                **self._operands(query, memory, previous_weights),
                **self._window(query, memory, start),
            )
        )  # fmt: skip
        found = weights[0] if need_weights else None
        if step:
            return context.squeeze(1), None if found is None else found.squeeze(1)
        return context, found

    def _queries(
        self, query: Tensor, memory: Tensor | Memory, lengths: Tensor | None
    ) -> tuple[bool, Tensor, Memory]:
        if not isinstance(memory, Memory):
            memory = self.project(memory, lengths)
        elif lengths is not None:
            raise ValueError("lengths should be given to project(), not with its result")
        sizes.check_query(query, self.query_size, memory.values)
        step = query.dim() == 2
        return step, query.unsqueeze(1) if step else query, memory

    def _operands(
        self, query: Tensor, memory: Memory, previous_weights: Tensor | None
    ) -> dict[str, Any]:
        if previous_weights is not None and self.location_conv is None:
            raise ValueError("previous_weights needs location_filters")
        if self.score in ("general", "location"):
            return {"weight": self.weight}
        if self.score == "cosine":
            return {"temperature": self.temperature}
        if self.score != "additive":
            return {}
        found = {"vector": self.vector, "weight_query": self.weight_query, "bias": self.bias,
                 "gain": self.gain}  # fmt: skip
        if self.location_conv is not None and self.location_proj is not None:
            if query.shape[1] != 1:
                raise ValueError(
                    "location_filters needs one query a call: its weights depend on those of "
                    f"the query before, got {query.shape[1]} queries"
                )
            if previous_weights is None:
                previous_weights = memory.keys.new_zeros(memory.keys.shape[:2])
            else:
                sizes.check_previous(previous_weights, memory.values)
            filtered = self.location_conv(previous_weights.unsqueeze(1)).transpose(1, 2)
            found["location"] = self.location_proj(filtered)
        return found

    def _window(self, query: Tensor, memory: Memory, start: int) -> dict[str, Any]:
        return {}

    def extra_repr(self) -> str:
        found = f"{self.query_size}, {self.memory_size}"
        if self.score == "additive":
            found += f", attention_size={self.vector.shape[0]}"
        found += f", score={self.score!r}"
        if self.score == "additive" and self.bias is None:
            found += ", bias=False"
        if self.score == "additive" and self.gain is not None:
            found += ", normalize=True"
        return found + (f", dropout={self.dropout}" if self.dropout else "")


class LocalAttention(Attention):
    r"""Attention to a window of the memory, ``[p_t - D, p_t + D]`` (Luong et al. 2015).

    With ``predictive=False`` (local-m) :math:`p_t = t`. Else (local-p)
    :math:`p_t = S \sigma(v_p \cdot \tanh(W_p q_t))`, S the length of the memory, and the
    weights are multiplied by :math:`\exp(-(s - p_t)^2 / (2 (D/2)^2))`, not normalised again.
    Keys outside are skipped: of one query, or of queries whose centres follow one another, the work
    grows with D, not with the memory. Queries of one call are computed in blocks, and a block
    reads all keys from its first window to its last: centres that jump about cost more.

    Args:
        window: D.
        predictive: whether the centre is predicted; then there are ``weight_centre [P, Q]``,
            ``vector_centre [P]``, P = ``centre_size``, by default Q.
        The others, and the rest, are those of `Attention`.
    """

    def __init__(
        self,
        query_size: int,
        memory_size: int,
        window: int,
        attention_size: int | None = None,
        *,
        predictive: bool = True,
        centre_size: int | None = None,
        score: str = "general",
        device: Any = None,
        dtype: torch.dtype | None = None,
        **options: Any,
    ) -> None:
        if window < 1:
            raise ValueError(f"window should be positive, got: {window}")
        super().__init__(
            query_size, memory_size, attention_size, score=score, device=device, dtype=dtype,
            **options,
        )  # fmt: skip
        self.window, self.predictive = window, predictive
        if predictive:
            size = centre_size or query_size
            factory = {"device": device, "dtype": dtype}
            self.weight_centre = nn.Parameter(torch.empty(size, query_size, **factory))
            self.vector_centre = nn.Parameter(torch.empty(size, **factory))
            nn.init.xavier_uniform_(self.weight_centre)
            nn.init.uniform_(self.vector_centre, -(size**-0.5), size**-0.5)

    def forward(
        self,
        query: Tensor,
        memory: Tensor | Memory,
        lengths: Tensor | None = None,
        *,
        attn_mask: Tensor | None = None,
        previous_weights: Tensor | None = None,
        need_weights: bool = True,
        start: int = 0,
    ) -> tuple[Tensor, Tensor | None]:
        """As `Attention`'s; ``start`` is the position t of the first query, for local-m."""
        return self._attend(
            query, memory, lengths, attn_mask, previous_weights, need_weights, start
        )

    def centre(self, query: Tensor, memory: Memory) -> Tensor:
        """The predicted centres ``[B, Tq]`` of queries ``[B, Tq, Q]``."""
        hidden = torch.tanh(F.linear(query, self.weight_centre))
        length: Tensor | int = memory.keys.shape[1]
        if memory.lengths is not None:
            length = memory.lengths.unsqueeze(1).to(query.dtype)
        return length * torch.sigmoid(hidden @ self.vector_centre)

    def _window(self, query: Tensor, memory: Memory, start: int) -> dict[str, Any]:
        if self.predictive:
            return {"window": self.window, "centre": self.centre(query, memory)}
        if start == 0:
            return {"window": self.window}
        steps = torch.arange(query.shape[1], device=query.device, dtype=torch.float32)
        # A Gaussian of infinite width is a plain window around a given centre.
        return {"window": self.window, "centre": steps + start, "width": math.inf}

    def extra_repr(self) -> str:
        predictive = "" if self.predictive else ", predictive=False"
        return f"{super().extra_repr()}, window={self.window}{predictive}"


def of_queries(attn_mask: Tensor | None, step: bool) -> Tensor | None:
    """A mask ``[B, Tk]`` of one step as ``[B, 1, Tk]``; ``[Tq, Tk]`` and others as they are."""
    if step and attn_mask is not None and attn_mask.dim() == 2:
        return attn_mask.unsqueeze(1)
    return attn_mask


def _as_tuple(value: Any) -> tuple[Tensor, ...]:
    return value if isinstance(value, tuple) else (value,)
