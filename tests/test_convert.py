"""`fastrnn.convert` and `fastrnn.to_torch` on whole models."""

import copy
import gc

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

import fastrnn

NAMES = ["RNN", "LSTM", "GRU", "RNNCell", "LSTMCell", "GRUCell"]


class Speller(nn.Module):
    """A model with recurrent layers at every kind of place."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(3, 4), nn.LSTM(4, 5, 2, bidirectional=True))
        self.by_name = nn.ModuleDict({"gru": nn.GRU(10, 6, batch_first=True), "none": None})
        self.cells = nn.ModuleList([nn.LSTMCell(6, 7), nn.GRUCell(7, 8), nn.RNNCell(8, 9)])
        self.shared = nn.RNN(9, 9, nonlinearity="relu")
        self.inner = nn.Module()
        self.inner.shared = self.shared
        self.out = nn.Linear(9, 2)

    def forward(self, input):
        x, _ = self.encoder(input)
        x, _ = self.by_name["gru"](x)
        x, _ = self.cells[0](x[-1])
        x = self.cells[2](self.cells[1](x))
        x, _ = self.shared(x)
        return self.out(self.inner.shared(x)[0])


RECURRENT = ["encoder.1", "by_name.gru", "cells.0", "cells.1", "cells.2", "shared"]


def loss(module):
    """A scalar that depends on all that the module returns, and on all its weights."""
    if isinstance(module, Speller):
        args = (torch.linspace(-1, 1, 24).view(4, 2, 3),)
    else:
        layer = module[0] if isinstance(module, nn.Sequential) else module
        state = torch.linspace(-1, 1, 8).view(2, 4)
        state = state if isinstance(layer, nn.RNNCellBase) else state[:1]
        args = (
            torch.linspace(-1, 1, 6).view(2, 3),
            (state, state + 1) if "LSTM" in type(layer).__name__ else state,
        )
        module = layer
    parts = [module(*args)]
    total = torch.zeros(())
    while parts:
        part = parts.pop()
        if isinstance(part, torch.Tensor):
            total = total + (part * torch.arange(1.0, part.numel() + 1).view_as(part)).sum()
        else:
            parts += part
    return total


def gradients(module):
    return torch.autograd.grad(loss(module), list(module.parameters()))


@pytest.fixture
def speller():
    torch.manual_seed(0)
    return Speller()


def test_a_nested_model_both_ways(speller):
    classes = {name: type(module) for name, module in speller.named_modules()}
    parameters = dict(speller.named_parameters())
    before, expected = loss(speller), gradients(speller)
    text = repr(speller)

    assert fastrnn.convert(speller) is speller
    for name, module in speller.named_modules():
        swapped = name in RECURRENT
        wanted = getattr(fastrnn, classes[name].__name__) if swapped else classes[name]
        assert type(module) is wanted
    assert speller.inner.shared is speller.shared
    assert repr(speller) == text
    now = dict(speller.named_parameters())
    assert list(now) == list(parameters) and all(now[k] is parameters[k] for k in now)
    torch.testing.assert_close(loss(speller), before)
    torch.testing.assert_close(gradients(speller), expected)

    assert fastrnn.to_torch(speller) is speller
    assert {name: type(module) for name, module in speller.named_modules()} == classes
    assert speller.inner.shared is speller.shared
    now = dict(speller.named_parameters())
    assert list(now) == list(parameters) and all(now[k] is parameters[k] for k in now)
    assert torch.equal(loss(speller), before)
    torch.testing.assert_close(gradients(speller), expected)


def test_converting_twice_changes_nothing_more(speller):
    fastrnn.convert(speller)
    modules = list(speller.modules())
    fastrnn.convert(speller)
    assert all(a is b for a, b in zip(modules, speller.modules(), strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_a_model_that_is_itself_a_layer(name):
    theirs = getattr(nn, name)(3, 4)
    ours = fastrnn.convert(theirs)
    assert type(ours) is getattr(fastrnn, name) and type(theirs) is getattr(nn, name)
    torch.testing.assert_close(loss(ours), loss(theirs))
    back = fastrnn.to_torch(ours)
    assert type(back) is getattr(nn, name) and back is not theirs
    assert torch.equal(loss(back), loss(theirs))
    assert all(a is b for a, b in zip(back.parameters(), theirs.parameters(), strict=True))
    assert fastrnn.convert(nn.ReLU()).__class__ is nn.ReLU


@pytest.mark.parametrize("name", NAMES)
def test_a_layer_that_came_back_is_whole(name):
    """torch's own caches of the weights are right: replaced, moved and stored weights count."""
    torch.manual_seed(0)
    back = fastrnn.to_torch(getattr(fastrnn, name)(3, 4))
    fresh = getattr(nn, name)(3, 4)
    assert vars(back).keys() == vars(fresh).keys()
    for parameter_name, parameter in fresh.named_parameters():
        setattr(back, parameter_name, nn.Parameter(parameter.detach().clone()))
    assert torch.equal(loss(back), loss(fresh))
    assert torch.equal(loss(copy.deepcopy(back)), loss(fresh))
    assert {p.dtype for p in back.double().parameters()} == {torch.float64}


