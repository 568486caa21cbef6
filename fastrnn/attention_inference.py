"""The shortest way to the C++ kernels of attention, as `fastrnn.inference` has it for layers.

Dot attention without gradients, masks or other options, where nothing watches, is one call of
the extension, which checks the tensors itself: a step of a decoder costs less than the general
way of bringing its arguments into form. What is not that simple is answered with None and goes
that way, which also has the words for what is wrong.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import attention_cpp, backends, cpp, inference

_CPU = torch.device("cpu")


def attention(
    query: Any,
    key: Any,
    value: Any,
    is_causal: Any,
    scale: Any,
    enable_gqa: Any,
    score: Any,
    backend: str | None,
) -> Tensor | None:
    """The output of `fastrnn.functional.attention`, or None if it is not that simple."""
    if score not in ("scaled_dot", "dot") or type(is_causal) is not bool:
        return None
    if type(query) is not Tensor or type(scale) not in (type(None), float):
        return None
    if not inference.unwatched() or backends.requested(backend) not in (None, "cpp"):
        return None
    dtype = query.dtype
    if attention_cpp.why_not("dot", _CPU, dtype) is not None:
        return None
    if scale is None:
        width = query.shape[-1] if query.dim() else 0
        scale = width**-0.5 if score == "scaled_dot" and width else 1.0
    return cpp._C.attention_infer(
        query, key, value, attention_cpp.kind_of(dtype), torch.get_num_threads(), is_causal,
        float(scale), bool(enable_gqa),
    )  # fmt: skip
