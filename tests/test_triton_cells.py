"""The cells beyond torch's inside the Triton kernels, against the float64 reference."""

import math

import pytest
import torch

pytest.importorskip("triton")
from test_triton import GAPS, served  # noqa: F401

from fastrnn import gpu, reference
from fastrnn import scan as boundary
from fastrnn.cells import CELLS
from fastrnn.options import PLAIN, Options

if not gpu.INTERPRETED:
    pytest.skip("TRITON_INTERPRET is off: a GPU is here", allow_module_level=True)

OTHERS = [cell for cell, spec in CELLS.items() if not (spec.torch_layer or cell in GAPS)]


def draw(spec, hidden, batch, steps, dtype):
    generator = torch.Generator().manual_seed(hidden)
    width = spec.num_gates * hidden

    def normal(*shape, scale=1.0):
        return (torch.randn(shape, generator=generator, dtype=torch.float64) * scale).to(dtype)

    states = [normal(2, batch, hidden) for _ in spec.states]
    if spec.name == "slstm":
        states[2] = states[2].abs() + 0.5  # the normaliser
        states[2][:, 0] = 0  # none yet: a sequence's beginning
    gates_x, weight = normal(steps * batch, 2, width), normal(2, width, hidden, scale=hidden**-0.5)
    params = [normal(2, w * hidden) for w in spec.param_widths]
    return gates_x, weight, normal(2, width), states, params


def results(spec, given, options, backend):
    leaf = [
        [t.detach().clone().requires_grad_() for t in (v if isinstance(v, list) else [v])]
        for v in given
    ]
    (gates_x,), (weight,), (bias,), states, params = leaf
    if backend == "reference":
        out, finals, others = reference.scan(
            spec, gates_x, weight, bias, None, states, None, [False, True], params, options
        )
    else:
        out, finals, others = boundary.scan(
            spec, gates_x, weight.unbind(0), bias.unbind(0), None, states, None, [False, True],
            params=[param.unbind(0) for param in params], options=options, backend=backend,
        )  # fmt: skip
    tensors = [out, *finals, *others]
    generator = torch.Generator().manual_seed(1)
    upstream = [torch.randn(t.shape, generator=generator, dtype=torch.float64) for t in tensors]
    upstream = [u.to(t.dtype) for u, t in zip(upstream, tensors, strict=True)]
    leaves = [t for part in leaf for t in part]
    found = [*tensors, *torch.autograd.grad(tensors, leaves, upstream)]
    return [tensor.detach() for tensor in found]


# The plan gives the form of weights held in many programs no cell with parameters.
CASES = [(c, form) for c in OTHERS for form in ("rows", "stream", "simple")]
CASES += [(c, "slices") for c in OTHERS if not CELLS[c].params]


@pytest.mark.parametrize(("cell", "form"), CASES)
def test_other_cells(cell, form, served):
    spec = CELLS[cell]
    used = served(form)
    dtype = torch.float64 if form == "simple" else torch.float32
    options = PLAIN
    if form != "slices":
        clips = [0.5 if spec.clipped else math.inf, math.inf, math.inf, math.inf]
        options = Options(clips=clips, all_states=True)
    given = draw(spec, 18, 3, 3, dtype)
    exact = [
        [t.double() for t in value] if isinstance(value, list) else value.double()
        for value in given
    ]
    found = results(spec, given, options, "triton")
    expected = results(spec, exact, options, "reference")
    bound = 2e-5 if dtype == torch.float32 else 1e-12
    for index, (ours, right) in enumerate(zip(found, expected, strict=True)):
        error = float((ours.double() - right).norm() / right.norm().clamp(min=1))
        assert error <= bound, f"result {index}: {error}"
    assert set(used) == {"grid" if form == "slices" else form}
