"""A case's two layers, with the same weights and the same input."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import fastrnn

from .cases import Case


def permit(case: Case) -> None:
    """Let torch and the kernels round float32 products, or not, as the case says."""
    torch.set_float32_matmul_precision("high" if case.dtype == "tf32" else "highest")


def build(case: Case, device: torch.device, training: bool) -> dict[str, Callable[[], Any]]:
    """``fastrnn`` and ``torch``: calls of a forward, or of a forward and backward."""
    permit(case)
    torch.manual_seed(0)
    both = case.kind.startswith("2")
    options: dict[str, Any] = {"num_layers": 2, "bidirectional": True} if both else {}
    theirs = getattr(nn, case.cell)(case.hidden, case.hidden, **options)
    ours = getattr(fastrnn, case.cell)(case.hidden, case.hidden, **options, backend="triton")
    ours.load_state_dict(theirs.state_dict())
    layers = {"fastrnn": ours, "torch": theirs}
    x: Any = torch.randn(case.steps, case.batch, case.hidden, device=device, dtype=case.torch_dtype)
    leaf = x
    if case.kind == "packed":
        # Evenly from a quarter to all steps.
        lengths = torch.linspace(case.steps, max(1, case.steps // 4), case.batch).long()
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths)
        leaf = packed.data
        x = nn.utils.rnn.PackedSequence(leaf, packed.batch_sizes)
    leaf.requires_grad_(training)

    def call(layer: Any) -> Callable[[], Any]:
        layer.to(device, case.torch_dtype)
        leaves = [leaf, *layer.parameters()]

        def forward() -> Any:
            with torch.no_grad():
                return layer(x)[0]

        def both_ways() -> Any:
            output = layer(x)[0]
            output = output.data if case.kind == "packed" else output
            return torch.autograd.grad(output, leaves, torch.ones_like(output))

        return both_ways if training else forward

    return {name: call(layer) for name, layer in layers.items()}
