"""Initialisation of recurrent layers gate by gate, in place.

The functions take a layer or cell of this library or of `torch.nn`, all its layers and directions
at once, and know its gates' order. Whatever is not named keeps its values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from .cells import CELLS

__all__ = ["chrono_", "forget_bias_", "gates_", "orthogonal_"]


def gates_(
    module: nn.Module,
    kind: str,
    init: Callable[[Tensor], object],
    gates: Sequence[str] | None = None,
) -> nn.Module:
    """Apply ``init`` to each gate's own block of the parameters of a kind.

    Initialisers that read a matrix's shape (orthogonal, Xavier) mean one gate's: on all gates
    stacked they draw something else.

    Args:
        module: a recurrent layer or cell.
        kind: ``"weight_ih"``, ``"weight_hh"``, ``"bias_ih"`` or ``"bias_hh"``.
        init: gets each block, ``[H, I]``, ``[H, K]`` or ``[H]``, to be filled in place.
        gates: which, by their letters (i, f, g, o; r, z, n); None: all.

    Returns:
        ``module``.

    Raises:
        ValueError: the module is not recurrent, has no such parameters or no such gate.
    """
    order = _gates_of(module)
    wanted = order if gates is None else tuple(gates)
    if unknown := [gate for gate in wanted if gate not in order]:
        raise ValueError(f"{type(module).__name__} has the gates {', '.join(order)}, got {unknown}")
    found = list(_parameters(module, kind))
    if not found:
        raise ValueError(f"{type(module).__name__} has no parameter {kind}")
    with torch.no_grad():
        for parameter in found:
            for head in parameter.chunk(getattr(module, "num_heads", 1)):
                for gate, block in zip(order, head.chunk(len(order)), strict=True):
                    if gate in wanted:
                        init(block)
    return module


def orthogonal_(module: nn.Module, gain: float = 1.0) -> nn.Module:
    """Each gate's recurrent matrix a random orthogonal one (Saxe et al. 2014)."""
    return gates_(module, "weight_hh", lambda block: nn.init.orthogonal_(block, gain))


def forget_bias_(module: nn.Module, value: float = 1.0) -> nn.Module:
    """The whole bias of the gate that keeps the state becomes ``value`` (Gers et al. 2000).

    It is f of an LSTM and z of a GRU, whose ``h' = (1 - z) * n + z * h`` keeps with z. Where a
    gate lets in what the state loses (i of a coupled LSTM, u), its bias becomes ``-value``. Where
    there are two biases, the second becomes 0.
    """
    gate, sign = _keeping(module)
    gates_(module, "bias_ih", lambda block: block.fill_(sign * value), gate)
    return _clear(module, (gate,))


def chrono_(
    module: nn.Module, max_steps: int, generator: torch.Generator | None = None
) -> nn.Module:
    """Biases for memories of up to ``max_steps`` steps (Tallec & Ollivier 2018, *Can recurrent
    neural networks warp time?*).

    The bias of the gate that keeps the state becomes ``log(u)``, u uniform in ``[1, max_steps -
    1]``, so that a unit forgets after some u steps; that of a gate that lets in becomes its
    negative. Second biases become 0.

    Raises:
        ValueError: ``max_steps`` below 3, or a module without biases or gates.
    """
    if max_steps < 3:
        raise ValueError(f"max_steps should be 3 or more, got {max_steps}")
    gate, sign = _keeping(module)
    drawn: list[Tensor] = []

    def keep(block: Tensor) -> None:
        steps = torch.rand(block.shape, dtype=torch.float64, generator=generator)
        drawn.append((1 + steps * (max_steps - 2)).log())
        block.copy_(sign * drawn[-1])

    gates_(module, "bias_ih", keep, gate)
    if gate == "f":  # drawn in the order in which the blocks come again
        gates_(module, "bias_ih", lambda block: block.copy_(-drawn.pop(0)), "i")
        return _clear(module, ("f", "i"))
    return _clear(module, (gate,))


def _keeping(module: nn.Module) -> tuple[str, float]:
    """The gate that decides what the state keeps, and whether it keeps (1) or replaces (-1)."""
    order = _gates_of(module)
    for gate, sign in (("f", 1.0), ("z", 1.0), ("i", -1.0), ("u", -1.0)):
        if gate in order:
            return gate, sign
    raise ValueError(f"{type(module).__name__} has no gate that keeps its state")


def _clear(module: nn.Module, gates: Sequence[str]) -> nn.Module:
    """Second biases, where there are any, become 0."""
    if next(_parameters(module, "bias_hh"), None) is not None:
        gates_(module, "bias_hh", lambda block: block.zero_(), gates)
    return module


def _gates_of(module: nn.Module) -> tuple[str, ...]:
    """The gates in the order in which they are stacked."""
    name = getattr(module, "mode", None)  # torch's layers and this library's
    if name is None:
        cell = getattr(module, "_cell", None)
        name = cell() if callable(cell) else type(module).__name__.removesuffix("Cell")
        if name == "RNN":
            name = "rnn_tanh"
    spec = CELLS.get(str(name).lower())
    if spec is None or not isinstance(module, nn.Module):
        raise ValueError(f"expected a recurrent layer or cell, got {type(module).__name__}")
    return spec.gates


def _parameters(module: nn.Module, kind: str) -> Iterator[Tensor]:
    for name, parameter in module.named_parameters(recurse=False):
        if name == kind or name.startswith(f"{kind}_l"):
            yield parameter
