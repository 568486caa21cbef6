"""The short way of inference: when it is taken, and that it does what the general one does."""

import pytest
import torch
from equality import threads
from torch.utils._python_dispatch import TorchDispatchMode

import fastrnn
from fastrnn import cpp

MODULES = {
    "RNN": lambda **o: fastrnn.RNN(3, 5, 2, nonlinearity="relu", **o),
    "LSTM": lambda **o: fastrnn.LSTM(3, 5, 2, bidirectional=True, **o),
    "LSTM-projected": lambda **o: fastrnn.LSTM(3, 5, proj_size=2, bias=False, **o),
    "GRU": lambda **o: fastrnn.GRU(3, 5, batch_first=True, **o),
}
CELLS = {
    "RNNCell": lambda **o: fastrnn.RNNCell(3, 5, nonlinearity="relu", **o),
    "LSTMCell": lambda **o: fastrnn.LSTMCell(3, 5, **o),
    "GRUCell": lambda **o: fastrnn.GRUCell(3, 5, bias=False, **o),
}


@pytest.fixture
def calls(monkeypatch):
    """Of the extension's short way."""
    made, layers = [], cpp.layers

    def noted(spec, *args):
        found = layers(spec, *args)
        if found is not None:
            made.append(spec.name)
        return found

    monkeypatch.setattr(cpp, "layers", noted)
    return made


def flat(results):
    if isinstance(results, torch.Tensor):
        return [results]
    return [tensor for result in results for tensor in flat(result)]


def assert_close(found, expected, **tolerances):
    for got, wanted in zip(flat(found), flat(expected), strict=True):
        torch.testing.assert_close(got, wanted, **tolerances)


@pytest.mark.parametrize("steps", [1, 6])
@pytest.mark.parametrize("name", MODULES)
def test_layers_take_it(name, steps, calls):
    module = MODULES[name](dtype=torch.float64)
    x = torch.randn(steps, 4, 3, dtype=torch.float64)
    expected = module(x)
    assert not calls
    with torch.no_grad():
        found = module(x)
        assert len(calls) == 1
        again = module(x, found[1])
    assert_close(found, [tensor.detach() for tensor in flat(expected)])
    assert_close(again, flat(module(x, found[1])))


@pytest.mark.parametrize("name", CELLS)
def test_cells_take_it(name, calls):
    cell = CELLS[name](dtype=torch.float64)
    x = torch.randn(4, 3, dtype=torch.float64)
    expected = cell(x)
    with torch.inference_mode():
        found = cell(x)
        again = cell(x, found)
    assert len(calls) == 2
    assert_close(found, [tensor.detach() for tensor in flat(expected)])
    assert_close(
        again,
        [
            t.detach()
            for t in flat(
                cell(x, [t.clone() for t in flat(found)] if name == "LSTMCell" else found.clone())
            )
        ],
    )


