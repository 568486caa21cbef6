"""The layers and cells beyond torch.nn's: against formulas written another way, and as modules."""

import copy
import pickle

import pytest
import torch
from equality import SEED, Case, call_fastrnn, call_reference, draw, run
from torch.nn.functional import layer_norm, softplus

import fastrnn
from fastrnn import functional, init
from fastrnn.cells import CELLS
from fastrnn.forms import weight_shapes

I, H, T, B = 3, 6, 5, 2
F64 = torch.float64

LAYERS = {
    "PeepholeLSTM": {},
    "CoupledLSTM": {},
    "LayerNormLSTM": {},
    "LayerNormGRU": {},
    "IndRNN": {},
    "LightGRU": {"norm": "layer"},
    "MinGRU": {},
    "MinLSTM": {},
    "SLSTM": {},
}
OTHERS = [name for name, spec in CELLS.items() if spec.torch_layer is None]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(SEED)


def make(name, *sizes, **options):
    return getattr(fastrnn, name)(*(sizes or (I, H)), dtype=F64, **(LAYERS[name] | options))


def normal(*shape):
    return torch.randn(shape, dtype=F64)


def gates_of(layer, x, count):
    """The input side of all steps, bias included, gate by gate."""
    return (x @ layer.weight_ih_l0.t() + layer.bias_ih_l0).chunk(count, -1)


# --- what they compute -------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, F64], ids=str)
@pytest.mark.parametrize("backend", ["reference", "cpp"])
def test_min_lstm_where_both_gates_underflow(backend, dtype):
    """Their ratio is a number still: f / (f + i) = 1 / (1 + exp(i - f)) where both are small."""
    f = torch.tensor([-800.0, -800, -790, -120, -100, -80, 90, 50, -1000, 1000])
    i = torch.tensor([-800.0, -790, -800, -118, -103, -81, 95, 50, 1000, -1000])
    gates = torch.stack([f, i, torch.full_like(f, 3.0)]).to(dtype).requires_grad_()
    h = torch.full_like(gates[0], -2.0).detach().requires_grad_()
    out, (final,) = functional.recurrent(
        "min_lstm", torch.ones(1, 1, 1, dtype=dtype), (h.view(1, 1, -1),),
        (gates.view(-1, 1),), bias=False, backend=backend,
    )  # fmt: skip
    d_f, d_i = torch.autograd.grad(out.sum(), gates)[0][:2]
    share = torch.sigmoid(torch.where(f > 0, 0, f).double() - torch.where(i > 0, 0, i).double())
    tolerance = 64 * torch.finfo(dtype).eps
    close = {"rtol": tolerance, "atol": tolerance}
    torch.testing.assert_close(out.flatten().double(), -2 * share + 3 * (1 - share), **close)
    slope = -5 * share * (1 - share)
    torch.testing.assert_close(d_f.double(), slope * torch.sigmoid(-f.double()), **close)
    torch.testing.assert_close(d_i.double(), -slope * torch.sigmoid(-i.double()), **close)
    assert torch.equal(out.flatten(), final.flatten())


def test_peepholes_of_zero_are_none():
    layer, x = make("PeepholeLSTM", bias=True), normal(T, B, I)
    torch.nn.init.zeros_(layer.weight_ch_l0)
    plain = torch.nn.LSTM(I, H, dtype=F64)
    plain.load_state_dict(layer.state_dict(), strict=False)
    torch.testing.assert_close(layer(x)[0], plain(x)[0])


