"""Bad arguments: torch's exceptions in torch's words, or clearer ones where torch's mislead.

`SAME` runs each case on torch's module too and compares; `CLEARER` lists every case in which
ours is deliberately different, with the text that it has.
"""

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_sequence

import fastrnn

LAYERS = ["RNN", "LSTM", "GRU"]
CELLS = ["RNNCell", "LSTMCell", "GRUCell"]
# torch checks more in its constructor, and says more of dtypes, than it did in 2.6.
NEW_TORCH = torch.torch_version.TorchVersion(torch.__version__) >= "2.13"


def outcome(function):
    """The type and text of what ``function`` raises, None if nothing."""
    try:
        function()
    except Exception as error:
        return type(error), str(error)
    return None


def pair_if_lstm(name, h, c=None):
    return (h, h if c is None else c) if "LSTM" in name else h


def zeros(*shape, **options):
    return torch.zeros(shape, **options)


def packed(*lengths, features=10, **options):
    return pack_sequence([zeros(n, features, **options) for n in lengths], enforce_sorted=False)


# --- constructor ------------------------------------------------------------------------------

# Positional and keyword arguments; those that only newer versions of torch refuse apart.
CONSTRUCTOR = [
    ((10, 0), {}),
    ((10, -1), {}),
    ((10, 2.5), {}),
    (("10", "20"), {}),
    ((10, 20), {"num_layers": 0}),
    ((10, 20), {"num_layers": -1}),
    ((10, 20), {"num_layers": 1.0}),
    ((10, 20), {"num_layers": "2"}),
    ((10, 20), {"dropout": 2}),
    ((10, 20), {"dropout": -0.1}),
    ((10, 20), {"dropout": True}),
    ((10, 20), {"dropout": "a"}),
    ((10, 20), {"proj_size": -1}),
    ((10, 20), {"proj_size": 20}),
    ((10, 20), {"device": "nowhere"}),
    ((10, 20), {"dtype": 3}),
    ((10, 20), {"dtype": torch.int64}),
]
NEW_CONSTRUCTOR = [
    ((0, 20), {}),
    ((-1, 20), {}),
    ((1.5, 20), {}),
    ((10, 20), {"bias": 1}),
    ((10, 20), {"batch_first": 1}),
    ((10, 20), {"bias": None}),
]


@pytest.mark.parametrize("args, options", CONSTRUCTOR + NEW_CONSTRUCTOR, ids=str)
@pytest.mark.parametrize("name", LAYERS)
def test_layer_constructor(name, args, options):
    theirs = outcome(lambda: getattr(nn, name)(*args, **options))
    assert outcome(lambda: getattr(fastrnn, name)(*args, **options)) == theirs
    assert theirs is not None or (not NEW_TORCH and (args, options) in NEW_CONSTRUCTOR)


@pytest.mark.parametrize("nonlinearity", ["x", None, 3, "TANH"])
def test_nonlinearity_of_a_layer(nonlinearity):
    theirs = outcome(lambda: nn.RNN(10, 20, nonlinearity=nonlinearity))
    assert theirs is not None
    assert outcome(lambda: fastrnn.RNN(10, 20, nonlinearity=nonlinearity)) == theirs
    assert outcome(lambda: fastrnn.RNN(10, 20, 1, nonlinearity)) == theirs


@pytest.mark.parametrize("name", ["RNN", "GRU"])
@pytest.mark.parametrize("bad", [5, -1, 20, "cpu"])
def test_a_projection_is_refused_where_torch_builds_a_layer_that_fails(name, bad):
    """torch's GRU takes it by position, and fails when called."""
    expected = ValueError, "proj_size argument is only supported for LSTM, not RNN or GRU"
    before = (10, 20, 1, *(("tanh",) if name == "RNN" else ()), True, False, 0.0, False)
    assert outcome(lambda: getattr(fastrnn, name)(*before, bad)) == expected
    assert outcome(lambda: getattr(nn, name)(10, 20, proj_size=bad)) == expected


