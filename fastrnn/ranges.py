"""Which keys a query sees, as one range a query: causality, windows, lengths, packed sequences.

A range is two numbers a query, whatever made it, and a kernel that skips the keys outside
serves every one of these options and any mixture of them.
"""

from __future__ import annotations

import torch
from torch import Tensor


def key_ranges(
    queries: int,
    keys: int,
    device: torch.device,
    *,
    is_causal: bool = False,
    bottom_right: bool = False,
    window: tuple[int | None, int | None] = (None, None),
    centre: Tensor | None = None,
    lengths_q: Tensor | None = None,
    lengths_k: Tensor | None = None,
    cu_seqlens_q: Tensor | None = None,
    cu_seqlens_k: Tensor | None = None,
) -> tuple[Tensor | None, Tensor | None]:
    """``first`` and ``last``, int32, broadcastable to ``[B, H, Tq]``: ``first <= s < last``.

    Args:
        queries, keys: Tq and Tk, of the padded or of all packed sequences together.
        is_causal: query t sees no key behind its own position.
        bottom_right: the last query stands at the last key, not the first at the first.
        window: how far before and behind its position a query sees; None: without limit.
        centre: ``[B, H, Tq]``: the position of each query in its keys, if not its own.
        lengths_q, lengths_k: ``[B]``.
        cu_seqlens_q, cu_seqlens_k: ``[sequences + 1]``, where packed sequences begin and end.
    """
    before, after = window
    bounded = is_causal or before is not None or after is not None
    if not bounded and all(x is None for x in (lengths_q, lengths_k, cu_seqlens_q)):
        return None, None
    t = torch.arange(queries, device=device)
    start: Tensor | int = 0
    length_q: Tensor | int = queries
    length_k: Tensor | int = keys
    if cu_seqlens_q is not None and cu_seqlens_k is not None:
        cu_seqlens_q, cu_seqlens_k = cu_seqlens_q.long(), cu_seqlens_k.long()
        sequence = torch.bucketize(t, cu_seqlens_q[1:], right=True)
        # Queries behind the last sequence belong to one more, which is empty.
        sizes_q = torch.nn.functional.pad(cu_seqlens_q.diff(), (0, 1))
        sizes_k = torch.nn.functional.pad(cu_seqlens_k.diff(), (0, 1))
        length_q, length_k = sizes_q[sequence], sizes_k[sequence]
        start = cu_seqlens_k[sequence]
        t = t - cu_seqlens_q[sequence]
    if lengths_q is not None:
        length_q = lengths_q.view(-1, 1, 1)
    if lengths_k is not None:
        length_k = lengths_k.view(-1, 1, 1)

    position = t + (length_k - length_q) if bottom_right else t
    first = torch.zeros_like(t)
    last = first + length_k
    if is_causal:
        last = torch.minimum(last, position + 1)
    if centre is not None:
        # Compared as numbers: a centre that is NaN or infinite sees what the casts make of it,
        # in bounds in any case.
        limit = float(keys)
        if before is not None:
            low = torch.ceil(centre.detach() - before).nan_to_num(limit, limit, 0.0)
            first = torch.maximum(first, low.clamp(0, limit).long())
        if after is not None:
            high = torch.floor(centre.detach() + after).nan_to_num(-1.0, limit, -1.0) + 1
            last = torch.minimum(last, high.clamp(0, limit).long())
    else:
        if before is not None:
            first = torch.maximum(first, position - before)
        if after is not None:
            last = torch.minimum(last, position + after + 1)
    # Cut to the keys there are: numbers that nobody could check may be anything.
    first = (first + start).clamp(0, keys)
    last = torch.maximum((last + start).clamp(0, keys), first)
    last = torch.where(t < length_q, last, first)
    first, last = torch.broadcast_tensors(first, last)
    return _three(first), _three(last)


def _three(tensor: Tensor) -> Tensor:
    return tensor.to(torch.int32)[(None,) * (3 - tensor.dim())]
