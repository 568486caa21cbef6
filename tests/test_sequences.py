"""Lengths, resets, zoneout and the other options of a scan: the reference, and the kernels."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from equality import DTYPES, FLOOR, ISAS, error, of_reference, threads, use_isa
from hypothesis import given, settings
from hypothesis import strategies as st
from sequences import FEATURES, by_hand, draw_scan, results
from torch.autograd import gradcheck, gradgradcheck
from torch.library import opcheck

from fastrnn import reference
from fastrnn.cells import CELLS
from fastrnn.scan import scan as scan_with


@pytest.fixture(params=ISAS)
def isa(request):
    with use_isa(request.param):
        yield request.param


def run_reference(scan):
    return reference.scan(
        CELLS[scan.cell], scan.gates_x, scan.weight_hh, scan.bias_hh, scan.weight_hr, scan.states,
        scan.batch_sizes, scan.reverse, scan.params, scan.options,
    )  # fmt: skip


def possible(cell, features, projection, packed):
    """Of two kinds of resets, or of zoneout, a scan has one."""
    if sum(name.startswith("reset") for name in features) > 1:
        return False
    if {"zoneout", "zoneout_p"} <= set(features) or (packed and "lengths" in features):
        return False
    if projection and not CELLS[cell].projects:
        return False
    if "dropout" in features and not CELLS[cell].recurrent:
        return False
    return True


# --- the reference ----------------------------------------------------------------------------


@pytest.mark.parametrize("features", [(), *itertools.combinations(FEATURES, 1), FEATURES], ids=str)
@pytest.mark.parametrize(
    "cell", ["rnn_tanh", "rnn_relu", "lstm", "gru", "gru_reset_before", "indrnn_tanh"]
)
def test_the_reference_does_what_is_said(cell, features):
    """Outputs and gradients of every sequence, against a loop over it alone."""
    if features == FEATURES:  # all that go together
        features = [f for f in FEATURES if f not in ("reset zero", "reset initial", "zoneout_p")]
    tried = 0
    for projection, packed, reverse in itertools.product(
        (0, 2), (False, True), ([False], [True, False])
    ):
        if not possible(cell, features, projection, packed):
            continue
        tried += 1
        scan = draw_scan(
            cell, features, projection=projection, packed=packed, reverse=reverse, seed=tried
        )
        found, expected = results(run_reference, scan), results(by_hand, scan)
        for name in expected:
            torch.testing.assert_close(
                found[name], expected[name], msg=lambda m, n=name: f"{n}: {m}"
            )
    assert tried or not CELLS[cell].recurrent


# --- the kernels ------------------------------------------------------------------------------


def run_kernels(scan):
    def unstacked(tensor):
        return None if tensor is None else tensor.unbind(0)

    weights = (unstacked(t) for t in (scan.weight_hh, scan.bias_hh, scan.weight_hr))
    return scan_with(
        CELLS[scan.cell], scan.gates_x, *weights, scan.states, scan.batch_sizes, scan.reverse,
        "cpp", scan.params, scan.options,
    )  # fmt: skip


def assert_kernels_equal(cell, features, *, dtype, hidden, batch, seed=0, **sizes):
    """By the rule of `equality`, where no layer of torch's has the options.

    Few numbers are drawn so often that their error is more than a matter of luck.
    """
    sizes |= {"dtype": dtype, "hidden": hidden, "batch": batch}
    count = math.ceil(32 / (batch * (sizes["projection"] or hidden)))
    scans = [draw_scan(cell, features, seed=seed + i, **sizes) for i in range(count)]
    oracle = [results(run_reference, scan.to(torch.float64)) for scan in scans]
    # A cell whose backward reads h as it was returned is as good, narrow, as torch's loop.
    judge = by_hand if dtype.itemsize < 4 and "rnn" in cell else run_reference
    plain = [
        of_reference(lambda scan: results(judge, scan), *given)
        for given in zip(scans, itertools.repeat(dtype), oracle)
    ]
    found = [results(run_kernels, scan) for scan in scans]
    for name in oracle[0]:
        assert found[0][name].dtype == dtype
        expected = [each[name] for each in oracle]
        theirs, ours = (error([each[name] for each in of], expected) for of in (plain, found))
        for our, their in zip(ours, theirs, strict=True):
            assert our <= 2 * their + FLOOR[dtype], (name, our, their)


def usable(features):
    """What of such a draw the kernels serve together."""
    kinds, found = set(), []
    for name in features:
        kind = name.split(" ")[0].removesuffix("_p")
        if kind not in kinds:
            found.append(name)
        kinds.add(kind)
    return tuple(found)


@settings(max_examples=40, deadline=None, derandomize=False)
@given(
    cell=st.sampled_from(sorted(CELLS)),
    features=st.lists(st.sampled_from(FEATURES), unique=True, max_size=5).map(usable),
    dtype=st.sampled_from(DTYPES),
    steps=st.integers(1, 6),
    batch=st.integers(1, 9),
    hidden=st.sampled_from([1, 3, 8, 17, 33]),
    projection=st.sampled_from([0, 0, 2]),
    packed=st.booleans(),
    reverse=st.sampled_from([(False,), (True,), (False, True)]),
    bias=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_the_kernels_are_as_near_to_the_oracle(cell, features, dtype, projection, packed, **rest):
    projection = 0 if rest["hidden"] <= projection or not CELLS[cell].projects else projection
    packed = packed and "lengths" not in features
    if CELLS[cell].whole_row:  # normalised, one number is none but its rounding, 316 times
        rest["hidden"] = max(rest["hidden"], 3)
    if not CELLS[cell].recurrent:
        features = tuple(name for name in features if name != "dropout")
    assert_kernels_equal(cell, features, dtype=dtype, projection=projection, packed=packed, **rest)


@pytest.mark.parametrize("feature", FEATURES)
@pytest.mark.parametrize("cell", sorted(CELLS))
def test_each_option_alone(cell, feature, isa):
    for projection, reverse in ((0, [False, True]), (3, [True])):
        if possible(cell, (feature,), projection, False):
            assert_kernels_equal(
                cell, (feature,), projection=projection, reverse=reverse, dtype=torch.float64,
                hidden=17, steps=5, batch=7,
            )  # fmt: skip


@pytest.mark.parametrize("batch", [2, 24])
@pytest.mark.parametrize("cell", ["lstm", "gru", "layer_norm_lstm", "gru_reset_before"])
def test_threads_change_no_bit(cell, batch):
    """Units split among them (a small batch), or rows."""
    features = ("lengths", "reset initial", "dropout", "zoneout", "gate_clip", "all_states")
    scan = draw_scan(cell, features, hidden=256, steps=4, batch=batch, dtype=torch.float32)
    found = []
    for count in (1, 2):
        with threads(count):
            found.append(results(run_kernels, scan))
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_a_sequence_does_not_know_its_neighbours():
    """Nor where it lies in the batch."""
    features = ("lengths", "reset given", "all_states")
    scan = draw_scan("lstm", features, hidden=9, steps=6, batch=8, dtype=torch.float32)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(0))

    def by_column(rows):
        return rows.unflatten(0, (6, 8))[:, order].flatten(0, 1)

    options = scan.options
    other = replace(
        scan,
        gates_x=by_column(scan.gates_x),
        states=[state[:, order] for state in scan.states],
        options=replace(
            options,
            lengths=options.lengths[order],
            reset=by_column(options.reset),
            reset_states=[by_column(state) for state in options.reset_states],
        ),
    )
    out, finals, (c,) = run_kernels(scan)
    out_other, finals_other, (c_other,) = run_kernels(other)
    assert torch.equal(by_column(out), out_other)
    assert torch.equal(by_column(c), c_other)
    assert all(torch.equal(a[:, order], b) for a, b in zip(finals, finals_other, strict=True))


def test_what_is_past_the_end_is_never_read():
    scan = draw_scan("gru", ("lengths",), hidden=4, steps=5, batch=6)
    past = torch.arange(5).unsqueeze(1) >= scan.options.lengths
    assert past.any()
    scan.gates_x[past.flatten()] = torch.nan
    found = results(run_kernels, scan)
    assert all(torch.isfinite(tensor).all() for tensor in found.values())
    assert not found["out"][past.flatten()].any()


CLIPS = ("cell_clip", "proj_clip", "gate_clip", "grad_clip")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("cell", ["rnn_tanh", "rnn_relu", "indrnn_tanh", "indrnn_relu"])
def test_narrow_numbers_with_options(cell, dtype):
    features = ("lengths", "reset given", "zoneout", "gate_clip", "grad_clip")
    assert_kernels_equal(
        cell, features, dtype=dtype, hidden=17, steps=5, batch=7, reverse=[False, True],
        projection=0,
    )  # fmt: skip


@pytest.mark.parametrize("cell", ["lstm", "layer_norm_lstm", "gru_reset_before"])
def test_all_bounds_at_once(cell):
    """With the states that come in from elsewhere, in the form of each loop over units."""
    features = (*CLIPS, "lengths", "reset initial", "zoneout", "all_states")
    assert_kernels_equal(
        cell, features, dtype=torch.float64, hidden=9, steps=6, batch=5, reverse=[False, True],
        projection=4 if CELLS[cell].projects else 0,
    )  # fmt: skip


def test_states_that_zoneout_takes_apart():
    """sLSTM's n of 0, after a reset, with a c that is none: f has a gradient still."""
    features = ("reset zero", "zoneout")
    assert_kernels_equal(
        "slstm", features, dtype=torch.float64, hidden=9, steps=6, batch=5, projection=0
    )