def test_filter_sees_each_layer_once_by_its_first_name(speller):
    seen = []

    def only_cells(module, name):
        seen.append((name, module))
        return name.startswith("cells")

    torch_layers = {name: speller.get_submodule(name) for name in RECURRENT}
    fastrnn.convert(speller, only_cells)
    assert [name for name, _ in seen] == RECURRENT
    assert all(torch_layers[name] is module for name, module in seen)
    for name in RECURRENT:
        assert type(speller.get_submodule(name)).__module__.startswith(
            "fastrnn" if name.startswith("cells") else "torch"
        )
    fastrnn.to_torch(speller, lambda module, name: name == "cells.1")
    assert type(speller.cells[1]) is nn.GRUCell
    assert type(speller.cells[0]) is fastrnn.LSTMCell


def test_filter_of_a_model_that_is_a_layer():
    layer, names = nn.GRU(3, 4), []
    assert fastrnn.convert(layer, lambda module, name: names.append(name)) is layer
    assert names == [""]


@pytest.mark.parametrize("name", NAMES)
def test_everything_set_on_a_layer_is_kept(name):
    theirs = getattr(nn, name)(3, 4)
    theirs.weight = 5
    theirs.register_buffer("steps", torch.arange(3))
    theirs.register_buffer("scratch", torch.arange(2), persistent=False)
    theirs.extra = nn.Linear(1, 1)
    theirs.eval()
    next(theirs.parameters()).requires_grad_(False)
    state = theirs.state_dict()
    ours = fastrnn.convert(theirs)
    assert ours.weight == 5 and not ours.training
    assert ours.steps is theirs.steps and ours.scratch is theirs.scratch
    assert ours.extra is theirs.extra
    assert list(ours.state_dict()) == list(state) and "scratch" not in state
    assert [p.requires_grad for p in ours.parameters()] == [
        p.requires_grad for p in theirs.parameters()
    ]
    ours.new = nn.Parameter(torch.zeros(1))
    ours.steps = torch.zeros(1)
    ours.register_buffer("later", torch.zeros(1), persistent=False)
    theirs.register_buffer("later", torch.zeros(1))
    assert not hasattr(theirs, "new") and theirs.steps.shape == (3,)
    assert "later" in theirs.state_dict() and "later" not in ours.state_dict()


def test_training_flags_are_each_layers_own(speller):
    speller.shared.eval()
    flags = [module.training for module in speller.modules()]
    fastrnn.convert(speller)
    assert [module.training for module in speller.modules()] == flags


@pytest.mark.parametrize("name", NAMES)
def test_hooks_are_kept_and_their_handles_remove_them(name):
    theirs, calls = getattr(nn, name)(3, 4), []
    handles = [
        theirs.register_forward_pre_hook(lambda module, args: calls.append(("pre", module))),
        theirs.register_forward_hook(lambda module, args, out: calls.append(("post", module))),
        theirs.register_full_backward_hook(lambda module, gi, go: calls.append(("back", module))),
        theirs.register_state_dict_pre_hook(lambda module, *_: calls.append(("save", module))),
        theirs.register_load_state_dict_pre_hook(lambda module, *_: calls.append(("load", module))),
        theirs.register_load_state_dict_post_hook(lambda module, _: calls.append(("done", module))),
    ]
    ours = fastrnn.convert(theirs)
    del theirs
    gc.collect()
    input = torch.rand(2, 3, requires_grad=True)
    output = ours(input)
    (output if isinstance(output, torch.Tensor) else output[0]).sum().backward()
    ours.load_state_dict(ours.state_dict())
    assert [kind for kind, _ in calls] == ["pre", "post", "back", "save", "load", "done"]
    assert all(module is ours for _, module in calls)
    calls.clear()
    for handle in handles:
        handle.remove()
    ours.load_state_dict(ours.state_dict())
    ours(input)
    assert not calls


def test_an_optimizer_goes_on(speller):
    plain = copy.deepcopy(speller)
    histories = []
    for model in (plain, speller):
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)
        history = []
        for step in range(6):
            if model is speller and step == 2:
                fastrnn.convert(model)
            if model is speller and step == 4:
                fastrnn.to_torch(model)
            optimizer.zero_grad()
            value = loss(model)
            value.backward()
            optimizer.step()
            history.append(value.detach())
        histories.append(torch.stack(history))
    assert histories[0][0] != histories[0][-1]
    torch.testing.assert_close(*histories, rtol=1e-4, atol=1e-4)


def test_state_dicts_stay_good(speller):
    state = copy.deepcopy(speller.state_dict())
    fastrnn.convert(speller)
    assert list(speller.state_dict()) == list(state)
    before = loss(speller)
    torch.manual_seed(9)
    other = fastrnn.convert(Speller())
    assert not torch.allclose(loss(other), before)
    other.load_state_dict(state)
    assert torch.equal(loss(other), before)


