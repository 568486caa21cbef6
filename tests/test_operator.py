"""The operators: as `torch.library` wants them, their gradients, and many calls of them as one."""

import inspect

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.library import opcheck
from torch.utils._python_dispatch import TorchDispatchMode

from fastrnn import cpp, operators, reference, scan, weight_gradients
from fastrnn.cells import CELLS
from fastrnn.options import PLAIN

OPERATORS = torch.ops.fastrnn

# Between them: every cell, each kind of argument there and not there, both directions.
CASES = {
    "rnn_tanh": {"cell": "rnn_tanh", "reverse": [False, True]},
    "rnn_relu-packed": {"cell": "rnn_relu", "packed": True, "reverse": [True]},
    "lstm": {"cell": "lstm"},
    "lstm-packed": {"cell": "lstm", "packed": True},
    "lstm-projected": {"cell": "lstm", "projection": 3, "reverse": [True]},
    "lstm-projected-packed": {"cell": "lstm", "projection": 1, "packed": True},
    "gru": {"cell": "gru", "reverse": [True]},
    "gru-biased-packed": {"cell": "gru", "bias": True, "packed": True},
}
cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def arguments_of(
    cell,
    steps=2,
    batch=2,
    hidden=2,
    projection=0,
    bias=False,
    packed=False,
    reverse=(False,),
    dtype=torch.float64,
    seed=0,
):
    """What the operator takes, but for whether to save; every tensor wants a gradient."""
    spec, generator = CELLS[cell], torch.Generator().manual_seed(seed)

    def uniform(*shape):
        drawn = torch.rand(shape, generator=generator, dtype=torch.float64) * 2 - 1
        return drawn.to(dtype).requires_grad_()

    sizes = torch.tensor([batch] + [batch - 1] * (steps - 1)) if packed else None
    rows = int(sizes.sum()) if packed else steps * batch
    n, width, k = len(reverse), spec.num_gates * hidden, projection or hidden
    return (
        cell,
        uniform(rows, n, width),
        uniform(n, width, k),
        uniform(n, width) if bias else None,
        uniform(n, projection, hidden) if projection else None,
        [uniform(n, batch, k), *(uniform(n, batch, hidden) for _ in spec.states[1:])],
        sizes,
        list(reverse),
        [],
        *PLAIN.flat(),
    )


def backward_arguments_of(**case):
    arguments = arguments_of(**case)
    with torch.no_grad():
        out, finals, others, saved = OPERATORS.scan(*arguments, True)
    (grad_out,), grad_finals, grad_others = (
        [torch.rand_like(t).requires_grad_() for t in like] for like in ([out], finals, others)
    )
    return (*arguments, out, saved, grad_out, grad_finals, grad_others)


def tensors_in(arguments):
    flat = [t for value in arguments for t in (value if isinstance(value, list) else [value])]
    return [t for t in flat if isinstance(t, torch.Tensor) and t.is_floating_point()]


def with_tensors(arguments, tensors):
    """The arguments with other tensors in the place of theirs."""
    rest, filled = iter(tensors), []
    for value in arguments:
        if isinstance(value, list) and value and torch.is_tensor(value[0]):
            filled.append([next(rest) for _ in value])
        elif isinstance(value, torch.Tensor) and value.is_floating_point():
            filled.append(next(rest))
        else:
            filled.append(value)
    return filled


# --- torch.library ----------------------------------------------------------------------------


def assert_operator(operator, arguments):
    results = opcheck(operator, arguments, raise_exception=False)
    assert len(results) >= 4
    assert set(results.values()) == {"SUCCESS"}, results


@cases
def test_scan_is_an_operator(case):
    assert_operator(OPERATORS.scan.default, (*arguments_of(**case), True))


def test_scan_without_saving_is_one():
    arguments = arguments_of(**CASES["lstm-projected-packed"])
    assert_operator(OPERATORS.scan.default, (*arguments, False))