def test_bounds_let_nan_and_infinity_through():
    scan = draw_scan("lstm", ("cell_clip", "gate_clip"), hidden=5, steps=2, batch=4)
    scan.gates_x[0, 0, :20:5], scan.gates_x[1, 0, :20:5] = torch.inf, torch.nan
    found, expected = run_kernels(scan), run_reference(scan)
    torch.testing.assert_close(found[0], expected[0], equal_nan=True)
    assert found[0].isnan().any(1).tolist() == expected[0].isnan().any(1).tolist()


# --- the operator -----------------------------------------------------------------------------

BUNDLES = [
    ("lstm", ("lengths", "reset given", "zoneout", "cell_clip", "all_states")),
    ("gru", ("reset initial", "dropout", "zoneout_p", "gate_clip")),
]


def as_arguments(scan):
    """Of the operator, but for whether to save."""
    return (
        scan.cell, scan.gates_x, scan.weight_hh, scan.bias_hh, scan.weight_hr, scan.states,
        scan.batch_sizes, scan.reverse, scan.params, *scan.options.flat(),
    )  # fmt: skip


@pytest.mark.parametrize(("cell", "features"), BUNDLES, ids=["lstm", "gru"])
def test_with_options_it_is_an_operator_still(cell, features):
    scan = draw_scan(cell, features, steps=2, batch=2, hidden=2, reverse=[True]).fresh()
    results = opcheck(
        torch.ops.fastrnn.scan.default, (*as_arguments(scan), True), raise_exception=False
    )
    assert set(results.values()) == {"SUCCESS"}, results


