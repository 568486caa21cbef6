"""Bad values and bad arguments: NaN and infinity go where they go in torch, the rest is refused.

At the level of `fastrnn.functional`; the modules' own checks are in test_errors.py.
"""

import re
from dataclasses import replace

import pytest
import torch
from equality import DTYPES, SEED, Case, call_fastrnn, call_torch, draw, run, threads, use_isa

import fastrnn
from fastrnn import _C, functional
from fastrnn.cells import CELLS
from fastrnn.scan import scan

# What cells that torch lacks make of NaN is seen in test_cells.py.
KERNELS = [cell for cell in CELLS if cell in _C.cells() and CELLS[cell].torch_layer]
INF, NAN = float("inf"), float("nan")


@pytest.fixture(params=_C.isas())
def isa(request):
    with use_isa(request.param):
        yield request.param


# --- NaN and infinity -----------------------------------------------------------------------


def with_value(arguments, where, value):
    """One number of one argument replaced: of the second recurrence, where there are two."""
    kind, _, index = where.partition(" ")

    def replaced(tensor):
        tensor = tensor.clone()
        tensor.flatten()[tensor.numel() * 2 // 3] = value
        return tensor

    if not index:
        return replace(arguments, input=replaced(arguments.input))
    tensors = list(getattr(arguments, kind))
    tensors[int(index)] = replaced(tensors[int(index)])
    return replace(arguments, **{kind: tuple(tensors)})


def kinds(tensor):
    """0 for a number, 1 for NaN, 2 and 3 for the infinities."""
    return tensor.isnan() + 2 * tensor.isposinf() + 3 * tensor.isneginf()


def places(cell):
    """Every argument and every incoming gradient."""
    states = range(len(CELLS[cell].states))
    yield "input"
    yield from (f"states {index}" for index in states)
    yield from (f"weights {index}" for index in range(4))
    yield from (f"grads {index}" for index in range(1 + len(states)))


@pytest.mark.parametrize("form", ["dense", "packed"])
@pytest.mark.parametrize("value", [NAN, INF], ids=str)
@pytest.mark.parametrize(("cell", "where"), [(c, where) for c in KERNELS for where in places(c)])
def test_nan_and_infinity_go_where_torch_lets_them(cell, where, value, form):
    case = Case(cell, torch.float32, 19, batch=5, bidirectional=True, form=form)
    arguments = with_value(draw(case, SEED), where, value)
    with threads(1):
        expected = run(call_torch, case, arguments)
    for isa in _C.isas():
        with use_isa(isa):
            found = run(call_fastrnn, case, arguments)
        for name, tensor in found.items():
            if cell == "gru" and value == INF and where.startswith("grads"):
                # Two infinities meet or not, depending on the order of the gradient's terms.
                same = torch.equal(tensor.isfinite(), expected[name].isfinite())
            else:
                same = torch.equal(kinds(tensor), kinds(expected[name]))
            assert same, f"{name} with {isa}, FASTRNN_TEST_SEED={SEED}"


@pytest.mark.parametrize("batch", [2, 5, 13])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cell", KERNELS)
def test_a_nan_stays_in_its_row(cell, dtype, batch, isa):
    case = Case(cell, dtype, 19, batch=batch)
    clean = draw(case, SEED)
    bad = batch // 2
    dirty = replace(clean, input=clean.input.clone(), states=[s.clone() for s in clean.states])
    dirty.input[0, bad] = NAN
    for state in dirty.states:
        state[0, bad] = NAN
    expected, found = (run(call_fastrnn, case, arguments) for arguments in (clean, dirty))
    others = [row for row in range(batch) if row != bad]
    for name, tensor in found.items():
        if "weight" not in name and "bias" not in name:
            assert torch.equal(tensor[:, others], expected[name][:, others])
    assert found["output"][:, bad].isnan().all()


@pytest.mark.parametrize("size", [1e4, 1e30])
@pytest.mark.parametrize("cell", [cell for cell in KERNELS if cell != "rnn_relu"])
def test_saturated_gates(cell, size, isa):
    case = Case(cell, torch.float32, 19)
    arguments = draw(case, SEED)
    arguments = replace(arguments, input=arguments.input * size)
    expected = run(call_torch, case, arguments)
    found = run(call_fastrnn, case, arguments)
    for name in ("output", "h_n"):
        torch.testing.assert_close(found[name], expected[name])
    assert all(tensor.isfinite().all() for tensor in found.values())


# --- layouts --------------------------------------------------------------------------------


def expanded(tensor):
    return tensor[..., :1].expand(tensor.shape)


def expanded_in_front(tensor):
    return tensor[:1].expand(tensor.shape)


def transposed(tensor):
    return tensor.transpose(0, -1).contiguous().transpose(0, -1)


def spread(tensor):
    """Every second number of a larger tensor."""
    return torch.stack([tensor, torch.full_like(tensor, NAN)], -1).flatten(-2)[..., ::2]


def misaligned(tensor):
    """Not even at a multiple of the vectors' size."""
    return torch.cat([tensor.new_full((1,), NAN), tensor.flatten()])[1:].view(tensor.shape)


def negated(tensor):
    """A view that holds the opposite sign: the imaginary part of a conjugate."""
    return torch.complex(torch.zeros_like(tensor), -tensor).conj().imag


LAYOUTS = [expanded, expanded_in_front, transposed, spread, misaligned, negated]


def relaid(arguments, layout):
    return replace(
        arguments,
        input=layout(arguments.input),
        **{
            name: tuple(layout(tensor) for tensor in getattr(arguments, name))
            for name in ("states", "weights", "grads")
        },
    )


def contiguous(tensor):
    return tensor.resolve_neg().contiguous().clone()


def leaves_of(arguments):
    return [arguments.input, *arguments.states, *arguments.weights]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("cell", "projection"),
    [(c, width) for c in KERNELS for width in (0, 3) if not (width and CELLS[c].reads_h)],
)
def test_layouts(cell, projection, layout):
    """Inputs, states, weights and incoming gradients as views of every kind."""
    case = Case(cell, torch.float32, 19, batch=5, bidirectional=True, projection=projection)
    views = relaid(draw(case, SEED), layout)
    copies = relaid(views, contiguous)
    with torch.no_grad():
        for got, expected in zip(
            call_fastrnn(case, views), call_fastrnn(case, copies), strict=True
        ):
            torch.testing.assert_close(got, expected)
    found = []
    for arguments in (views, copies):
        # Not `run`, whose copies would be contiguous.
        leaves = [leaf.detach().requires_grad_() for leaf in leaves_of(arguments)]
        count = 1 + len(arguments.states)
        results = call_fastrnn(
            case,
            replace(
                arguments,
                input=leaves[0],
                states=tuple(leaves[1:count]),
                weights=tuple(leaves[count:]),
            ),
        )
        found.append([*results, *torch.autograd.grad(results, leaves, arguments.grads)])
    for got, expected in zip(*found, strict=True):
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("cell", KERNELS)
def test_the_gradient_of_a_sum(cell):
    """It comes as one number, expanded."""
    case = Case(cell, torch.float32, 9)
    arguments = draw(case, SEED)
    arguments.input.requires_grad_()
    (expanded_gradient,) = torch.autograd.grad(
        call_fastrnn(case, arguments)[0].sum(), arguments.input
    )
    output = call_fastrnn(case, arguments)[0]
    (expected,) = torch.autograd.grad(output, arguments.input, torch.ones_like(output))
    torch.testing.assert_close(expanded_gradient, expected, rtol=0, atol=0)


