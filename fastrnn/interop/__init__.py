"""Recurrent weights of other libraries, in and out, and ONNX nodes as modules.

Each library stacks its gates in its own order, keeps one bias or two, and its matrices this way
or transposed. These functions say which and convert; all take and return one direction's weights
under the names of torch's cells (`named` and `of_layer` lead to a layer's ``state_dict``).
"""

from .gates import flip_update, named, of_layer, reorder
from .haste import from_haste, to_haste
from .keras import from_keras, to_keras
from .onnx import from_onnx, to_onnx
from .onnx_node import from_onnx_node
from .torchrl import from_torchrl, reset_of_done, to_torchrl

__all__ = [
    "flip_update",
    "from_haste",
    "from_keras",
    "from_onnx",
    "from_onnx_node",
    "from_torchrl",
    "named",
    "of_layer",
    "reorder",
    "reset_of_done",
    "to_haste",
    "to_keras",
    "to_onnx",
    "to_torchrl",
]
