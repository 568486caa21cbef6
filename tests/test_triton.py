"""The Triton kernels against torch by the rule of `equality`, run by Triton's interpreter.

Numbers and masks are proven here, not speed, nor what a compiler makes of it (test_triton_aot).
"""

import functools
import itertools
import math
from dataclasses import replace

import pytest
import torch

triton = pytest.importorskip("triton")
import triton.language as tl
from equality import DTYPES, SEED, Case, assert_equal, call_fastrnn, draw, run
from test_equality import case_of, covering, nan_filled  # noqa: F401

from fastrnn import gpu, use_backend
from fastrnn import scan as boundary
from fastrnn.cells import CELLS
from fastrnn.gpu import call, forms, grid, plan
from fastrnn.gpu.precision import float32_product
from fastrnn.kernels import functions, tiles
from fastrnn.kernels.cells import NAMES, lstm
from fastrnn.options import PLAIN, Options

if not gpu.INTERPRETED:
    pytest.skip("TRITON_INTERPRET is off: a GPU is here", allow_module_level=True)

call_triton = functools.partial(call_fastrnn, backend="triton")

# Those of torch; the others are tested by `test_triton_cells`.
KERNELS = [cell for cell, spec in CELLS.items() if spec.torch_layer]


def test_every_cell_has_a_kernel():
    assert set(CELLS) == NAMES


def test_a_cell_without_a_kernel_is_refused():
    spec = replace(CELLS["lstm"], name="unheard_of")
    reason = gpu.why_not(spec, torch.device("cpu"), torch.float32)
    assert reason == "it has no kernel for the cell 'unheard_of'"


# How a call is served: by the plan, or by another than the interpreter would ever be given. There
# programs run one after the other, so the form of many programs has one for each group of
# sequences, or several ("slices") that are launched step by step.
FORMS = {
    "simple": lambda p: plan.Plan("simple", "asked for"),
    # Options cost registers, for which the plan may prefer another form.
    "rows": lambda p: plan.choose(replace(p, asked=0), plan.H200),
    "grid": lambda p: plan.Plan("grid", "asked for", 16, max(16, plan.power_of_2(p.H)), 32, 4),
    "slices": lambda p: plan.Plan(
        "grid", "asked for", 16, 16, 32, 4, held=True, split=2, stepwise=True
    ),
    # One program that takes all tiles in turn.
    "stream": lambda p: plan.Plan(
        "stream", "asked for", 16, 16, 32, 4, programs=1, block_p=16, stages=2
    ),
}


@pytest.fixture
def served(monkeypatch):
    """``served(form)`` makes that form serve; returns the forms that did."""

    def force(form):
        used = []
        made = FORMS[form]

        def forced(problem, device, backward=False):
            used.append(made(problem).form)
            return made(problem)

        monkeypatch.setattr(forms, "choose", forced)
        return used

    return force


# --- the rule -------------------------------------------------------------------------------

# Around the tiles: 16 sequences and a power of two of units, 16 at least.
LEVELS = {
    "kernel": list(itertools.product(KERNELS, DTYPES)),
    "hidden": [5, 16, 17],
    "batch": [1, 5],
    "steps": [1, 4],
    "layers": [1, 1, 1, 2],
    "bidirectional": [False, True],
    "projection": [0, 0, 0, 0, 4],  # mostly none
    "bias": [True, True, False],
    "form": ["dense", "packed"],
    "hx": [True, True, False],
}


def possible(case):
    if case.projection and (CELLS[case.cell].reads_h or case.projection >= case.hidden):
        return False
    # relu's kink, for which many draws would be needed; the interpreter is slow
    return case.cell != "rnn_relu" or case.dtype.itemsize >= 4


def form_of(case, index):
    if case.dtype == torch.float64:
        return "simple"
    if case.projection:
        return ("rows", "stream", "simple")[index % 3]
    return ("rows", "grid", "slices", "stream", "simple")[index % 5]


CASES = [
    (form_of(case_of(levels), i), case_of(levels))
    for i, levels in enumerate(covering(LEVELS, possible))
]