@pytest.mark.parametrize(
    "args, options",
    [((0.5, 20), {}), ((10, -1), {}), ((10, 20), {"device": "nowhere"}), ((10, 20), {"dtype": 3})],
    ids=str,
)
@pytest.mark.parametrize("name", CELLS)
def test_cell_constructor(name, args, options):
    theirs = outcome(lambda: getattr(nn, name)(*args, **options))
    assert theirs is not None
    assert outcome(lambda: getattr(fastrnn, name)(*args, **options)) == theirs


@pytest.mark.parametrize("options", [{"foo": 1}, {"mode": "GRU"}, {"num_chunks": 3}], ids=str)
@pytest.mark.parametrize("name", LAYERS + CELLS)
def test_unknown_arguments(name, options):
    """A TypeError as in torch, but naming the class that was called, not its base."""
    kind, text = outcome(lambda: getattr(fastrnn, name)(10, 20, **options))
    (argument,) = options
    assert kind is outcome(lambda: getattr(nn, name)(10, 20, **options))[0] is TypeError
    assert text == f"{name}.__init__() got an unexpected keyword argument '{argument}'"


@pytest.mark.parametrize("name", LAYERS + CELLS)
def test_missing_arguments(name):
    kind, text = outcome(lambda: getattr(fastrnn, name)(10))
    assert kind is outcome(lambda: getattr(nn, name)(10))[0] is TypeError
    assert text == f"{name}.__init__() missing 1 required positional argument: 'hidden_size'"


# --- a layer's call -----------------------------------------------------------------------------

# The arguments of the call, given the layer's name. The layers are (10, 20).
SAME = {
    "input 0-D": lambda n: (zeros(),),
    "input 1-D": lambda n: (zeros(10),),
    "input 4-D": lambda n: (zeros(3, 3, 3, 10),),
    "features": lambda n: (zeros(3, 2, 5),),
    "features unbatched": lambda n: (zeros(3, 5),),
    "features, wrong state too": lambda n: (zeros(3, 2, 5), pair_if_lstm(n, zeros(1, 3, 21))),
    "no features": lambda n: (zeros(3, 2, 0),),
    "no steps unbatched": lambda n: (zeros(0, 10),),
    "state 3-D for unbatched": lambda n: (zeros(3, 10), pair_if_lstm(n, zeros(1, 1, 20))),
    "state 2-D for batched": lambda n: (zeros(3, 2, 10), pair_if_lstm(n, zeros(1, 20))),
    "state 0-D": lambda n: (zeros(3, 2, 10), pair_if_lstm(n, zeros())),
    "states of two ranks": lambda n: (
        zeros(3, 2, 10),
        pair_if_lstm(n, zeros(1, 20), zeros(1, 2, 20)),
    ),
    "hidden_size": lambda n: (zeros(3, 2, 10), pair_if_lstm(n, zeros(1, 2, 21))),
    "hidden_size unbatched": lambda n: (zeros(3, 10), pair_if_lstm(n, zeros(1, 21))),
    "batch of the state": lambda n: (zeros(3, 2, 10), pair_if_lstm(n, zeros(1, 5, 20))),
    "batch of one": lambda n: (zeros(3, 2, 10), pair_if_lstm(n, zeros(1, 1, 20))),
    "layers of the state": lambda n: (zeros(3, 2, 10), pair_if_lstm(n, zeros(2, 2, 20))),
    "layers unbatched": lambda n: (zeros(3, 10), pair_if_lstm(n, zeros(2, 20))),
}
SAME_NEW = {
    "dtype": lambda n: (zeros(3, 2, 10, dtype=torch.float64),),
    "dtype unbatched": lambda n: (zeros(3, 10, dtype=torch.float16),),
    "integers": lambda n: (zeros(3, 2, 10, dtype=torch.int64),),
    "dtype, wrong size too": lambda n: (zeros(3, 2, 5, dtype=torch.float64),),
}
# torch's LSTM does not check packed input: its errors come from within.
SAME_PACKED = {
    "features": lambda n: (packed(4, 2, 1, features=3),),
    "layers of the state": lambda n: (packed(4, 2, 1), zeros(2, 3, 20)),
    "hidden_size": lambda n: (packed(4, 2, 1), zeros(1, 3, 21)),
}


