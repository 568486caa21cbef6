"""The modules against torch's: same arguments and weights in, same results and gradients out."""

import inspect
import itertools
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

import fastrnn

LAYERS = ["RNN", "LSTM", "GRU"]
CELLS = ["RNNCell", "LSTMCell", "GRUCell"]


def twins(name, *args, seed=0, **options):
    """A fastrnn module and torch's, in float64, each drawn from the same seed."""
    options.setdefault("dtype", torch.float64)
    torch.manual_seed(seed)
    ours = getattr(fastrnn, name)(*args, **options)
    torch.manual_seed(seed)
    return ours, getattr(nn, name)(*args, **options)


def uniform(*shape):
    return torch.rand(shape, dtype=torch.float64) * 2 - 1


def tensors(tree):
    """The tensors of a result, in order: of tuples and of packed sequences' data."""
    if isinstance(tree, torch.Tensor):
        return [tree]
    if isinstance(tree, PackedSequence):
        return [tree.data]
    return [tensor for part in tree for tensor in tensors(part)]


def run(module, input, states):
    """Call on copies of the arguments; results and all gradients under one random-looking loss."""
    data = input.data.detach().clone().requires_grad_()
    states = [state.detach().clone().requires_grad_() for state in states]
    packed = isinstance(input, PackedSequence)
    hx = None if not states else states[0] if len(states) == 1 else tuple(states)
    result = module(input._replace(data=data) if packed else data, hx)
    outputs = tensors(result)
    loss = sum(
        (output * torch.linspace(-1, 2, output.numel(), dtype=output.dtype).view_as(output)).sum()
        for output in outputs
    )
    parameters = dict(module.named_parameters())
    gradients = torch.autograd.grad(loss, [data, *states, *parameters.values()], allow_unused=True)
    return result, outputs, gradients


def assert_same(ours, theirs, input, states=()):
    result, outputs, gradients = run(ours, input, states)
    expected_result, expected_outputs, expected_gradients = run(theirs, input, states)
    for got, expected in zip(outputs, expected_outputs, strict=True):
        torch.testing.assert_close(got, expected)
    for got, expected in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(got, expected)
    return result, expected_result


def state_shapes(layer, batch):
    count = layer.num_layers * (2 if layer.bidirectional else 1)
    shapes = [(count, *batch, layer.proj_size or layer.hidden_size)]
    return shapes + [(count, *batch, layer.hidden_size)] * isinstance(layer, fastrnn.LSTM)


# --- constructor ----------------------------------------------------------------------------

layer_options = st.fixed_dictionaries(
    {
        "input_size": st.integers(1, 5),
        "hidden_size": st.integers(2, 6),
        "num_layers": st.integers(1, 3),
        "bias": st.booleans(),
        "batch_first": st.booleans(),
        "bidirectional": st.booleans(),
    }
)


@st.composite
def layer_arguments(draw):
    name = draw(st.sampled_from(LAYERS))
    options = draw(layer_options)
    if name == "RNN":
        options["nonlinearity"] = draw(st.sampled_from(["tanh", "relu"]))
    if name == "LSTM":
        options["proj_size"] = draw(st.integers(0, options["hidden_size"] - 1))
    return name, options


@settings(max_examples=50, deadline=None)
@given(layer_arguments(), st.integers(0, 2**31))
def test_a_seed_draws_the_weights_that_torch_draws(arguments, seed):
    name, options = arguments
    ours, theirs = twins(name, seed=seed, **options)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for key, weight in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[key], weight)
    assert ours.extra_repr() == theirs.extra_repr()
    assert repr(ours) == repr(theirs)


@pytest.mark.parametrize("name", LAYERS + CELLS)
def test_the_generator_is_left_where_torch_leaves_it(name):
    torch.manual_seed(3)
    getattr(fastrnn, name)(3, 4)
    ours = torch.get_rng_state()
    torch.manual_seed(3)
    getattr(nn, name)(3, 4)
    assert torch.equal(ours, torch.get_rng_state())