@pytest.mark.parametrize(("form", "case"), CASES, ids=str)
def test_kernel_is_as_near_to_the_oracle_as_torch(form, case, served):
    used = served(form)
    assert_equal(case, call_triton)
    assert set(used) == {"grid" if form == "slices" else form}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("cell", KERNELS)
def test_several_blocks(cell, form, served):
    """More units than a block has, and more than one, sequences that end early."""
    served(form)
    assert_equal(Case(cell, torch.float32, 35, batch=18, steps=3, form="packed"), call_triton)


# --- what the rule does not see -------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_everything_is_written(cell, form, served, nan_filled):
    served(form)
    case = Case(cell, torch.bfloat16, 5, batch=3, steps=3, bidirectional=True, form="packed")
    run(call_triton, case, draw(case, SEED))
    assert len(nan_filled) >= 2 + 2
    assert not any(tensor.isnan().any() for tensor in nan_filled)


@pytest.mark.parametrize("form", FORMS)
def test_inference_returns_the_bits_of_training(form, served):
    served(form)
    case = Case("lstm", torch.float32, 5, form="packed")
    arguments = draw(case, SEED)
    training = run(call_triton, case, arguments)
    with torch.no_grad():
        results = call_triton(case, arguments)
    for result, expected in zip(results, training.values(), strict=False):
        assert torch.equal(result, expected)


@pytest.mark.parametrize("form", FORMS)
def test_a_sequence_gets_the_same_bits_whatever_its_neighbours(form, served):
    served(form)
    case = Case("gru", torch.float32, 5, batch=3)
    arguments = draw(case, SEED)
    expected = run(call_triton, case, arguments)
    spoilt = replace(
        arguments, input=arguments.input.clone(), states=(arguments.states[0].clone(),)
    )
    spoilt.input[:, 1] = torch.nan
    spoilt.states[0][:, 2] = torch.inf
    with torch.no_grad():
        output, final = call_triton(case, spoilt)
    assert torch.equal(output[:, 0], expected["output"][:, 0])
    assert torch.equal(final[:, 0], expected["h_n"][:, 0])
    assert output[:, 1].isnan().all()


def test_it_stands_beside_the_cpu_kernels(served):
    """The CPU's own kernels serve unless the interpreter is asked for, and the backward stays."""
    used = served("simple")
    case = Case("lstm", torch.float32, 5)
    run(call_fastrnn, case, draw(case, SEED))
    call_fastrnn(case, draw(case, SEED), None)
    assert not used
    with use_backend("triton"):
        run(functools.partial(call_fastrnn, backend=None), case, draw(case, SEED))
    assert len(used) == 2


