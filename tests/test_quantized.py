"""Layers with int8 weights: against their reference, within their bounds, and as modules."""

import copy
import io
import pickle
import warnings

import pytest
import torch
from equality import FLOOR, threads, use_isa
from torch import nn
from torch.nn.utils import prune
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import fastrnn
from fastrnn import _C, int8
from fastrnn.cells import CELLS
from fastrnn.modules import quantized

ALL_ISAS = _C.isas()  # products differ between avx512 and avx512bf16, which counts bytes
MODES = ("LSTM", "GRU", "RNN", "RNN-relu", "LSTM-projected")
# One unit and one number, one short of a block's edge, on it and past it, several blocks.
SIZES = ((1, 1), (5, 15), (16, 16), (3, 17), (33, 48), (64, 65))


def build(mode, inputs, hidden, **options):
    if mode == "RNN-relu":
        return fastrnn.RNN(inputs, hidden, nonlinearity="relu", **options)
    if mode == "LSTM-projected":
        return fastrnn.LSTM(inputs, hidden, proj_size=(hidden + 1) // 2 % hidden, **options)
    return getattr(fastrnn, mode)(inputs, hidden, **options)


def flat(results):
    if isinstance(results, torch.Tensor):
        return [results]
    return [tensor for result in results for tensor in flat(result)]


def equal(found, expected):
    return all(torch.equal(a, b) for a, b in zip(flat(found), flat(expected), strict=True))


def as_tuple(state):
    return state if isinstance(state, tuple) else (state,)


def state_of(layer, batch, scale=1.0):
    """A state for a layer of one recurrence."""
    widths = [layer.proj_size or layer.hidden_size]
    widths += [layer.hidden_size] * (len(CELLS[layer.cell].states) - 1)
    found = tuple(scale * torch.randn(1, batch, width) for width in widths)
    return found if len(found) > 1 else found[0]


def by_reference(layer, x, hx):
    weights = {}
    for kind in ("ih", "hh", *["hr"] * bool(layer.proj_size)):
        name = f"weight_{kind}"
        scale = getattr(layer, f"scale_{kind}_l0")
        packed = getattr(layer, name + "_l0")
        units = scale.shape[0] // packed.shape[2]
        weights[name] = int8.unpack(packed, units, layer._sizes[kind][1]), scale
    states = [state[0] for state in as_tuple(hx)]
    return int8.reference(CELLS[layer.cell], x, states, weights, layer.bias_ih_l0, layer.bias_hh_l0)


def test_quantise_rows():
    rows = torch.tensor([[1.0, -2.0, 0.5], [0, 0, 0], [1e-38, 0, 0], [1, torch.nan, 2]])
    rows = torch.cat([rows, torch.tensor([[1.0, -torch.inf, 2.0], [3e38, 1.6e38, -3e38]])])
    quanta, scale = int8.quantise_rows(rows)
    assert quanta.tolist()[0] == [64, -127, 32]  # 63.5 and 31.75; of two as near the even one
    assert quanta.tolist()[1:5] == [[0, 0, 0]] * 4
    assert quanta.tolist()[5] == [127, 68, -127]
    assert scale[1:3].tolist() == [0, 0] and scale[3:5].isnan().all()
    rows = torch.randn(20, 50)
    quanta, scale = int8.quantise_rows(rows)
    error = (quanta * scale.unsqueeze(1) - rows).abs()
    assert (error <= scale.unsqueeze(1) * (0.5 + 127 * 2**-22)).all()
    assert (quanta.abs().amax(1) == 127).all()


@pytest.mark.parametrize("gates", [1, 3, 4])
def test_pack_and_back(gates):
    quanta = torch.randint(-127, 128, (gates * 21, 35), dtype=torch.int8)
    packed = int8.pack(quanta, gates)
    assert packed.shape == (2, 12, gates, 64) and packed.dtype == torch.uint8
    assert torch.equal(int8.unpack(packed, 21, 35), quanta)
    # Gate 0, unit 17, k 6: block 1, quad 1, lane 1, byte 2.
    assert packed[1, 1, 0, 4 + 2] == 128 + int(quanta[17, 6])


@pytest.mark.parametrize("name", ALL_ISAS)
@pytest.mark.parametrize("mode", MODES)
def test_a_step_is_the_references(mode, name):
    """Integers are exact, so what is left is float32's rounding of gates."""
    torch.manual_seed(0)
    for inputs, hidden in SIZES:
        for batch in (1, 2, 7, 13):
            layer = fastrnn.quantize_dynamic(build(mode, inputs, hidden, bias=batch != 2))
            x, hx = torch.randn(1, batch, inputs), state_of(layer, batch)
            expected = by_reference(layer, x[0], hx)
            with use_isa(name):
                output, found = layer(x, hx)
            assert torch.equal(output, as_tuple(found)[0])
            for one, wanted in zip(as_tuple(found), expected, strict=True):
                # A product of exact integers and two scales, and sums of four such before gates
                # of slope 1 at most: some ulps of numbers below 8, of relu and states their own.
                size = max(1.0, wanted.abs().max())
                allowed = 4 * FLOOR[torch.float32] * size
                if layer.proj_size:
                    # The hidden that is quantised may be rounded to the next integer: one each.
                    scales = layer.scale_hr_l0.max() * 127 * hidden / 127
                    allowed = allowed + (scales if one is as_tuple(found)[0] else 0)
                assert (one[0] - wanted).abs().max() <= allowed, (inputs, hidden, batch)


def integer_layer(hidden):
    """An RNN with relu of which all scales are powers of two: its results are exact."""
    layer = fastrnn.RNN(hidden, hidden, nonlinearity="relu", bias=False)
    with torch.no_grad():
        for weight in (layer.weight_ih_l0, layer.weight_hh_l0):
            weight.copy_(torch.randint(-127, 128, weight.shape).float())
            weight[:, 0] = 127
    x = torch.randint(-127, 128, (1, 5, hidden)).float()
    h = torch.randint(-127, 128, (1, 5, hidden)).float()
    x[..., 0], h[..., 0] = 127, -127
    return layer, x, h


@pytest.mark.parametrize("name", ALL_ISAS)
@pytest.mark.parametrize("hidden", [3, 16, 61, 512])
def test_sums_of_integers_are_exact(hidden, name):
    torch.manual_seed(hidden)
    layer, x, h = integer_layer(hidden)
    exact = x[0].double() @ layer.weight_ih_l0.detach().double().t()
    exact = (exact + h[0].double() @ layer.weight_hh_l0.detach().double().t()).relu()
    with use_isa(name):
        _, found = fastrnn.quantize_dynamic(layer)(x, h)
    assert exact.max() < 2**24 and torch.equal(found[0].double(), exact)


def test_the_largest_sums_fit():
    """65,536 times 127 * 127 of one sign, and of the other."""
    layer = fastrnn.RNNCell(int8.MOST_DEPTH, 2, nonlinearity="relu", bias=False)
    with torch.no_grad():
        layer.weight_ih.fill_(127)[1] = -127
        layer.weight_hh.zero_()
    found = fastrnn.quantize_dynamic(layer)
    for sign, unit in ((1, 0), (-1, 1)):
        for name in ALL_ISAS:
            with use_isa(name):
                h = found(torch.full((1, int8.MOST_DEPTH), 127.0 * sign))
            assert h[0].tolist() == [127.0**2 * int8.MOST_DEPTH * (unit == i) for i in range(2)]


@pytest.mark.parametrize("mode", MODES)
def test_a_sequence_is_its_steps(mode):
    """To the bit, whatever the threads and the neighbours; packed and with lengths likewise."""
    torch.manual_seed(1)
    layer = fastrnn.quantize_dynamic(build(mode, 37, 150))
    x, hx = torch.randn(9, 11, 37), state_of(layer, 11)
    found = layer(x, hx)
    state, outputs = hx, []
    for t in range(9):
        output, state = layer(x[t : t + 1], state)
        outputs.append(output)
    assert equal(found, (torch.cat(outputs), state))
    for count in (1, 2, 3):
        with threads(count):
            assert equal(layer(x, hx), found)
            for b in (0, 10):
                alone = layer(x[:, b : b + 1], tuple(s[:, b : b + 1] for s in hx)
                              if isinstance(hx, tuple) else hx[:, b : b + 1])  # fmt: skip
                assert torch.equal(alone[0], found[0][:, b : b + 1])
    lengths = torch.tensor([3, 9, 0, 1, 9, 5, 2, 0, 8, 4, 7])
    output, finals = layer(x, hx, lengths=lengths)
    for b, length in enumerate(lengths.tolist()):
        of = [s[:, b : b + 1] for s in as_tuple(hx)]
        if length:
            alone, of = layer(x[:length, b : b + 1], tuple(of) if len(of) > 1 else of[0])
            assert torch.equal(output[:length, b : b + 1], alone)
        assert not output[length:, b].any()
        assert equal([s[:, b : b + 1] for s in as_tuple(finals)], as_tuple(of))
    some = lengths > 0
    cut = tuple(s[:, some] for s in hx) if isinstance(hx, tuple) else hx[:, some]
    packed = pack_padded_sequence(x[:, some], lengths[some], enforce_sorted=False)
    output_packed, finals_packed = layer(packed, cut)
    assert torch.equal(pad_packed_sequence(output_packed)[0], output[:, some])
    assert equal(finals_packed, tuple(s[:, some] for s in as_tuple(finals)))


@pytest.mark.parametrize("mode", MODES)
def test_stacks_directions_and_forms(mode):
    torch.manual_seed(2)
    options = {"num_layers": 2, "bidirectional": True, "batch_first": True}
    layer = fastrnn.quantize_dynamic(build(mode, 7, 18, **options))
    x = torch.randn(3, 6, 7)
    output, finals = layer(x)
    # By layers of one direction each, with the same numbers.
    below, ends = x, []
    for i in range(2):
        outputs = []
        for suffix in ("", "_reverse"):
            one = build(mode, below.shape[2], 18, batch_first=True, reverse=bool(suffix))
            one = fastrnn.quantize_dynamic(one)
            state = {n: t for n, t in layer.state_dict().items() if n.endswith(f"_l{i}{suffix}")}
            names = {n: n.removesuffix(suffix).replace("_l1", "_l0") for n in state}
            one.load_state_dict({names[n]: t for n, t in state.items()} | {"sizes": one.sizes})
            out, end = one(below)
            outputs.append(out)
            ends.append(as_tuple(end))
        below = torch.cat(outputs, 2)
    assert torch.equal(output, below)
    assert equal(as_tuple(finals), [torch.cat(kind) for kind in zip(*ends, strict=True)])
    alone, finals_alone = layer(x[1], None)
    assert torch.equal(alone, output[1])
    assert equal(
        finals_alone, [s[:, 1] for s in as_tuple(finals)] if "LSTM" in mode else finals[:, 1]
    )


@pytest.mark.parametrize("mode", ["LSTM", "GRU", "RNN"])
def test_cells_step_as_layers_do(mode):
    torch.manual_seed(3)
    cell = getattr(fastrnn, f"{mode}Cell")(5, 20)
    layer = getattr(fastrnn, mode)(5, 20)
    layer.load_state_dict({f"{n}_l0": t for n, t in cell.state_dict().items()})
    cell, layer = fastrnn.quantize_dynamic(cell), fastrnn.quantize_dynamic(layer)
    x, hx = torch.randn(1, 4, 5), state_of(layer, 4)
    one = tuple(s[0] for s in hx) if isinstance(hx, tuple) else hx[0]
    found = as_tuple(cell(x[0], one))
    assert equal(found, [s[0] for s in as_tuple(layer(x, hx)[1])])
    assert equal(cell(x[0, 2], tuple(s[2] for s in one) if isinstance(one, tuple) else one[2]),
                 tuple(s[2] for s in found) if len(found) > 1 else found[0][2])  # fmt: skip
    assert equal(cell(x[0]), [s[0] for s in as_tuple(layer(x)[1])]
                 if mode == "LSTM" else layer(x)[1][0])  # fmt: skip


@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("mode", MODES)
def test_the_short_way_is_the_long_one(mode, steps, monkeypatch):
    torch.manual_seed(7)
    layer = fastrnn.quantize_dynamic(
        build(mode, 5, 19, num_layers=2, bidirectional=True, batch_first=True)
    )
    x = torch.randn(3, steps, 5)
    _, state = layer(x)
    expected = layer(x, state)
    with monkeypatch.context() as patch, torch.no_grad():
        patch.delattr(int8, "layers")
        assert equal(layer(x, state), expected)
        if mode in ("LSTM", "GRU", "RNN"):
            cell = fastrnn.quantize_dynamic(getattr(fastrnn, f"{mode}Cell")(5, 19))
            found = cell(x[0]), cell(x[0], cell(x[0]))
    with torch.no_grad(), pytest.raises(RuntimeError, match="Expected 5, got 6"):
        layer(torch.randn(3, steps, 6))  # as many padded numbers as 5
    if mode in ("LSTM", "GRU", "RNN"):
        assert equal(found, (cell(x[0]), cell(x[0], cell(x[0]))))
        with torch.no_grad(), pytest.raises(RuntimeError, match="Expected 5, got 6"):
            cell(torch.randn(3, 6))


@pytest.mark.parametrize("mode", ["RNN", "RNN-relu"])
def test_products_keep_their_bound(mode):
    """The pre-activations' error, through a function of slope at most 1."""
    torch.manual_seed(4)
    layer = build(mode, 300, 70).double()
    x, h = torch.randn(1, 6, 300, dtype=torch.float64), torch.randn(1, 6, 70, dtype=torch.float64)
    exact = layer(x, h)[0][0]
    bound = int8.product_bound(x[0], layer.weight_ih_l0.detach())
    bound = bound + int8.product_bound(h[0], layer.weight_hh_l0.detach())
    layer = layer.float()
    found = fastrnn.quantize_dynamic(layer)(x.float(), h.float())[0][0]
    error = (found - exact).abs()
    assert (error <= bound + FLOOR[torch.float32] * 8).all()
    assert error.max() > bound.min() / 100  # a bound, not a universe


@pytest.mark.parametrize("mode", ["LSTM", "GRU", "RNN"])
def test_nearer_to_float32_than_torchs(mode):
    """torch's has a scale a matrix and seven bits of activations; it has no RNN layer."""
    torch.manual_seed(5)
    layer = getattr(nn, mode)(128, 128)
    x = torch.randn(50, 4, 128)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.ao is deprecated
        exact = layer(x)[0]
        ours = (fastrnn.quantize_dynamic(layer)(x)[0] - exact).square().mean().sqrt()
        if mode == "RNN":
            assert ours < 5e-3
            return
        theirs = torch.ao.quantization.quantize_dynamic(nn.Sequential(layer), {type(layer)})
        theirs = (theirs[0](x)[0] - exact).square().mean().sqrt()
    assert ours < theirs / 2


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("name", ALL_ISAS)
def test_not_finite_rows_give_nan_and_no_others(name, value):
    torch.manual_seed(6)
    layer = fastrnn.quantize_dynamic(fastrnn.LSTM(20, 24))
    x = torch.randn(5, 3, 20)
    expected = layer(x)[0]
    x[2, 1, 19] = value
    with use_isa(name):
        found = layer(x)[0]
    assert found[2:, 1].isnan().all()
    assert not found[:2].isnan().any() and not found[:, ::2].isnan().any()
    torch.testing.assert_close(found[:, ::2], expected[:, ::2], atol=0.05, rtol=0)
    h = torch.zeros(1, 3, 24)
    h[0, 0, 3] = value
    with use_isa(name):
        found = layer(x[:2], (h, torch.zeros(1, 3, 24)))[0]
    assert found[:, 0].isnan().all() and not found[:, 1:].isnan().any()


def test_zero_and_tiny_rows():
    layer = fastrnn.quantize_dynamic(fastrnn.GRU(4, 6))
    zero = layer(torch.zeros(2, 1, 4))[0]
    assert zero.isfinite().all()
    assert torch.equal(layer(torch.full((2, 1, 4), 1e-40))[0], zero)
    assert layer(torch.full((2, 1, 4), 3e38))[0].isfinite().all()


# --- as modules -----------------------------------------------------------------------


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
    assert isinstance(found.cell, quantized.QuantizedLSTMCell) and found.same is found.cell
    assert type(found.other) is fastrnn.PeepholeLSTM and type(found.embed) is nn.Linear
    assert isinstance(model.rnns[0], fastrnn.LSTM)
    assert all(torch.equal(t, model.state_dict()[n]) for n, t in before.items())
    with torch.no_grad():
        y = found(x)
        torch.testing.assert_close(y, model(x), atol=0.02, rtol=0)
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
        fastrnn.quantize_dynamic(kept)(x)[0], kept.eval()(x)[0].detach(), atol=0.02, rtol=0
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
        torch.testing.assert_close(found(x)[0], layer(x)[0], atol=0.02, rtol=0)
    assert met == ["after", "after"]


def test_in_a_module_of_two_directions():
    module = fastrnn.Bidirectional(fastrnn.LSTM, 4, (5, 6), num_layers=2)
    x, lengths = torch.randn(7, 3, 4), torch.tensor([7, 2, 0])
    found = fastrnn.quantize_dynamic(module)
    with torch.no_grad():
        expected = module(x, lengths=lengths)
        results = found(x, lengths=lengths)
        torch.testing.assert_close(results[0], expected[0], atol=0.02, rtol=0)
        assert equal(found(x, results[1], lengths=lengths), found(x, results[1], lengths=lengths))


@pytest.mark.parametrize("form", ["LSTM", "GRUCell"])
def test_compiles_in_one_graph(form):
    layer = fastrnn.quantize_dynamic(getattr(fastrnn, form)(4, 6))
    x = torch.randn(5, 2, 4) if form == "LSTM" else torch.randn(2, 4)
    found = torch.compile(layer, backend="eager", fullgraph=True)(x)
    assert equal(found, layer(x))


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
        torch.testing.assert_close(
            fastrnn.quantize_dynamic(layer)(X)[0], layer(X)[0], atol=0.02, rtol=0
        )


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
