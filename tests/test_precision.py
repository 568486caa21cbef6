"""Products of float32 at medium precision, and the tiles of AMX in their plain code.

What is split into more terms: `test_splitting.py`.

What rounds its operands is held against the reference with rounded operands, by the rule of
`equality`: torch's own layers round nothing at any setting, on a processor without AMX.
"""

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from equality import (
    FLOOR,
    SEED,
    Case,
    assert_equal,
    assert_inference_equal,
    call_fastrnn,
    call_reference,
    draw,
    error,
    has_isa,
    infer,
    run,
    threads,
    use_isa,
)
from terms import InTerms, narrow

import fastrnn
from fastrnn import _C, cpp, precision
from fastrnn.cells import CELLS

ISAS = [isa for isa in ("avx512bf16", "amx", "amx_emulated") if has_isa(isa)]
pytestmark = pytest.mark.skipif(not ISAS, reason="neither pairs of bfloat16 nor AVX-512 here")


@pytest.fixture(params=ISAS)
def isa(request):
    with use_isa(request.param):
        yield request.param


@pytest.fixture
def medium():
    with fastrnn.use_precision("medium"):
        yield


# --- the products by themselves: exact but for float32's rounding of sums ----------------------


def in_nan(rows, columns):
    """Normal numbers amid others that no product may read."""
    around = torch.full((rows + 2, columns + 3), float("nan"))
    around[1:-1, 1:-2] = torch.randn(rows, columns)
    return around[1:-1, 1:-2]


def close(found, expected, plain):
    ours, theirs = error([found], [expected]), error([plain], [expected])
    for our, their in zip(ours, theirs, strict=True):
        assert our <= 2 * their + FLOOR[torch.float32]


SIZES = [(1, 1, 1), (3, 16, 31), (16, 17, 32), (17, 40, 33), (48, 70, 95), (300, 33, 2)]


@pytest.mark.parametrize(("rows", "width", "depth"), SIZES)
def test_linear(rows, width, depth, isa, medium):
    torch.manual_seed(SEED)
    x, weight, bias = in_nan(rows, depth), in_nan(width, depth), torch.randn(width)
    found = cpp.linear(x, weight, bias)
    a, b = narrow(x), narrow(weight)
    close(found, a.double() @ b.double().t() + bias.double(), a @ b.t() + bias)
    transposed = cpp.linear(x, weight.t().contiguous().t(), bias)
    assert torch.equal(found, transposed)


@pytest.mark.parametrize(("rows", "width", "depth"), [*SIZES, (257, 130, 18), (600, 16, 16)])
def test_outer(rows, width, depth, isa, medium):
    torch.manual_seed(SEED)
    a, b = in_nan(rows, width), in_nan(rows, depth)
    found, total = cpp.gradient_of_rows(a, b)
    x, y = narrow(a), narrow(b)
    close(found, x.double().t() @ y.double(), x.t() @ y)
    close(total, a.double().sum(0), a.sum(0))  # of what was not rounded


def test_a_row_has_the_same_bits_wherever_it_is(isa, medium):
    torch.manual_seed(SEED)
    x, weight = torch.randn(75, 70), torch.randn(50, 70)
    whole = cpp.linear(x, weight, None)
    for first, last in ((0, 1), (3, 20), (40, 75)):
        assert torch.equal(cpp.linear(x[first:last], weight, None), whole[first:last])


SPECIAL = {
    "nan": [float("nan")],
    "inf": [float("inf"), -float("inf")],
    "huge": [3.4e38, -1e38],  # the first is past bfloat16's largest, and rounds to infinity
    "denormal": [1e-40, -1e-45],
    "tiny": [1.2e-38, -2e-38],
}


@pytest.mark.parametrize("kind", SPECIAL)
def test_values_of_all_kinds(kind, isa, medium):
    torch.manual_seed(SEED)
    x, weight = torch.randn(20, 37), torch.randn(21, 37)
    for i, value in enumerate(SPECIAL[kind]):
        x[3 + 11 * i, 36 - 5 * i] = value
    found = cpp.linear(x, weight, None)
    a, b = narrow(x), narrow(weight)
    a = torch.where(a.abs() < torch.finfo(torch.float32).tiny, 0, a)  # denormals count as zero
    expected = a.double() @ b.double().t()
    plain = a @ b.t()
    finite = plain.isfinite()
    assert torch.equal(found.isfinite(), finite)
    assert torch.equal(found[~finite].nan_to_num(7), plain[~finite].nan_to_num(7))
    # Each row by itself: a huge one would hide what became of the others.
    for row in range(20):
        if finite[row].all():
            close(found[row], expected[row], plain[row])


