"""Bad arguments beyond torch's: errors of its kinds and in its words, before any kernel runs.

It names the argument, what came and what was wanted.
"""

import doctest
import inspect
import re

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_sequence

import fastrnn
from fastrnn import functional

T, B, I, H = 7, 4, 3, 5
X = torch.zeros(T, B, I, dtype=torch.float64)
TRUE = torch.ones(T, B, dtype=torch.bool)
LENGTHS = torch.tensor([1, 2, 3, 4])
H_0, STATES = torch.zeros(1, B, H).double(), torch.zeros(T, 1, B, H).double()


def build(name="LSTM", **options):
    return getattr(fastrnn, name)(I, H, dtype=torch.float64, **options)


def refused(kind, text):
    """The text, or a part of it, to the letter."""
    return pytest.raises(kind, match=re.escape(text))


# --- calls ------------------------------------------------------------------------------------

OF_LENGTHS = [
    ([1, 2, 3, 4], TypeError, "lengths should be a tensor, got list"),
    (torch.ones(B), TypeError, "lengths should be integers, got torch.float32"),
    (torch.ones(B).bool(), TypeError, "lengths should be integers, got torch.bool"),
    (LENGTHS.to(torch.complex64), TypeError, "lengths should be integers, got torch.complex64"),
    (LENGTHS.to(torch.complex128), TypeError, "lengths should be integers, got torch.complex128"),
    (LENGTHS.to_sparse(), TypeError, "lengths should be a dense tensor, got torch.sparse_coo"),
    (LENGTHS.to("meta"), RuntimeError, "lengths is on meta, but input is on cpu"),
    (LENGTHS[:3], RuntimeError, "Expected lengths size (4,), got [3]"),
    (torch.tensor(3), RuntimeError, "Expected lengths size (4,), got []"),
    (LENGTHS * 2, ValueError, "lengths should be between 0 and the number of steps, 7, got 8"),
    (-LENGTHS, ValueError, "lengths should be between 0 and the number of steps, 7, got -4"),
    (torch.full((B,), 2**63 + 1, dtype=torch.uint64), ValueError, "lengths should be between 0"),
]
OF_RESET = [
    ([1], TypeError, "reset should be a bool tensor, got list"),
    (True, TypeError, "reset should be a bool tensor, got bool"),
    (TRUE.long(), TypeError, "reset should be a bool tensor, True where the state is to be "
     "replaced, got torch.int64; of numbers, pass reset != 0"),
    (TRUE.float(), TypeError, "got torch.float32; of numbers, pass reset != 0"),
    (TRUE.to_sparse(), TypeError, "reset should be a dense tensor, got torch.sparse_coo"),
    (torch.tensor(True), RuntimeError, "Expected reset size (7, 4), or (7, 4, 1) with an entry "
     "for each direction, got []"),
    (TRUE[0], RuntimeError, "Expected reset size (7, 4), or (7, 4, 1)"),
    (TRUE.t(), RuntimeError, "got [4, 7]"),
    (TRUE.unsqueeze(2).expand(-1, -1, 2), RuntimeError, "got [7, 4, 2]"),
    (TRUE.to("meta"), RuntimeError, "reset is on meta, but input is on cpu"),
]  # fmt: skip
WANTED = "reset_to should be 'zero', 'initial', a tensor or a tuple of tensors, got "
OF_RESET_TO = [
    ("zeros", ValueError, "reset_to should be 'zero', 'initial' or states, got: 'zeros'"),
    (None, TypeError, WANTED + "NoneType"),
    (3, TypeError, WANTED + "int"),
    ((STATES, None), TypeError, WANTED + "tuple with NoneType among them"),
    (STATES, RuntimeError, "reset_to should have the states h, c, got 1"),
    ((X, X), RuntimeError, "Expected reset_to[0] size (7, 1, 4, 5), got [7, 4, 3]"),
    ((STATES, STATES.float()), RuntimeError, "Expected all tensors to have the same dtype, but "
     "input has torch.float64 and reset_to[1] has torch.float32"),
    ((STATES, STATES.to("meta")), RuntimeError, "input is on cpu and reset_to[1] is on meta"),
    ((STATES, STATES.to_sparse()), TypeError, "reset_to should be dense tensors"),
]  # fmt: skip
CALLS = [
    *(({"lengths": value}, *rest) for value, *rest in OF_LENGTHS),
    *(({"reset": value}, *rest) for value, *rest in OF_RESET),
    *(({"reset": TRUE, "reset_to": value}, *rest) for value, *rest in OF_RESET_TO),
    ({"reset_to": (STATES, STATES)}, ValueError, "there is no reset"),
    ({"return_all_states": "no"}, TypeError, "return_all_states should be of type bool, got: str"),
]


