"""The cells beyond torch's inside the Triton kernels, against the float64 reference."""

import math
from dataclasses import replace

import pytest
import torch

pytest.importorskip("triton")
from test_triton import served  # noqa: F401

from fastrnn import gpu, reference
from fastrnn import scan as boundary
from fastrnn.cells import CELLS
from fastrnn.options import PLAIN, Options

if not gpu.INTERPRETED:
    pytest.skip("TRITON_INTERPRET is off: a GPU is here", allow_module_level=True)

OTHERS = [cell for cell, spec in CELLS.items() if not spec.torch_layer]


def draw(spec, hidden, batch, steps, dtype):
    generator = torch.Generator().manual_seed(hidden)
    width = spec.num_gates * hidden

    def normal(*shape, scale=1.0):
        return (torch.randn(shape, generator=generator, dtype=torch.float64) * scale).to(dtype)

    states = [normal(2, batch, hidden) for _ in spec.states]
    if spec.name == "slstm":
        states[2] = states[2].abs() + 0.5  # the normaliser
        states[2][:, 0] = 0  # none yet: a sequence's beginning
    gates_x, weight = normal(steps * batch, 2, width), None
    if spec.recurrent:
        weight = normal(2, width, hidden, scale=hidden**-0.5)
    params = [normal(2, w * hidden) for w in spec.param_widths]
    return gates_x, weight, normal(2, width), states, params


def results(spec, given, options, backend):
    leaf = [
        [
            None if t is None else t.detach().clone().requires_grad_()
            for t in (v if isinstance(v, list) else [v])
        ]
        for v in given
    ]
    (gates_x,), (weight,), (bias,), states, params = leaf
    if backend == "reference":
        out, finals, others = reference.scan(
            spec, gates_x, weight, bias, None, states, None, [False, True], params, options
        )
    else:
        out, finals, others = boundary.scan(
            spec, gates_x, None if weight is None else weight.unbind(0), bias.unbind(0), None,
            states, None, [False, True], params=[param.unbind(0) for param in params],
            options=options, backend=backend,
        )  # fmt: skip
    tensors = [out, *finals, *others]
    generator = torch.Generator().manual_seed(1)
    upstream = [torch.randn(t.shape, generator=generator, dtype=torch.float64) for t in tensors]
    upstream = [u.to(t.dtype) for u, t in zip(upstream, tensors, strict=True)]
    leaves = [t for part in leaf for t in part if t is not None]
    found = [*tensors, *torch.autograd.grad(tensors, leaves, upstream)]
    return [tensor.detach() for tensor in found]


def forms_of(spec):
    """Those that the plan can choose for a cell."""
    if not spec.recurrent:
        return ("rows",)
    if spec.whole_row or spec.second:
        return ("rows", "simple")
    # Weights held in many programs know no parameters.
    return ("rows", "stream", "simple") if spec.params else ("rows", "stream", "simple", "slices")


CASES = [(cell, form) for cell in OTHERS for form in forms_of(CELLS[cell])]


def everything(spec, hidden, batch, steps, dtype):
    """All that a scan can be asked for, together."""
    generator = torch.Generator().manual_seed(7)

    def coin(*shape):
        return torch.rand(shape, generator=generator) < 0.3

    rows = steps * batch
    given = [torch.rand(rows, 2, hidden, generator=generator, dtype=torch.float64).to(dtype)]
    dropout = coin(2, batch, hidden).to(dtype) * 1.5 if spec.recurrent else None
    return Options(
        lengths=torch.tensor([steps, 0, steps - 1, *[steps] * batch][:batch]),
        reset=coin(rows, 2),
        reset_to="given",
        reset_states=given * len(spec.states),
        dropout=dropout,
        zoneout=[coin(rows, 2, hidden) for _ in spec.states],
        clips=[0.5 if spec.clipped else math.inf, math.inf, 0.8, 0.3],
        all_states=True,
    )


@pytest.mark.parametrize(("cell", "form"), CASES)
def test_other_cells(cell, form, served):
    """Plain, and with all options together."""
    spec, used = CELLS[cell], served(form)
    dtype = torch.float64 if form == "simple" else torch.float32
    bound = 2e-5 if dtype == torch.float32 else 1e-12
    for asked in (False, True) if form != "slices" else (False,):
        options = everything(spec, 18, 3, 3, dtype) if asked else PLAIN
        given = draw(spec, 18, 3, 3, dtype)
        exact = [
            [t.double() for t in value] if isinstance(value, list) else value if value is None
            else value.double() for value in given
        ]  # fmt: skip
        found = results(spec, given, options, "triton")
        wide = {f: [t.double() for t in getattr(options, f)] for f in ("reset_states",)}
        if options.dropout is not None:
            wide["dropout"] = options.dropout.double()
        expected = results(spec, exact, replace(options, **wide), "reference")
        for index, (ours, right) in enumerate(zip(found, expected, strict=True)):
            error = float((ours.double() - right).norm() / right.norm().clamp(min=1))
            assert error <= bound, f"result {index}, asked {asked}: {error}"
    assert set(used) == {"grid" if form == "slices" else form}
