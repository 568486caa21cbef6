"""A layer whose input product and scan are one call forwards, with gradients and without."""

import copy

import pytest
import torch
from equality import ISAS, SEED, Case, assert_equal, call_fastrnn, draw, run, threads, use_isa
from torch.autograd import gradcheck, gradgradcheck
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

import fastrnn
from fastrnn import cpp, one_call
from fastrnn.cells import CELLS

F64 = torch.float64


@pytest.fixture
def calls(monkeypatch):
    """The cells of the calls that went this way."""
    met = []
    of_cpp = cpp.layer

    def counted(spec, *rest):
        met.append(spec.name)
        return of_cpp(spec, *rest)

    monkeypatch.setattr(cpp, "layer", counted)
    return met


FORMS = [
    {},
    {"bias": False},
    {"bias": "single"},
    {"hx": False, "form": "batch_first"},
    {"layers": 2, "bidirectional": True},
    {"projection": 4},
    {"projection": 5, "bidirectional": True},
    {"hidden": 70, "batch": 9},
    {"steps": 1},
]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn_tanh"])
def test_equality(cell, dtype, form, isa, calls):
    if form.get("projection") and not CELLS[cell].projects:
        form = {**form, "projection": 0}
    case = Case(cell, dtype, **{"hidden": 17, "batch": 3, "steps": 7, **form})
    with use_isa(isa):
        assert_equal(case)
    assert set(calls) == {cell}


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn_tanh"])
def test_equality_of_the_general_way(cell, dtype, form, calls, monkeypatch):
    """Which serves what is traced, mapped, packed or narrow."""
    monkeypatch.setattr(one_call.Layer, "serves", lambda *_: False)
    if form.get("projection") and not CELLS[cell].projects:
        form = {**form, "projection": 0}
    assert_equal(Case(cell, dtype, **{"hidden": 17, "batch": 3, "steps": 7, **form}))
    assert not calls


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_long_sequences_in_chunks(cell, calls):
    assert_equal(Case(cell, torch.float32, 96, batch=5, steps=90, features=33))
    assert calls


# Gates' gradients of more than 8 MiB, so that the backward goes in windows of time: of 8 steps, of
# which the one met last is short, or of one.
MANY = [
    Case("lstm", torch.float32, 128, batch=60, steps=70, features=20),
    Case("lstm", torch.float32, 128, batch=600, steps=7, features=9, projection=16),
    Case("gru", torch.float32, 172, batch=60, steps=70, features=9, hx=False),
    Case("rnn_tanh", torch.float32, 515, batch=60, steps=70, features=9),
]


@pytest.mark.parametrize("case", MANY, ids=str)
def test_backward_in_windows(case, calls):
    assert_equal(case)
    assert calls == [case.cell]


def test_threads_change_no_bit(calls):
    long = Case("lstm", torch.float32, 128, batch=64, steps=70, features=9)
    short = Case("lstm", torch.float32, 64, batch=24), Case("gru", torch.float32, 256)
    for case in (*short, long):
        arguments, found = draw(case, SEED), []
        for count in (1, 2):
            with threads(count):
                found.append(run(call_fastrnn, case, arguments))
        assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
    assert calls


@pytest.mark.parametrize("options", [{"proj_size": 2}, {"bidirectional": True}], ids=str)
def test_differentiated_again_and_mapped(options, calls):
    layer = fastrnn.LSTM(2, 3, dtype=torch.float64, **options)
    names = [name for name, _ in layer.named_parameters()]

    def run(x, *weights):
        output, (h, _) = functional_call(layer, dict(zip(names, weights, strict=True)), (x,))
        return output, h  # not c: what is not used has no gradient

    x = torch.randn(3, 2, 2, dtype=torch.float64, requires_grad=True)
    leaves = (x, *(p.detach().clone().requires_grad_() for p in layer.parameters()))
    assert gradcheck(run, leaves, check_batched_grad=True)
    assert gradgradcheck(run, leaves)
    assert calls


def chained(layer, x):
    return layer(layer(x)[0])[0]


def carried_on(layer, x):
    _, h = layer(x)
    return layer(x, h)[0]


def made_of_a_weight(layer, x):
    return layer(x @ layer.weight_ih_l0)[0]


def tied(layer, x):
    layer.weight_hh_l0, layer.bias_hh_l0 = layer.weight_ih_l0, layer.bias_ih_l0
    return layer(x, x.mean((0, 2)).view(1, -1, 1).expand(1, -1, 6).contiguous())[0]