POSITIONAL = {
    "RNN": (3, 4, 2, "relu", False, True, 0.5, True, 0, "cpu", torch.float64),
    "LSTM": (3, 4, 2, False, True, 0.5, True, 2, "cpu", torch.float64),
    "GRU": (3, 4, 2, False, True, 0.5, True, 0, "cpu", torch.float64),
    "RNNCell": (3, 4, False, "relu", "cpu", torch.float64),
    "LSTMCell": (3, 4, False, "cpu", torch.float64),
    "GRUCell": (3, 4, False, "cpu", torch.float64),
}


@pytest.mark.parametrize("name", LAYERS + CELLS)
def test_positional_arguments_have_torchs_order(name):
    for count in range(2, len(POSITIONAL[name]) + 1):
        torch.manual_seed(0)
        ours = getattr(fastrnn, name)(*POSITIONAL[name][:count])
        torch.manual_seed(0)
        theirs = getattr(nn, name)(*POSITIONAL[name][:count])
        assert ours.extra_repr() == theirs.extra_repr()
        for key, weight in theirs.state_dict().items():
            torch.testing.assert_close(ours.state_dict()[key], weight, rtol=0, atol=0)


@pytest.mark.parametrize("name", LAYERS + CELLS)
def test_attributes_are_torchs(name):
    ours, theirs = twins(name, 3, 4)
    public = {key: value for key, value in vars(theirs).items() if not key.startswith("_")}
    assert public and {key: getattr(ours, key) for key in public} == public
    assert [key for key, _ in ours.named_parameters()] == [k for k, _ in theirs.named_parameters()]
    assert ours.__constants__ == theirs.__constants__


@pytest.mark.parametrize("name", LAYERS + CELLS)
def test_name_and_keyword_only_backend(name):
    assert getattr(fastrnn, name).__name__ == name
    signature = inspect.signature(getattr(fastrnn, name))
    assert signature.parameters["backend"].kind is inspect.Parameter.KEYWORD_ONLY
    assert signature.parameters["backend"].default is None


@pytest.mark.parametrize("name", LAYERS)
def test_dropout_of_a_single_layer_warns_in_torchs_words(name):
    texts = []
    for package in (fastrnn, nn):
        with pytest.warns(UserWarning) as caught:
            getattr(package, name)(3, 4, dropout=0.5)
        texts.append(str(caught[0].message))
    assert texts[0] == texts[1]


@pytest.mark.parametrize("name", LAYERS + CELLS)
def test_skip_init_leaves_the_generator_alone(name):
    before = torch.get_rng_state()
    module = torch.nn.utils.skip_init(getattr(fastrnn, name), 3, 4)
    assert torch.equal(before, torch.get_rng_state())
    assert {p.device.type for p in module.parameters()} == {"cpu"}
    assert module(torch.zeros(1, 3)) is not None


@pytest.mark.parametrize("name", LAYERS + CELLS)
def test_meta_device(name):
    module = getattr(fastrnn, name)(3, 4, device="meta")
    assert {p.device.type for p in module.parameters()} == {"meta"}
    shape = (5, 3) if name in CELLS else (5, 2, 3)
    outputs = tensors(module(torch.zeros(*shape, device="meta")))
    expected = tensors(getattr(nn, name)(3, 4)(torch.zeros(*shape)))
    assert {output.device.type for output in outputs} == {"meta"}
    assert [output.shape for output in outputs] == [output.shape for output in expected]
    filled = module.to_empty(device="cpu")
    assert {p.device.type for p in filled.parameters()} == {"cpu"}


# --- a call ---------------------------------------------------------------------------------


@st.composite
def layer_calls(draw):
    """A layer's arguments, an input of some form, and whether a state is given."""
    name, options = draw(layer_arguments())
    form = draw(st.sampled_from(["batched", "unbatched", "sorted", "unsorted"]))
    steps = draw(st.integers(1, 6))
    batch = draw(st.integers(0 if form == "batched" else 1, 5))
    lengths = draw(st.lists(st.integers(1, steps), min_size=batch, max_size=batch))
    return name, options, form, steps, lengths, draw(st.booleans())