# --- nothing, and far too much --------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cell", KERNELS)
def test_empty_batch(cell, dtype):
    case = Case(cell, dtype, 9, batch=0, layers=2, bidirectional=True)
    expected = run(call_torch, case, draw(case, SEED))
    for name, tensor in run(call_fastrnn, case, draw(case, SEED)).items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=0)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("cell", KERNELS)
def test_sequences_without_a_step(cell, reverse):
    """Rows of hx past the first batch size, and steps that nobody reaches."""
    case = Case(cell, torch.float64, 9, batch=5, bidirectional=reverse)
    arguments = draw(case, SEED)
    batch_sizes = torch.tensor([3, 3, 1, 0])
    outputs = torch.randn(7, arguments.grads[0].shape[2], dtype=torch.float64)
    arguments = replace(
        arguments,
        batch_sizes=batch_sizes,
        input=arguments.input.flatten(0, 1)[:7],
        grads=(outputs, *arguments.grads[1:]),
    )
    packed = replace(case, form="packed")
    found = run(call_fastrnn, packed, arguments)
    expected = run(lambda *args: call_fastrnn(*args, backend="reference"), packed, arguments)
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, expected[name])
    for state, final in zip(arguments.states, list(found.values())[1:], strict=False):
        assert torch.equal(final[:, 3:], state[:, 3:])


