"""The layers and cells: torch.nn's modules, and attention's, on fused kernels.

A module holds parameters and knows the forms a call can take (batched, unbatched,
packed, with or without a state); everything numeric is in `fastrnn.functional`.
"""

from .attention import Attention, LocalAttention, PointerAttention
from .cells import GRUCell, LSTMCell, RNNCell
from .layers import GRU, LSTM, RNN
from .multihead import MultiheadAttention

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "Attention",
    "GRUCell",
    "LSTMCell",
    "LocalAttention",
    "MultiheadAttention",
    "PointerAttention",
    "RNNCell",
]
