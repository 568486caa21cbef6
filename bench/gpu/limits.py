"""The least time a step can take, from what the chip was seen to do: a derivation, no measurement.

Products at the rate, and bytes at the bandwidth, that an H200 was measured to reach; an exchange
among programs of 1 us where the weights of a direction do not fit one multiprocessor, and 0.5 us
of latency in the chain from one h to the next where they do. The input product is not counted: it
is the same for everybody.
"""

from __future__ import annotations

from .cases import Case

RATES = {"bfloat16": 790e12, "float16": 790e12, "tf32": 395e12}  # multiplications and additions
BANDWIDTH = 4.3e12  # bytes a second, read and written
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
_ONE_MULTIPROCESSOR = 227 << 10
_EXCHANGE, _CHAIN = 1e-6, 0.5e-6


def of_a_step(case: Case, training: bool) -> float:
    """Seconds a step of one direction of one layer; with the backward, of both ways."""
    gates, width = GATES[case.cell], 4 if case.dtype == "tf32" else 2
    weights = gates * case.hidden**2 * width
    latency = _CHAIN if weights <= _ONE_MULTIPROCESSOR else _EXCHANGE
    product = 2 * case.batch * gates * case.hidden**2 / RATES[case.dtype]
    moved = case.batch * case.hidden * (gates + 1) * width / BANDWIDTH
    # The backward: as much again, and twice the product, once in the chain and once after it.
    return latency + product + moved if not training else 2 * (latency + moved) + 3 * product