@pytest.mark.parametrize(("call", "kind", "text"), CALLS)
def test_wrong_calls(call, kind, text):
    with refused(kind, text):
        build()(X, **call)


UNBATCHED = [
    ({"lengths": torch.tensor([7])}, ValueError, "lengths are for batched input"),
    ({"reset": [1]}, TypeError, "reset should be a bool tensor, got list"),
    ({"reset": torch.tensor(True)}, RuntimeError, "For unbatched input, reset should be 1-D"),
    ({"reset": TRUE[:, 0], "reset_to": None}, TypeError, WANTED + "NoneType"),
    ({"reset": TRUE[:, 0], "reset_to": X[:, 0, 0]}, RuntimeError, "reset_to[0] should be 3-D"),
]


@pytest.mark.parametrize(("call", "kind", "text"), UNBATCHED)
def test_wrong_calls_without_a_batch(call, kind, text):
    with refused(kind, text):
        build()(X[:, 0], **call)


def test_what_packed_input_is_not_for():
    packed = pack_sequence([X[:, 0]])
    for call in ({"lengths": torch.tensor([7])}, {"reset": TRUE}, {"return_all_states": True}):
        with refused(ValueError, "got packed ones"):
            build()(packed, **call)


@pytest.mark.parametrize("kind", ["uint8", "int16", "uint32", "uint64"])
def test_lengths_of_any_integers(kind):
    lengths = LENGTHS.to(getattr(torch, kind))
    x = torch.randn(T, B, I, dtype=torch.float64)
    layer = build()
    torch.testing.assert_close(layer(x, lengths=lengths), layer(x, lengths=LENGTHS))


@pytest.mark.parametrize("name", ["LSTM", "GRU", "RNN", "MinGRU"])
def test_an_input_that_is_no_tensor(name):
    with refused(TypeError, f"{name}: Expected input to be a tensor or a PackedSequence, got list"):
        build(name)([1])
    with refused(TypeError, f"{name}Cell: Expected input to be a tensor, got list"):
        build(f"{name}Cell")([1])


# --- settings ---------------------------------------------------------------------------------

