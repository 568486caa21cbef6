"""The layers and cells: torch.nn's recurrent modules on fused kernels.

A module holds parameters and knows the forms a call can take (batched, unbatched,
packed, with or without a state); everything numeric is in `fastrnn.functional`.
"""

from .cells import GRUCell, LSTMCell, RNNCell
from .layers import GRU, LSTM, RNN

__all__ = ["GRU", "LSTM", "RNN", "GRUCell", "LSTMCell", "RNNCell"]
