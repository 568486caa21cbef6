"""The gate functions of csrc/math.h and the conversions of csrc/vec.h, number by number.

They have no binding of their own. A tanh or relu network with zero weights returns the
function of its input side; in an LSTM whose cell input is saturated, the new cell state
is the sigmoid of the input gate.
"""

import numpy as np
import pytest
import torch
from equality import SEED, use_isa

from fastrnn import _C
from fastrnn.cells import CELLS
from fastrnn.scan import scan

# The largest error allowed, in ulps of the result. Measured 2026-11-21 on an AMD EPYC
# (Zen 4), baseline / AVX2 / AVX-512: float32, every number, tanh 2.42 / 2.42 / 2.42 and
# sigmoid 2.48 / 2.48 / 2.48; float64, a sample, tanh 2.23 and sigmoid 2.46.
BOUND = 3

WIDE = [torch.float32, torch.float64]
NARROW = [torch.bfloat16, torch.float16]


@pytest.fixture(params=_C.isas(), autouse=True)
def isa(request):
    with use_isa(request.param):
        yield request.param


def one_step(cell, gates, units=16):
    """The states after one step from zero; ``gates`` holds each gate's input side."""
    count = gates[0].numel()
    rows = -(-count // units)
    padded = [torch.nn.functional.pad(gate, (0, rows * units - count)) for gate in gates]
    gates_x = torch.cat([gate.view(rows, 1, units) for gate in padded], dim=2)
    states = [gates_x.new_zeros(1, rows, units)] * len(CELLS[cell].states)
    weight = gates_x.new_zeros(len(gates) * units, units)
    _, finals, _ = scan(CELLS[cell], gates_x, [weight], None, None, states, backend="cpp")
    return [final.flatten()[:count] for final in finals]


def tanh(x, units=16):
    return one_step("rnn_tanh", [x], units)[0]


def relu(x, units=16):
    return one_step("rnn_relu", [x], units)[0]


def sigmoid(x, units=16):
    zero = torch.zeros_like(x)
    return one_step("lstm", [x, zero, zero + 40, zero], units)[1]


def exact(function, x):
    """In more digits than the dtype of x has."""
    more = x.double().numpy()
    if x.dtype == torch.float64:
        more = more.astype(np.longdouble)
    if function is tanh:
        return np.tanh(more)
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-more))


def wide(dtype):
    """The type that kernels compute in."""
    return torch.float32 if dtype in NARROW else dtype


def ulps(actual, expected):
    """The error in units of the last place that the dtype has at the expected value."""
    info = torch.finfo(actual.dtype)
    _, exponent = np.frexp(expected)
    # Below the smallest normal number the places get no finer.
    ulp = np.maximum(np.ldexp(info.eps, exponent - 1), info.tiny * info.eps)
    return np.abs(actual.double().numpy() - expected) / ulp


def largest_error(function, x, units=16):
    """In ulps, and where."""
    actual, expected = function(x, units), exact(function, x)
    error = ulps(actual, expected)
    # The kernels flush what is no normal number of the type they compute in (csrc/denormals.h).
    tiny = torch.finfo(wide(x.dtype)).tiny
    small = np.abs(expected) < tiny
    assert (np.abs(actual.double().numpy()[small]) <= tiny).all()
    error[small] = 0
    return np.nanmax(error), x[np.nanargmax(error)].item()


def everywhere(dtype, count=1 << 15):
    """Numbers of every exponent, fresh in the last places, and again the range that matters."""
    generator = torch.Generator().manual_seed(SEED)
    ints = torch.int32 if dtype == torch.float32 else torch.int64
    top = int(torch.tensor(torch.finfo(dtype).max, dtype=dtype).view(ints))
    bits = torch.arange(count) * (top // count)
    bits += torch.randint(top // count, (count,), generator=generator)
    near = 50 * torch.rand(count, dtype=dtype, generator=generator)
    edges = torch.tensor([0.0, torch.finfo(dtype).tiny, torch.finfo(dtype).max], dtype=dtype)
    positive = torch.cat([bits.to(ints).view(dtype), near, edges, edges.nextafter(edges / 2)])
    return torch.cat([positive, -positive])


def every_number(dtype):
    """All there are in 16 bits, NaN and infinities too."""
    return torch.arange(-(1 << 15), 1 << 15, dtype=torch.int16).view(dtype)


@pytest.mark.parametrize("dtype", WIDE)
@pytest.mark.parametrize("function", [tanh, sigmoid])
def test_error(function, dtype):
    error, at = largest_error(function, everywhere(dtype))
    assert error <= BOUND, f"at {at!r}"


@pytest.mark.parametrize("dtype", WIDE)
def test_symmetry_and_range(dtype):
    x = everywhere(dtype)
    assert torch.equal(tanh(-x), -tanh(x))
    assert tanh(x).abs().max() == 1
    assert sigmoid(x).min() == 0 and sigmoid(x).max() == 1


@pytest.mark.parametrize("dtype", WIDE + NARROW)
def test_limits(dtype):
    x = torch.tensor([torch.inf, -torch.inf, torch.nan, 0.0, -0.0], dtype=dtype)
    nan = torch.nan
    for function, values in (
        (tanh, [1, -1, nan, 0, 0]),
        (sigmoid, [1, 0, nan, 0.5, 0.5]),
        (relu, [torch.inf, 0, nan, 0, 0]),
    ):
        expected = torch.tensor(values, dtype=dtype)
        torch.testing.assert_close(function(x), expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", WIDE)
def test_tanh_keeps_the_sign_of_zero(dtype):
    """The cell state can be a negative zero: both of its terms are."""
    gates = [torch.full((16,), value, dtype=dtype) for value in (-800.0, 0.0, -1.0, 0.0)]
    gates_x = torch.cat(gates).view(1, 1, 64)
    states = [torch.zeros(1, 1, 16, dtype=dtype), torch.full((1, 1, 16), -0.0, dtype=dtype)]
    weight = torch.zeros(64, 16, dtype=dtype)
    _, (h, c), _ = scan(CELLS["lstm"], gates_x, [weight], None, None, states, backend="cpp")
    assert (h == 0).all() and (c == 0).all()
    assert h.signbit().all() and c.signbit().all()


# With five units, vectors are partly filled, and numbers are converted one by one.
@pytest.mark.parametrize("units", [16, 5])
@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("function", [tanh, sigmoid])
def test_every_narrow_number(function, dtype, units):
    x = every_number(dtype)
    assert torch.equal(function(x, units).isnan(), x.isnan())
    error, at = largest_error(function, x, units)
    # Rounded once, from a float32 that is not quite exact.
    bound = 0.5 + BOUND * torch.finfo(torch.float32).eps / torch.finfo(dtype).eps
    assert error <= bound, f"at {at!r}"


@pytest.mark.parametrize("units", [16, 5])
@pytest.mark.parametrize("dtype", NARROW)
def test_every_narrow_number_goes_through_unchanged(dtype, units):
    x = every_number(dtype)
    flushed = x.double().abs() < torch.finfo(wide(dtype)).tiny  # none of float16's
    expected = torch.relu(x).masked_fill(flushed, 0)
    torch.testing.assert_close(relu(x, units), expected, rtol=0, atol=0, equal_nan=True)