@settings(max_examples=100, deadline=None)
@given(layer_calls(), st.integers(0, 2**31))
def test_a_layer_computes_what_torchs_computes(call, seed):
    name, options, form, steps, lengths, with_state = call
    ours, theirs = twins(name, seed=seed, **options)
    features, batch = options["input_size"], len(lengths)
    if form == "unbatched":
        input = uniform(steps, features)
    elif form == "batched":
        input = uniform(*((batch, steps) if ours.batch_first else (steps, batch)), features)
    else:
        lengths = sorted(lengths, reverse=True) if form == "sorted" else lengths
        input = pack_padded_sequence(
            uniform(max(lengths), batch, features), lengths, enforce_sorted=form == "sorted"
        )
    batch_shape = () if form == "unbatched" else (batch,)
    states = [uniform(*shape) for shape in state_shapes(ours, batch_shape)] if with_state else []
    (output, _), (expected, _) = assert_same(ours, theirs, input, states)
    assert type(output) is type(expected)
    if isinstance(output, PackedSequence):
        assert all(a is b for a, b in zip(output[1:], input[1:], strict=True))
        padded, sizes = pad_packed_sequence(output, batch_first=ours.batch_first)
        expected_padded, expected_sizes = pad_packed_sequence(expected, ours.batch_first)
        torch.testing.assert_close(padded, expected_padded)
        assert torch.equal(sizes, expected_sizes)


@settings(max_examples=50, deadline=None)
@given(
    st.sampled_from(CELLS),
    st.integers(1, 5),
    st.integers(1, 6),
    st.booleans(),
    st.sampled_from(["tanh", "relu"]),
    st.one_of(st.none(), st.integers(0, 4)),
    st.booleans(),
    st.integers(0, 2**31),
)
def test_a_cell_computes_what_torchs_computes(
    name, features, hidden, bias, nonlinearity, batch, with_state, seed
):
    options = {"nonlinearity": nonlinearity} if name == "RNNCell" else {}
    ours, theirs = twins(name, features, hidden, bias=bias, seed=seed, **options)
    assert repr(ours) == repr(theirs)
    for key, weight in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[key], weight)
    leading = () if batch is None else (batch,)
    count = (2 if name == "LSTMCell" else 1) * with_state
    states = [uniform(*leading, hidden) for _ in range(count)]
    result, expected = assert_same(ours, theirs, uniform(*leading, features), states)
    assert type(result) is type(expected)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_dtypes_are_kept(name, dtype):
    layer = getattr(fastrnn, name)(3, 4).to(dtype)
    assert {weight.dtype for weight in layer._flat_weights} == {dtype}
    with torch.no_grad():
        assert {t.dtype for t in tensors(layer(torch.rand(5, 2, 3, dtype=dtype)))} == {dtype}


@pytest.mark.parametrize("name", LAYERS)
def test_total_dropout_between_layers_hides_the_layer_below(name):
    ours, theirs = twins(name, 3, 4, num_layers=2, dropout=1.0)
    assert_same(ours, theirs, uniform(5, 2, 3))
    trained = ours(torch.ones(5, 2, 3, dtype=torch.float64))[0]
    ours.eval()
    theirs.eval()
    assert_same(ours, theirs, uniform(5, 2, 3))
    evaluated = ours(torch.ones(5, 2, 3, dtype=torch.float64))[0]
    assert not torch.allclose(trained, evaluated)


