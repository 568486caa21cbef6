"""The layers and cells: torch.nn's modules, and attention's, on fused kernels.

A module holds parameters and knows the forms a call can take (batched, unbatched,
packed, with or without a state); everything numeric is in `fastrnn.functional`.
"""

from .attention import Attention, LocalAttention
from .bidirectional import Bidirectional
from .cells import GRUCell, LSTMCell, RNNCell
from .layers import GRU, LSTM, RNN
from .multihead import MultiheadAttention
from .pointer_attention import PointerAttention
from .variants import (
    SLSTM,
    CoupledLSTM,
    CoupledLSTMCell,
    IndRNN,
    IndRNNCell,
    LayerNormGRU,
    LayerNormGRUCell,
    LayerNormLSTM,
    LayerNormLSTMCell,
    LightGRU,
    LightGRUCell,
    MinGRU,
    MinGRUCell,
    MinLSTM,
    MinLSTMCell,
    PeepholeLSTM,
    PeepholeLSTMCell,
    SLSTMCell,
)

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
]
