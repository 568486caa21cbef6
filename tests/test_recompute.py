"""`recompute=True`: the gradients without it, from fewer numbers kept."""

import pytest
import torch
from equality import FLOOR, threads
from torch.func import functional_call
from torch.nn.utils.rnn import pack_padded_sequence

import fastrnn
from fastrnn import one_call

LAYERS = {
    "LSTM": {},
    "LSTM-projected": {"proj_size": 3},
    "GRU": {},
    "RNN": {"nonlinearity": "relu"},
}


def build(name, **options):
    return getattr(fastrnn, name.partition("-")[0])(4, 7, **{**LAYERS.get(name, {}), **options})


def pair(name, **options):
    torch.manual_seed(0)
    plain = build(name, **options)
    ours = build(name, **options, recompute=True)
    ours.load_state_dict(plain.state_dict())
    return plain, ours


def flat(results):
    if isinstance(results, torch.Tensor):
        return [results]
    return [tensor for result in results for tensor in flat(result)]


def trained(layer, x, hx, **call):
    """Results and gradients to everything."""
    if isinstance(x, torch.Tensor):
        x = x.clone().requires_grad_()
    hx = tuple(state.clone().requires_grad_() for state in hx)
    results = layer(x, hx if len(hx) > 1 else hx[0], **call)
    results = [r for r in flat([results[0], *results[1:]]) if r.requires_grad]
    generator = torch.Generator().manual_seed(1)
    grads = [torch.randn(r.shape, dtype=r.dtype, generator=generator) for r in results]
    wanted = [*([x] if isinstance(x, torch.Tensor) else []), *hx, *layer.parameters()]
    return [*results, *torch.autograd.grad(results, wanted, grads)]


def states_of(layer, batch):
    count = layer.num_layers * (2 if layer.bidirectional else 1)
    widths = [layer.proj_size or layer.hidden_size]
    widths += [layer.hidden_size] * (len(layer._spec().states) - 1)
    dtype = layer.weight_ih_l0.dtype
    return [torch.randn(count, batch, width, dtype=dtype) for width in widths]


def close(found, expected):
    for one, other in zip(found, expected, strict=True):
        error = (one - other).abs().max() / other.abs().max().clamp(min=1e-6)
        assert error <= 2 * FLOOR[one.dtype]


@pytest.fixture
def again(monkeypatch):
    """Rows of each time that what a forward did not save was made."""
    made, function = [], one_call._saved_again

    def noted(*arguments):
        made.append(arguments[2][0].shape[0])
        return function(*arguments)

    monkeypatch.setattr(one_call, "_saved_again", noted)
    return made


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_the_same_gradients(name, bidirectional, again):
    for bias, steps, batch in ((True, 5, 3), (False, 1, 2), ("single", 600, 1)):
        plain, ours = pair(name, num_layers=2, bidirectional=bidirectional, bias=bias)
        x, hx = torch.randn(steps, batch, 4), states_of(plain, batch)
        expected = trained(plain, x, hx)
        again.clear()
        for count in (1, 2):
            with threads(count):
                close(trained(ours, x, hx), expected)
        assert again == [steps * batch] * 4


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", ["LSTM", "GRU"])
def test_other_dtypes(name, dtype, again):
    plain, ours = pair(name, dtype=dtype)
    x, hx = torch.randn(5, 3, 4, dtype=dtype), states_of(plain, 3)
    close(trained(ours, x, hx), trained(plain, x, hx))
    assert len(again) == (dtype == torch.float64)


CALLS = {
    "lengths": {"lengths": torch.tensor([5, 0, 3])},
    "reset": {"reset": torch.rand(5, 3) < 0.3, "reset_to": "initial"},
    "states": {"return_all_states": True},
}


