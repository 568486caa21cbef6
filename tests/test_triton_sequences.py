"""Lengths, resets, zoneout and the other options inside the Triton kernels, by the interpreter."""

import itertools

import pytest
import torch

pytest.importorskip("triton")
from sequences import FEATURES, by_hand, draw_scan, results
from test_equality import nan_filled  # noqa: F401
from test_sequences import possible
from test_triton import KERNELS, served  # noqa: F401

from fastrnn import gpu
from fastrnn import scan as boundary
from fastrnn.cells import CELLS

if not gpu.INTERPRETED:
    pytest.skip("TRITON_INTERPRET is off: a GPU is here", allow_module_level=True)

CPU = torch.device("cpu")


def run_triton(scan):
    def unbound(tensor):
        return None if tensor is None else tensor.unbind(0)

    return boundary.scan(
        CELLS[scan.cell], scan.gates_x, unbound(scan.weight_hh), unbound(scan.bias_hh),
        unbound(scan.weight_hr), scan.states, scan.batch_sizes, scan.reverse,
        options=scan.options, backend="triton",
    )  # fmt: skip


TOGETHER = tuple(f for f in FEATURES if f not in ("reset zero", "reset initial", "zoneout_p"))
SETS = [(f,) for f in FEATURES] + [TOGETHER]
FORMS = ("rows", "stream", "simple")
# Everything of LSTM, whose states are two; of the others what could go wrong in them alone.
CASES = [("lstm", *case) for case in itertools.product(SETS, FORMS)]
CASES += [("gru", *case) for case in itertools.product([TOGETHER, ("zoneout_p",)], FORMS)]
CASES += [("rnn_tanh", *case) for case in itertools.product([("zoneout_p", "gate_clip")], FORMS)]
CASES += [("rnn_relu", *case) for case in itertools.product([("gate_clip",)], FORMS)]


def agree(scan, run):
    found, expected = results(run, scan), results(by_hand, scan.to(torch.float64))
    floor = 1e-5 if scan.gates_x.dtype == torch.float32 else 1e-12
    for name, tensor in expected.items():
        error = (found[name].double() - tensor).abs().max() if tensor.numel() else 0
        assert error <= floor * max(1.0, float(tensor.abs().max())), f"{name}: {error}"


@pytest.mark.parametrize(("cell", "features", "form"), CASES, ids=str)
def test_kernels_do_what_is_said(cell, features, form, served, nan_filled):
    """Outputs and every gradient of each sequence, against a loop over it alone."""
    used = served(form)
    index = CASES.index((cell, features, form))
    # Each case another kind; the form is the number's remainder by 3.
    projection = 0 if CELLS[cell].reads_h else 2 * (index % 2 or "proj_clip" in features)
    packed = bool(index // 3 % 2) and "lengths" not in features
    reverse = ([True, False], [False], [True])[(index // 3 + index) % 3]
    assert possible(cell, features, projection, packed)
    dtype = torch.float64 if form == "simple" else torch.float32
    scan = draw_scan(
        cell, features, projection=projection, packed=packed, reverse=reverse,
        dtype=dtype, seed=index,
    )  # fmt: skip
    agree(scan, run_triton)
    assert set(used) == {form}