def compare(name, arguments, **options):
    args = arguments(name)
    theirs = outcome(lambda: getattr(nn, name)(10, 20, **options)(*args))
    assert theirs is not None
    assert outcome(lambda: getattr(fastrnn, name)(10, 20, **options)(*args)) == theirs


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("case", SAME)
@pytest.mark.parametrize("name", LAYERS)
def test_layer_call(name, case, batch_first):
    compare(name, SAME[case], batch_first=batch_first)


@pytest.mark.parametrize("name", LAYERS)
def test_no_time_steps(name):
    compare(name, lambda n: (zeros(0, 2, 10),))
    compare(name, lambda n: (zeros(2, 0, 10),), batch_first=True)
    compare(name, lambda n: (zeros(0, 10), pair_if_lstm(n, zeros(1, 20))))


@pytest.mark.skipif(not NEW_TORCH, reason="the text is that of newer versions")
@pytest.mark.parametrize("case", SAME_NEW)
@pytest.mark.parametrize("name", LAYERS)
def test_layer_dtype(name, case):
    compare(name, SAME_NEW[case])


@pytest.mark.parametrize("case", SAME_PACKED)
@pytest.mark.parametrize("name", ["RNN", "GRU"])
def test_packed(name, case):
    compare(name, SAME_PACKED[case])


def test_second_state_of_an_lstm():
    wrong = {"hidden_size": zeros(1, 2, 3), "batch": zeros(1, 1, 20), "layers": zeros(3, 2, 20)}
    for c in wrong.values():
        compare("LSTM", lambda n, c=c: (zeros(3, 2, 10), (zeros(1, 2, 20), c)))


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("h, c", [(20, 20), (8, 8), (20, 8)])
def test_states_of_a_projection(h, c, batch_first):
    states = zeros(2, 3, h), zeros(2, 3, c)
    input = zeros(3, 4, 10) if batch_first else zeros(4, 3, 10)
    compare(
        "LSTM", lambda n: (input, states), proj_size=8, bidirectional=True, batch_first=batch_first
    )


