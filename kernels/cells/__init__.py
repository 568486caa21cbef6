"""The cells on tiles: a module each, with a pair of functions that touch no pointer.

``forward(x, a, h_prev, s)``: x and a are the input and the recurrent side of the pre-activations,
a tuple of tiles with one for each gate; s a tuple of the states beside h. Returns h, the new states
beside it, and what the backward wants, as `CellSpec.saved` names it.

``backward(saved, h, h_prev, s_prev, dh, ds)``: returns the pre-activations' gradients on the
input side and on the recurrent side, the gradients of the states beside h at the previous step,
and the part of h_prev's gradient that does not pass the recurrent product. A tile that a cell does
not use is never loaded: the compiler drops it.

Gates are stacked as in the weights; a cell has up to four.
"""

import importlib
import pkgutil

NAMES = frozenset(module.name for module in pkgutil.iter_modules(__path__))


def functions(name):
    """``forward`` and ``backward`` of a cell."""
    module = importlib.import_module(f"{__name__}.{name}")
    return module.forward, module.backward
