"""No speed without equality: what a case's providers compute is checked before it is timed.

fastrnn is held to the rule of the tests: against the reference in float64, an error of at most
twice torch's own plus a floor, for outputs, final states and every gradient.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

import fastrnn

from .providers import Call, layer_call
from .workload import Workload

# The peers need not keep that rule, but must be the same function as the reference: gates in
# another order, or a missing bias, are off by more than this, and roundings by far less.
PEER_BOUND = {torch.float32: 1e-4, torch.bfloat16: 0.2}


class CheckFailed(AssertionError):
    """A provider computes something else."""


def _rule() -> Any:
    """``tests/equality.py``, where rule and floors are stated."""
    tests = str(Path(__file__).resolve().parents[1] / "tests")
    if tests not in sys.path:
        sys.path.append(tests)
    return importlib.import_module("equality")


def check(workload: Workload, calls: Mapping[str, Call]) -> dict[str, float]:
    """Call each provider once; return each one's largest error, relative in the Frobenius norm.

    Raises:
        CheckFailed: it says which results are off, and by how much.
    """
    rule = _rule()
    found = {provider: results(workload, call()) for provider, call in calls.items()}
    theirs = found["torch"]
    reference = layer_call(fastrnn, workload.to(torch.float64), backend="reference")
    oracle = results(workload, reference())
    faults, largest = [], {}
    for provider, tensors in found.items():
        if wrong := _wrong_forms(provider, tensors, theirs):
            faults += wrong
            continue
        errors = {name: rule.error([tensor], [oracle[name]]) for name, tensor in tensors.items()}
        largest[provider] = max(norm for norm, _ in errors.values())
        for name, both in errors.items():
            allowed = _bounds(provider, rule, theirs[name], oracle[name])
            faults += [
                f"{provider}: {name}: {norm} {error:.3g}, allowed {bound:.3g}"
                for norm, error, bound in zip(("norm", "largest"), both, allowed, strict=True)
                if not error <= bound
            ]
    if faults:
        raise CheckFailed(
            "\n  ".join([f"{workload.case.name} is not timed; relative errors:", *faults])
        )
    return largest


def _bounds(provider: str, rule: Any, theirs: Tensor, oracle: Tensor) -> tuple[float, float]:
    if provider != "fastrnn":
        return PEER_BOUND[theirs.dtype], PEER_BOUND[theirs.dtype]
    norm, largest = rule.error([theirs], [oracle])
    floor = rule.FLOOR[theirs.dtype]
    return 2 * norm + floor, 2 * largest + floor


def _wrong_forms(provider: str, ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> list[str]:
    """Names, shapes and dtypes that are not torch's."""
    forms = [
        {name: (tuple(t.shape), t.dtype) for name, t in found.items()} for found in (ours, theirs)
    ]
    return [] if forms[0] == forms[1] else [f"{provider}: {forms[0]}, expected {forms[1]}"]


def results(workload: Workload, returned: Any) -> dict[str, Tensor]:
    """What a call returned, by name: output, final states, gradients."""
    found: dict[str, Tensor] = {}
    output, states, *gradients = (None, returned) if workload.case.form == "cell" else returned
    if output is not None:
        found["output"] = output.data if isinstance(output, PackedSequence) else output
    states = (states,) if isinstance(states, Tensor) else states
    found |= {f"{name}_n": state for name, state in zip(("h", "c"), states, strict=False)}
    for grads in gradients:
        names = ("input", *workload.weights)
        found |= {f"d{name}": grad for name, grad in zip(names, grads, strict=True)}
    # Clones: a provider may write into the same arrays in the next call.
    return {name: tensor.detach().clone() for name, tensor in found.items()}
