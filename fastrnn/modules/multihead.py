"""Multi-head attention: torch.nn's layer on fused kernels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import backends
from ..functional_attention import attention
from .scripting import refuse_scripting

__all__ = ["MultiheadAttention"]


class MultiheadAttention(nn.MultiheadAttention):
    r"""Heads of scaled dot attention side by side, a drop-in for `torch.nn.MultiheadAttention`.

    .. math::
        \mathrm{softmax}(Q_h K_h^T / \sqrt{d}) V_h \quad\text{for each head } h

    on projected queries, keys and values, and a projection of all heads' outputs.
    (Vaswani et al., *Attention is all you need*, 2017.) Constructor, parameters, state_dict,
    arguments, shapes and errors are torch's. Where the two differ:

    - a query all of whose keys are masked gives 0 before the last projection, and weights 0,
      where torch gives NaN;
    - ``is_causal=True`` needs no ``attn_mask``;
    - without ``need_weights`` memory is linear in the lengths.

    `torch.nn.TransformerEncoderLayer` in evaluation, without gradients, does not call its
    attention layer but a fused operator of torch's on the layer's parameters. That works as
    well with this layer in its place; `torch.backends.mha.set_fastpath_enabled` switches it off.

    Args:
        backend: who computes, as in `fastrnn.use_backend`; None: the first that can.
    """

    __prepare_scriptable__ = refuse_scripting

    backend: str | None = None

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        add_bias_kv: bool = False,
        add_zero_attn: bool = False,
        kdim: int | None = None,
        vdim: int | None = None,
        batch_first: bool = False,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        backend: str | None = None,
    ) -> None:
        super().__init__(
            embed_dim, num_heads, dropout, bias, add_bias_kv, add_zero_attn, kdim, vdim,
            batch_first, device, dtype,
        )  # fmt: skip
        self.backend = backends.check_name(backend)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As torch's: output, and the weights ``[B, Tq, Tk]`` or ``[B, H, Tq, Tk]``, or None."""
        if query.is_nested or key.is_nested or value.is_nested:
            raise AssertionError("MultiheadAttention does not support NestedTensor")
        batched = F._mha_shape_check(  # type: ignore[attr-defined]
            query, key, value, key_padding_mask, attn_mask, self.num_heads
        )
        same = query is key, key is value
        if not batched or not self.batch_first:
            # Views [B, T, features]; what was one tensor stays one, for one projection.
            dim = 0 if not batched else 1
            query_view = query.unsqueeze(0) if dim == 0 else query.transpose(0, 1)
            key_view = key.unsqueeze(0) if dim == 0 else key.transpose(0, 1)
            value_view = value.unsqueeze(0) if dim == 0 else value.transpose(0, 1)
            query = query_view
            key = query if same[0] else key_view
            value = key if same[1] else value_view
            if not batched and key_padding_mask is not None:
                key_padding_mask = key_padding_mask.unsqueeze(0)
        self._check(query, key, value)
        batch, queries, _ = query.shape
        q, k, v = self._project(query, key, value)
        mask, causal = self._masks(
            batch, queries, key.shape[1], key_padding_mask, attn_mask, is_causal, need_weights
        )
        k, v, mask = self._extend(k, v, mask)
        out, *weights = _as_tuple(
            attention(
                self._split(q), self._split(k), self._split(v), mask,
                self.dropout if self.training else 0.0, causal,
                return_weights=need_weights, backend=self.backend,
            )
        )  # fmt: skip
        output = self.out_proj(out.transpose(1, 2).flatten(2))
        if not batched:
            output = output.squeeze(0)
        elif not self.batch_first:
            output = output.transpose(0, 1)
        if not need_weights:
            return output, None
        found = weights[0].mean(1) if average_attn_weights else weights[0]
        return output, found if batched else found.squeeze(0)

    def _check(self, query: Tensor, key: Tensor, value: Tensor) -> None:
        embed_dim = query.shape[2]
        if embed_dim != self.embed_dim:
            raise AssertionError(
                f"was expecting embedding dimension of {self.embed_dim}, but got {embed_dim}"
            )
        if not self._qkv_same_embed_dim:
            if key.shape[:2] != value.shape[:2]:
                raise AssertionError(
                    f"key's sequence and batch dims {key.shape[:2]} do not match value's "
                    f"{value.shape[:2]}"
                )
        elif key.shape != value.shape:
            raise AssertionError(f"key shape {key.shape} does not match value shape {value.shape}")

    def _project(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of all heads, ``[B, T, embed_dim]``."""
        if self._qkv_same_embed_dim:
            if query is key and key is value:
                q, k, v = F.linear(query, self.in_proj_weight, self.in_proj_bias).chunk(3, -1)
                return q, k, v
            weights = self.in_proj_weight.chunk(3)
        else:
            weights = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
        bias = self.in_proj_bias
        biases = (None, None, None) if bias is None else bias.chunk(3)
        inputs = (query, key, value)
        q, k, v = (F.linear(x, w, b) for x, w, b in zip(inputs, weights, biases, strict=True))
        return q, k, v

    def _masks(
        self,
        batch: int,
        queries: int,
        keys: int,
        key_padding_mask: Tensor | None,
        attn_mask: Tensor | None,
        is_causal: bool,
        need_weights: bool,
    ) -> tuple[Tensor | None, bool]:
        """One mask for the operator (True takes part), and whether it is to be causal."""
        for name, given in (("key_padding_mask", key_padding_mask), ("attn_mask", attn_mask)):
            if given is not None and given.dtype != torch.bool and not given.is_floating_point():
                raise AssertionError(f"only bool and floating types of {name} are supported")
        if is_causal and (attn_mask is None or (key_padding_mask is None and not need_weights)):
            # The hint says what the mask holds, and serves without it.
            attn_mask, causal = None, True
        else:
            causal = False
        mask = None
        if attn_mask is not None:
            if attn_mask.dim() == 2:
                if attn_mask.shape != (queries, keys):
                    raise RuntimeError(
                        f"The shape of the 2D attn_mask is {attn_mask.shape}, but should be "
                        f"{(queries, keys)}."
                    )
                mask = attn_mask[None, None]
            else:
                expected = (batch * self.num_heads, queries, keys)
                if attn_mask.shape != expected:
                    raise RuntimeError(
                        f"The shape of the 3D attn_mask is {attn_mask.shape}, but should be "
                        f"{expected}."
                    )
                mask = attn_mask.unflatten(0, (batch, self.num_heads))
        if key_padding_mask is not None:
            for dim, size in enumerate((batch, keys)):
                if key_padding_mask.shape[dim] != size:
                    raise AssertionError(
                        f"Expected key_padded_mask.shape[{dim}] to be {size}, but got "
                        f"{key_padding_mask.shape[dim]}"
                    )
            mask = _merge(mask, key_padding_mask[:, None, None, :])
        if mask is None:
            return None, causal
        return (~mask if mask.dtype == torch.bool else mask), causal

    def _extend(
        self, k: Tensor, v: Tensor, mask: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """With the keys and values that bias_k, bias_v and add_zero_attn add, masked by nobody."""
        added = 0
        if self.bias_k is not None and self.bias_v is not None:
            k = torch.cat([k, self.bias_k.expand(k.shape[0], 1, -1)], 1)
            v = torch.cat([v, self.bias_v.expand(v.shape[0], 1, -1)], 1)
            added += 1
        if self.add_zero_attn:
            k, v = F.pad(k, (0, 0, 0, 1)), F.pad(v, (0, 0, 0, 1))
            added += 1
        if mask is not None and added:
            mask = F.pad(mask, (0, added), value=1.0 if mask.dtype == torch.bool else 0.0)
        return k, v, mask

    def _split(self, tensor: Tensor) -> Tensor:
        """``[B, H, T, head_dim]``, a view."""
        return tensor.unflatten(2, (self.num_heads, self.head_dim)).transpose(1, 2)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.__dict__.setdefault("backend", None)


def _merge(mask: Tensor | None, padding: Tensor) -> Tensor:
    """Two masks of torch's kind, where True excludes, as one."""
    if mask is None:
        return padding
    if mask.dtype == torch.bool and padding.dtype == torch.bool:
        return mask | padding
    dtype = padding.dtype if mask.dtype == torch.bool else mask.dtype

    def numbers(given: Tensor) -> Tensor:
        if given.dtype != torch.bool:
            return given.to(dtype)
        return torch.zeros_like(given, dtype=dtype).masked_fill(given, -torch.inf)

    return numbers(mask) + numbers(padding)


def _as_tuple(value: Any) -> tuple[Tensor, ...]:
    return value if isinstance(value, tuple) else (value,)