BATCH_MISMATCH = "Expected hidden size (1, 3, 20), got [1, {}, 20]"
# What is called, and the error; torch's own in the comment.
CLEARER = {
    # AttributeError: 'list' object has no attribute 'dim'
    "input a list": (
        "LSTM",
        lambda: ([1.0],),
        (TypeError, "LSTM: Expected input to be a tensor or a PackedSequence, got list instead"),
    ),
    "no input of a cell": (
        "GRUCell",
        lambda: (None,),
        (TypeError, "GRUCell: Expected input to be a tensor, got NoneType instead"),
    ),
    # AttributeError: 'tuple' object has no attribute 'dim'
    "GRU takes no pair": (
        "GRU",
        lambda: (zeros(3, 2, 10), (zeros(1, 2, 20),) * 2),
        (TypeError, "GRU: Expected hx to be a tensor, got tuple instead"),
    ),
    "RNN takes no pair": (
        "RNN",
        lambda: (packed(3, 1), (zeros(1, 2, 20),) * 2),
        (TypeError, "RNN: Expected hx to be a tensor, got tuple instead"),
    ),
    # IndexError: index 1 is out of bounds for dimension 0 with size 1, or a text about ranks
    "LSTM takes no tensor": (
        "LSTM",
        lambda: (zeros(3, 2, 10), zeros(2, 2, 20)),
        (
            TypeError,
            "LSTM: Expected hx to be a tuple of two tensors (h, c), got Tensor instead",
        ),
    ),
    # AttributeError: 'NoneType' object has no attribute 'dim'
    "LSTM takes no None in the pair": (
        "LSTM",
        lambda: (zeros(3, 2, 10), (zeros(1, 2, 20), None)),
        (TypeError, "LSTM: Expected hx[1] to be a tensor, got NoneType instead"),
    ),
    # IndexError: tuple index out of range
    "LSTM with one state": (
        "LSTM",
        lambda: (zeros(3, 2, 10), (zeros(1, 2, 20),)),
        (RuntimeError, "lstm expects two hidden states"),
    ),
    # nothing: the third is ignored for unbatched input
    "LSTM with three states": (
        "LSTM",
        lambda: (zeros(3, 10), (zeros(1, 20),) * 3),
        (RuntimeError, "lstm expects two hidden states"),
    ),
    # RuntimeError: INDICES element is out of DATA bounds, id=2 axis_dim=2
    "packed, state for fewer": (
        "GRU",
        lambda: (packed(2, 4, 1), zeros(1, 2, 20)),
        (RuntimeError, BATCH_MISMATCH.format(2)),
    ),
    # nothing: the surplus is ignored
    "packed, state for more": (
        "RNN",
        lambda: (packed(2, 4, 1), zeros(1, 5, 20)),
        (RuntimeError, BATCH_MISMATCH.format(5)),
    ),
    # RuntimeError: Expected hidden size (1, 3, 20), got [1, 3]: the shape after picking rows
    "packed, state 2-D": (
        "GRU",
        lambda: (packed(2, 4, 1), zeros(1, 20)),
        (RuntimeError, "Expected hidden size (1, 3, 20), got [1, 20]"),
    ),
    # RuntimeError: The size of tensor a (5) must match the size of tensor b (3) ...
    "packed LSTM, state for more": (
        "LSTM",
        lambda: (packed(4, 2, 1), (zeros(1, 3, 20), zeros(1, 5, 20))),
        (RuntimeError, "Expected hidden[1] size (1, 3, 20), got [1, 5, 20]"),
    ),
    # RuntimeError: mat1 and mat2 shapes cannot be multiplied (7x3 and 10x80)
    "packed LSTM, features": (
        "LSTM",
        lambda: (packed(4, 2, 1, features=3),),
        (
            RuntimeError,
            "input.size(-1) must be equal to input_size. Expected 10, got 3",
        ),
    ),
    # RuntimeError: mat1 and mat2 must have the same dtype, but got Double and Float
    "packed LSTM, dtype": (
        "LSTM",
        lambda: (packed(4, 2, 1, dtype=torch.float64),),
        (
            ValueError,
            "RNN input dtype (torch.float64) does not match weight dtype (torch.float32). "
            "Convert input: input.to(torch.float32), or convert model: model.to(torch.float64)",
        ),
    ),
    # RuntimeError: mat1 and mat2 must have the same dtype, but got Double and Float
    "GRUCell, dtype of the input": (
        "GRUCell",
        lambda: (zeros(3, 10, dtype=torch.float64),),
        (
            RuntimeError,
            "Expected all tensors to have the same dtype, but "
            "input has torch.float64 and weight_ih has torch.float32",
        ),
    ),
    "LSTMCell, dtype of a state": (
        "LSTMCell",
        lambda: (zeros(3, 10), (zeros(3, 20), zeros(3, 20, dtype=torch.float64))),
        (
            RuntimeError,
            "Expected all tensors to have the same dtype, but "
            "input has torch.float32 and hidden1 has torch.float64",
        ),
    ),
    # RuntimeError: Tensor on device cpu is not on the expected device meta!
    "RNNCell, device": (
        "RNNCell",
        lambda: (zeros(3, 10), zeros(3, 20, device="meta")),
        (
            RuntimeError,
            "Expected all tensors to be on the same device, but "
            "input is on cpu and hidden0 is on meta",
        ),
    ),
    # AttributeError: 'tuple' object has no attribute 'dim'
    "GRUCell takes no pair": (
        "GRUCell",
        lambda: (zeros(3, 10), (zeros(3, 20),) * 2),
        (TypeError, "GRUCell: Expected hx to be a tensor, got tuple instead"),
    ),
    # TypeError: lstm_cell(): argument 'hx' (position 2) must be tuple of Tensors, not Tensor
    "LSTMCell takes no tensor": (
        "LSTMCell",
        lambda: (zeros(3, 10), zeros(3, 20)),
        (
            TypeError,
            "LSTMCell: Expected hx to be a tuple of two tensors (h, c), got Tensor instead",
        ),
    ),
    # nothing: the third is ignored for unbatched input
    "LSTMCell with three states": (
        "LSTMCell",
        lambda: (zeros(10), (zeros(20),) * 3),
        (RuntimeError, "lstm_cell expects two hidden states"),
    ),
    # IndexError: Dimension out of range (expected to be in range of [-1, 0], but got 1)
    "RNNCell, state without a batch": (
        "RNNCell",
        lambda: (zeros(20, 10), zeros(20)),
        (RuntimeError, "hidden0 must have 2 dimensions, got 1"),
    ),
    # RuntimeError: t() expects a tensor with <= 2 dimensions, but self is 3D, or the like
    "GRUCell, state with a batch": (
        "GRUCell",
        lambda: (zeros(10), zeros(20, 20)),
        (RuntimeError, "hidden0 must have 2 dimensions, got 3"),
    ),
}