# The instruction's own order of roundings: of a tile's 16 pairs the even factors' products are
# summed, and the odd ones', and both then added to what was there.
@pytest.mark.parametrize("depth", [32, 75, 160])
def test_tiles_round_as_the_instruction_does(depth, medium):
    if "amx_emulated" not in ISAS:
        pytest.skip("needs AVX-512")
    generator = np.random.default_rng(SEED)
    shape = (19, 34)
    x = narrow(torch.from_numpy(generator.normal(size=(shape[0], depth))).float())
    weight = narrow(torch.from_numpy(generator.normal(size=(shape[1], depth))).float())
    with use_isa("amx_emulated"):
        found = cpp.linear(x, weight, None)
    pad = -depth % 32
    a, b = (np.pad(t.numpy(), ((0, 0), (0, pad))) for t in (x, weight))
    sums = np.zeros(shape, np.float32)
    for first in range(0, depth, 32):
        halves = []
        for half in (0, 1):
            part = np.zeros(shape, np.float32)
            for k in range(first + half, first + 32, 2):
                part += a[:, k : k + 1] * b[:, k]  # exact: a bfloat16 has eight bits
            halves.append(part)
        sums += halves[0] + halves[1]
    assert np.array_equal(found.numpy(), sums)


# --- layers -------------------------------------------------------------------------------------


def rounded_reference(case, arguments):
    with InTerms(1):
        return call_reference(case, arguments)


LAYERS = [
    Case("lstm", torch.float32, 33, batch=17, steps=32, features=21),
    Case("lstm", torch.float32, 40, batch=40, steps=14, features=7, projection=19),
    Case("gru", torch.float32, 50, batch=9, steps=60, features=34, bidirectional=True, layers=2),
    Case("rnn_tanh", torch.float32, 17, batch=70, steps=8, features=32),
    Case("coupled_lstm", torch.float32, 31, batch=33, steps=16, features=16),
    Case("gru", torch.float32, 24, batch=60, steps=20, features=5, form="packed"),
]


@pytest.mark.parametrize("case", LAYERS, ids=str)
def test_layers(case, isa, medium):
    assert case.form == "packed" or case.batch * case.steps >= 512  # all products are ours
    arguments = draw(case, SEED)
    with threads(1):
        oracle = run(call_reference, case, arguments.to(torch.float64))
        theirs = run(rounded_reference, case, arguments)
    found = run(call_fastrnn, case, arguments)
    with fastrnn.use_precision("highest"):
        exact = run(call_fastrnn, case, arguments)
    faults = []
    for name, expected in oracle.items():
        bounds = error([theirs[name]], [expected])
        for our, their in zip(error([found[name]], [expected]), bounds, strict=True):
            if not our <= 2 * their + FLOOR[torch.float32]:
                faults.append(f"{name}: {our:.3g}, reference with rounded operands {their:.3g}")
        # Rounded it was: the exact products are hundreds of times as near.
        if error([found[name]], [expected])[0] < 20 * error([exact[name]], [expected])[0]:
            faults.append(f"{name} is as exact as at highest precision")
    assert not faults, "\n  ".join([f"{case} with {_C.isa()}, FASTRNN_TEST_SEED={SEED}", *faults])
    if case.form != "packed":
        for name, value in infer(case, arguments).items():
            assert torch.equal(value, found[name]) or case.layers > 1, name


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn_relu"])
def test_bits_are_the_same_with_any_number_of_threads(cell, isa, medium):
    case = Case(cell, torch.float32, 96, batch=37, steps=14, features=40)
    arguments = draw(case, SEED)
    with threads(1):
        alone = run(call_fastrnn, case, arguments)
    for count in (1, 2, 3):
        with threads(count):
            again = run(call_fastrnn, case, arguments)
        for name, value in alone.items():
            assert torch.equal(value, again[name]), (name, count)


@pytest.mark.skipif("amx_emulated" not in ISAS, reason="needs AVX-512")
@pytest.mark.parametrize(
    "case",
    [
        Case(cell, torch.bfloat16, hidden, batch=batch, steps=3, features=features, form=form)
        for cell, hidden, batch, features, form in (
            ("lstm", 33, 35, 7, "packed"),
            ("gru", 65, 17, 40, "dense"),
            ("rnn_tanh", 70, 1, 33, "batch_first"),
            ("lstm", 16, 64, 32, "dense"),
            ("layer_norm_gru", 20, 5, 4, "dense"),
            ("gru_reset_before", 37, 18, 4, "dense"),
            ("peephole_lstm", 17, 34, 6, "packed"),
            ("slstm", 33, 9, 5, "dense"),
        )
    ]
    + [Case("lstm", torch.bfloat16, 40, batch=20, steps=4, projection=9, bidirectional=True)],
    ids=str,
)
def test_bfloat16_by_tiles(case):
    with use_isa("amx_emulated"):
        assert_equal(case)
        if CELLS[case.cell].torch_layer and case.form != "packed":
            assert_inference_equal(case)


