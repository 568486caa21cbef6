"""Systems of the field, built from the layers: parts that programs are made of.

One idea a file, on public layers only; `examples/` holds a program for each.
"""

from .beam_search import Beams, beam_search, select_rows
from .decoder import Decoder, DecoderState
from .encoder import Encoded, Encoder, reverse
from .encoder_decoder import EncoderDecoder
from .greedy import Step, greedy
from .picture_encoder import PictureEncoder
from .pointer_network import PointerNetwork, PointerState
from .positions import sinusoids
from .state_space import StateSpace
from .transformer import Transformer, TransformerLayer, TransformerState

__all__ = [
    "Beams",
    "Decoder",
    "DecoderState",
    "Encoded",
    "Encoder",
    "EncoderDecoder",
    "PictureEncoder",
    "PointerNetwork",
    "PointerState",
    "StateSpace",
    "Step",
    "Transformer",
    "TransformerLayer",
    "TransformerState",
    "beam_search",
    "greedy",
    "reverse",
    "select_rows",
    "sinusoids",
]