@pytest.mark.parametrize(
    ("cell", "form"), [*(("rnn_tanh", form) for form in FORMS), ("indrnn_tanh", "rows")]
)
def test_offsets_beyond_32_bits(cell, form, served, monkeypatch):
    """Rows that begin past the 2^31st number, in memory of which no more than they is touched."""
    spec, hidden, sizes = CELLS[cell], 16, torch.tensor([2, 1])
    served(form)
    generator = torch.Generator().manual_seed(SEED)

    def normal(*shape):
        return torch.randn(shape, generator=generator).to(torch.bfloat16)

    weight = normal(1, hidden, hidden) if spec.recurrent else None
    params = [normal(1, hidden)] if spec.params else []
    states, gates, grad_out = [normal(1, 2, hidden)], normal(3, 1, hidden), normal(3, 1, hidden)

    def run_at(base):
        monkeypatch.setattr(
            call, "_starts", lambda sizes, _: torch.tensor([0, *sizes.cumsum(0)]) + base
        )

        def placed(rows):
            whole = torch.empty(base + 3, 1, hidden, dtype=torch.bfloat16)
            whole[base:] = rows
            return whole

        rest = (None, states, sizes, [False], params, PLAIN)
        out, finals, _, saved = gpu.scan(spec, placed(gates), weight, None, *rest, True)
        dgates, *others = gpu.scan_backward(
            spec, out, weight, *rest, out, saved, placed(grad_out), finals, ()
        )
        return [out[base:], *finals, dgates[base:], *others]

    far, near = run_at(2**31 // hidden + 3), run_at(0)
    assert all(torch.equal(a, b) for a, b in zip(far, near, strict=True))


# --- precision ------------------------------------------------------------------------------


@pytest.fixture
def switches():
    cudnn, products = torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    yield
    torch.backends.cudnn.allow_tf32 = cudnn
    torch.set_float32_matmul_precision(products)


def test_tf32_by_permission(switches):
    assert float32_product() == "tf32x3"
    torch.set_float32_matmul_precision("high")
    assert float32_product() == "tf32"
    torch.backends.cudnn.allow_tf32 = False
    assert float32_product() == "ieee"
    torch.set_float32_matmul_precision("highest")
    assert float32_product() == "ieee"


@triton.jit
def _multiply(a_ptr, b_ptr, out_ptr, K: tl.constexpr):
    i, k = tl.arange(0, 16), tl.arange(0, K)
    a = tl.load(a_ptr + i[:, None] * K + k[None, :])
    b = tl.load(b_ptr + k[:, None] * 16 + i[None, :])
    tl.store(out_ptr + i[:, None] * 16 + i[None, :], tiles.dot(a, b, "tf32x3"))


def split_product(a, b):
    found = torch.empty(16, 16)
    _multiply[(1,)](a, b, found, K=a.shape[1])
    return found


def test_a_split_product_is_as_accurate_as_float32():
    generator = torch.Generator().manual_seed(SEED)
    a, b = (torch.randn(shape, generator=generator) for shape in ((16, 256), (256, 16)))
    exact = a.double() @ b.double()
    found, torchs = ((each - exact).norm() / exact.norm() for each in (split_product(a, b), a @ b))
    assert 0 < found <= 2 * torchs
    large = a.view(torch.int32).bitwise_and(-0x2000).view(torch.float32)
    assert (large @ b - exact).norm() / exact.norm() > 100 * found  # one part alone


def test_a_split_product_has_the_infinities_of_a_plain_one():
    """inf - inf, which splitting makes, is no number's part."""
    a, b = torch.ones(16, 16), torch.full((16, 16), 0.5)
    a[0, 3], a[1, 4], a[2, 5] = torch.inf, -torch.inf, torch.nan
    a[3, 0], a[3, 1] = torch.inf, -torch.inf
    a[4], a[5, 0], a[6] = 1e-40, 3e38, 3.0000001
    b[3, 7], b[0, 9], b[2, 8] = 0.0, torch.inf, 1e-38
    plain = a @ b
    found = split_product(a, b)
    assert plain.isnan().any() and plain.isinf().any()
    # Of a denormal number the small part is lost: under 2^-137 of each of 16, times a half.
    torch.testing.assert_close(found, plain, rtol=1e-6, atol=2.0**-134, equal_nan=True)


# --- the bound of a gate --------------------------------------------------------------------


@pytest.mark.parametrize("form", ["rows", "simple"])
@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn_tanh", "slstm"])
def test_the_last_number_below_a_bound_has_its_gradient(cell, form, served):
    served(form)
    bound = torch.tensor(0.8)
    below = torch.nextafter(bound, torch.tensor(0.0))
    around = torch.stack([bound, below, -bound, -below, torch.nextafter(bound, torch.tensor(1.0))])
    G, units = CELLS[cell].num_gates, len(around)
    gates = around.repeat(G).view(1, 1, -1).requires_grad_()
    states = [torch.full((1, 1, units), 0.5) for _ in CELLS[cell].states]
    bias = [torch.zeros(G * units)] if CELLS[cell].apart else None
    options = Options(clips=[math.inf, math.inf, float(bound), math.inf])
    _, finals, _ = boundary.scan(
        CELLS[cell], gates, [torch.zeros(G * units, units)], bias, None, states,
        options=options, backend="triton",
    )  # fmt: skip
    (found,) = torch.autograd.grad(sum(final.sum() for final in finals), gates)
    passes = torch.tensor([False, True, False, True, False]).repeat(G)
    if cell == "gru":
        passes[:units] = False  # there is no product that r could let through
    assert torch.equal(found.flatten() != 0, passes)


# --- the barrier ----------------------------------------------------------------------------


def test_a_wait_in_vain_is_reported_once(served, monkeypatch):
    """Two programs that wait for each other, and the interpreter runs one at a time."""
    served("grid")
    monkeypatch.setitem(FORMS, "grid", lambda p: plan.Plan("grid", "", 16, 16, 32, 4))
    monkeypatch.setattr(grid, "PATIENCE", 3)
    case = Case("rnn_tanh", torch.float32, 17, batch=1, steps=3)
    arguments = draw(case, SEED)
    served("grid")
    with torch.no_grad():
        call_triton(case, arguments)
        with pytest.raises(RuntimeError, match="gave up waiting"):
            call_triton(case, arguments)
        served("simple")
        call_triton(case, arguments)


# --- the gate functions ---------------------------------------------------------------------


@triton.jit
def _apply(x_ptr, out_ptr, FUNCTION: tl.constexpr, BLOCK: tl.constexpr):
    offs = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out_ptr + offs, FUNCTION(tl.load(x_ptr + offs)))