@pytest.mark.parametrize("peepholes", [False, True])
def test_a_coupled_lstm_is_one_whose_gates_sum_to_one(peepholes):
    layer, x = make("CoupledLSTM", peepholes=peepholes), normal(T, B, I)
    h, c = normal(2, 1, B, H)
    p_i, p_o = layer.weight_ch_l0.chunk(2) if peepholes else torch.zeros(2, H, dtype=F64)
    _, (h_n, c_n) = layer(x, (h, c))
    for x_t in x:
        a = x_t @ layer.weight_ih_l0.t() + layer.bias_ih_l0 + h[0] @ layer.weight_hh_l0.t()
        i = torch.sigmoid(a[:, :H] + p_i * c[0])
        c = ((1 - i) * c[0] + i * torch.tanh(a[:, H : 2 * H])).unsqueeze(0)
        h = (torch.sigmoid(a[:, 2 * H :] + p_o * c[0]) * torch.tanh(c[0])).unsqueeze(0)
    torch.testing.assert_close(h_n, h)
    torch.testing.assert_close(c_n, c)


def test_layer_norm_gru_is_one_product_and_one_normalisation():
    layer, x, h = make("LayerNormGRU"), normal(T, B, I), normal(B, H)
    layer.weight_ln_l0.data, layer.bias_ln_l0.data = normal(3 * H), normal(3 * H)
    _, h_n = layer(x, h.unsqueeze(0))
    weight = torch.cat([layer.weight_ih_l0, layer.weight_hh_l0], 1)
    for x_t in x:
        a = torch.cat([x_t, h], 1) @ weight.t() + layer.bias_ih_l0
        r, u, n = layer_norm(a, (3 * H,), layer.weight_ln_l0, layer.bias_ln_l0).chunk(3, 1)
        u = torch.sigmoid(u - 1)
        h = u * torch.tanh(torch.sigmoid(r) * n) + (1 - u) * h
    torch.testing.assert_close(h_n[0], h)


@pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
def test_an_indrnn_is_an_rnn_with_a_diagonal(nonlinearity):
    layer, x = make("IndRNN", nonlinearity=nonlinearity), normal(T, B, I)
    plain = fastrnn.RNN(I, H, nonlinearity=nonlinearity, bias="single", dtype=F64)
    state = layer.state_dict()
    plain.load_state_dict(state | {"weight_hh_l0": state.pop("weight_u_l0").diag()})
    torch.testing.assert_close(layer(x)[0], plain(x)[0])


def test_light_gru():
    layer, x, h = make("LightGRU"), normal(T, B, I), normal(B, H)
    layer.weight_ln_ih_l0.data = normal(2 * H)
    _, h_n = layer(x, h.unsqueeze(0))
    for x_t in x:
        a = layer_norm(x_t @ layer.weight_ih_l0.t(), (2 * H,), layer.weight_ln_ih_l0)
        z, n = (a + layer.bias_ih_l0 + h @ layer.weight_hh_l0.t()).chunk(2, 1)
        z = torch.sigmoid(z)
        h = z * h + (1 - z) * torch.relu(n)
    torch.testing.assert_close(h_n[0], h)


def test_light_gru_normalises_over_the_batch():
    layer, x = make("LightGRU", norm="batch", bidirectional=True), normal(T, B, I)
    training, _ = layer(x)
    # Before the bias every number has mean 0 over steps and sequences, in training.
    (norm, _), rows = layer.norm_ih, (x @ layer.weight_ih_l0.t()).flatten(0, 1)
    torch.testing.assert_close(norm.running_mean, 0.1 * rows.mean(0))
    weights = [p for name, p in layer.named_parameters() if not name.startswith("norm")]
    norms = [lambda a: (a - a.mean(0)) / (a.var(0, correction=0) + 1e-5).sqrt()] * 2
    by_hand, _ = functional.recurrent(
        "light_gru", x, None, weights, bias="single", bidirectional=True, normalise=norms
    )
    torch.testing.assert_close(training, by_hand)
    layer.eval()
    assert not torch.allclose(layer(x)[0], training)  # by the running statistics