ZONEOUT = "zoneout should be a number in range [0, 1], or one for each of h, c, got: "
SETTINGS = [
    ("LSTM", {"zoneout": 1.5}, ZONEOUT + "1.5"),
    ("LSTM", {"zoneout": (0.1, 0.1, 0.1)}, ZONEOUT + "(0.1, 0.1, 0.1)"),
    ("LSTM", {"zoneout": (0.1, "a")}, ZONEOUT + "(0.1, 'a')"),
    ("LSTM", {"zoneout": None}, ZONEOUT + "None"),
    ("LSTM", {"zoneout": "ab"}, ZONEOUT + "'ab'"),
    ("LSTM", {"zoneout": True}, ZONEOUT + "True"),
    ("LSTM", {"zoneout": torch.tensor(0.5)}, ZONEOUT + "tensor(0.5"),
    ("GRU", {"zoneout": "a"}, "zoneout should be a number in range [0, 1], got: 'a'"),
    ("GRU", {"recurrent_dropout": -1}, "recurrent_dropout should be a number in range [0, 1]"),
    ("GRU", {"weight_dropout": "a"}, "weight_dropout should be a number in range [0, 1]"),
    ("GRU", {"cell_clip": 1.0}, "cell_clip wants a cell state, and gru has none"),
    *(
        ("LSTM", {f"{name}_clip": bad}, f"{name}_clip should be a positive number or None")
        for name in ("cell", "proj", "gate", "grad")
        for bad in (0.0, -1, "a", True, float("nan"), 10**400)
    ),
    ("LSTM", {"proj_clip": 1.0}, "proj_clip wants a projection"),
    ("RNN", {"reverse": True, "bidirectional": True}, "reverse is for one direction"),
    *(
        ("RNN", {"checkpoint_every": bad}, "checkpoint_every should be a positive integer")
        for bad in (0, 1.5, True, "a")
    ),
    *(
        (name, {"num_heads": bad}, f"num_heads should be a positive integer, got: {bad!r}")
        for name in ("LSTM", "SLSTM", "SLSTMCell")
        for bad in (0, True, 1.5, "a")
    ),
    ("GRU", {"num_heads": 2}, "hidden_size should be divisible by num_heads, got 5, 2"),
]


@pytest.mark.parametrize(("name", "setting", "text"), SETTINGS)
def test_wrong_settings(name, setting, text):
    with refused(ValueError, text):
        build(name, **setting)


@pytest.mark.parametrize("name", ["reverse", "learn_initial_state"])
@pytest.mark.parametrize("bad", ["no", 1, 1j, None], ids=str)
def test_flags_are_true_or_false(name, bad):
    with refused(TypeError, f"{name} should be of type bool, got: {type(bad).__name__}"):
        build("GRU", **{name: bad})


def test_a_layer_without_gates_has_no_forget_bias():
    with refused(TypeError, "RNN has no gate for forget_bias to begin with"):
        build("RNN", forget_bias=1.0)


def test_heads_of_a_functional_form():
    weights = [torch.zeros(20, I), torch.zeros(20, H)]
    for bad in (0, True, "a"):
        with refused(ValueError, "num_heads should be a positive integer"):
            functional.lstm(X.float(), None, weights, bias=False, num_heads=bad)


# --- windows ----------------------------------------------------------------------------------

WINDOWS = [
    *({"chunk": bad} for bad in (0, 1.5, True, None)),
    {"lengths": LENGTHS * 2},
    {"lengths": LENGTHS[:3]},
    {"reset": TRUE[:-1]},
    {"reset": torch.ones(T + 1, B, dtype=torch.bool)},
    {"reset": TRUE.float()},
    {"reset": [1]},
    {"input": [1]},
    {"input": X[0, 0]},
    {"module": nn.LSTM(I, H)},
    {"module": nn.Linear(I, H)},
    {"module": fastrnn.LSTMCell(I, H)},
    {"module": build(bidirectional=True)},
    {"module": build(reverse=True)},
]


@pytest.mark.parametrize("wrong", WINDOWS, ids=lambda wrong: str(next(iter(wrong))))
def test_wrong_windows(wrong):
    """Before the first window, which an iterator would put off."""
    (name,) = wrong
    arguments = {"module": build(), "input": X, "hx": None, "chunk": 2, **wrong}
    with pytest.raises((TypeError, ValueError, RuntimeError), match=f"{name}|input"):
        fastrnn.tbptt(**arguments)


def test_windows_of_one_sequence():
    layer, x = build(batch_first=True), torch.randn(T, I, dtype=torch.float64)
    reset = torch.arange(T) % 3 == 1
    windows = list(fastrnn.tbptt(layer, x, chunk=3, reset=reset))
    output, hx = layer(x, reset=reset)
    torch.testing.assert_close(torch.cat([out for out, _ in windows]), output)
    torch.testing.assert_close(windows[-1][1], hx)