def test_backend_does_not_come_back_to_torch():
    back = fastrnn.to_torch(fastrnn.GRU(3, 4, backend="reference"))
    assert not hasattr(back, "backend")


# --- what is left alone ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_subclasses_are_left_alone(name):
    for package, swap in ((nn, fastrnn.convert), (fastrnn, fastrnn.to_torch)):
        own = type("Own", (getattr(package, name),), {})
        model = nn.Sequential(own(3, 4))
        layer = model[0]
        assert swap(model)[0] is layer and type(layer) is own


def test_a_forward_set_on_the_instance_is_left_alone():
    model = nn.Sequential(nn.GRU(3, 4))
    layer = model[0]
    layer.forward = lambda input: "mine"
    assert fastrnn.convert(model)[0] is layer and model(None) == "mine"


def test_layers_that_are_no_submodules_are_left_alone():
    model = nn.Module()
    model.layers = [nn.GRU(3, 4)]
    assert type(fastrnn.convert(model).layers[0]) is nn.GRU


@pytest.mark.parametrize("name", NAMES)
def test_what_was_compiled_is_not_carried_over(name):
    theirs = getattr(nn, name)(3, 4)
    theirs.compile(backend="eager")
    ours = fastrnn.convert(theirs)
    assert ours._compiled_call_impl is None
    assert type(ours) is getattr(fastrnn, name)


# --- reparametrised layers ------------------------------------------------------------------------


class Halved(nn.Module):
    def forward(self, weight):
        return weight / 2

    def right_inverse(self, weight):
        return weight * 2


def recurrent_weight(module):
    return "weight_hh" if isinstance(module, nn.RNNCellBase) else "weight_hh_l0"


@pytest.mark.parametrize("name", NAMES)
def test_a_parametrized_layer(name):
    model = nn.Sequential(getattr(nn, name)(3, 4))
    weight = recurrent_weight(model[0])
    parametrize.register_parametrization(model[0], weight, Halved())
    keys, expected, expected_gradients = list(model.state_dict()), loss(model), gradients(model)
    for swap, package in ((fastrnn.convert, fastrnn), (fastrnn.to_torch, nn)):
        parameters = list(model.parameters())
        swap(model)
        layer = model[0]
        assert isinstance(layer, getattr(package, name))
        assert type(layer).__name__ == f"Parametrized{name}"
        assert parametrize.type_before_parametrizations(layer) is getattr(package, name)
        assert all(a is b for a, b in zip(parameters, model.parameters(), strict=True))
        assert list(model.state_dict()) == keys
        torch.testing.assert_close(loss(model), expected)
        torch.testing.assert_close(gradients(model), expected_gradients)
        with torch.no_grad(), parametrize.cached():
            torch.testing.assert_close(loss(model), expected)
            torch.testing.assert_close(loss(model), expected)
        if package is fastrnn:  # torch's layers cannot once they were called
            copied = copy.deepcopy(model)
            assert type(copied[0]) is type(layer)
            assert torch.equal(loss(copied), loss(model))
            with torch.no_grad():
                copied[0].parametrizations[weight].original.zero_()
            assert not torch.equal(loss(copied), loss(model))


@pytest.mark.parametrize("name", NAMES)
def test_parametrizations_of_a_converted_layer_may_come_and_go(name):
    theirs = getattr(nn, name)(3, 4)
    weight = recurrent_weight(theirs)
    other = weight.replace("hh", "ih")
    expected = loss(theirs).detach()
    parametrize.register_parametrization(theirs, weight, Halved())
    old_class = type(theirs)
    ours = fastrnn.convert(theirs)
    parametrize.register_parametrization(ours, other, Halved())
    torch.testing.assert_close(loss(ours), expected)
    assert not isinstance(getattr(old_class, other, None), property)
    parametrize.remove_parametrizations(ours, weight)
    parametrize.remove_parametrizations(ours, other)
    assert type(ours) is getattr(fastrnn, name)
    assert isinstance(getattr(old_class, weight), property)
    torch.testing.assert_close(loss(ours), expected)


def test_a_parametrized_subclass_is_left_alone():
    own = type("Own", (nn.LSTM,), {})
    model = nn.Sequential(own(3, 4))
    parametrizations.weight_norm(model[0], "weight_hh_l0")
    layer = model[0]
    assert fastrnn.convert(model)[0] is layer


@pytest.mark.parametrize("norm", [nn.utils.weight_norm, nn.utils.spectral_norm])
@pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated")
@pytest.mark.parametrize("name", NAMES)
def test_a_layer_normalised_by_hooks(name, norm):
    torch.manual_seed(0)
    theirs = norm(getattr(nn, name)(3, 4), recurrent_weight(getattr(nn, name)(3, 4))).eval()
    expected, expected_gradients = loss(theirs), gradients(theirs)
    ours = fastrnn.convert(theirs)
    del theirs
    torch.testing.assert_close(loss(ours), expected)
    torch.testing.assert_close(gradients(ours), expected_gradients)
    ours.load_state_dict(copy.deepcopy(ours.state_dict()))
    torch.testing.assert_close(loss(ours), expected)
