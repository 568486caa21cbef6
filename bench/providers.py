"""Who computes. What a provider prepares is both what the gate checks and what is timed."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence

import fastrnn

from . import onnx_peer
from .cases import Case
from .workload import Workload, build, leaf

Call = Callable[[], Any]
"""One forward, in training also the backward to input and weights. Returns output and states
(a cell: the states), in training then the gradients."""


@dataclass(frozen=True)
class Provider:
    """A library.

    Attributes:
        name: as it is called in results.
        pool: whose threads it runs on; two pools awake at once would fight for the cores.
        why_not: why it cannot serve a case, None if it can.
        prepare: everything that comes before the first call.
    """

    name: str
    pool: str
    why_not: Callable[[Case], str | None]
    prepare: Callable[[Workload], Call]


def layer_call(library: Any, workload: Workload, **options: Any) -> Call:
    """A call of a layer or cell of ``torch.nn`` or ``fastrnn``."""
    layer = build(library, workload.case, dtype=_dtype(workload), **options)
    layer.load_state_dict(workload.weights)
    return _training(layer, workload) if workload.grad is not None else _inference(layer, workload)


def _dtype(workload: Workload) -> torch.dtype:
    return next(iter(workload.weights.values())).dtype


def _inference(layer: nn.Module, workload: Workload) -> Call:
    layer.eval()
    input, hx = workload.input, workload.hx

    def infer() -> Any:
        return layer(input, hx)

    return infer


def _training(layer: nn.Module, workload: Workload) -> Call:
    input, data = leaf(workload.input)
    wanted = [data, *layer.parameters()]
    grad = workload.grad

    def train() -> Any:
        output, states = layer(input)
        result = output.data if isinstance(output, PackedSequence) else output
        return output, states, torch.autograd.grad(result, wanted, grad)

    return train


def _always(case: Case) -> None:
    return None


def _onnxruntime_why_not(case: Case) -> str | None:
    reason = onnx_peer.why_not(case)
    missing = [name for name in ("onnx", "onnxruntime") if importlib.util.find_spec(name) is None]
    return reason or (f"{' and '.join(missing)} not installed" if missing else None)


PROVIDERS = {
    provider.name: provider
    for provider in (
        Provider("torch", "openmp", _always, lambda workload: layer_call(nn, workload)),
        Provider("fastrnn", "openmp", _always, lambda workload: layer_call(fastrnn, workload)),
        Provider("onnxruntime", "onnxruntime", _onnxruntime_why_not, onnx_peer.prepare),
    )
}