def test_errors_of_a_normaliser():
    """What it returns is looked at before a kernel reads it."""
    shapes = weight_shapes(CELLS["lstm"], "single", features=I, hidden=H)
    x, weights = torch.randn(T, B, I), [torch.randn(shape) for shape in shapes.values()]
    for change, error, match in (
        (lambda t: t.double(), RuntimeError, "same dtype"),
        (lambda t: t[:1], ValueError, "of the size it is given"),
        (lambda t: None, ValueError, "NoneType"),
    ):
        with pytest.raises(error, match=match):
            functional.recurrent("lstm", x, None, weights, bias="single", normalise=[change])


def test_min_gru_is_a_weighted_mean_of_the_past():
    layer, x, h = make("MinGRU"), normal(T, B, I), normal(B, H)
    u, n = gates_of(layer, x, 2)
    kept = (1 - torch.sigmoid(u)).cumprod(0)
    closed = kept * (h + (torch.sigmoid(u) * n / kept).cumsum(0))
    torch.testing.assert_close(layer(x, h.unsqueeze(0))[0], closed)


def test_min_lstm_is_a_min_gru_of_the_log_ratio_of_gates():
    layer, x, h_0 = make("MinLSTM"), normal(T, B, I), normal(1, B, H)
    f, i, n = gates_of(layer, x, 3)
    u = torch.sigmoid(softplus(-f) - softplus(-i))  # i / (f + i)
    h = h_0
    for u_t, n_t in zip(u, n, strict=True):
        h = (1 - u_t) * h + u_t * n_t
    torch.testing.assert_close(layer(x, h_0)[1], h)


