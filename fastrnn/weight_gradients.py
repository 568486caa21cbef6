"""The gradients of weights and biases: one product over all rows each, after the time loop.

By the kernels' own tiles where nothing watches, in plain PyTorch where the product is to
be traced, mapped or differentiated again. Rounding grows with the length of one sum, so
either way the rows are summed in windows.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from . import cpp, reference
from .operators import watched
from .options import PLAIN, Options

_WINDOW = 1024  # rows


def of_rows(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """``sum_s a[s]^T b[s]``, ``[M, K]``, and ``sum_s a[s]``, ``[M]``; a is ``[S, M]``."""
    if _by_kernels((a, b)):
        return cpp.gradient_of_rows(a, b)
    return _sum_of_products(a, b), a.sum(0)


def of_states(
    dgates_h: Tensor,
    out: Tensor,
    h_0: Tensor,
    batch_sizes: Tensor | None,
    reverse: Sequence[bool],
    options: Options = PLAIN,
) -> tuple[Tensor, Tensor]:
    """``sum_t dgates_h[t]^T h[t-1]`` and ``sum_t dgates_h[t]`` for each recurrence.

    They are ``[N, G*H, K]`` and ``[N, G*H]``; everything else is as in `fastrnn.reference.scan`.
    """
    if _by_kernels((dgates_h, out, h_0)) and options.dropout is None:
        return cpp.gradient_of_states(dgates_h, out, h_0, batch_sizes, reverse, options)
    if batch_sizes is not None or options.moves_states:
        previous = reference.previous_h(out, h_0, batch_sizes, reverse, options)
        pairs = zip(dgates_h.unbind(1), previous.unbind(1), strict=True)
        return torch.stack([of_rows(*pair)[0] for pair in pairs]), dgates_h.sum(0)
    batch = h_0.shape[1]
    products = []
    for n, backwards in enumerate(reverse):
        dgates, h = dgates_h[:, n], out[:, n]
        last = h.shape[0] - batch
        if backwards:
            first = dgates[last:].t() @ h_0[n]
            products.append(_sum_of_products(dgates[:last], h[batch:], first))
        else:
            first = dgates[:batch].t() @ h_0[n]
            products.append(_sum_of_products(dgates[batch:], h[:last], first))
    weight = products[0].unsqueeze(0) if len(products) == 1 else torch.stack(products)
    return weight, dgates_h.sum(0)


def _by_kernels(tensors: Sequence[Tensor]) -> bool:
    return (
        tensors[0].dtype in cpp.PRODUCT_DTYPES
        and cpp.why_not_at_all(tensors[0].device, tensors[0].dtype) is None
        and not torch.is_grad_enabled()
        and not watched(tensors)
    )


def _sum_of_products(a: Tensor, b: Tensor, total: Tensor | None = None) -> Tensor:
    """``sum_s a[s]^T b[s]`` (+ total), in windows.

    A trace for any length, whose size is no int, has one window. So has a GPU, whose library
    splits the sum by itself, and adds up in float32 what a window would round.
    """
    rows = a.shape[0]
    windows = isinstance(rows, int) and not a.is_cuda
    first = slice(0, _WINDOW if windows else rows)
    x, y = a[first], b[first]
    total = x.t() @ y if total is None else torch.addmm(total, x.t(), y)
    if windows:
        for start in range(_WINDOW, rows, _WINDOW):
            window = slice(start, start + _WINDOW)
            total = torch.addmm(total, a[window].t(), b[window])
    return total
