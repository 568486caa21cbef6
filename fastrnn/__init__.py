"""Fused recurrent layers and attention for PyTorch, drop-in for `torch.nn`'s.

`RNN`, `LSTM`, `GRU`, their cells and `MultiheadAttention` are modules, with the attentions of
recurrent models beside them; `fastrnn.functional` is the same
without modules; `convert` and `to_torch` swap the layers of a whole model, `interop` takes
weights of other libraries.
"""

# torch first: its OpenMP runtime must be the one the extension finds.
import torch as _torch  # noqa: F401  # isort: skip

import importlib as _importlib
from typing import Any as _Any

from . import functional, init
from .backends import use_backend
from .convert import convert, to_torch
from .gpu.permission import use_cuda_graphs
from .modules import (
    GRU,
    LSTM,
    RNN,
    SLSTM,
    Attention,
    Bidirectional,
    CoupledLSTM,
    CoupledLSTMCell,
    GRUCell,
    IndRNN,
    IndRNNCell,
    LayerNormGRU,
    LayerNormGRUCell,
    LayerNormLSTM,
    LayerNormLSTMCell,
    LightGRU,
    LightGRUCell,
    LocalAttention,
    LSTMCell,
    MinGRU,
    MinGRUCell,
    MinLSTM,
    MinLSTMCell,
    MultiheadAttention,
    PeepholeLSTM,
    PeepholeLSTMCell,
    PointerAttention,
    RNNCell,
    SLSTMCell,
)
from .precision import use_precision, use_splitting
from .quantize import quantize_dynamic
from .tbptt import tbptt

__version__ = "0.1.0"


def __getattr__(name: str) -> _Any:
    """`fastrnn.interop` is imported when it is first wanted."""
    if name == "interop":
        return _importlib.import_module("fastrnn.interop")
    raise AttributeError(f"module 'fastrnn' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), "interop"])


__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "SLSTM",
    "Attention",
    "Bidirectional",
    "CoupledLSTM",
    "CoupledLSTMCell",
    "GRUCell",
    "IndRNN",
    "IndRNNCell",
    "LSTMCell",
    "LayerNormGRU",
    "LayerNormGRUCell",
    "LayerNormLSTM",
    "LayerNormLSTMCell",
    "LightGRU",
    "LightGRUCell",
    "LocalAttention",
    "MinGRU",
    "MinGRUCell",
    "MinLSTM",
    "MinLSTMCell",
    "MultiheadAttention",
    "PeepholeLSTM",
    "PeepholeLSTMCell",
    "PointerAttention",
    "RNNCell",
    "SLSTMCell",
    "convert",
    "functional",
    "init",
    "quantize_dynamic",
    "tbptt",
    "to_torch",
    "use_backend",
    "use_cuda_graphs",
    "use_precision",
    "use_splitting",
]
