"""Float32 multiplied in two and three terms of bfloat16 by matrix tiles, in the tiles' plain code.

``highest`` is held against the rule of `equality`, as any float32 kernel; ``high`` against the
reference whose products are made of two terms. What no terms can be had of has to come out as
float32's own products have it, which is to the bit the result without splitting.
"""

import os
import subprocess
import sys

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
    run,
    threads,
    use_isa,
)
from terms import InTerms, multiply, pairs, terms_of

import fastrnn
from fastrnn import _C, cpp, precision
from fastrnn.cli import info

ISAS = [isa for isa in ("amx", "amx_emulated") if has_isa(isa)]
pytestmark = pytest.mark.skipif(not ISAS, reason="needs AMX, or AVX-512 to emulate it")
TERMS = {"highest": 3, "high": 2}
MANY = 64  # rows, for which products are split


@pytest.fixture(params=ISAS)
def isa(request):
    with use_isa(request.param):
        yield request.param


@pytest.fixture(params=TERMS)
def name(request):
    with fastrnn.use_precision(request.param):
        yield request.param


@pytest.fixture
def highest():
    with fastrnn.use_precision("highest"):
        yield


def drawn(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng([SEED, seed]).normal(size=shape)).float()


def linear(x, weight):
    return cpp.linear(x, weight, None, like=MANY)


def unsplit(function, *args):
    with fastrnn.use_splitting(False):
        return function(*args)


# --- the products by themselves -----------------------------------------------------------------

SIZES = [(1, 1, 1), (3, 16, 31), (16, 17, 32), (17, 40, 33), (48, 70, 95), (33, 33, 300)]


def assert_accurate(found, a, b, name):
    """At least as exact as torch's own float32, or within what two terms leave."""
    a, b = a.double(), b.double()
    expected = a @ b
    if name == "highest":
        theirs = error([(a.float() @ b.float())], [expected])[0]
        # Of a few numbers torch's error is luck: half a unit in the last place, as any result has.
        assert error([found], [expected])[0] <= theirs + 2**-24
    else:
        # Each factor's two terms leave 2^-16 of it at most, and as much do their second ones.
        wrong, sizes = (found - expected).abs(), a.abs() @ b.abs()
        assert (wrong <= (3 * 2**-16 + 2**-20) * sizes).all()
        # Terms that point the wrong way half of the time: the sum's error grows as a square root.
        rms = (a**2 @ b**2).sum().sqrt()
        assert wrong.norm() < 3 * 2**-17 * rms


@pytest.mark.parametrize(("rows", "width", "depth"), SIZES)
def test_linear(rows, width, depth, isa, name):
    x, weight = drawn(rows, depth), drawn(width, depth, seed=1)
    found = linear(x, weight)
    assert_accurate(found, x, weight.t(), name)
    assert torch.equal(found, linear(x, weight.t().contiguous().t()))  # packed another way
    bias = drawn(width, seed=2)
    assert torch.equal(cpp.linear(x, weight, bias, like=MANY), found + bias)


@pytest.mark.parametrize(("rows", "width", "depth"), [(16, 3, 17), (33, 40, 30), (300, 130, 18)])
def test_outer(rows, width, depth, isa, name):
    a, b = drawn(rows, width), drawn(rows, depth, seed=1)
    found, total = cpp.gradient_of_rows(a, b)
    assert_accurate(found, a.t(), b, name)
    assert torch.equal(total, unsplit(cpp.gradient_of_rows, a, b)[1])  # of the numbers themselves


# The order of roundings: for each 32 k, and within it for each pair of terms, the sum of the even
# and of the odd factors' products is added; the first terms' own pair after all k of the others.
@pytest.mark.parametrize("depth", [32, 75, 160])
def test_bits(depth, name):
    if "amx_emulated" not in ISAS:
        pytest.skip("needs AVX-512")
    x, weight, count = drawn(19, depth), drawn(34, depth, seed=1), TERMS[name]
    with use_isa("amx_emulated"):
        found = linear(x, weight)
    pad = -depth % 32
    a, b = (
        [np.pad(term.numpy(), ((0, 0), (0, pad))) for term in terms_of(tensor, count)]
        for tensor in (x, weight)
    )
    sums = np.zeros(found.shape, np.float32)
    small, first = [p for p in pairs(count) if sum(p)], [(0, 0)]
    for sweep in (small, first):
        for start in range(0, depth, 32):
            for i, j in sweep:
                halves = []
                for half in (0, 1):
                    part = np.zeros(found.shape, np.float32)
                    for k in range(start + half, start + 32, 2):
                        part += a[i][:, k : k + 1] * b[j][:, k]  # exact: eight bits each
                    halves.append(part)
                sums += halves[0] + halves[1]
    assert np.array_equal(found.numpy(), sums)