# --- directions of two sizes -----------------------------------------------------------------

SIZES = [(4, "4"), ((1, 2, 3), "(1, 2, 3)"), (None, "None")]


@pytest.mark.parametrize(("sizes", "text"), SIZES)
def test_wrong_sizes_of_directions(sizes, text):
    with refused(ValueError, f"hidden_sizes should be two sizes, got: {text}"):
        fastrnn.Bidirectional(fastrnn.LSTM, I, sizes)


def test_sizes_of_directions_are_integers():
    with refused(TypeError, "hidden_sizes should be two integers, got: (True, 5)"):
        fastrnn.Bidirectional(fastrnn.LSTM, I, (True, 5))


def pair(layers=2, batch=B, width=2):
    return torch.zeros(layers, batch, width).double()


DIRECTIONS = [
    ({"input": [1]}, TypeError, "Bidirectional: Expected input to be a tensor, got list"),
    ({"input": X[0]}, ValueError, "Bidirectional: Expected input to be 3D, got 2D"),
    ({"hx": pair()}, TypeError, "Expected hx to be a pair (forwards, backwards) of states"),
    ({"hx": (pair(3), pair())}, RuntimeError, "Expected forwards h size (2, 4, 2), got [3, 4, 2]"),
    ({"hx": (pair(), pair(1))}, RuntimeError, "Expected backwards h size (2, 4, 2), got [1, 4, 2]"),
    (
        {"hx": (pair(), (pair(),))},
        TypeError,
        "Bidirectional, backwards: Expected hx to be a tensor",
    ),
    ({"hx": (pair(), 3)}, TypeError, "Bidirectional, backwards: Expected hx to be a tensor"),
    ({"reset": [1]}, TypeError, "reset should be a bool tensor, got list"),
    ({"reset": TRUE.unsqueeze(2)}, RuntimeError, "Expected reset size (7, 4), or (7, 4, 2)"),
    ({"reset": TRUE.unsqueeze(2).expand(-1, -1, 3)}, RuntimeError, "got [7, 4, 3]"),
    ({"reset": TRUE.t()}, RuntimeError, "got [4, 7]"),
    ({"reset": TRUE, "reset_to": pair()}, ValueError, "reset_to should be 'zero' or 'initial'"),
]


@pytest.mark.parametrize(("wrong", "kind", "text"), DIRECTIONS)
def test_wrong_calls_of_two_directions(wrong, kind, text):
    module = fastrnn.Bidirectional(fastrnn.GRU, I, (2, 2), 2, dtype=torch.float64)
    with refused(kind, text):
        module(**{"input": X, **wrong})


# --- what help() tells ------------------------------------------------------------------------


def test_docstrings_name_every_setting():
    settings = {*fastrnn.sequences.as_keywords(fastrnn.sequences.OFF), "learn_initial_state"}
    for name in fastrnn.__all__:
        layer = getattr(fastrnn, name)
        if not isinstance(layer, type) or not issubclass(layer, nn.RNNBase):
            continue
        lacks = {"cell_clip", "proj_clip"} if name in ("GRU", "RNN") else set()
        missing = {setting for setting in settings - lacks if setting not in layer.__doc__}
        assert not missing, (name, missing)


@pytest.mark.parametrize("name", ["LightGRU", "CoupledLSTM", "IndRNN", "IndRNNCell"])
def test_signatures_name_every_argument(name):
    parameters = inspect.signature(getattr(fastrnn, name)).parameters.values()
    assert not any(each.kind is each.VAR_POSITIONAL for each in parameters)
    assert [each.name for each in parameters][:2] == ["input_size", "hidden_size"]


def test_the_example_of_the_functional_form_runs():
    (found,) = doctest.DocTestFinder(recurse=False).find(
        functional.recurrent, "recurrent", globs={"recurrent": functional.recurrent, "torch": torch}
    )
    assert found.examples
    assert doctest.DocTestRunner().run(found).failed == 0