@pytest.mark.parametrize("case", CLEARER)
def test_clearer_than_torch(case):
    name, arguments, expected = CLEARER[case]
    args = arguments()
    assert outcome(lambda: getattr(fastrnn, name)(10, 20)(*args)) == expected
    assert outcome(lambda: getattr(nn, name)(10, 20)(*args)) != expected


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize(
    "options", [{"dtype": torch.float64}, {"device": "meta"}], ids=["dtype", "device"]
)
def test_a_state_of_another_kind_is_refused(name, options):
    """torch fails within its kernels, in words that depend on the layer."""
    hx = pair_if_lstm(name, zeros(1, 2, 20, **options))
    with pytest.raises(RuntimeError, match=r"hidden .* " + str(*options.values())):
        getattr(fastrnn, name)(10, 20)(zeros(3, 2, 10), hx)


# --- a cell's call ------------------------------------------------------------------------------

SAME_CELL = {
    "input 0-D": lambda n: (zeros(),),
    "input 3-D": lambda n: (zeros(1, 3, 10),),
    "state 3-D": lambda n: (zeros(3, 10), pair_if_lstm(n, zeros(1, 3, 20))),
    "state 0-D": lambda n: (zeros(3, 10), pair_if_lstm(n, zeros())),
    "features": lambda n: (zeros(3, 5),),
    "features unbatched": lambda n: (zeros(5),),
    "features, wrong state too": lambda n: (zeros(3, 5), pair_if_lstm(n, zeros(4, 2))),
    "hidden_size": lambda n: (zeros(3, 10), pair_if_lstm(n, zeros(3, 21))),
    "hidden_size unbatched": lambda n: (zeros(10), pair_if_lstm(n, zeros(21))),
    "batch": lambda n: (zeros(3, 10), pair_if_lstm(n, zeros(4, 20))),
    "batch of one": lambda n: (zeros(3, 10), pair_if_lstm(n, zeros(1, 20))),
    "batch, hidden_size too": lambda n: (zeros(3, 10), pair_if_lstm(n, zeros(4, 21))),
    "batched input, other state": lambda n: (zeros(3, 10), pair_if_lstm(n, zeros(20))),
    "unbatched input, other state": lambda n: (zeros(10), pair_if_lstm(n, zeros(1, 20))),
}
# Here the h-only cells have nothing wrong.
SAME_LSTM_CELL = {
    "second state 3-D": lambda n: (zeros(3, 10), (zeros(3, 20), zeros(1, 3, 20))),
    "second hidden_size": lambda n: (zeros(3, 10), (zeros(3, 20), zeros(3, 7))),
    "second batch": lambda n: (zeros(3, 10), (zeros(3, 20), zeros(4, 20))),
    "second batch of one": lambda n: (zeros(3, 10), (zeros(3, 20), zeros(1, 20))),
    "one state": lambda n: (zeros(3, 10), (zeros(3, 20),)),
    "three states": lambda n: (zeros(3, 10), (zeros(3, 20),) * 3),
}