def test_a_row_has_the_same_bits_wherever_it_is(isa, name):
    x, weight = drawn(75, 70), drawn(50, 70, seed=1)
    whole = linear(x, weight)
    for first, last in ((0, 1), (3, 20), (40, 75)):
        assert torch.equal(linear(x[first:last], weight), whole[first:last])


# --- numbers without terms ----------------------------------------------------------------------

LARGEST, TINY = torch.finfo(torch.float32).max, torch.finfo(torch.float32).tiny
INF, NAN = float("inf"), float("nan")
# 2^103 is where numbers are no longer split; 2^104 times 2^24 would be none, nor would what rounds
# up to it.
SPECIAL = [NAN, INF, -INF, LARGEST, -LARGEST, 3.4e38]
SPECIAL += [2.0**104, (1 - 2**-12) * 2.0**104, 2.0**103, (1 - 2**-12) * 2.0**103, 1e-45]


def same(found, expected):
    assert torch.equal(found.isnan(), expected.isnan())
    assert torch.equal(found.nan_to_num(7, 8, 9), expected.nan_to_num(7, 8, 9))


def hold(found, a, b, plain):
    """Of three terms, a row's 16 units: ``plain``'s bits if a sum is not finite, else as exact.

    Of two: as ``plain`` where that is not finite, else within what they leave; or within 2^-14 of
    each factor, where a number goes as a mark.
    """
    expected, sizes = a.double() @ b.double(), a.double().abs() @ b.double().abs()
    if precision.precision() == "high":
        finite = plain.isfinite()
        same(found[~finite], plain[~finite])
        left = ((a.abs().max() >= 2.0**103) | (b.abs().max() >= 2.0**103)) * 2.0**-13 + 4 * 2**-16
        assert ((found - expected).abs()[finite] <= left * sizes[finite]).all()
        return
    for row in range(len(found)):
        for start in range(0, found.shape[1], 16):
            at = (row, slice(start, start + 16))
            if not plain[at].isfinite().all():
                same(found[at], plain[at])
            else:
                ours, theirs = (error([result[at]], [expected[at]])[0] for result in (found, plain))
                assert ours <= 2 * theirs + FLOOR[torch.float32], (at, ours, theirs)


@pytest.mark.parametrize("value", SPECIAL)
@pytest.mark.parametrize("where", ["row", "weight", "both"])
def test_one_number_that_is_special(value, where, isa, name):
    x, weight = drawn(20, 37), drawn(21, 37, seed=1)
    if where != "weight":
        x[3, 36] = value
    if where != "row":
        weight[18, 36] = value
        x[5, 36] = 0  # infinity times zero
    linear(torch.full((20, 38), NAN), weight[:, :1].expand(21, 38))  # what the memory holds
    found, plain = linear(x, weight), unsplit(linear, x, weight)
    denormal = abs(value) < TINY
    x, weight = (torch.where(t.abs() < TINY, 0, t) if denormal else t for t in (x, weight))
    hold(found, x, weight.t(), plain)
    if not np.isfinite(value):  # where torch has it, and nowhere else
        torched = x @ weight.t()
        assert torch.equal(found.isnan(), torched.isnan())
        assert torch.equal(found.isinf(), torched.isinf())


@pytest.mark.parametrize("value", [NAN, INF, -LARGEST, 1e-45])
def test_one_number_of_an_outer_product(value, isa, name):
    a, b = drawn(40, 35), drawn(40, 19, seed=1)
    a[21, 33], b[37, 4] = value, value
    found, plain = cpp.gradient_of_rows(a, b), unsplit(cpp.gradient_of_rows, a, b)
    same(found[1], plain[1])
    a, b = (torch.where(t.abs() < TINY, 0, t) for t in (a, b))
    hold(found[0], a.t(), b, plain[0])


@pytest.mark.parametrize(
    ("of_rows", "of_weights"),
    [
        (1e-36, 1), (2e-38, 1e10), (1e-30, 1e-5), (1e-18, 1e-17), (1e-37, 1e30), (1e-37, 3e37),
        (1e30, 1e-36), (1e20, 1e17), (1e25, 1e-20), (1e33, 1e-30), (1e37, 1e-37), (1e20, 1e20),
    ],
)  # fmt: skip
def test_sizes_of_numbers(of_rows, of_weights, isa, highest):
    x, weight = drawn(20, 40) * of_rows, drawn(20, 40, seed=1) * of_weights
    x, weight = (torch.where(t.abs() < TINY, 0, t) for t in (x, weight))
    plain = unsplit(linear, x, weight)
    hold(linear(x, weight), x, weight.t(), plain)