def ulps(name, x):
    """The largest error in units in the last place of float32."""
    found = torch.empty_like(x)
    _apply[(1,)](x, found, getattr(functions, name), BLOCK=x.numel())
    expected = getattr(torch, name)(x.double())
    size = expected.float().abs()
    spacing = torch.nextafter(size, torch.tensor(torch.inf)).double() - size.double()
    return float(((found.double() - expected).abs() / spacing).max())


def test_gate_functions_in_float32():
    x = torch.cat([torch.linspace(-15, 15, 1 << 14), torch.logspace(-30, 1, 1 << 13)])
    x = torch.cat([x, -torch.logspace(-30, 1, 1 << 13)])
    assert ulps("tanh", x) <= 4
    assert ulps("sigmoid", x) <= 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["tanh", "sigmoid"])
def test_gate_functions_at_the_ends(name, dtype):
    x = torch.tensor([0, -0.0, 1000, -1000, torch.inf, -torch.inf, torch.nan, 1e-30], dtype=dtype)
    found = torch.empty_like(x)
    _apply[(1,)](x, found, getattr(functions, name), BLOCK=8)
    torch.testing.assert_close(found, getattr(torch, name)(x), equal_nan=True)


def test_tanh_in_float64():
    x = torch.cat([torch.linspace(-1, 1, 1 << 13, dtype=torch.float64)] * 2)
    found = torch.empty_like(x)
    _apply[(1,)](x, found, functions.tanh, BLOCK=x.numel())
    torch.testing.assert_close(found, torch.tanh(x), rtol=4e-15, atol=0)


# --- that the tests can fail ----------------------------------------------------------------


@triton.jit
def _swapped(x, a, h_prev, s, params, CLIPS: tl.constexpr, H: tl.constexpr):
    return lstm.forward((x[1], x[0], x[2], x[3]), a, h_prev, s, params, CLIPS, H)


@triton.jit
def _dropped(saved, h, h_prev, s_prev, dh, ds, params, CLIPS: tl.constexpr, H: tl.constexpr):
    dx, da, ds_new, dh_prev, _ = lstm.backward(saved, h, h_prev, s_prev, dh, ds, params, CLIPS, H)
    return dx, da, (ds_new[0] * 1.001,), dh_prev, ()


@pytest.mark.parametrize("faulty", [(_swapped, lstm.backward), (lstm.forward, _dropped)])
@pytest.mark.parametrize("form", FORMS)
def test_the_rule_sees_a_fault(form, faulty, served, monkeypatch):
    served(form)
    monkeypatch.setattr(call, "functions", lambda name: faulty)
    with pytest.raises(AssertionError, match="relative errors"):
        assert_equal(Case("lstm", torch.float32, 6), call_triton)
