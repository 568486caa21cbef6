"""A driven system's model: a state that inputs move and outputs show, given a context."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..modules import GRU

__all__ = ["StateSpace"]

CONDITIONING = ("none", "initial", "step", "both")
RECURRENCE = ("state", "output", "both")


class StateSpace(nn.Module):
    r"""Outputs of a system from its inputs.

    .. math::
        x_t = f(x_{t-1}, u_t) \qquad y_t = g(x_t)

    with a GRU as f and a linear g. What is constant over a run, a context z, comes in as the first
    state, :math:`x_0 = \tanh(W_z z)`, beside the input of each step, or both. The recurrence runs
    through the state, or through the output, :math:`x_t = \tanh(W [u_t; y_{t-1}] + b)`, which has
    to hold all that is to be remembered (Goodfellow et al., *Deep learning*, 2016, section 10.2),
    or through both. Where it runs through the output and the true outputs are told (teacher
    forcing), all those steps are one call.

    Args:
        inputs, outputs: widths U and Y.
        hidden: width of the state.
        context: width Z of the context.
        conditioning: ``"none"``, ``"initial"``, ``"step"`` or ``"both"``.
        recurrence: ``"state"``, ``"output"`` or ``"both"``.

    Raises:
        ValueError: an unknown name; a first state where none is carried.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        hidden: int,
        *,
        context: int = 0,
        conditioning: str = "none",
        recurrence: str = "state",
    ) -> None:
        super().__init__()
        if conditioning not in CONDITIONING:
            raise ValueError(
                f"conditioning should be one of {', '.join(CONDITIONING)}, got: {conditioning!r}"
            )
        if recurrence not in RECURRENCE:
            raise ValueError(
                f"recurrence should be one of {', '.join(RECURRENCE)}, got: {recurrence!r}"
            )
        self.at_start = conditioning in ("initial", "both")
        self.at_steps = conditioning in ("step", "both")
        self.feeds_back = recurrence != "state"
        if self.at_start and recurrence == "output":
            raise ValueError(f"recurrence 'output' has no first state, got: {conditioning!r}")
        width = inputs + (outputs if self.feeds_back else 0) + (context if self.at_steps else 0)
        self.outputs = outputs
        self.first = nn.Linear(context, hidden) if self.at_start else None
        self.recurrent = GRU(width, hidden, batch_first=True) if recurrence != "output" else None
        self.static = nn.Linear(width, hidden) if recurrence == "output" else None
        self.show = nn.Linear(hidden, outputs)

    def forward(
        self, inputs: Tensor, context: Tensor | None = None, truth: Tensor | None = None
    ) -> Tensor:
        """The outputs of all steps, ``[B, T, Y]``.

        Args:
            inputs: ``[B, T, U]``.
            context: ``[B, Z]``, with conditioning.
            truth: ``[B, K, Y]``: the true outputs of the first K steps, read one step late by a
                recurrence through outputs: K = T is teacher forcing, 0 or None free running. The
                output before the first is 0.
        """
        if self.at_steps and context is not None:
            beside = context.unsqueeze(1).expand(-1, inputs.shape[1], -1)
            inputs = torch.cat([inputs, beside], -1)
        hx = None
        if self.first is not None and context is not None:
            hx = torch.tanh(self.first(context)).unsqueeze(0)
        if not self.feeds_back:
            return self._run(inputs, hx)[0]
        steps = inputs.shape[1]
        before = inputs.new_zeros(inputs.shape[0], 1, self.outputs)
        found = []
        told = 0 if truth is None else min(truth.shape[1], steps)
        if truth is not None and told:
            previous = torch.cat([before, truth[:, : told - 1]], 1)
            shown, hx = self._run(torch.cat([inputs[:, :told], previous], -1), hx)
            found.append(shown)
            before = truth[:, told - 1 : told]
        for step in range(told, steps):
            before, hx = self._run(torch.cat([inputs[:, step : step + 1], before], -1), hx)
            found.append(before)
        return torch.cat(found, 1)

    def _run(self, given: Tensor, hx: Tensor | None) -> tuple[Tensor, Tensor | None]:
        if self.recurrent is not None:
            states, hx = self.recurrent(given, hx)
            return self.show(states), hx
        assert self.static is not None
        return self.show(torch.tanh(self.static(given))), None
