"""The cells: one file each, holding a `CellSpec` named ``SPEC`` and nothing else.

A cell is found by being a module of this package; nothing else registers it on
the Python side. Its mathematics is stated here in PyTorch, in ``csrc/cells`` in
C++ and in ``kernels/cells`` in Triton.
"""

from __future__ import annotations

import importlib
import math
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from torch import Tensor
from torch.nn.functional import hardtanh


class Clip(NamedTuple):
    """Bounds within a step, infinity where there is none: of the cell state, of pre-activations."""

    cell: float = math.inf
    gates: float = math.inf


UNCLIPPED = Clip()


def clip(tensor: Tensor, bound: float) -> Tensor:
    """Within -bound and bound; no gradient passes where they are reached."""
    return tensor if bound == math.inf else hardtanh(tensor, -bound, bound)


class Step(Protocol):
    """One step of a cell; see `CellSpec`."""

    def __call__(
        self,
        gates_x: Tensor,
        gates_h: Tensor,
        states: tuple[Tensor, ...],
        params: tuple[Tensor, ...] = (),
        clips: Clip = UNCLIPPED,
    ) -> tuple[Tensor, ...]: ...


@dataclass(frozen=True)
class CellSpec:
    """What the time loop, the backends and the layers must know about a cell.

    Attributes:
        name: the key used everywhere, kernels included.
        gates: names of the gates in the order they are stacked in the weights (torch's).
        states: names of the recurrent states; the first is the one that is the
            output and enters the recurrent product, ``h``.
        step: ``step(gates_x, gates_h, states, params, clips) -> new states``. ``gates_x``
            and ``gates_h`` are ``[..., G*H]``, the input and the recurrent side of the
            pre-activations, biases included; states are ``[..., H]``. ``params`` are the
            cell's own, ``[X]`` each; ``clips`` the bounds that it sets with `clip`: those of
            every pre-activation, and of the cell state as soon as it is there.
        saved: names of what a fused forward keeps per unit and step for the
            backward, the states after ``h`` last.
        apart: gates whose two pre-activations are not simply summed, so that the
            recurrent side needs a bias and a gradient of its own.
        reads_h: whether ``step`` uses the previous ``h`` outside the recurrent
            product. Such a cell cannot have a projection.
        params: names of the parameters a cell has beside the two weights and biases, as
            peepholes or gains: one tensor each, ``[N, X]`` for N recurrences.
        param_widths: X of each, in units of H.
        whole_row: whether a unit's result depends on its whole row, as with layer
            normalisation. Such a cell cannot have a projection.
        second: the last of the gates, where their recurrent product is not of h but of what
            ``operand(gates_x, gates_h, h, clips)`` makes of the other gates and h, ``[..., H]``.
        clipped: name of the state that the bound of the cell state is for, if any.
        recurrent: whether there is a recurrent product. Without one ``weight_hh`` is
            None and ``gates_h`` is the recurrent bias, or zero.
        torch_layer, torch_cell: the classes of ``torch.nn`` this equals, if any.
    """

    name: str
    gates: tuple[str, ...]
    states: tuple[str, ...]
    step: Step
    saved: tuple[str, ...] = ()
    apart: tuple[str, ...] = ()
    reads_h: bool = False
    params: tuple[str, ...] = ()
    param_widths: tuple[int, ...] = ()
    whole_row: bool = False
    second: tuple[str, ...] = ()
    operand: Callable[..., Tensor] | None = None
    clipped: str | None = None
    recurrent: bool = True
    torch_layer: str | None = None
    torch_cell: str | None = None

    @property
    def num_gates(self) -> int:
        return len(self.gates)

    @property
    def projects(self) -> bool:
        """Whether h can be projected."""
        return not (self.reads_h or self.whole_row)


def _discover() -> dict[str, CellSpec]:
    found = {}
    for module in pkgutil.iter_modules(__path__):
        spec: CellSpec = importlib.import_module(f"{__name__}.{module.name}").SPEC
        found[spec.name] = spec
    return found


CELLS: dict[str, CellSpec] = _discover()
"""Every cell by name."""
