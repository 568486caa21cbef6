"""Models with int8 weights: what `quantize_dynamic` makes of a model's layers."""

import copy
import io
import pickle

import pytest
import torch
from equality import equal, flat
from torch import nn
from torch.nn.utils import prune

import fastrnn
from fastrnn.modules import quantized, quantized_cells

# Twice the stated error, 1 % of the outputs, where outputs are states, within 1: only whether it is
# the same layer; how near it comes, tests/test_quantized.py measures.
NEAR = {"atol": 0.02, "rtol": 0}


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(3, 8)
        self.rnns = nn.ModuleList([fastrnn.LSTM(8, 12), nn.GRU(12, 10), fastrnn.RNN(10, 9)])
        self.cell = nn.LSTMCell(9, 7)
        self.same = self.cell
        self.other = fastrnn.PeepholeLSTM(7, 6)

    def forward(self, x):
        x = self.embed(x)
        for rnn in self.rnns:
            x = rnn(x)[0]
        h, _ = self.cell(x[-1])
        return self.other(h[None])[0]


def quantized_model(model, **options):
    with pytest.warns(UserWarning, match="other: PeepholeLSTM has no kernel with int8 weights"):
        return fastrnn.quantize_dynamic(model, **options)


def test_a_model():
    model, x = Model(), torch.randn(5, 2, 3)
    before = copy.deepcopy(model.state_dict())
    found = quantized_model(model)
    assert isinstance(found.rnns[0], quantized.QuantizedLSTM)
    assert isinstance(found.rnns[1], quantized.QuantizedGRU)
    assert isinstance(found.rnns[2], quantized.QuantizedRNN)
    assert isinstance(found.cell, quantized_cells.QuantizedLSTMCell) and found.same is found.cell
    assert type(found.other) is fastrnn.PeepholeLSTM and type(found.embed) is nn.Linear
    assert isinstance(model.rnns[0], fastrnn.LSTM)
    assert all(torch.equal(t, model.state_dict()[n]) for n, t in before.items())
    with torch.no_grad():
        y = found(x)
        torch.testing.assert_close(y, model(x), **NEAR)
        for again in (copy.deepcopy(found), pickle.loads(pickle.dumps(found))):
            assert torch.equal(again(x), y)
        stream = io.BytesIO()
        torch.save(found.state_dict(), stream)
        stream.seek(0)
        other = quantized_model(Model())
        assert not torch.equal(other(x), y)
        other.load_state_dict(torch.load(stream, weights_only=True))
        assert torch.equal(other(x), y)
        assert quantized_model(model, inplace=True) is model
        assert torch.equal(model(x), y)


def test_which_layers():
    model = nn.ModuleDict({"a": fastrnn.LSTM(3, 4), "b": nn.LSTM(3, 4)})
    found = fastrnn.quantize_dynamic(model, filter_fn=lambda layer, name: name == "b")
    assert type(found["a"]) is fastrnn.LSTM and isinstance(found["b"], quantized.QuantizedLSTM)
    left = {
        "heads": fastrnn.LSTM(4, 4, num_heads=2),
        "before": fastrnn.GRU(4, 4, reset_after=False),
        "before_cell": fastrnn.GRUCell(4, 4, reset_after=False),
        "zoneout": fastrnn.GRU(4, 4, zoneout=0.1),
        "learnt": fastrnn.GRU(4, 4, learn_initial_state=True),
        "float64": fastrnn.RNN(4, 4).double(),
    }
    with pytest.warns(UserWarning) as told:
        found = fastrnn.quantize_dynamic(nn.ModuleDict(left))
    assert all(f"{name}: " in str(told[0].message) for name in left)
    assert [type(layer) for layer in found.values()] == [type(layer) for layer in left.values()]
    for layer in left.values():
        with pytest.raises(RuntimeError, match="quantize_dynamic: "):
            fastrnn.quantize_dynamic(layer)
    kept = fastrnn.LSTM(4, 5, recurrent_dropout=0.5, reverse=True, bias="single")
    x = torch.randn(6, 2, 4)
    torch.testing.assert_close(
        fastrnn.quantize_dynamic(kept)(x)[0], kept.eval()(x)[0].detach(), **NEAR
    )


def test_a_quarter_of_the_memory():
    layer = fastrnn.LSTM(256, 256)
    found = fastrnn.quantize_dynamic(layer)
    assert not list(found.parameters())
    size = sum(t.nbytes for t in found.state_dict().values())
    assert size < 0.26 * sum(t.nbytes for t in layer.state_dict().values())