@pytest.mark.parametrize(("cell", "features"), BUNDLES, ids=["lstm", "gru"])
def test_gradients_of_second_order(cell, features):
    scan = draw_scan(cell, features, steps=3, batch=2, hidden=2, reverse=[False, True]).fresh()

    def function(*leaves):
        rest = iter(leaves)
        bias, states = next(rest), [next(rest) for _ in scan.states]
        options = scan.options
        if options.reset_states:
            options = replace(options, reset_states=[next(rest) for _ in options.reset_states])
        drawn = replace(
            scan, gates_x=next(rest), weight_hh=next(rest), bias_hh=bias, states=states,
            options=options,
        )  # fmt: skip
        out, finals, others = run_kernels(drawn)
        return out, *finals, *others

    leaves = [scan.bias_hh, *scan.states, *scan.options.reset_states, scan.gates_x, scan.weight_hh]
    assert gradcheck(function, leaves, fast_mode=True)
    assert gradgradcheck(function, leaves, fast_mode=True)


@pytest.mark.parametrize("shared", [True, False], ids=["one set of weights", "weights each"])
@pytest.mark.parametrize(("cell", "features"), BUNDLES, ids=["lstm", "gru"])
def test_many_calls_are_one(cell, features, shared):
    scans = [
        draw_scan(cell, features, hidden=3, seed=seed, reverse=[False, True]) for seed in (1, 2)
    ]
    lengths = scans[0].options.lengths
    scans = [replace(s, options=replace(s.options, lengths=lengths)) for s in scans]
    weights = [scans[0 if shared else i].weight_hh for i in range(2)]

    def gradients(x, w, state, reset, *given):
        def loss(x, w, state):
            options = replace(scans[0].options, reset=reset, reset_states=list(given))
            states = [state, *scans[0].states[1:]]
            drawn = replace(scans[0], gates_x=x, weight_hh=w, states=states, options=options)
            out, finals, others = run_kernels(drawn)
            return sum(t.square().sum() for t in (out, *finals, *others))

        return torch.func.grad(loss, (0, 1, 2))(x, w, state)

    each = [
        (s.gates_x, w, s.states[0], s.options.reset, *s.options.reset_states)
        for s, w in zip(scans, weights, strict=True)
    ]
    expected = [torch.stack(found) for found in zip(*(gradients(*a) for a in each), strict=True)]
    stacked = [torch.stack(column) for column in zip(*each, strict=True)]
    dims = [0] * len(stacked)
    if shared:
        stacked[1], dims[1] = weights[0], None
    found = torch.vmap(gradients, tuple(dims))(*stacked)
    for got, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(got, wanted)
