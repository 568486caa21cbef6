"""The Triton kernels against torch by the rule of `equality`, run by Triton's interpreter.

Numbers and masks are proven here, not speed, nor what a compiler makes of it (test_triton_aot).
"""

import functools
import itertools

import pytest
import torch

triton = pytest.importorskip("triton")

from equality import DTYPES, assert_equal, call_fastrnn  # noqa: E402
from test_equality import covering  # noqa: E402

from fastrnn import gpu  # noqa: E402
from fastrnn.cells import CELLS  # noqa: E402
from fastrnn.gpu import forms, plan  # noqa: E402
from fastrnn.kernels.cells import NAMES  # noqa: E402

if not gpu.INTERPRETED:
    pytest.skip("TRITON_INTERPRET is off: a GPU is here", allow_module_level=True)

call_triton = functools.partial(call_fastrnn, backend="triton")

# Cells that this backend has no kernel for, and why.
GAPS = {}
KERNELS = [cell for cell in CELLS if cell not in GAPS]
FORMS = ("rows", "simple")


def test_cells_without_a_kernel_are_listed():
    assert set(KERNELS) == NAMES


@pytest.fixture
def served(monkeypatch):
    """``served(form)`` makes that form serve whatever it can; the forms that did serve."""
    used = []
    choose = plan.choose

    def force(form):
        def forced(problem, device, backward=False):
            chosen = choose(problem, device, backward)
            if form == "simple":
                chosen = plan.Plan("simple", "asked for")
            used.append(chosen.form)
            return chosen

        monkeypatch.setattr(forms.plan, "choose", forced)
        return used

    return force


# --- the rule -------------------------------------------------------------------------------

# Around the tiles: 16 sequences and a power of two of units, 16 at least.
LEVELS = {
    "kernel": list(itertools.product(KERNELS, DTYPES)),
    "hidden": [2, 5, 16, 17],
    "batch": [1, 3, 17],
    "steps": [1, 2, 5],
    "layers": [1, 1, 2],
    "bidirectional": [False, True],
    "projection": [0, 0, 0, 3, 16],  # mostly none
    "bias": [True, True, False],
    "form": ["dense", "packed"],
    "hx": [True, True, False],
}


def possible(case):
    if case.projection and (CELLS[case.cell].reads_h or case.projection >= case.hidden):
        return False
    # relu's kink, for which many draws would be needed; the interpreter is slow
    return case.cell != "rnn_relu" or case.dtype.itemsize >= 4


CASES = covering(LEVELS, possible)


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("form", FORMS)
def test_kernel_is_as_near_to_the_oracle_as_torch(case, form, served):
    if form != "simple" and case.dtype == torch.float64:
        pytest.skip("float64 is the simple form's")
    used = served(form)
    assert_equal(case, call_triton)
    assert set(used) == {form}
