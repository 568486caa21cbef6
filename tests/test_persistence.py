"""What was stored comes back: state_dicts, pickles, copies, and the states of old versions."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn

import fastrnn

LAYERS = ["RNN", "LSTM", "GRU"]
CELLS = ["RNNCell", "LSTMCell", "GRUCell"]

# A form of each module with all that it can have.
OPTIONS = {
    "RNN": {"nonlinearity": "relu", "num_layers": 2, "bidirectional": True, "dropout": 0.25},
    "LSTM": {"num_layers": 2, "bidirectional": True, "proj_size": 2, "batch_first": True},
    "GRU": {"num_layers": 2, "bidirectional": True, "bias": False},
    "RNNCell": {"nonlinearity": "relu"},
    "LSTMCell": {"bias": False},
    "GRUCell": {},
}


def build(package, name, **options):
    return getattr(package, name)(3, 4, **{**OPTIONS[name], **options})


def call(module):
    """The output for arguments that make every weight matter."""
    module.eval()
    input, state = torch.linspace(-1, 1, 6).view(2, 3), torch.linspace(-1, 1, 8).view(2, 4)
    if isinstance(module, nn.RNNCellBase):
        hx = (state, state + 1) if "LSTM" in type(module).__name__ else state
    else:
        input, hx = input.repeat(5, 1, 1), None
    with torch.no_grad():
        result = module(input, hx)
    return result[0] if isinstance(result, tuple) else result


def assert_twins(first, second):
    """Same class, arguments and weights, in separate memory; same results."""
    assert type(first) is type(second) and repr(first) == repr(second)
    assert first.training == second.training
    weights = first.state_dict()
    assert list(weights) == list(second.state_dict())
    for name, weight in second.state_dict().items():
        assert torch.equal(weight, weights[name])
        assert weight.data_ptr() != weights[name].data_ptr()
    assert torch.equal(call(first), call(second))
    for parameter in second.parameters():
        parameter.data.zero_()
    assert not torch.equal(call(first), call(second))


@pytest.mark.parametrize("name", LAYERS + CELLS)
def test_state_dicts_both_ways(name):
    ours, theirs, third = build(fastrnn, name), build(nn, name), build(fastrnn, name)
    assert not torch.allclose(call(ours), call(theirs))
    assert ours.load_state_dict(theirs.state_dict()) == nn.Module().load_state_dict({})
    torch.testing.assert_close(call(ours), call(theirs))
    theirs.load_state_dict(third.state_dict())
    torch.testing.assert_close(call(third), call(theirs))


@pytest.mark.parametrize("name", LAYERS + CELLS)
def test_a_wrong_state_dict_is_refused_as_by_torch(name):
    state = build(nn, name).state_dict()
    first, *_ = state
    missing = {key: value for key, value in state.items() if key != first}
    wrong = {**state, first: state[first][:1], "more": torch.zeros(1)}
    for bad in (missing, wrong):
        with pytest.raises(RuntimeError) as ours:
            build(fastrnn, name).load_state_dict(bad)
        with pytest.raises(RuntimeError) as theirs:
            build(nn, name).load_state_dict(bad)
        assert str(ours.value) == str(theirs.value)


@pytest.mark.parametrize("name", LAYERS + CELLS)
def test_assigned_weights_count(name):
    ours, theirs = build(fastrnn, name, device="meta"), build(nn, name)
    ours.load_state_dict(theirs.state_dict(), assign=True)
    torch.testing.assert_close(call(ours), call(theirs))


@pytest.mark.parametrize("protocol", [2, pickle.HIGHEST_PROTOCOL])
@pytest.mark.parametrize("name", LAYERS + CELLS)
def test_pickle(name, protocol):
    module = build(fastrnn, name).double().float().eval()
    call(module)
    again = pickle.loads(pickle.dumps(module, protocol))
    assert_twins(module, again)


@pytest.mark.parametrize("name", LAYERS + CELLS)
def test_pickle_keeps_the_backend(name):
    module = build(fastrnn, name, backend="reference")
    assert pickle.loads(pickle.dumps(module)).backend == "reference"
    assert copy.deepcopy(module).backend == "reference"


@pytest.mark.parametrize("name", LAYERS + CELLS)
def test_deepcopy(name):
    module = build(fastrnn, name)
    assert_twins(module, copy.deepcopy(module))
    tied = copy.deepcopy(nn.ModuleList([module, module]))
    assert tied[0] is tied[1]


@pytest.mark.parametrize("name", LAYERS + CELLS)
def test_torch_save(name):
    module = build(fastrnn, name)
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    assert_twins(module, torch.load(file, weights_only=False))

    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    other = build(nn, name)
    other.load_state_dict(torch.load(file, weights_only=True))
    torch.testing.assert_close(call(other), call(module))


@pytest.mark.parametrize("name", LAYERS + CELLS)
def test_a_compiled_module_is_pickled_without_what_was_compiled(name):
    module = build(fastrnn, name)
    module.compile(backend="eager")
    again = pickle.loads(pickle.dumps(module))
    assert "_compiled_call_impl" not in vars(again)
    assert torch.equal(call(again), call(build_like(module)))


def build_like(module):
    again = build(fastrnn, type(module).__name__)
    again.load_state_dict(module.state_dict())
    return again


@pytest.mark.parametrize("name", LAYERS + CELLS)
def test_a_pickle_without_backend(name):
    """As written before there was one."""
    module = build(fastrnn, name)
    state = module.__getstate__()
    del state["backend"]
    again = restore(name, state)
    assert again.backend is None
    torch.testing.assert_close(call(again), call(module))
    pickle.loads(pickle.dumps(again))


def restore(name, state):
    """What unpickling does."""
    module = getattr(fastrnn, name).__new__(getattr(fastrnn, name))
    module.__setstate__(state)
    return module


@pytest.mark.parametrize("name", LAYERS + CELLS)
def test_the_state_of_todays_torch(name):
    theirs = build(nn, name)
    state = theirs.__getstate__() if name in LAYERS else vars(theirs).copy()
    again = restore(name, state)
    torch.testing.assert_close(call(again), call(theirs))
    pickle.loads(pickle.dumps(again))


def without_names(state, weights, names):
    """torch < 1.4: the names of the weights by layer, no flat list of them."""
    del state["_flat_weights_names"]


def without_flat_weights(state, weights, names):
    """Older: no flat list of weights either."""
    del state["_flat_weights_names"], state["_flat_weights"]


def lists_of_weights(state, weights, names):
    """torch 0.1: lists of the weights themselves."""
    without_flat_weights(state, weights, names)
    state["_all_weights"] = weights


def under_the_first_name(state, weights, names):
    """Older: under the name that is a property now."""
    without_flat_weights(state, weights, names)
    del state["_all_weights"]
    state["all_weights"] = weights


def names_under_the_first_name(state, weights, names):
    without_flat_weights(state, weights, names)
    del state["_all_weights"]
    state["all_weights"] = names


@pytest.mark.parametrize(
    "age",
    [
        without_names,
        without_flat_weights,
        lists_of_weights,
        under_the_first_name,
        names_under_the_first_name,
    ],
)
@pytest.mark.parametrize("name", LAYERS)
def test_the_state_of_old_torch(name, age):
    options = {"proj_size": 0} if name == "LSTM" else {}
    theirs = build(nn, name, **options)
    state = theirs.__getstate__()
    age(state, theirs.all_weights, copy.deepcopy(theirs._all_weights))
    del state["proj_size"]  # since 1.8
    for key in [key for key in state if "state_dict" in key or "with_kwargs" in key]:
        del state[key]  # hooks of later versions
    again = restore(name, state)
    assert again.proj_size == 0
    assert again._flat_weights_names == theirs._flat_weights_names
    assert again._all_weights == theirs._all_weights
    assert all(a is b for a, b in zip(again._flat_weights, theirs.parameters(), strict=True))
    torch.testing.assert_close(call(again), call(theirs))
    again = pickle.loads(pickle.dumps(again))
    torch.testing.assert_close(call(again), call(theirs))
    assert list(again.state_dict()) == list(theirs.state_dict())


def test_an_old_rnn_has_only_its_mode():
    theirs = build(nn, "RNN")
    state = theirs.__getstate__()
    del state["nonlinearity"]
    assert theirs.mode == "RNN_RELU"
    torch.testing.assert_close(call(restore("RNN", state)), call(theirs))


@pytest.mark.parametrize("name", LAYERS + CELLS)
def test_moving_to_another_dtype_and_back(name):
    module = build(fastrnn, name)
    before = [weight.clone() for weight in module.parameters()]
    result = call(module)
    module.double()
    assert {weight.dtype for weight in module.parameters()} == {torch.float64}
    module.to(torch.float32)
    for weight, old in zip(module.parameters(), before, strict=True):
        assert torch.equal(weight, old)
    assert torch.equal(call(module), result)


@pytest.mark.parametrize("name", LAYERS + CELLS)
def test_shared_memory(name):
    module = build(fastrnn, name)
    result = call(module)
    module.share_memory()
    assert all(weight.is_shared() for weight in module.parameters())
    assert torch.equal(call(module), result)