def test_denormals_count_as_zero(isa, name):
    x, weight = drawn(20, 40) * 1e20, drawn(20, 40, seed=1).clamp(-1, 1) * 1e-38
    for found in (linear(x, weight), linear(weight, x), cpp.gradient_of_rows(x, weight)[0]):
        assert not found.any()


def test_sums_and_products_too_large_are_found(isa, highest):
    """1e20 squared, and 2^47 times the sum: neither is a number of float32 in terms."""
    x, weight = drawn(20, 40), drawn(20, 40, seed=1)
    x[4] *= 1e20
    weight[7] *= 1e20
    plain = unsplit(linear, x, weight)
    found = linear(x, weight)
    assert not plain[4, 7].isfinite()
    block = slice(0, 16)  # what is multiplied again: a row's 16 units
    same(found[4, block], plain[4, block])
    assert not torch.equal(found[3], plain[3])


# --- layers -------------------------------------------------------------------------------------

LAYERS = [
    Case("lstm", torch.float32, 33, batch=16, steps=33, features=21),
    Case("lstm", torch.float32, 40, batch=17, steps=4, features=7, projection=19),
    Case("lstm", torch.float32, 48, batch=33, steps=3, features=40, form="packed"),
    Case("gru", torch.float32, 50, batch=33, steps=16, features=34, bidirectional=True),
    Case("gru", torch.float32, 24, batch=17, steps=5, features=5, form="packed"),
    Case("gru", torch.float32, 37, batch=16, steps=4, features=5, layers=2, bidirectional=True),
    Case("rnn_tanh", torch.float32, 17, batch=33, steps=17, features=32),
    Case("coupled_lstm", torch.float32, 31, batch=16, steps=4, features=16),
]
FEW = [
    Case("lstm", torch.float32, 33, batch=1, steps=5, features=6),
    Case("gru", torch.float32, 20, batch=15, steps=40, features=6),  # of many rows altogether
]


@pytest.mark.parametrize("case", LAYERS + FEW, ids=str)
def test_highest(case, isa, highest):
    with threads(1):
        assert_equal(case)
        if case.form != "packed" and case.cell != "coupled_lstm":
            assert_inference_equal(case)
        arguments = draw(case, SEED)
        found = run(call_fastrnn, case, arguments)
        plain = unsplit(run, call_fastrnn, case, arguments)
    few = case.batch < precision.LEAST_ROWS["highest"]
    # The recurrence of few rows is float32's own; of many everything is split.
    for key in ("output", "h_n", "dweight_hh_l0", "dinput"):
        split = not torch.equal(found[key], plain[key])
        if key in ("output", "h_n"):
            assert split != few, key
        elif not few:
            assert split, key
    if few and case.batch * case.steps >= 512:
        assert not torch.equal(found["dweight_hh_l0"], plain["dweight_hh_l0"])


@pytest.mark.parametrize("case", [LAYERS[0], LAYERS[1], LAYERS[3], LAYERS[4]], ids=str)
def test_high(case, isa):
    arguments = draw(case, SEED)
    with threads(1):
        oracle = run(call_reference, case, arguments.to(torch.float64))
        with InTerms(2):
            theirs = run(call_reference, case, arguments)
        with fastrnn.use_precision("high"):
            found = run(call_fastrnn, case, arguments)
    for key, expected in oracle.items():
        ours = error([found[key]], [expected])
        for our, their in zip(ours, error([theirs[key]], [expected]), strict=True):
            assert our <= 2 * their + FLOOR[torch.float32], key
        # Two terms it was, not three.
        assert ours[0] > 3e-7, key


def test_the_reference_of_terms_is_no_straw_man():
    """Three terms are as exact as float32, two some 2^-18, one some 2^-9."""
    a, b = drawn(40, 300), drawn(300, 40, seed=1)
    expected = a.double() @ b.double()
    errors = [error([multiply(a, b, count)], [expected])[0] for count in (1, 2, 3)]
    assert 1e-3 < errors[0] < 4e-3
    assert 2e-6 < errors[1] < 1e-5
    assert errors[2] < 6e-7


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn_tanh"])
def test_bits_are_the_same_with_any_number_of_threads(cell, isa, name):
    case = Case(cell, torch.float32, 48, batch=37, steps=14, features=20)
    arguments = draw(case, SEED)
    arguments.input[3, 5, 7] = INF
    found = []
    for count in (1, 2, 3):
        with threads(count):
            found.append(run(call_fastrnn, case, arguments))
    for key, value in found[0].items():
        for other in found[1:]:
            same(value, other[key])