@pytest.mark.parametrize(
    "name", [*CALLS, "heads", "clip", "backwards", "packed", "PeepholeLSTM", "by_reference"]
)
def test_by_one_more_scan(name, again):
    options = {"heads": {"num_heads": 2}, "clip": {"gate_clip": 0.5, "cell_clip": 0.3},
               "backwards": {"reverse": True},
               "by_reference": {"backend": "reference"}}.get(name, {})  # fmt: skip
    torch.manual_seed(0)
    cell = getattr(fastrnn, name, fastrnn.LSTM)
    plain = cell(4, 6, **options)
    ours = cell(4, 6, **options, recompute=True)
    ours.load_state_dict(plain.state_dict())
    x, hx = torch.randn(5, 3, 4), states_of(plain, 3)
    if name == "packed":
        x = pack_padded_sequence(x, torch.tensor([5, 4, 1]))
        close(_packed(ours, x, hx), _packed(plain, x, hx))
    else:
        call = CALLS.get(name, {})
        close(trained(ours, x, hx, **call), trained(plain, x, hx, **call))
    assert not again


def _packed(layer, packed, hx):
    output, states = layer(packed, tuple(hx))
    (output.data.square().sum() + states[1].sum()).backward()
    return [output.data.detach(), *(p.grad for p in layer.parameters())]


def kept(layer, x):
    """Numbers that autograd holds on to, beside parameters and the input."""
    found = {}

    def pack(tensor):
        found[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes() // 4
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output, _ = layer(x)
    for tensor in (x, *layer.parameters()):
        found.pop(tensor.untyped_storage().data_ptr(), None)
    del output
    return sum(found.values())


def test_less_is_kept():
    """A row's numbers: of an LSTM 6 H (five and h), or 2 H (h and c); of a GRU 5 H, or H."""
    x = torch.randn(200, 8, 16, requires_grad=True)
    for name, without, with_it in (("LSTM", 6, 2), ("GRU", 5, 1)):
        for setting, count in (({}, without), ({"recompute": True}, with_it)):
            layer = getattr(fastrnn, name)(16, 32, **setting)
            rows = kept(layer, x) / (200 * 8 * 32)
            assert count <= rows < count + 0.5


def test_double_backward_compile_and_vmap():
    plain, ours = pair("GRU")
    x = torch.randn(4, 2, 4, requires_grad=True)
    seconds = []
    for layer in (plain, ours):
        grad = torch.autograd.grad(layer(x)[0].square().sum(), x, create_graph=True)[0]
        seconds.append(torch.autograd.grad(grad.square().sum(), layer.parameters()))
    close(*seconds)
    compiled = torch.compile(ours, backend="aot_eager")
    found, expected = (
        torch.autograd.grad(layer(x)[0].square().sum(), layer.parameters())
        for layer in (compiled, plain)
    )
    close(found, expected)


@pytest.mark.parametrize("setting", [{"recompute": True}, {"checkpoint_every": 2}], ids=str)
def test_in_a_transform_all_is_saved(setting):
    layer = fastrnn.GRU(3, 4, 2, **setting)
    x = torch.randn(5, 2, 3)
    weights = dict(layer.named_parameters())

    def loss(weights):
        return functional_call(layer, weights, (x,))[0].square().sum()

    found = torch.func.grad(loss)(weights)
    expected = torch.autograd.grad(loss(weights), list(weights.values()))
    close(list(found.values()), expected)


def test_nothing_changes_without_gradients():
    plain, ours = pair("LSTM")
    x = torch.randn(5, 3, 4)
    with torch.no_grad():
        for one, other in zip(flat(ours(x)), flat(plain(x)), strict=True):
            torch.testing.assert_close(one, other)


@pytest.mark.parametrize("bad, words", [
    ({"recompute": 1}, "recompute should be True or False, got: 1"),
    ({"recompute": True, "checkpoint_every": 3}, "exclude each other"),
])  # fmt: skip
def test_errors(bad, words):
    with pytest.raises(ValueError, match=words):
        fastrnn.LSTM(3, 4, **bad)


def test_the_functional_form_takes_it(again):
    plain, grads = build("LSTM"), []
    x, hx = torch.randn(5, 3, 4), states_of(plain, 3)
    for recompute in (True, False):
        weights = [p.detach().clone().requires_grad_() for p in plain.parameters()]
        out, _ = fastrnn.functional.lstm(x, tuple(hx), weights, recompute=recompute)
        grads.append(torch.autograd.grad(out.sum(), weights))
    assert again == [15]
    close(*grads)