@pytest.mark.parametrize("case", SAME_CELL)
@pytest.mark.parametrize("name", CELLS)
def test_cell_call(name, case):
    compare(name, SAME_CELL[case])


@pytest.mark.parametrize("case", SAME_LSTM_CELL)
def test_states_of_an_lstm_cell(case):
    compare("LSTMCell", SAME_LSTM_CELL[case])


def test_nonlinearity_of_a_cell():
    """torch's cell takes any and refuses it when called, after the ranks, before the sizes."""
    for args in ((zeros(3, 10),), (zeros(3, 5), zeros(2, 2)), (zeros(1, 1, 1),)):
        compare("RNNCell", lambda n, args=args: args, nonlinearity="foo")


# --- weights that do not fit --------------------------------------------------------------------


@pytest.mark.parametrize("name", LAYERS + CELLS)
@pytest.mark.parametrize("kind", ["weight_ih", "weight_hh", "bias_ih", "bias_hh"])
def test_a_weight_of_another_shape_is_named(name, kind):
    module = getattr(fastrnn, name)(10, 20)
    weight = kind if name in CELLS else f"{kind}_l0"
    for change in (lambda w: w[:-1], lambda w: w.repeat(2, *[1] * (w.dim() - 1)), lambda w: w[0]):
        broken = {weight: change(module.state_dict()[weight])}
        with pytest.raises(RuntimeError, match=r"size|dimensions|rows"):
            torch.func.functional_call(module, broken, (zeros(3, 10),))


@pytest.mark.parametrize("name", LAYERS + CELLS)
@pytest.mark.parametrize("kind", ["weight_hh", "bias_ih", "bias_hh"])
def test_a_weight_of_another_dtype_or_device_is_refused(name, kind):
    module = getattr(fastrnn, name)(10, 20)
    weight = kind if name in CELLS else f"{kind}_l0"
    for change in (lambda w: w.double(), lambda w: w.to("meta")):
        broken = {weight: change(module.state_dict()[weight])}
        with pytest.raises(RuntimeError, match=r"same d(type|evice)"):
            torch.func.functional_call(module, broken, (zeros(3, 10),))


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_nested_tensors():
    """Before anything is read of what has no sizes."""
    nested = torch.nested.nested_tensor([torch.ones(3, 10), torch.ones(2, 10)])
    jagged = torch.nested.nested_tensor([torch.ones(3, 10)], layout=torch.jagged)
    weights = list(fastrnn.GRU(10, 4).parameters())
    calls = [
        *(getattr(fastrnn, name)(10, 4) for name in LAYERS + CELLS),
        fastrnn.quantize_dynamic(fastrnn.LSTM(10, 4)),
        fastrnn.MinGRU(10, 4),
        lambda x: fastrnn.functional.gru(x, zeros(1, 2, 4), weights),
        lambda x: fastrnn.functional.attention(x, x, x),
    ]
    for call in calls:
        for grad in (True, False):
            for tensor in (nested, jagged):
                with torch.set_grad_enabled(grad):
                    with pytest.raises(NotImplementedError, match="not support NestedTensor"):
                        call(tensor)