def test_more_results_than_memory():
    spec = CELLS["lstm"]
    gates_x = torch.zeros(1).expand(2**50, 1, 16)
    states = [torch.zeros(1, 1, 4)] * 2
    with pytest.raises((RuntimeError, MemoryError), match="memory"):
        scan(spec, gates_x, [torch.zeros(16, 4)], None, None, states, backend="cpp")


def test_more_weights_than_memory():
    """256 TiB when packed, more than a process can address."""
    spec, hidden = CELLS["lstm"], 2**22
    gates_x = torch.zeros(1, 1, 4 * hidden)
    states = [torch.zeros(1, 1, hidden)] * 2
    weight = torch.zeros(1).expand(4 * hidden, hidden)
    with pytest.raises((RuntimeError, MemoryError)):
        scan(spec, gates_x, [weight], None, None, states, backend="cpp")


def test_sizes_without_memory():
    """On the meta device only shapes are computed, however large."""
    case = Case("lstm", torch.float32, 2**20, batch=2**10, steps=2**15)
    weights = [torch.empty(shape, device="meta") for shape in case.weight_shapes.values()]
    output, (h, c) = functional.lstm(
        torch.empty(case.steps, case.batch, case.features, device="meta"), None, weights
    )
    assert output.shape == (case.steps, case.batch, case.hidden)
    assert h.shape == c.shape == (1, case.batch, case.hidden)


# --- bad arguments --------------------------------------------------------------------------


def zeros(*shape, **options):
    return torch.zeros(shape, **options)


STEPS, BATCH, FEATURES, HIDDEN = 3, 2, 5, 4
SHAPES = [(16, FEATURES), (16, HIDDEN), (16,), (16,)]


def weights(replaced=None, by=None):
    found = [zeros(*shape) for shape in SHAPES]
    if replaced is not None:
        found[replaced] = by
    return found


def state(*shape, **options):
    return zeros(*(shape or (1, BATCH, HIDDEN)), **options)


def packed(*sizes, rows=5, **options):
    tensor = torch.tensor(sizes, **options) if sizes else torch.empty(0, dtype=torch.int64)
    return {"input": zeros(rows, FEATURES), "hx": None, "batch_sizes": tensor}