@pytest.mark.parametrize("use", [chained, carried_on, made_of_a_weight, tied])
def test_each_place_gets_its_own_gradient(use, calls):
    """One tensor may be in several, and one made of another."""
    layer, x = fastrnn.RNN(6, 6, dtype=F64), torch.randn(4, 3, 6, dtype=F64, requires_grad=True)
    found = use(layer, x).square().mean()
    leaves = [x, *layer.parameters()]
    expected = torch.autograd.grad(found, leaves, retain_graph=True)
    again = torch.autograd.grad(found, leaves, create_graph=True)
    ones = torch.ones(1, dtype=F64)
    mapped = torch.autograd.grad(found, leaves, ones, is_grads_batched=True)
    for plain, twice, batched in zip(expected, again, mapped, strict=True):
        torch.testing.assert_close(twice, plain)
        torch.testing.assert_close(batched[0], plain)
    assert calls


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_autocast_begun_after_the_forward(kind, recompute, calls):
    """The backward that is differentiated again keeps the forward's dtype, as the other does."""
    layer = getattr(fastrnn, kind)(16, 32, bidirectional=True, recompute=recompute)
    x = torch.randn(10, 4, 16, requires_grad=True)
    output = layer(x)[0]
    (expected,) = torch.autograd.grad(output.sum(), x, retain_graph=True)
    with torch.autocast("cpu", torch.bfloat16):
        (again,) = torch.autograd.grad(output.sum(), x, create_graph=True)
        ones = torch.ones(2, *output.shape)
        (batched,) = torch.autograd.grad(output, x, ones, retain_graph=True, is_grads_batched=True)
    torch.testing.assert_close(again, expected)
    torch.testing.assert_close(batched[1], expected)
    assert calls or (recompute and kind == "LSTM")  # whose c of all steps comes from cpp.scan


def test_hooks_that_change_what_was_saved(calls):
    """Never read as what it was: an error in torch's words."""
    x = torch.randn(5, 3, 4, requires_grad=True)
    for options in ({}, {"recompute": True}):
        with torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t.double()):
            output, _ = fastrnn.LSTM(4, 6, **options)(x)
        with pytest.raises(RuntimeError, match="have the same dtype, but got"):
            output.sum().backward()
    assert calls


def test_a_batch_of_one_with_gaps(calls):
    """A view of one sequence among others takes the same way, to the same bits."""
    x = torch.randn(20, 4, 64)
    for kind in ("LSTM", "GRU", "RNN"):
        layer = getattr(fastrnn, kind)(64, 64)
        for grad in (True, False):
            with torch.set_grad_enabled(grad):
                together, _ = layer(x)
                alone, _ = layer(x[:, 3:])
            assert torch.equal(alone, together[:, 3:])
    assert len(calls) == 9  # without gradients only the view comes this way: fastrnn.inference


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoints(reentrant, calls):
    layer, x = fastrnn.LSTM(5, 6), torch.randn(7, 3, 5, requires_grad=True)
    (expected,) = torch.autograd.grad(layer(x)[0].sum(), x)
    output = checkpoint(lambda x: layer(x)[0], x, use_reentrant=reentrant)
    output.sum().backward()
    torch.testing.assert_close(x.grad, expected)
    assert calls


def test_what_wants_no_gradient_gets_none(calls):
    layer, x = fastrnn.GRU(4, 6), torch.randn(5, 3, 4)
    output, h = layer(x)
    every = torch.autograd.grad(output.sum() + h.sum(), list(layer.parameters()), retain_graph=True)
    again = torch.autograd.grad(output.sum() + h.sum(), list(layer.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(every, again, strict=True))
    layer.weight_ih_l0.requires_grad_(False)
    output, h = layer(x)
    (output.sum() + h.sum()).backward()
    assert layer.weight_ih_l0.grad is None
    torch.testing.assert_close(layer.weight_hh_l0.grad, every[1])
    layer.requires_grad_(False)
    x.requires_grad_()
    h_0 = torch.zeros(1, 3, 6, requires_grad=True)
    layer(x, h_0)[1].sum().backward()
    assert x.grad.any() and h_0.grad.any()
    assert len(calls) == 3


def test_a_change_before_the_backward_is_noticed(calls):
    layer, x = fastrnn.LSTM(4, 6), torch.randn(5, 3, 4)
    output, _ = layer(x)
    x.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()
    assert calls


def test_a_default_given_is_one_left_out(calls):
    x = torch.randn(5, 3, 4)
    layer = fastrnn.LSTM(4, 6, recompute=False, zoneout=0.0, cell_clip=None, reverse=False)
    copy.deepcopy(layer)(x)
    layer = fastrnn.GRU(4, 6)
    fastrnn.functional.gru(x, torch.zeros(1, 3, 6), list(layer.parameters()), grad_clip=None)
    assert len(calls) == 2


def test_what_goes_the_general_way(calls):
    x, done = torch.randn(5, 3, 4), torch.zeros(5, 3, dtype=torch.bool)
    fastrnn.LSTM(4, 6, reverse=True)(x)
    fastrnn.LSTM(4, 6)(x, reset=done)
    fastrnn.LSTM(4, 6, num_heads=2)(x)
    fastrnn.PeepholeLSTM(4, 6)(x)
    fastrnn.LSTM(4, 6).bfloat16()(x.bfloat16())
    fastrnn.LSTM(4, 6, backend="reference")(x)
    torch.func.vmap(fastrnn.LSTM(4, 6))(x[None])
    strided = fastrnn.LSTM(4, 6)
    strided.weight_hh_l0 = torch.nn.Parameter(torch.randn(6, 24).t())
    strided(x)[0].sum().backward()
    with torch.no_grad():
        fastrnn.LSTM(4, 6)(x)  # shorter still: fastrnn.inference
    assert not calls