class Noted(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return function(*args, **(kwargs or {}))


class Subclass(torch.Tensor):
    pass


def strided(tensor):
    return tensor.repeat_interleave(2, -1)[..., ::2]


# What is not simple, by a change to the module and input, or by a surrounding.
CHANGES = {
    "strided input": lambda module, x: (module, strided(x)),
    "negated input": lambda module, x: (module, torch._neg_view(-x)),
    "subclass": lambda module, x: (module, x.as_subclass(Subclass)),
    "unbatched": lambda module, x: (module, x[:, 0]),
    "empty batch": lambda module, x: (module, x[:, :0]),
    "dropout": lambda module, x: (_with(module, dropout=1.0), x),
    "asked for": lambda module, x: (_with(module, backend="reference"), x),
}


def _with(module, **attributes):
    for name, value in attributes.items():
        setattr(module, name, value)
    return module


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_not_simple_goes_the_general_way(change, calls):
    module, x = CHANGES[change](MODULES["LSTM"](), torch.randn(6, 4, 3))
    expected = [tensor.detach() for tensor in flat(module(x))]
    with torch.no_grad():
        found = module(x)
    assert not calls
    assert_close(
        [t.as_subclass(torch.Tensor) for t in flat(found)],
        [t.as_subclass(torch.Tensor) for t in expected],
    )


def test_weights_that_are_not_simple(calls):
    module, x = MODULES["GRU"](), torch.randn(6, 4, 3)
    expected = [tensor.detach() for tensor in flat(module(x))]
    module.weight_hh_l0.data = strided(module.weight_hh_l0.data)
    with torch.no_grad():
        assert_close(module(x), expected)
    assert not calls


def test_surroundings_that_watch(calls):
    module, x = MODULES["GRU"](), torch.randn(6, 4, 3)
    with torch.no_grad():
        expected = module(x)
        calls.clear()
        with Noted():
            assert_close(module(x), expected)
        assert_close(
            torch.func.vmap(module)(x.expand(2, 6, 4, 3)),
            [t.expand(2, *t.shape) for t in flat(expected)],
        )
        with fastrnn.use_backend("reference"):
            assert_close(module(x), expected)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert module(x)[0].dtype == torch.bfloat16
        assert_close(torch.compile(module, backend="eager", fullgraph=True)(x), expected)
        assert_close(torch.jit.trace(module, x, check_trace=False)(x), expected)
    assert not calls


def test_weights_are_read_at_each_call():
    """Also when changed in ways that no version counter notices."""
    module, x = fastrnn.LSTM(3, 5), torch.randn(6, 4, 3)
    with torch.no_grad():
        module(x)
        for parameter in module.parameters():
            parameter.data.copy_(torch.randn_like(parameter))
        assert_close(module(x), module(strided(x)))


def test_errors_are_those_of_the_general_way():
    module, x = fastrnn.GRU(3, 5), torch.randn(6, 4, 3)
    cell = fastrnn.LSTMCell(3, 5)
    with torch.no_grad():
        with pytest.raises(
            RuntimeError, match=r"Expected hidden size \(1, 4, 5\), got \[1, 3, 5\]"
        ):
            module(x, torch.zeros(1, 3, 5))
        with pytest.raises(RuntimeError, match=r"input\.size"):
            module(torch.randn(6, 4, 2))
        with pytest.raises(ValueError, match="dtype"):
            module(x.double())
        with pytest.raises(RuntimeError, match="sequence length"):
            module(x[:0])
        with pytest.raises(TypeError, match="tuple"):
            cell(x[0], torch.zeros(4, 5))
        with pytest.raises(RuntimeError, match="input_size"):
            cell(torch.randn(4, 2))
        module.weight_hh_l0.data = torch.zeros(15, 4)
        with pytest.raises(RuntimeError, match="weight_hh_l0"):
            module(x)


def test_no_state_is_not_an_empty_one():
    with torch.no_grad():
        with pytest.raises(RuntimeError, match="two hidden states"):
            fastrnn.LSTM(3, 5)(torch.randn(6, 4, 3), ())
        with pytest.raises(RuntimeError, match="two hidden states"):
            fastrnn.LSTMCell(3, 5)(torch.randn(4, 3), ())


def test_attributes_count_as_in_the_general_way():
    module, cell, x = fastrnn.GRU(3, 5), fastrnn.GRUCell(3, 5), torch.randn(6, 4, 3)
    cell.bias = False  # its biases are there nonetheless
    expected = cell(x[0]).detach()
    with torch.no_grad():
        assert_close(cell(x[0]), expected)
        cell.bias_hh = None
        assert_close(
            cell(x[0]),
            fastrnn.functional.gru_cell(
                x[0],
                torch.zeros(4, 5),
                *(getattr(cell, name) for name in ("weight_ih", "weight_hh", "bias_ih")),
            ),
        )
        module.input_size = 4
        with pytest.raises(RuntimeError, match="input_size"):
            module(x)


def freed(tensor):
    tensor = tensor.clone()
    tensor.untyped_storage().resize_(0)
    return tensor


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("grad", [False, True])
def test_tensors_without_memory(grad, steps):
    module, x, h = fastrnn.GRU(3, 5), torch.randn(steps, 4, 3), torch.zeros(1, 4, 5)
    with torch.set_grad_enabled(grad):
        expected = module(x)
        assert_close(module(x, torch._efficientzerotensor(h.shape)), expected)
        assert_close(module(x, torch._to_functional_tensor(h)), expected)
        if grad:
            grads = torch.autograd.grad(
                expected[0], module.weight_hh_l0, torch._efficientzerotensor(expected[0].shape)
            )
            assert not grads[0].any()
        with pytest.raises(RuntimeError):
            module(freed(x))
        with pytest.raises(RuntimeError):
            module(x, freed(h))
        module.weight_hh_l0.untyped_storage().resize_(0)
        with pytest.raises(RuntimeError):
            module(x)


def test_weights_of_other_layouts():
    """torch's layers know no sparse weights either: the general way says so."""
    module, x = fastrnn.RNN(3, 5), torch.randn(6, 4, 3)
    module.weight_hh_l0 = torch.nn.Parameter(module.weight_hh_l0.detach().to_sparse_csr())
    with torch.no_grad(), pytest.raises(RuntimeError, match=r"sparse|Sparse|storage"):
        module(x)


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("steps", [1, 3])
def test_bits_depend_neither_on_threads_nor_on_neighbours(kind, steps):
    module = getattr(fastrnn, kind)(96, 200)
    x = torch.randn(steps, 5, 96)
    with torch.no_grad():
        found = []
        for count in (1, 2, 8):
            with threads(count):
                found.append(flat(module(x)))
        alone = flat(module(x[:, 3:4].contiguous()))
    for other in found[1:]:
        assert_close(other, found[0], rtol=0, atol=0)
    assert_close(alone, [tensor[:, 3:4] for tensor in found[0]], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("LSTM", {"bidirectional": True}),
        ("LSTM", {"proj_size": 24}),
        ("GRU", {"bidirectional": True}),
        ("RNN", {"bias": False}),
    ],
)
def test_input_products_in_chunks(kind, options):
    """Sequences of several chunks, the last one short, by plans of rows, units and directions."""
    module = getattr(fastrnn, kind)(33, 200, dtype=torch.float64, **options)
    for batch in (1, 23):
        x = torch.randn(95, batch, 33, dtype=torch.float64)
        expected = [tensor.detach() for tensor in flat(module(x))]
        for count in (1, 2, 3):
            with threads(count), torch.no_grad():
                assert_close(module(x), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_dtypes_take_it(dtype, calls):
    module = fastrnn.LSTM(3, 5).to(dtype)
    x = torch.randn(6, 4, 3, dtype=dtype)
    with torch.no_grad():
        found = module(x)
        assert calls == ["lstm"]
        exact = module.double()(x.double())
    for got, wanted in zip(flat(found), flat(exact), strict=True):
        # Some roundings of the input side, h and the result.
        assert (got.double() - wanted).abs().max() <= 6 * torch.finfo(dtype).eps