# What is given in place of a good argument, and what the error says.
BAD = {
    "input: rank 2": ({"input": zeros(3, 5)}, RuntimeError, "input must have 3 dimensions, got 2"),
    "input: rank 4": (
        {"input": zeros(1, 3, 2, 5)},
        RuntimeError,
        "input must have 3 dimensions, got 4",
    ),
    "input: features": ({"input": zeros(3, 2, 6)}, RuntimeError, "weight_ih_l0"),
    "input: no steps": ({"input": zeros(0, 2, 5)}, RuntimeError, "sequence length to be larger"),
    "input: float64": ({"input": zeros(3, 2, 5).double()}, RuntimeError, "not the same dtype"),
    "input: integers": ({"input": zeros(3, 2, 5).long()}, RuntimeError, "not the same dtype"),
    "input: device": ({"input": zeros(3, 2, 5, device="meta")}, RuntimeError, "same device"),
    "input: None": ({"input": None}, TypeError, "input"),
    "hx: one": ({"hx": (state(),)}, RuntimeError, "states h, c: expected 2 initial states, got 1"),
    "hx: three": ({"hx": (state(),) * 3}, RuntimeError, "expected 2 initial states, got 3"),
    "hx: rank": ({"hx": (state(2, 4),) * 2}, RuntimeError, "hidden[0] size (1, 2, 4), got [2, 4]"),
    "hx: batch": ({"hx": (state(), state(1, 3, 4))}, RuntimeError, "hidden[1] size (1, 2, 4)"),
    "hx: units": ({"hx": (state(1, 2, 5),) * 2}, RuntimeError, "hidden[0] size (1, 2, 4)"),
    "hx: layers": ({"hx": (state(2, 2, 4),) * 2}, RuntimeError, "hidden[0] size (1, 2, 4)"),
    "hx: float64": ({"hx": (state().double(),) * 2}, RuntimeError, "hidden tensors are not"),
    "hx: device": ({"hx": (state(device="meta"),) * 2}, RuntimeError, "same device"),
    "hx: None": ({"hx": (None, None)}, TypeError, "hidden"),
    "weights: none": ({"weights": []}, ValueError, "expected 4 weights"),
    "weights: three": ({"weights": weights()[:3]}, ValueError, "expected 4 weights"),
    "weights: six": ({"weights": weights() + weights()[:2]}, ValueError, "got 6 in all"),
    "weights: None": ({"weights": weights(1, None)}, TypeError, "weight"),
    "weights: number": ({"weights": weights(1, 3.0)}, TypeError, "weight"),
    "w_ih: rows": ({"weights": weights(0, zeros(15, 5))}, RuntimeError, "weight_ih_l0"),
    "w_ih: rank 0": ({"weights": weights(0, torch.tensor(1.0))}, RuntimeError, "weight_ih_l0"),
    "w_ih: rank 3": ({"weights": weights(0, zeros(16, 5, 1))}, RuntimeError, "weight_ih_l0"),
    "w_hh: columns": ({"weights": weights(1, zeros(16, 5))}, RuntimeError, "weight_hh_l0"),
    "w_hh: rank 1": ({"weights": weights(1, zeros(16))}, RuntimeError, "weight_hh_l0"),
    "b_ih: size": ({"weights": weights(2, zeros(15))}, RuntimeError, "bias_ih_l0 size (16,)"),
    "b_hh: rank 2": ({"weights": weights(3, zeros(16, 1))}, RuntimeError, "bias_hh_l0"),
    "w_hh: float64": (
        {"weights": weights(1, zeros(16, 4).double())},
        RuntimeError,
        "not the same dtype",
    ),
    "w_hh: device": (
        {"weights": weights(1, zeros(16, 4, device="meta"))},
        RuntimeError,
        "same device",
    ),
    "w_hh: sparse": ({"weights": weights(1, zeros(16, 4).to_sparse())}, RuntimeError, "storage"),
    "w_hr: w_hh unprojected": (
        {"weights": [*weights(), zeros(2, 4)]},
        RuntimeError,
        "Expected weight_hh_l0 size (16, 2), got [16, 4]",
    ),
    "w_hr: rank 1": ({"weights": [*weights(1, zeros(16, 2)), zeros(2)]}, RuntimeError, "weight_hr"),
    "num_layers: none": ({"num_layers": 0}, ValueError, "num_layers"),
    "num_layers: two": ({"num_layers": 2}, ValueError, "2 layers"),
    "bidirectional": ({"bidirectional": True}, ValueError, "2 directions"),
    "bias": ({"bias": False}, ValueError, "expected 2 weights"),
    "batch_sizes: ascending": (packed(2, 3), ValueError, "decreasing order, got [2, 3]"),
    "batch_sizes: sum": (packed(3, 1), ValueError, "number of rows of the input, 5"),
    "batch_sizes: negative": (packed(6, -1), ValueError, "non-negative"),
    "batch_sizes: floats": (packed(3.0, 2.0), ValueError, "int64"),
    "batch_sizes: int32": (packed(3, 2, dtype=torch.int32), ValueError, "int64"),
    "batch_sizes: rank 2": (packed([3, 2]), ValueError, "1 dimension, got 2"),
    "batch_sizes: empty": (packed(rows=0), RuntimeError, "sequence length to be larger"),
    "batch_sizes: device": (packed(3, 2, device="meta"), ValueError, "on the CPU"),
    "batch_sizes: list": (packed() | {"batch_sizes": [3, 2]}, TypeError, "batch_sizes"),
    "batch_sizes: more than hx": (
        packed(3, 2) | {"hx": (state(), state())},
        ValueError,
        "at most the batch of hx",
    ),
    "batch_sizes: padded input": (
        packed(2, 2, 2) | {"input": zeros(3, 2, 5)},
        RuntimeError,
        "2 dim",
    ),
    "backend": ({"backend": "cuda"}, ValueError, "backend should be one of"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_argument(name):
    given, error, text = BAD[name]
    good = {"input": zeros(STEPS, BATCH, FEATURES), "hx": (state(), state()), "weights": weights()}
    functional.lstm(**good)
    with pytest.raises(error, match=re.escape(text)):
        functional.lstm(**good | given)


def test_batch_sizes_as_a_view():
    """They are read as they are meant, not as they lie."""
    given = {"input": torch.randn(6, FEATURES), "hx": None, "weights": weights()}
    expected, _ = functional.lstm(**given, batch_sizes=torch.tensor([2, 2, 2]))
    for view in (torch.tensor([2]).expand(3), torch.tensor([2, 7, 2, 7, 2, 7])[::2]):
        output, _ = functional.lstm(**given, batch_sizes=view)
        torch.testing.assert_close(output, expected)


@pytest.mark.parametrize("cell", ["rnn_cell", "gru_cell", "lstm_cell"])
def test_bad_arguments_of_a_cell(cell):
    gates = {"rnn_cell": 1, "gru_cell": 3, "lstm_cell": 4}[cell] * HIDDEN
    states = 2 if cell == "lstm_cell" else 1

    def call(x=(2, 5), h=(2, 4), w_ih=(gates, 5), w_hh=(gates, 4), b_ih=(gates,), b_hh=(gates,)):
        x, h, *rest = [zeros(*shape) for shape in (x, h, w_ih, w_hh, b_ih, b_hh)]
        return getattr(functional, cell)(x, (h,) * 2 if states == 2 else h, *rest)

    call()
    for given, text in (
        ({"x": (5,)}, "input must have 2 dimensions, got 1"),
        ({"x": (2, 6)}, "input_size: got 6 expected 5"),
        ({"h": (3, 4)}, "batch size 2 doesn't match hidden0 batch size 3"),
        ({"h": (2, 5)}, "hidden_size: got 5, expected 4"),
        ({"h": (2, 4, 1)}, "hidden0 must have 2 dimensions"),
        ({"w_ih": (gates,)}, "weight_ih must have 2 dimensions"),
        ({"w_ih": (gates + 1, 5)}, "weight_ih"),
        ({"w_hh": (gates + 1, 4)}, "weight_hh"),
        ({"b_ih": (gates + 1,)}, "bias_ih"),
        ({"b_hh": (gates, 1)}, "bias_hh"),
    ):
        with pytest.raises(RuntimeError, match=text):
            call(**given)


# --- denormal numbers ------------------------------------------------------------------------


def test_denormals_are_flushed_within_the_kernels_only():
    """A decaying state becomes zero, not denormal; torch's own arithmetic keeps them."""
    module = fastrnn.RNN(1, 64, nonlinearity="relu", bias=False)
    with torch.no_grad():
        module.weight_hh_l0.copy_(0.5 * torch.eye(64))
        for steps in (1, 300):
            _, h_n = module(torch.zeros(steps, 32, 1), torch.full((1, 32, 64), 1.5e-38))
            assert not h_n.any()
    tiny = torch.full((100_000,), 1e-38)  # long enough for all of torch's threads
    assert ((tiny / 4) > 0).all()