# Its own backward, the reference's, is traced step by step: the most telling of the cases.
@pytest.mark.parametrize("name", [name for name in CASES if name not in ("lstm", "lstm-projected")])
def test_its_backward_is_one(name):
    assert_operator(OPERATORS.scan_backward.default, backward_arguments_of(**CASES[name]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_in_other_dtypes_what_is_saved_is_wide(dtype):
    arguments = arguments_of("lstm", projection=3, dtype=dtype)
    _, _, _, (reserve, hidden) = OPERATORS.scan(*arguments, True)
    assert (reserve.dtype, hidden.dtype) == (torch.float32, dtype)
    tests = ("test_schema", "test_faketensor")
    opcheck(OPERATORS.scan.default, (*arguments, True), test_utils=tests)
    backward = backward_arguments_of(cell="lstm", projection=3, dtype=dtype)
    opcheck(OPERATORS.scan_backward.default, backward, test_utils=tests)


# --- gradients --------------------------------------------------------------------------------


@pytest.fixture(params=["past the dispatcher", "through the dispatcher"])
def call(request, monkeypatch):
    """The operator's call, by either of its ways."""
    if request.param == "through the dispatcher":
        monkeypatch.setattr(operators, "watched", lambda tensors: True)
    return scan._scan


@pytest.mark.parametrize("save", [True, False])
@cases
def test_gradients_of_first_and_second_order(case, save, call):
    """Without saving, too: what the backward needs is then computed once more."""
    arguments = arguments_of(**case)

    def function(*tensors):
        out, finals, others, _ = call(*with_tensors(arguments, tensors), save)
        return out, *finals, *others

    inputs = tensors_in(arguments)
    assert gradcheck(function, inputs, check_batched_grad=True, fast_mode=True)
    assert gradgradcheck(function, inputs, check_batched_grad=save, fast_mode=True)


def test_gradient_of_third_order(call):
    arguments = arguments_of("gru", bias=True)

    def third(function):
        x = arguments[1].detach().requires_grad_()
        value = function(x).square().sum()
        for _ in range(3):
            (gradient,) = torch.autograd.grad(value, x, create_graph=True)
            value = gradient.square().sum()
        return gradient

    def expected(x):
        return reference.scan(CELLS["gru"], x, *arguments[2:9])[0]

    torch.testing.assert_close(
        third(lambda x: call("gru", x, *arguments[2:], True)[0]), third(expected)
    )


@pytest.mark.parametrize("which", [0, 1, 2])
def test_gradient_of_one_result_alone(which, call):
    arguments = arguments_of("lstm", reverse=[False, True], packed=True, steps=3)
    inputs = tensors_in(arguments)

    def gradients(out, finals):
        return torch.autograd.grad([out, *finals][which].square().sum(), inputs, allow_unused=True)

    found = gradients(*call(*arguments, True)[:2])
    expected = gradients(*reference.scan(CELLS["lstm"], *arguments[1:9])[:2])
    for got, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(got, torch.zeros_like(got) if wanted is None else wanted)


def test_what_nobody_wants_is_not_computed(call, monkeypatch):
    """Of the products after the loop."""
    computed = []
    for which in ("of_states", "of_rows"):
        product = getattr(weight_gradients, which)

        def counted(*args, which=which, product=product):
            computed.append(which)
            return product(*args)

        monkeypatch.setattr(weight_gradients, which, counted)
    arguments = arguments_of("gru", projection=3, bias=True)
    _, gates_x, weight_hh, bias_hh, weight_hr, *_ = arguments
    for wanted, products in (
        (gates_x, []),
        (weight_hh, ["of_states"]),
        (bias_hh, []),
        (weight_hr, ["of_rows"]),
    ):
        computed.clear()
        for tensor in tensors_in(arguments):
            tensor.requires_grad_(tensor is wanted)
        call(*arguments, True)[0].sum().backward()
        assert wanted.grad is not None
        assert computed == products


def test_unused_results_get_no_zeros(call):
    """Such as what was saved, the largest of all: nobody ever differentiates by it."""
    arguments = arguments_of("lstm")
    out, _, _, saved = call(*arguments, True)
    sizes = []

    class Made(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            if "zeros" in str(function):
                sizes.append(result.shape)
            return result

    with Made():
        torch.autograd.backward(out, torch.ones_like(out), inputs=arguments[1])
    assert saved[0].shape not in sizes
    assert sizes == [state.shape for state in arguments[5]]  # h_n's and c_n's gradients


def test_both_ways_give_the_same_bits(monkeypatch):
    arguments = arguments_of("gru", steps=7, batch=3, hidden=5, bias=True, reverse=[False, True])
    inputs = tensors_in(arguments)

    def results():
        out, finals, others, saved = scan._scan(*arguments, True)
        return [out, *finals, *others, *saved, *torch.autograd.grad(out.square().sum(), inputs)]

    past = results()
    monkeypatch.setattr(operators, "watched", lambda tensors: True)
    for one, other in zip(past, results(), strict=True):
        assert torch.equal(one, other)


def test_numbers_that_are_not_where_the_address_points():
    """A lazily negated view must not be read as it lies."""
    arguments = arguments_of("rnn_tanh", hidden=1)
    state = torch.rand(1, 2, 1, dtype=torch.complex128).conj().imag
    assert state.is_neg()
    cell, gates_x, weight_hh, *_ = arguments
    reverse = arguments[7]
    with torch.no_grad():
        (found, *_), (expected, *_) = (
            scan.scan(CELLS[cell], gates_x, [weight_hh[0]], None, None, [h], None, reverse)
            for h in (state, state.resolve_neg())
        )
    assert torch.equal(found, expected)


# --- vmap -------------------------------------------------------------------------------------


@pytest.fixture
def runs(monkeypatch):
    """(kernel, recurrences, batch) of each run of a kernel."""
    found = []

    def recorded(name, kernel):
        def run(*args):
            given = inspect.signature(kernel).bind(*args).arguments
            found.append((name, *given["states"][0].shape[:2]))
            return kernel(*args)

        return run

    for name in ("scan", "scan_backward"):
        monkeypatch.setattr(cpp, name, recorded(name, getattr(cpp, name)))
    return found


def mapped(case, dims, size=3):
    """Arguments with a dimension of V where ``dims`` has one; and those of each call."""
    arguments = arguments_of(**case)
    inputs = []
    for i, (tensor, dim) in enumerate(zip(tensors_in(arguments), dims, strict=True)):
        shape = list(tensor.shape)
        if dim is not None:
            shape.insert(dim, size)
        generator = torch.Generator().manual_seed(i)
        inputs.append(torch.rand(shape, generator=generator, dtype=tensor.dtype) * 2 - 1)

    def function(*tensors):
        out, finals, others, _ = scan._scan(*with_tensors(arguments, tensors), True)
        return out, *finals, *others

    def one(v):
        return [
            tensor if dim is None else tensor.select(dim, v)
            for tensor, dim in zip(inputs, dims, strict=True)
        ]

    return function, inputs, [one(v) for v in range(size)]


# Of gates_x, weight_hh, (bias_hh), (weight_hr) and the states; and what V = 3 calls with
# N recurrences and a batch of 2 become.
FOLDS = [
    ("rnn_tanh", (0, None, None), (2, 6)),
    ("rnn_relu-packed", (2, None, None), (1, 6)),
    ("lstm-packed", (None, None, None, 1), (1, 6)),
    ("lstm-projected", (1, None, None, 0, None), (1, 6)),
    ("lstm-projected-packed", (None, None, 1, None, 3), (3, 2)),
    ("lstm", (0, 0, 0, 0), (3, 2)),
    ("gru", (None, 2, None), (3, 2)),
    ("rnn_tanh", (None, None, 3), (2, 6)),
    ("gru-biased-packed", (3, None, 1, 2), (3, 2)),
]


@pytest.mark.parametrize(
    ("name", "dims", "folded"), FOLDS, ids=[f"{fold[0]}-{fold[1]}" for fold in FOLDS]
)
def test_many_calls_are_one(name, dims, folded, runs):
    function, inputs, each = mapped(CASES[name], dims)
    expected = [torch.stack(results) for results in zip(*(function(*t) for t in each), strict=True)]
    runs.clear()
    found = torch.vmap(function, dims)(*inputs)
    assert runs == [("scan", *folded)]
    for got, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize(
    ("name", "dims", "folded"), FOLDS, ids=[f"{fold[0]}-{fold[1]}" for fold in FOLDS]
)
def test_their_gradients_are_one(name, dims, folded, runs):
    function, inputs, each = mapped(CASES[name], dims)

    def gradients(*tensors):
        def loss(*tensors):
            return sum(result.square().sum() for result in function(*tensors))

        return torch.func.grad(loss, tuple(range(len(tensors))))(*tensors)

    expected = [
        torch.stack(results) for results in zip(*(gradients(*t) for t in each), strict=True)
    ]
    runs.clear()
    found = torch.vmap(gradients, dims)(*inputs)
    assert runs == [("scan", *folded), ("scan_backward", *folded)]
    for got, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize("dims", [(0, None, None, None), (None, 0, None, None)])
@pytest.mark.parametrize(("size", "batch"), [(0, 2), (3, 0), (0, 0)])
def test_no_calls_and_no_batch(dims, size, batch):
    case = {"cell": "lstm", "batch": batch, "reverse": [False, True]}
    if batch == 0:
        case["steps"] = 1
    function, inputs, _ = mapped(case, dims, size)
    out, *finals = torch.vmap(function, dims)(*inputs)
    assert out.shape == (size, batch * (2 if batch else 1), 2, 2)
    assert [final.shape for final in finals] == [(size, 2, batch, 2)] * 2


def test_sizes_must_serve_all():
    arguments = arguments_of("rnn_tanh", packed=True)
    with pytest.raises(ValueError, match="batch_sizes"):
        torch.vmap(lambda sizes: scan._scan(*arguments[:6], sizes, *arguments[7:], False)[0])(
            torch.tensor([[2, 1], [2, 1]])
        )


def test_vmap_of_old():
    """By which ``is_grads_batched`` maps."""
    function, inputs, _ = mapped(CASES["gru"], (None,) * 3)
    x, *others = inputs
    x.requires_grad_()
    out = function(x, *others)[0]
    upstream = torch.rand(4, *out.shape, dtype=out.dtype)
    (found,) = torch.autograd.grad(out, x, upstream, is_grads_batched=True, retain_graph=True)
    for got, gradient in zip(found, upstream, strict=True):
        torch.testing.assert_close(got, torch.autograd.grad(out, x, gradient, retain_graph=True)[0])