@pytest.mark.parametrize("value", [NAN, INF, LARGEST])
@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn_relu"])
def test_what_is_not_finite_stays_in_its_sequence(cell, value, isa, highest):
    case = Case(cell, torch.float32, 20, batch=17, steps=31, features=9)
    arguments = draw(case, SEED)
    with threads(1):
        before = run(call_fastrnn, case, arguments)
        arguments.input[2, 3, 4] = value
        found = run(call_fastrnn, case, arguments)
        plain = unsplit(run, call_fastrnn, case, arguments)
    others = [b for b in range(17) if b != 3]
    for key in ("output", "h_n", "dinput"):
        assert torch.equal(found[key][:, others], before[key][:, others]), key
    for key, value in found.items():
        assert torch.equal(value.isnan(), plain[key].isnan()), key
        assert torch.equal(value.isinf(), plain[key].isinf()), key


# What is past the end of a row, or of the weights' last pair, is memory of some call before.
def test_nothing_is_left_of_the_call_before(isa, name):
    layer, x = fastrnn.LSTM(7, 33), torch.randn(40, 17, 7)
    spoilt = fastrnn.LSTM(7, 33)
    for weight in spoilt.parameters():
        weight.data.fill_(NAN)
    with threads(1):
        for gradients in (False, True):
            spoilt(torch.full_like(x, NAN))[0].sum().backward()
            layer.zero_grad()
            with torch.set_grad_enabled(gradients):
                output, _ = layer(x)
            assert output.isfinite().all()
        output.sum().backward()
    assert all(weight.grad.isfinite().all() for weight in layer.parameters())


@pytest.mark.parametrize("batch", [5, 20])
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_recomputed_steps_have_the_bits_of_their_batch(kind, batch, isa, highest):
    """A single step of all rows side by side makes the gates again; biases it adds up before."""
    torch.manual_seed(SEED)
    plain = getattr(fastrnn, kind)(6, 18, bias=False)
    again = getattr(fastrnn, kind)(6, 18, bias=False, recompute=True)
    again.load_state_dict(plain.state_dict())
    x = torch.randn(520 // batch, batch, 6)
    found = []
    for layer in (plain, again):
        output, _ = layer(x)
        found.append(torch.autograd.grad(output.square().sum(), list(layer.parameters())))
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


# --- whether to split ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "rows", "expected"),
    [
        ("highest", 15, 0), ("highest", 16, 3), ("highest", 10**6, 3),
        ("high", 7, 0), ("high", 8, 2), ("medium", 1, 1), ("medium", 16, 1),
    ],
)  # fmt: skip
def test_terms_by_rows(name, rows, expected):
    with fastrnn.use_precision(name):
        assert precision.terms(rows) == expected
        with fastrnn.use_splitting(False):
            assert precision.terms(rows) == (expected if name == "medium" else 0)
            with fastrnn.use_splitting(True):
                assert precision.terms(rows) == expected
        assert precision.terms(rows) == expected


def test_switched_off_it_is_float32s_own(isa, highest):
    case = LAYERS[0]
    arguments = draw(case, SEED)
    with threads(1):
        found = unsplit(run, call_fastrnn, case, arguments)
        split = run(call_fastrnn, case, arguments)
        with use_isa("avx512"):
            plain = run(call_fastrnn, case, arguments)
    for key, value in found.items():
        assert torch.equal(value, plain[key]), key
    assert not torch.equal(split["output"], plain["output"])


def test_without_tiles_nothing_changes(highest):
    case = LAYERS[0]
    arguments = draw(case, SEED)
    for isa in _C.isas():
        with use_isa(isa), threads(1):
            if _C.splits():
                continue
            found = run(call_fastrnn, case, arguments)
            for key, value in unsplit(run, call_fastrnn, case, arguments).items():
                assert torch.equal(value, found[key]), (isa, key)


@pytest.mark.parametrize("on", ["0", 1, None])
def test_neither_on_nor_off(on):
    with pytest.raises(TypeError, match=f"splitting should be True or False, got: {on!r}"):
        fastrnn.use_splitting(on)


@pytest.mark.parametrize(
    ("value", "expected"),
    [("0", "False"), ("no", "FASTRNN_SPLITTING should be 0 or 1, got: 'no'")],
)
def test_environment(value, expected):
    done = subprocess.run(
        [sys.executable, "-c", "from fastrnn import precision\nprint(precision.splitting())"],
        env={**os.environ, "FASTRNN_SPLITTING": value},
        capture_output=True,
        text=True,
        check=False,
    )
    assert expected in done.stdout + done.stderr


def test_info_tells(isa, capsys):
    info.main([])
    assert "\nsplitting       on\n" in capsys.readouterr().out
    with fastrnn.use_splitting(False), use_isa("avx512"):
        info.main([])
    assert "\nsplitting       off, but this set has no tiles for it" in capsys.readouterr().out