def test_dequantized_weights():
    layer = fastrnn.LSTM(5, 20, num_layers=2, bidirectional=True, proj_size=7)
    weights = fastrnn.quantize_dynamic(layer).dequantized()
    assert weights.keys() == layer.state_dict().keys()
    for name, weight in layer.state_dict().items():
        scale = weight.abs().amax(-1, keepdim=True) / 127 if weight.dim() == 2 else 0
        assert ((weights[name] - weight).abs() <= scale * 0.501).all()


def test_hooks_and_parametrized_weights():
    layer = torch.nn.utils.parametrizations.weight_norm(fastrnn.GRU(4, 5), "weight_hh_l0")
    met = []
    layer.register_forward_hook(lambda *_: met.append("after"))
    found = fastrnn.quantize_dynamic(layer)
    x = torch.randn(3, 2, 4)
    with torch.no_grad():
        torch.testing.assert_close(found(x)[0], layer(x)[0], **NEAR)
    assert met == ["after", "after"]


def test_in_a_module_of_two_directions():
    module = fastrnn.Bidirectional(fastrnn.LSTM, 4, (5, 6), num_layers=2)
    x, lengths = torch.randn(7, 3, 4), torch.tensor([7, 2, 0])
    found = fastrnn.quantize_dynamic(module)
    with torch.no_grad():
        expected = module(x, lengths=lengths)
        results = found(x, lengths=lengths)
        torch.testing.assert_close(results[0], expected[0], **NEAR)
        assert equal(found(x, results[1], lengths=lengths), found(x, results[1], lengths=lengths))


@pytest.mark.parametrize("form", ["LSTM", "GRUCell"])
def test_compiles_in_one_graph(form):
    layer = fastrnn.quantize_dynamic(getattr(fastrnn, form)(4, 6))
    x = torch.randn(5, 2, 4) if form == "LSTM" else torch.randn(2, 4)
    found = torch.compile(layer, backend="eager", fullgraph=True)(x)
    assert equal(found, layer(x))


@pytest.mark.parametrize("form", ["LSTM", "GRU", "GRUCell"])
def test_vmap_over_inputs_and_states(form):
    layer = fastrnn.quantize_dynamic(getattr(fastrnn, form)(4, 6))
    x = torch.randn(3, 2, 4) if form == "GRUCell" else torch.randn(3, 5, 2, 4)
    state = torch.randn(2, 6, 3) if form == "GRUCell" else torch.randn(1, 2, 6, 3)
    hx = (state, -state) if form == "LSTM" else state
    expected = [
        flat(layer(x[i], tuple(s[..., i] for s in hx) if form == "LSTM" else state[..., i]))
        for i in range(3)
    ]
    expected = [torch.stack(each) for each in zip(*expected, strict=True)]
    assert equal(torch.func.vmap(layer, in_dims=(0, -1))(x, hx), expected)
    shared = torch.func.vmap(layer, in_dims=(None, -1))(x[0], hx)
    assert equal([each[0] for each in flat(shared)], [each[0] for each in expected])


def test_vmap_over_padded_sequences_and_not_over_weights():
    layer = fastrnn.quantize_dynamic(fastrnn.LSTM(4, 6, bidirectional=True))
    x, lengths = torch.randn(3, 5, 2, 4), torch.tensor([3, 5])

    def last(x):
        return layer(x, lengths=lengths)[1][0]

    assert equal(torch.func.vmap(last)(x), torch.stack([last(each) for each in x]))
    weights = {name: torch.stack([b, b]) for name, b in layer.named_buffers() if "weight" in name}
    with pytest.raises(ValueError, match="vmap over int8 weights"):
        torch.func.vmap(lambda w: torch.func.functional_call(layer, w, (x[0],))[0])(weights)


def test_repr():
    text = repr(fastrnn.quantize_dynamic(nn.GRU(3, 4, 2, bias=False, batch_first=True)))
    assert text == (
        "QuantizedGRU(3, 4, num_layers=2, bias=False, batch_first=True, dtype=torch.qint8)"
    )
    text = repr(fastrnn.quantize_dynamic(fastrnn.RNNCell(3, 4, nonlinearity="relu")))
    assert text == "QuantizedRNNCell(3, 4, nonlinearity='relu', dtype=torch.qint8)"