def test_slstm_is_the_plain_sum_of_exponentials():
    """Without the stabiliser m, where nothing overflows."""
    layer, x = make("SLSTM", num_heads=2), normal(T, B, I)
    h = c = n = torch.zeros(B, 2, H // 2, dtype=F64)
    outputs = []
    for x_t in x:
        a = (x_t @ layer.weight_ih_l0.t() + layer.bias_ih_l0).view(B, 2, 4, H // 2)
        weight = layer.weight_hh_l0.view(2, 4, H // 2, H // 2)
        i, f, g, o = (a + torch.einsum("bnk,ngjk->bngj", h, weight)).unbind(2)
        c = torch.sigmoid(f) * c + i.exp() * torch.tanh(g)
        n = torch.sigmoid(f) * n + i.exp()
        h = torch.sigmoid(o) * c / n
        outputs.append(h.flatten(1))
    torch.testing.assert_close(layer(x)[0], torch.stack(outputs))


def test_slstm_stands_exponents_that_overflow():
    layer = make("SLSTM").float()
    x = torch.full((T, B, I), 3e3, requires_grad=True)
    output, states = layer(x)
    output.sum().backward()
    assert all(tensor.isfinite().all() for tensor in (output, *states, x.grad))


@pytest.mark.parametrize("name", ["LSTM", "GRU", "RNN", *LAYERS])
def test_heads_are_layers_side_by_side(name):
    options = LAYERS.get(name, {}) | {"bias": "single", "dtype": F64}
    cls, x, heads = getattr(fastrnn, name), normal(T, B, I), 3
    both = cls(I, H, num_layers=1, bidirectional=True, num_heads=heads, **options)
    output, states = both(x)
    state = both.state_dict()
    for head in range(heads):
        one = cls(I, H // heads, bidirectional=True, **options)
        own = {key: tensor.chunk(heads)[head] for key, tensor in state.items()}
        one.load_state_dict(own)
        expected, finals = one(x)
        got = output.unflatten(2, (2, heads, -1))[:, :, :, head].flatten(2)
        torch.testing.assert_close(got, expected)
        pairs = (
            [(states, finals)]
            if isinstance(states, torch.Tensor)
            else zip(states, finals, strict=True)
        )
        for ours, theirs in pairs:
            torch.testing.assert_close(ours.unflatten(2, (heads, -1))[:, :, head], theirs)


@pytest.mark.parametrize("name", ["LSTM", "GRU", "RNN"])
def test_a_single_bias_is_the_sum_of_two(name):
    two = getattr(fastrnn, name)(I, H, dtype=F64)
    torch.nn.init.zeros_(two.bias_hh_l0)
    one = getattr(fastrnn, name)(I, H, bias="single", dtype=F64)
    assert "bias_hh_l0" not in one.state_dict()
    one.load_state_dict({k: v for k, v in two.state_dict().items() if k != "bias_hh_l0"})
    x = normal(T, B, I)
    torch.testing.assert_close(one(x)[0], two(x)[0])
    with torch.no_grad():
        torch.testing.assert_close(one(x)[0], two(x)[0])


# --- as modules --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LAYERS)
def test_a_cell_is_a_step_of_its_layer(name):
    options = {"norm": None} if name == "LightGRU" else {}
    layer, cell = make(name, **options), getattr(fastrnn, f"{name}Cell")(I, H, dtype=F64)
    cell.load_state_dict({k.removesuffix("_l0"): v for k, v in layer.state_dict().items()})
    for x in (normal(B, I), normal(I)):
        _, expected = layer(x.unsqueeze(0))
        found = cell(x)
        pairs = (
            [(found, expected)]
            if isinstance(found, torch.Tensor)
            else zip(found, expected, strict=True)
        )
        for ours, theirs in pairs:
            torch.testing.assert_close(ours, theirs.squeeze(0))
        again = cell(x, found)
        assert isinstance(again, torch.Tensor) or len(again) == len(found)


@pytest.mark.parametrize("name", LAYERS)
def test_layers_take_what_layers_take(name):
    layer = make(name, num_layers=2, bidirectional=True)
    x = normal(T, B, I)
    output, states = layer(x)
    torch.testing.assert_close(layer(x, tuple(map(torch.zeros_like, states)) if isinstance(
        states, tuple) else torch.zeros_like(states))[0], output)  # fmt: skip
    torch.testing.assert_close(layer(x[:, 0])[0], output[:, 0])
    packed = torch.nn.utils.rnn.pack_padded_sequence(x, torch.tensor([2, T]), enforce_sorted=False)
    unpacked, _ = torch.nn.utils.rnn.pad_packed_sequence(layer(packed)[0])
    torch.testing.assert_close(unpacked[:, 1], output[:, 1])
    first = make(name, num_layers=2, bidirectional=True, batch_first=True)
    first.load_state_dict(layer.state_dict())
    torch.testing.assert_close(first(x.transpose(0, 1))[0].transpose(0, 1), output)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(other(x)[0], output)
    torch._dynamo.reset()
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x)[0], output)


@pytest.mark.parametrize("name", LAYERS)
def test_gradients_of_gradients_and_vmap(name):
    layer = make(name, 2, 4)
    x = torch.randn(3, 1, 2, dtype=F64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: layer(x)[0], x)
    weights = dict(layer.named_parameters())

    def loss(weights, x):
        return torch.func.functional_call(layer, weights, (x,))[0].square().sum()

    xs = normal(3, T, 1, 2)
    found = torch.func.vmap(torch.func.grad(loss), (None, 0))(weights, xs)
    for i, x in enumerate(xs):
        expected = torch.func.grad(loss)(weights, x)
        for key in weights:
            torch.testing.assert_close(found[key][i], expected[key])


@pytest.mark.parametrize("cell", OTHERS)
def test_small_layers_and_no_rows(cell):
    """Sizes below those of the shared tests, where normalisation has next to nothing to do."""
    for hidden in (1, 2, 3):
        case = Case(cell, F64, hidden, batch=2, steps=3)
        results = run(call_fastrnn, case, draw(case, SEED))
        assert all(tensor.isfinite().all() for tensor in results.values())
    spec = CELLS[cell]
    weights = draw(Case(cell, F64, 4), SEED).weights
    output, states = functional.recurrent(cell, torch.zeros(2, 0, 5, dtype=F64), None, weights)
    assert output.shape == (2, 0, 4) and len(states) == len(spec.states)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("cell", OTHERS)
def test_what_is_not_finite_stays_in_its_row(cell, value):
    case = Case(cell, torch.float32, 19, batch=5)
    arguments = draw(case, SEED)
    arguments.input[1, 2, 0] = value
    for call in (call_reference, call_fastrnn):
        output = call(case, arguments)[0]
        others = [b for b in range(5) if b != 2]
        assert output[:, others].isfinite().all()
        if value != value:
            assert output[1:, 2].isnan().any(1).all()


# --- beginnings --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["LayerNormLSTM", "LayerNormGRU", "LightGRU"])
def test_normalisations_begin_neutral(name):
    for module in (make(name, num_layers=2), getattr(fastrnn, f"{name}Cell")(I, H)):
        for key, parameter in module.named_parameters():
            if "_ln" in key:
                assert (parameter == (1 if key.startswith("weight") else 0)).all()


@pytest.mark.parametrize("module", ["LSTM", "GRU", "GRUCell", "CoupledLSTM", "torch.nn.LSTM"])
def test_forget_bias(module):
    library = torch.nn if module.startswith("torch") else fastrnn
    layer = getattr(library, module.rpartition(".")[2])(I, H)
    before = {name: p.clone() for name, p in layer.named_parameters()}
    init.forget_bias_(layer, 2.0)
    gate = {"LSTM": 1, "GRU": 1, "CoupledLSTM": 0}[module.rpartition(".")[2].removesuffix("Cell")]
    sign = -1 if module == "CoupledLSTM" else 1
    for name, p in layer.named_parameters():
        rows = slice(gate * H, gate * H + H)
        if name.startswith("bias_ih"):
            assert (p[rows] == 2 * sign).all()
        elif name.startswith("bias_hh"):
            assert (p[rows] == 0).all()
        else:
            assert torch.equal(p, before[name])
    assert (fastrnn.LSTM(I, H, forget_bias=1.0).bias_ih_l0[H : 2 * H] == 1).all()


def test_chrono_and_orthogonal():
    layer = fastrnn.LSTM(I, H, 2, bidirectional=True, num_heads=2)
    init.chrono_(init.orthogonal_(layer), 50)
    for name, p in layer.named_parameters():
        if name.startswith("bias_ih"):
            i, f, _, _ = p.view(2, 4, H // 2).unbind(1)
            assert torch.equal(i, -f)
            assert ((f.exp() >= 1) & (f.exp() <= 49)).all() and f.unique().numel() == H
        if name.startswith("weight_hh"):
            for block in p.view(8, H // 2, H // 2):
                torch.testing.assert_close(block @ block.t(), torch.eye(H // 2))
    generators = [torch.Generator().manual_seed(1) for _ in range(2)]
    one, two = (init.chrono_(fastrnn.GRU(I, H), 9, generator) for generator in generators)
    assert torch.equal(one.bias_ih_l0[H : 2 * H], two.bias_ih_l0[H : 2 * H])


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: fastrnn.LSTM(I, H, bias="both"), ValueError, "True, False or 'single'"),
        (lambda: fastrnn.LSTM(I, H, bias=1), TypeError, "bias should be of type bool, got: int"),
        (lambda: fastrnn.LSTM(I, H, num_heads=4), ValueError, "divisible by num_heads, got 6, 4"),
        (lambda: fastrnn.SLSTM(I, H, num_heads=0), ValueError, "positive integer, got: 0"),
        (lambda: fastrnn.LayerNormLSTM(I, H, proj_size=2), ValueError, "has no projection"),
        (lambda: fastrnn.IndRNN(I, H, nonlinearity="gelu"), ValueError, "Unknown nonlinearity"),
        (lambda: fastrnn.LightGRU(I, H, norm="group"), ValueError, "norm should be 'batch'"),
        (lambda: fastrnn.SLSTM(I, H)(torch.zeros(T, B, I), torch.zeros(1, B, H)), TypeError,
         "SLSTM: Expected hx to be a tuple of 4 tensors"),
        (lambda: fastrnn.MinGRU(I, H)(torch.zeros(T, B, I), torch.zeros(1, B, 9)), RuntimeError,
         "Expected hidden size"),
        (lambda: fastrnn.PeepholeLSTMCell(I, H)(torch.zeros(B, I + 1)), RuntimeError,
         "Expected weight_ih_l0 size"),
        (lambda: functional.recurrent("lstn", torch.zeros(T, B, I), None, []), ValueError,
         "cell should be one of"),
        (lambda: functional.recurrent("min_gru", torch.zeros(T, B, I), None, [torch.zeros(4, I)]),
         ValueError, "expected 3 weights for each of 1 layers"),
        (lambda: init.gates_(fastrnn.LSTM(I, H), "weight_hh", torch.nn.init.zeros_, "z"),
         ValueError, "has the gates i, f, g, o, got"),
        (lambda: init.gates_(torch.nn.Linear(I, H), "weight_hh", torch.nn.init.zeros_), ValueError,
         "expected a recurrent layer or cell, got Linear"),
        (lambda: init.forget_bias_(fastrnn.RNN(I, H)), ValueError, "no gate that keeps"),
        (lambda: init.chrono_(fastrnn.LSTM(I, H), 2), ValueError, "should be 3 or more, got 2"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(call, error, text):
    with pytest.raises(error, match=text):
        call()


def test_to_torch_leaves_alone_what_torch_lacks():
    model = torch.nn.ModuleList(
        [
            fastrnn.GRU(I, H),
            fastrnn.GRU(I, H, reset_after=False),
            fastrnn.GRUCell(I, H, reset_after=False),
            fastrnn.LSTM(I, H, num_heads=2),
            fastrnn.LSTM(I, H, bias="single"),
            fastrnn.PeepholeLSTM(I, H),
        ]
    )
    before = [type(layer) for layer in model]
    with pytest.warns(UserWarning, match=r"left what torch has not: 1 \(GRU\), 2 .*5 \(Peephole"):
        fastrnn.to_torch(model)
    assert [type(layer) for layer in model] == [torch.nn.GRU, *before[1:]]


def test_what_was_asked_for_is_printed():
    assert "reset_after=False" in repr(fastrnn.GRU(I, H, reset_after=False))
    assert "reset_after=False" in repr(fastrnn.GRUCell(I, H, reset_after=False))
    assert "reset_after" not in repr(fastrnn.GRU(I, H))
    assert "num_heads=3" in repr(fastrnn.LSTM(I, H, num_heads=3))
    assert "norm='layer'" in repr(fastrnn.LightGRU(I, H, norm="layer"))


@pytest.mark.parametrize("name", [*LAYERS, "GRU", "LSTM"])
def test_resets_lengths_and_all_states_on_the_kernels(name):
    """The layers that torch lacks take what the others take; backends agree."""
    extra = {"GRU": {"reset_after": False}, "LSTM": {"num_heads": 2}}.get(name, LAYERS.get(name))
    layer = getattr(fastrnn, name)(I, H, bidirectional=True, dtype=F64, **extra)
    x, lengths, found = normal(T, B, I), torch.tensor([T - 2, T]), []
    reset = torch.tensor([[0, 0], [1, 0], [0, 1], [0, 0], [1, 1]], dtype=torch.bool)
    for backend in ("reference", "cpp"):
        layer.backend = backend
        results = layer(x, reset=reset, lengths=lengths, return_all_states=True)
        results = [
            r for result in results for r in (result if isinstance(result, tuple) else [result])
        ]
        weights = list(layer.parameters())
        loss = sum(result.square().sum() for result in results)
        found.append([*results, *torch.autograd.grad(loss, weights, allow_unused=True)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)
    assert not found[1][0][T - 2 :, 0].any()