@pytest.mark.parametrize("name", LAYERS)
def test_dropout_falls_between_layers_only(name):
    torch.manual_seed(0)
    single = getattr(fastrnn, name)(3, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dropped = getattr(fastrnn, name)(3, 4, dropout=0.5)
    dropped.load_state_dict(single.state_dict())
    input = torch.rand(5, 2, 3)
    assert torch.equal(dropped(input)[0], single(input)[0])


def test_hx_of_an_lstm_may_be_a_list():
    ours, theirs = twins("LSTM", 3, 4)
    input, states = uniform(5, 2, 3), [uniform(1, 2, 4), uniform(1, 2, 4)]
    torch.testing.assert_close(tensors(ours(input, states)), tensors(theirs(input, states)))
    cell, their_cell = twins("LSTMCell", 3, 4)
    states = [state[0] for state in states]
    torch.testing.assert_close(
        tensors(cell(input[0], states)), tensors(their_cell(input[0], states))
    )


@pytest.mark.parametrize("name", LAYERS + CELLS)
def test_autocast_takes_another_dtype_than_the_weights(name):
    module = getattr(fastrnn, name)(3, 4)
    input = torch.rand(2, 3) if name in CELLS else torch.rand(5, 2, 3)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = tensors(module(input.bfloat16()))
    torch.testing.assert_close(
        [output.float() for output in outputs], tensors(module(input)), rtol=0.05, atol=0.02
    )


# --- backend --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LAYERS + CELLS)
def test_backend_is_passed_on_and_shown(name):
    input = torch.rand(2, 3)
    torch.manual_seed(0)
    plain = getattr(fastrnn, name)(3, 4)
    torch.manual_seed(0)
    reference = getattr(fastrnn, name)(3, 4, backend="reference")
    assert "backend" not in repr(plain)
    assert "backend='reference'" in repr(reference)
    torch.testing.assert_close(tensors(reference(input)), tensors(plain(input)))
    with pytest.raises(ValueError, match="nobody"):
        getattr(fastrnn, name)(3, 4, backend="nobody")(input)
    with pytest.raises(TypeError):
        getattr(fastrnn, name)(*POSITIONAL[name], "reference")


# --- weights are what their names say at the time of the call ---------------------------------


class Scaled(nn.Module):
    """A parametrization that counts how often it is computed."""

    count = 0

    def forward(self, weight):
        self.count += 1
        return weight * 0.5


def names_of(module):
    return [name for name, _ in module.named_parameters()]


@pytest.fixture(params=LAYERS + CELLS)
def pair(request):
    """A module, torch's twin, and arguments for both, so that every weight matters."""
    name = request.param
    ours, theirs = twins(name, 3, 4)
    state = uniform(2, 4) if name in CELLS else uniform(1, 2, 4)
    input = uniform(2, 3) if name in CELLS else uniform(5, 2, 3)
    return ours, theirs, (input, (state, -state) if "LSTM" in name else state)


def recurrent_weight(module):
    return "weight_hh" if hasattr(module, "weight_hh") else "weight_hh_l0"


def test_a_replaced_parameter_counts(pair):
    ours, theirs, args = pair
    for module in (ours, theirs):
        name = recurrent_weight(module)
        torch.manual_seed(1)
        setattr(module, name, nn.Parameter(torch.rand_like(getattr(module, name))))
    assert_same(ours, theirs, args[0], tensors(args[1]))


def test_data_exchanged_under_a_parameter_counts(pair):
    ours, theirs, args = pair
    before = tensors(ours(*args))
    for module in (ours, theirs):
        for weight in module.parameters():
            weight.data = weight.data * 0.5
    assert_same(ours, theirs, args[0], tensors(args[1]))
    assert not torch.equal(before[0], tensors(ours(*args))[0])


def test_tied_weights_share_their_gradient(pair):
    ours, theirs, args = pair
    for module in (ours, theirs):
        bias = "bias_ih" if hasattr(module, "bias_ih") else "bias_ih_l0"
        setattr(module, bias.replace("ih", "hh"), getattr(module, bias))
    assert len(list(ours.parameters())) == 3
    assert_same(ours, theirs, args[0], tensors(args[1]))


def test_noncontiguous_weights(pair):
    ours, theirs, args = pair
    for module in (ours, theirs):
        for name in names_of(module):
            weight = getattr(module, name).detach()
            spread = torch.stack([weight, torch.full_like(weight, torch.nan)], -1)[..., 0]
            if spread.dim() == 2:
                spread = spread.t().contiguous().t()
            assert spread.numel() == 1 or not spread.is_contiguous()
            setattr(module, name, nn.Parameter(spread))
    assert_same(ours, theirs, args[0], tensors(args[1]))


def test_functional_call_uses_the_weights_it_is_given(pair):
    ours, theirs, args = pair
    before = tensors(ours(*args))
    weights = {name: torch.rand_like(w) for name, w in theirs.state_dict().items()}
    got = torch.func.functional_call(ours, weights, args)
    theirs.load_state_dict(weights)
    torch.testing.assert_close(tensors(got), tensors(theirs(*args)))
    torch.testing.assert_close(tensors(ours(*args)), before, rtol=0, atol=0)


def test_functional_call_in_another_dtype(pair):
    ours, _, args = pair
    weights = {name: w.float() for name, w in ours.state_dict().items()}
    single = tuple(tensor.float() for tensor in tensors(args))
    hx = single[1] if len(single) == 2 else single[1:]
    got = torch.func.functional_call(ours, weights, (single[0], hx))
    assert {output.dtype for output in tensors(got)} == {torch.float32}


def test_a_parametrization_counts_and_is_computed_once_a_call(pair):
    ours, theirs, args = pair
    name = recurrent_weight(ours)
    parametrize.register_parametrization(ours, name, Scaled())
    with torch.no_grad():
        getattr(theirs, name).mul_(0.5)
    scaled = ours.parametrizations[name][0]
    scaled.count = 0
    got = tensors(ours(*args))
    assert scaled.count == 1
    torch.testing.assert_close(got, tensors(theirs(*args)))
    got[0].sum().backward()
    assert ours.parametrizations[name].original.grad is not None


@pytest.mark.parametrize("first", ["weight_ih_l0", "weight_hh_l0"])
@pytest.mark.parametrize("name", LAYERS)
def test_the_dtype_check_does_not_compute_a_parametrization_again(name, first):
    layer = getattr(fastrnn, name)(3, 4)
    parametrize.register_parametrization(layer, first, Scaled())
    scaled = layer.parametrizations[first][0]
    scaled.count = 0
    layer(torch.rand(5, 2, 3))
    assert scaled.count == 1


@pytest.mark.parametrize(
    "norm",
    [
        parametrizations.weight_norm,
        parametrizations.spectral_norm,
        parametrizations.orthogonal,
        nn.utils.weight_norm,
        nn.utils.spectral_norm,
        lambda module, name: prune.l1_unstructured(module, name, 0.5),
    ],
    ids=["weight_norm", "spectral_norm", "orthogonal", "old weight_norm", "old spectral", "prune"],
)
@pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated")
def test_normalised_weights(pair, norm):
    ours, theirs, args = pair
    name = recurrent_weight(ours)
    torch.manual_seed(0)
    norm(ours, name)
    for key, leaf in ours.named_parameters():
        if name in key:
            leaf.data = leaf * torch.linspace(0.5, 1, leaf.numel()).view_as(leaf).double()
    ours.eval()  # spectral norms keep still
    effective = {}
    ours(*args)  # the old forms compute the weight in a hook before the call
    for key in theirs.state_dict():
        effective[key] = getattr(ours, key).detach()
    assert not torch.equal(effective[name], theirs.state_dict()[name])
    theirs.load_state_dict(effective)
    torch.testing.assert_close(tensors(ours(*args)), tensors(theirs(*args)))
    tensors(ours(*args))[0].sum().backward()
    leaves = [p for n, p in ours.named_parameters() if name in n]
    assert leaves and all(p.grad is not None for p in leaves)


def test_a_weight_may_be_a_plain_attribute(pair):
    """As weight-drop wrappers leave it: the parameter kept elsewhere, a tensor in its place."""
    ours, theirs, args = pair
    name = recurrent_weight(ours)
    raw = getattr(ours, name)
    delattr(ours, name)
    ours.register_parameter("raw", raw)
    setattr(ours, name, raw * 0.5)
    with torch.no_grad():
        getattr(theirs, name).mul_(0.5)
    got = tensors(ours(*args))
    torch.testing.assert_close(got, tensors(theirs(*args)))
    got[0].sum().backward()
    assert raw.grad is not None


def test_a_missing_weight_is_named(pair):
    ours, _, args = pair
    name = recurrent_weight(ours)
    delattr(ours, name)
    with pytest.raises(AttributeError, match=name):
        ours(*args)


# --- what torch's base class offers -------------------------------------------------------------


@pytest.mark.parametrize("name", LAYERS)
def test_flat_and_all_weights(name):
    ours, theirs = twins(name, 3, 4, num_layers=2, bidirectional=True)
    assert ours._flat_weights_names == theirs._flat_weights_names
    assert [w is getattr(ours, n) for w, n in zip(ours._flat_weights, names_of(ours), strict=True)]
    assert [len(ws) for ws in ours.all_weights] == [len(ws) for ws in theirs.all_weights]
    flat = list(itertools.chain(*ours.all_weights))
    assert all(a is b for a, b in zip(flat, ours._flat_weights, strict=True))
    new = nn.Parameter(torch.zeros(4 * 4, 4))
    ours.weight_hh_l1 = new
    assert any(weight is new for weight in ours._flat_weights)


@pytest.mark.parametrize("name", LAYERS)
def test_flatten_parameters_changes_nothing(name):
    layer = getattr(fastrnn, name)(3, 4)
    before = [(p, p.data_ptr(), p.clone()) for p in layer.parameters()]
    assert layer.flatten_parameters() is None
    for (parameter, address, value), now in zip(before, layer.parameters(), strict=True):
        assert parameter is now and now.data_ptr() == address and torch.equal(now, value)


@pytest.mark.parametrize("name", LAYERS)
def test_code_written_against_torchs_base_class(name):
    """The checks and helpers that subclasses of torch's layers call from their own forward."""
    ours, theirs = twins(name, 3, 4)
    input, state = uniform(5, 2, 3), uniform(1, 2, 4)
    hx = (state, state + 1) if name == "LSTM" else state
    order = torch.tensor([1, 0])
    for layer in (ours, theirs):
        layer._update_flat_weights()
        layer.check_forward_args(input, hx, None)
        assert layer.get_expected_hidden_size(input, None) == (1, 2, 4)
    torch.testing.assert_close(ours.permute_hidden(hx, order), theirs.permute_hidden(hx, order))
    assert ours.permute_hidden(hx, None) is hx
    if name == "LSTM":
        assert ours.get_expected_cell_size(input, None) == (1, 2, 4)
    for bad in (input[0], input[..., :2], input.float()):
        raised = []
        for layer in (ours, theirs):
            with pytest.raises((RuntimeError, ValueError)) as caught:
                layer.check_input(bad, None)
            raised.append(caught)
        assert raised[0].type is raised[1].type


def test_replicas_for_data_parallel_use_the_weights_set_on_them(pair):
    ours, theirs, args = pair
    replica = ours._replicate_for_data_parallel()
    # What torch.nn.parallel.replicate does: copies set as plain, differentiable attributes.
    for name in names_of(ours):
        setattr(replica, name, getattr(ours, name) * 2)
    with torch.no_grad():
        for weight in theirs.parameters():
            weight.mul_(2)
    got = tensors(replica(*args))
    torch.testing.assert_close(got, tensors(theirs(*args)))
    got[0].sum().backward()
    assert all(weight.grad is not None for weight in ours.parameters())


@pytest.mark.parametrize("name", LAYERS + CELLS)
def test_compiles_into_one_graph(name):
    torch._dynamo.reset()
    module = getattr(fastrnn, name)(3, 4)
    compiled = torch.compile(module, backend="eager", fullgraph=True)
    for shape in [(2, 3), (3,)] if name in CELLS else [(5, 2, 3), (5, 3)]:
        input = torch.rand(shape)
        torch.testing.assert_close(tensors(compiled(input)), tensors(module(input)))


@pytest.mark.skipif(
    torch.torch_version.TorchVersion(torch.__version__) < "2.13",
    reason="older versions trace no PackedSequence and no size that is data",
)
@pytest.mark.parametrize("enforce_sorted", [True, False])
def test_packed_input_compiles_into_one_graph(enforce_sorted):
    torch._dynamo.reset()
    layer = fastrnn.LSTM(3, 4)
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    input = pack_padded_sequence(torch.rand(5, 3, 3), [5, 2, 1], enforce_sorted=enforce_sorted)
    for hx in (None, (torch.rand(1, 3, 4), torch.rand(1, 3, 4))):
        torch.testing.assert_close(tensors(compiled(input, hx)), tensors(layer(input, hx)))
    for batch in (2, 4):
        with pytest.raises(RuntimeError):
            compiled(input, (torch.rand(1, batch, 4), torch.rand(1, batch, 4)))