# What is past the end of a row, or of the weights' last pair, is memory of some call before.
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_nothing_is_left_of_the_call_before(dtype, isa, medium):
    layer, x = fastrnn.LSTM(7, 33, dtype=dtype), torch.randn(40, 17, 7).to(dtype)
    spoilt = fastrnn.LSTM(7, 33, dtype=dtype)
    for weight in spoilt.parameters():
        weight.data.fill_(float("nan"))
    with threads(1):
        for gradients in (False, True):
            spoilt(torch.full_like(x, float("nan")))[0].sum().backward()
            layer.zero_grad()
            with torch.set_grad_enabled(gradients):
                output, _ = layer(x)
            assert output.isfinite().all()
        output.sum().backward()
    assert all(weight.grad.isfinite().all() for weight in layer.parameters())


# --- which precision holds ----------------------------------------------------------------------


def test_torchs_setting_holds():
    before = torch.get_float32_matmul_precision()
    try:
        for name in precision.NAMES:
            torch.set_float32_matmul_precision(name)
            assert precision.precision() == name
            with fastrnn.use_precision("highest"):
                assert precision.precision() == "highest"
                with fastrnn.use_precision(None):
                    assert precision.precision() == name
            assert precision.precision() == name
    finally:
        torch.set_float32_matmul_precision(before)


def test_only_medium_rounds_and_a_step_never_does(isa):
    x, layer = torch.randn(16, 40, 24), fastrnn.LSTM(24, 32)
    with torch.no_grad(), threads(1):
        found = {}
        for name in precision.NAMES:
            with fastrnn.use_precision(name), fastrnn.use_splitting(False):
                found[name] = layer(x)[0], layer(x[:1])[0]
    assert torch.equal(found["highest"][0], found["high"][0])
    assert not torch.equal(found["highest"][0], found["medium"][0])
    assert torch.equal(found["medium"][1], found["highest"][1])


def test_without_pairs_medium_changes_nothing(medium):
    case = replace(LAYERS[0], steps=4)
    arguments = draw(case, SEED)
    for isa in _C.isas():
        if isa in ISAS:
            continue
        with use_isa(isa), threads(1):
            found = run(call_fastrnn, case, arguments)
            with fastrnn.use_precision("highest"):
                for name, value in run(call_fastrnn, case, arguments).items():
                    assert torch.equal(value, found[name]), (isa, name)


def test_a_name_that_is_none():
    with pytest.raises(ValueError, match="highest, high, medium or None, got: 'low'"):
        fastrnn.use_precision("low")


@pytest.mark.parametrize(
    ("environment", "code", "expected"),
    [
        ({"FASTRNN_PRECISION": "medium"}, "print(precision.precision())", "medium"),
        ({"FASTRNN_PRECISION": "low"}, "", "got: 'low'"),
        (
            {},
            # Where torch has no one name for it any more, and raises.
            "torch.set_float32_matmul_precision('highest')\n"
            "if hasattr(torch.backends.mkldnn, 'matmul'):\n"
            "    torch.backends.mkldnn.matmul.fp32_precision = 'bf16'\n"
            "    print(precision.precision())\n"
            "else:\n"
            "    print('medium')",
            "medium",
        ),
        ({"FASTRNN_ISA": "amx_emulated"}, "print(_C.isa(), _C.isas()[-1])", "amx_emulated a"),
    ],
)
def test_settings_of_a_process(environment, code, expected):
    if environment.get("FASTRNN_ISA", "") not in ("", *ISAS):
        pytest.skip("needs AVX-512")
    done = subprocess.run(
        [sys.executable, "-c", "import torch\nfrom fastrnn import _C, precision\n" + code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert expected in done.stdout + done.stderr


def test_the_emulation_is_never_chosen_nor_listed():
    assert "amx_emulated" not in _C.isas()
    assert _C.isa() != "amx_emulated" or os.environ.get("FASTRNN_ISA") == "amx_emulated"


def test_windows_of_time_add_up():
    """Gates' gradients of more than 8 MiB: a backward at medium in windows (csrc/gradients.cpp)."""
    torch.manual_seed(0)
    layer, x = fastrnn.LSTM(9, 40), torch.randn(400, 64, 9)
    upstream, found = torch.randn(400, 64, 40), {}
    for name in ("highest", "medium"):
        given = x.clone().requires_grad_()
        with fastrnn.use_precision(name):
            output, _ = layer(given)
            found[name] = torch.autograd.grad(output, [given, *layer.parameters()], upstream)
    # Two factors rounded to 2^-9 each, in the forward and again in the backward.
    for medium, highest in zip(found["medium"], found["highest"], strict=True):
        assert (medium - highest).norm() < 4 * 2**-9 * highest.norm()
