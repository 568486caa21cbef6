"""The cells on tiles: a module each, with a pair of functions that touch no pointer.

``forward(x, a, h_prev, s, params, CLIPS, H)``: x and a are the input and the recurrent side of the
pre-activations, a tuple of tiles with one for each gate; s a tuple of the states beside h; params
the cell's own parameters, a tile for each H of their numbers; CLIPS the bounds of the cell state
and of pre-activations, 0 for none (`fastrnn.kernels.gates`). Returns h, the new states beside it,
and what the backward wants, as `CellSpec.saved` names it.

``backward(saved, h, h_prev, s_prev, dh, ds, params, CLIPS, H)``: returns the pre-activations'
gradients on the input side and on the recurrent side, the gradients of the states beside h at the
previous step, the part of h_prev's gradient that does not pass the recurrent product, and the
gradients of the parameters, not summed. A tile that a cell does not use is never loaded: the
compiler drops it.

Where `CellSpec.whole_row`, tiles are ``[sequences, units]`` and have whole rows of H units; else
they are of any orientation and of some units.

Where `CellSpec.second`, two more. ``operand(x, a, h, CLIPS)``, of the first gates' tiles and the h
that entered their product, is what enters that of the last gates. ``through_operand(saved, h,
doperand, CLIPS)`` returns what that adds to the first gates' gradients, the gradient of its h, and
the operand once more.

Gates are stacked as in the weights; a cell has up to four.
"""

import importlib
import pkgutil

NAMES = frozenset(module.name for module in pkgutil.iter_modules(__path__))


def functions(name):
    """``forward`` and ``backward`` of a cell."""
    module = importlib.import_module(f"{__name__}.{name}")
    return module.forward, module.backward


def operands(name):
    """``operand`` and ``through_operand`` of a cell that has them."""
    module = importlib.import_module(f"{__name__}.{name}")
    return module.operand, module.through_operand