LAYER, CELL = fastrnn.LSTM(3, 4), fastrnn.GRUCell(3, 4)
X = torch.randn(2, 5, 3)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda q, c: q(X.double()), ValueError, "input to be float32, got torch.float64"),
        (lambda q, c: q(X.clone().requires_grad_()), RuntimeError, "input requires grad"),
        (lambda q, c: c(X[0].clone().requires_grad_()), RuntimeError, "input requires grad"),
        (lambda q, c: c(X[0], torch.zeros(5, 4, requires_grad=True)), RuntimeError, "hx requires"),
        (lambda q, c: q(X[..., :2]), RuntimeError, "Expected 3, got 2"),
        (lambda q, c: q(X, torch.zeros(1, 5, 4)), TypeError, "tuple of 2 tensors"),
        (lambda q, c: q(X, (torch.zeros(1, 4, 4),) * 2), RuntimeError, r"hidden\[0\] size"),
        (lambda q, c: q(X, (torch.zeros(1, 5, 4).half(),) * 2), ValueError, "float16"),
        (lambda q, c: q(X[:0]), RuntimeError, "larger than 0"),
        (lambda q, c: q(X[None]), ValueError, "2D or 3D, got 4D"),
        (lambda q, c: q(3), TypeError, "got int"),
        (lambda q, c: q(X, lengths=torch.tensor([1, 2, 3, 1, 1])), ValueError, "2, got 3"),
        (lambda q, c: q(X, lengths=torch.tensor([1, 2])), RuntimeError, r"lengths size \(5,\)"),
        (lambda q, c: q(X, lengths=[1, 2]), TypeError, "lengths should be a tensor, got list"),
        (lambda q, c: q(X, lengths=torch.ones(5).bool()), TypeError, "should be integers"),
        (lambda q, c: c(X), ValueError, "1D or 2D, got 3D"),
        (lambda q, c: c(X[0], torch.zeros(4, 4)), RuntimeError, "hx size"),
        (lambda q, c: q.double()(X), RuntimeError, "takes contiguous tensors"),
        (lambda q, c: fastrnn.quantize_dynamic(q, torch.float16), ValueError, "torch.qint8"),
        (lambda q, c: fastrnn.quantize_dynamic(3), TypeError, "torch.nn.Module, got int"),
    ],
)
def test_errors(call, error, words):
    with pytest.raises(error, match=words):
        call(fastrnn.quantize_dynamic(LAYER), fastrnn.quantize_dynamic(CELL))


def test_other_sizes_do_not_load():
    """Though they are padded to the same shapes."""
    one, other = (fastrnn.quantize_dynamic(nn.Sequential(nn.LSTM(i, 6))) for i in (5, 6))
    assert one[0].weight_ih_l0.shape == other[0].weight_ih_l0.shape
    with pytest.raises(RuntimeError, match=r"\[5, 6, 0\] in the checkpoint, \[6, 6, 0\]"):
        other.load_state_dict(one.state_dict())


@pytest.mark.parametrize("how", ["weight_norm", "spectral_norm", "prune"])
@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
def test_weights_made_by_hooks_are_left(how):
    layer = nn.LSTM(3, 4)
    if how == "prune":
        prune.l1_unstructured(layer, "weight_hh_l0", 0.5)
    else:
        getattr(nn.utils, how)(layer, "weight_hh_l0")
    # In place: torch does not copy such layers.
    with pytest.raises(RuntimeError, match="makes a weight of this LSTM anew"):
        fastrnn.quantize_dynamic(layer, inplace=True)
    with pytest.warns(UserWarning, match="0: .* makes a weight"):
        assert fastrnn.quantize_dynamic(nn.Sequential(layer), inplace=True)[0] is layer


def test_lengths_of_no_sequences():
    layer = fastrnn.quantize_dynamic(LAYER)
    output, _ = layer(X[:, :0], lengths=torch.zeros(0, dtype=torch.long))
    assert output.shape == (2, 0, 4)


def test_recompute_is_of_training():
    layer = fastrnn.LSTM(3, 4, recompute=True)
    with torch.no_grad():
        torch.testing.assert_close(fastrnn.quantize_dynamic(layer)(X)[0], layer(X)[0], **NEAR)


def test_weights_that_are_not_finite():
    model = nn.Sequential(nn.GRU(3, 4))
    with torch.no_grad():
        model[0].weight_hh_l0[2, 1] = torch.inf
    with pytest.raises(ValueError, match=r"0\.weight_hh_l0 has numbers that are not finite"):
        fastrnn.quantize_dynamic(model)


def test_no_sequences():
    output, (h, c) = fastrnn.quantize_dynamic(LAYER)(torch.randn(2, 0, 3))
    assert output.shape == (2, 0, 4) and h.shape == c.shape == (1, 0, 4)
    assert fastrnn.quantize_dynamic(CELL)(torch.randn(0, 3)).shape == (0, 4)
