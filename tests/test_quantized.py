"""Layers with int8 weights: against their reference, and within their bounds."""

import warnings

import pytest
import torch
from equality import FLOOR, equal, threads, use_isa
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import fastrnn
from fastrnn import _C, int8
from fastrnn.cells import CELLS

ALL_ISAS = _C.isas()  # products differ between avx512 and avx512bf16, which counts bytes
MODES = ("LSTM", "GRU", "RNN", "RNN-relu", "LSTM-projected")
# One unit and one number, one short of a block's edge, on it and past it, several blocks.
SIZES = ((1, 1), (5, 15), (16, 16), (3, 17), (33, 48), (64, 65))


def build(mode, inputs, hidden, **options):
    if mode == "RNN-relu":
        return fastrnn.RNN(inputs, hidden, nonlinearity="relu", **options)
    if mode == "LSTM-projected":
        return fastrnn.LSTM(inputs, hidden, proj_size=(hidden + 1) // 2 % hidden, **options)
    return getattr(fastrnn, mode)(inputs, hidden, **options)


def as_tuple(state):
    return state if isinstance(state, tuple) else (state,)


def state_of(layer, batch, scale=1.0):
    """A state for a layer of one recurrence."""
    widths = [layer.proj_size or layer.hidden_size]
    widths += [layer.hidden_size] * (len(CELLS[layer.cell].states) - 1)
    found = tuple(scale * torch.randn(1, batch, width) for width in widths)
    return found if len(found) > 1 else found[0]


def by_reference(layer, x, hx):
    weights = {}
    for kind in ("ih", "hh", *["hr"] * bool(layer.proj_size)):
        name = f"weight_{kind}"
        scale = getattr(layer, f"scale_{kind}_l0")
        packed = getattr(layer, name + "_l0")
        units = scale.shape[0] // packed.shape[2]
        weights[name] = int8.unpack(packed, units, layer._sizes[kind][1]), scale
    states = [state[0] for state in as_tuple(hx)]
    return int8.reference(CELLS[layer.cell], x, states, weights, layer.bias_ih_l0, layer.bias_hh_l0)


def test_quantise_rows():
    rows = torch.tensor([[1.0, -2.0, 0.5], [0, 0, 0], [1e-38, 0, 0], [1, torch.nan, 2]])
    rows = torch.cat([rows, torch.tensor([[1.0, -torch.inf, 2.0], [3e38, 1.6e38, -3e38]])])
    quanta, scale = int8.quantise_rows(rows)
    assert quanta.tolist()[0] == [64, -127, 32]  # 63.5 and 31.75; of two as near the even one
    assert quanta.tolist()[1:5] == [[0, 0, 0]] * 4
    assert quanta.tolist()[5] == [127, 68, -127]
    assert scale[1:3].tolist() == [0, 0] and scale[3:5].isnan().all()
    rows = torch.randn(20, 50)
    quanta, scale = int8.quantise_rows(rows)
    error = (quanta * scale.unsqueeze(1) - rows).abs()
    assert (error <= scale.unsqueeze(1) * (0.5 + 127 * 2**-22)).all()
    assert (quanta.abs().amax(1) == 127).all()


@pytest.mark.parametrize("gates", [1, 3, 4])
def test_pack_and_back(gates):
    quanta = torch.randint(-127, 128, (gates * 21, 35), dtype=torch.int8)
    packed = int8.pack(quanta, gates)
    assert packed.shape == (2, 12, gates, 64) and packed.dtype == torch.uint8
    assert torch.equal(int8.unpack(packed, 21, 35), quanta)
    # Gate 0, unit 17, k 6: block 1, quad 1, lane 1, byte 2.
    assert packed[1, 1, 0, 4 + 2] == 128 + int(quanta[17, 6])


@pytest.mark.parametrize("name", ALL_ISAS)
@pytest.mark.parametrize("mode", MODES)
def test_a_step_is_the_references(mode, name):
    """Integers are exact, so what is left is float32's rounding of gates."""
    torch.manual_seed(0)
    for inputs, hidden in SIZES:
        for batch in (1, 2, 7, 13):
            layer = fastrnn.quantize_dynamic(build(mode, inputs, hidden, bias=batch != 2))
            x, hx = torch.randn(1, batch, inputs), state_of(layer, batch)
            expected = by_reference(layer, x[0], hx)
            with use_isa(name):
                output, found = layer(x, hx)
            assert torch.equal(output, as_tuple(found)[0])
            for one, wanted in zip(as_tuple(found), expected, strict=True):
                # A product of exact integers and two scales, and sums of four such before gates
                # of slope 1 at most: some ulps of numbers below 8, of relu and states their own.
                size = max(1.0, wanted.abs().max())
                allowed = 4 * FLOOR[torch.float32] * size
                if layer.proj_size:
                    # The hidden that is quantised may be rounded to the next integer: one each.
                    scales = layer.scale_hr_l0.max() * 127 * hidden / 127
                    allowed = allowed + (scales if one is as_tuple(found)[0] else 0)
                assert (one[0] - wanted).abs().max() <= allowed, (inputs, hidden, batch)


def integer_layer(hidden):
    """An RNN with relu of which all scales are powers of two: its results are exact."""
    layer = fastrnn.RNN(hidden, hidden, nonlinearity="relu", bias=False)
    with torch.no_grad():
        for weight in (layer.weight_ih_l0, layer.weight_hh_l0):
            weight.copy_(torch.randint(-127, 128, weight.shape).float())
            weight[:, 0] = 127
    x = torch.randint(-127, 128, (1, 5, hidden)).float()
    h = torch.randint(-127, 128, (1, 5, hidden)).float()
    x[..., 0], h[..., 0] = 127, -127
    return layer, x, h


@pytest.mark.parametrize("name", ALL_ISAS)
@pytest.mark.parametrize("hidden", [3, 16, 61, 512])
def test_sums_of_integers_are_exact(hidden, name):
    torch.manual_seed(hidden)
    layer, x, h = integer_layer(hidden)
    exact = x[0].double() @ layer.weight_ih_l0.detach().double().t()
    exact = (exact + h[0].double() @ layer.weight_hh_l0.detach().double().t()).relu()
    with use_isa(name):
        _, found = fastrnn.quantize_dynamic(layer)(x, h)
    assert exact.max() < 2**24 and torch.equal(found[0].double(), exact)


def test_the_largest_sums_fit():
    """65,536 times 127 * 127 of one sign, and of the other."""
    layer = fastrnn.RNNCell(int8.MOST_DEPTH, 2, nonlinearity="relu", bias=False)
    with torch.no_grad():
        layer.weight_ih.fill_(127)[1] = -127
        layer.weight_hh.zero_()
    found = fastrnn.quantize_dynamic(layer)
    for sign, unit in ((1, 0), (-1, 1)):
        for name in ALL_ISAS:
            with use_isa(name):
                h = found(torch.full((1, int8.MOST_DEPTH), 127.0 * sign))
            assert h[0].tolist() == [127.0**2 * int8.MOST_DEPTH * (unit == i) for i in range(2)]


@pytest.mark.parametrize("mode", MODES)
def test_a_sequence_is_its_steps(mode):
    """To the bit, whatever the threads and the neighbours; packed and with lengths likewise."""
    torch.manual_seed(1)
    layer = fastrnn.quantize_dynamic(build(mode, 37, 150))
    x, hx = torch.randn(9, 11, 37), state_of(layer, 11)
    found = layer(x, hx)
    state, outputs = hx, []
    for t in range(9):
        output, state = layer(x[t : t + 1], state)
        outputs.append(output)
    assert equal(found, (torch.cat(outputs), state))
    for count in (1, 2, 3):
        with threads(count):
            assert equal(layer(x, hx), found)
            for b in (0, 10):
                alone = layer(x[:, b : b + 1], tuple(s[:, b : b + 1] for s in hx)
                              if isinstance(hx, tuple) else hx[:, b : b + 1])  # fmt: skip
                assert torch.equal(alone[0], found[0][:, b : b + 1])
    lengths = torch.tensor([3, 9, 0, 1, 9, 5, 2, 0, 8, 4, 7])
    output, finals = layer(x, hx, lengths=lengths)
    for b, length in enumerate(lengths.tolist()):
        of = [s[:, b : b + 1] for s in as_tuple(hx)]
        if length:
            alone, of = layer(x[:length, b : b + 1], tuple(of) if len(of) > 1 else of[0])
            assert torch.equal(output[:length, b : b + 1], alone)
        assert not output[length:, b].any()
        assert equal([s[:, b : b + 1] for s in as_tuple(finals)], as_tuple(of))
    some = lengths > 0
    cut = tuple(s[:, some] for s in hx) if isinstance(hx, tuple) else hx[:, some]
    packed = pack_padded_sequence(x[:, some], lengths[some], enforce_sorted=False)
    output_packed, finals_packed = layer(packed, cut)
    assert torch.equal(pad_packed_sequence(output_packed)[0], output[:, some])
    assert equal(finals_packed, tuple(s[:, some] for s in as_tuple(finals)))


@pytest.mark.parametrize("mode", MODES)
def test_stacks_directions_and_forms(mode):
    torch.manual_seed(2)
    options = {"num_layers": 2, "bidirectional": True, "batch_first": True}
    layer = fastrnn.quantize_dynamic(build(mode, 7, 18, **options))
    x = torch.randn(3, 6, 7)
    output, finals = layer(x)
    # By layers of one direction each, with the same numbers.
    below, ends = x, []
    for i in range(2):
        outputs = []
        for suffix in ("", "_reverse"):
            one = build(mode, below.shape[2], 18, batch_first=True, reverse=bool(suffix))
            one = fastrnn.quantize_dynamic(one)
            state = {n: t for n, t in layer.state_dict().items() if n.endswith(f"_l{i}{suffix}")}
            names = {n: n.removesuffix(suffix).replace("_l1", "_l0") for n in state}
            one.load_state_dict({names[n]: t for n, t in state.items()} | {"sizes": one.sizes})
            out, end = one(below)
            outputs.append(out)
            ends.append(as_tuple(end))
        below = torch.cat(outputs, 2)
    assert torch.equal(output, below)
    assert equal(as_tuple(finals), [torch.cat(kind) for kind in zip(*ends, strict=True)])
    alone, finals_alone = layer(x[1], None)
    assert torch.equal(alone, output[1])
    assert equal(
        finals_alone, [s[:, 1] for s in as_tuple(finals)] if "LSTM" in mode else finals[:, 1]
    )


@pytest.mark.parametrize("mode", ["LSTM", "GRU", "RNN"])
def test_cells_step_as_layers_do(mode):
    torch.manual_seed(3)
    cell = getattr(fastrnn, f"{mode}Cell")(5, 20)
    layer = getattr(fastrnn, mode)(5, 20)
    layer.load_state_dict({f"{n}_l0": t for n, t in cell.state_dict().items()})
    cell, layer = fastrnn.quantize_dynamic(cell), fastrnn.quantize_dynamic(layer)
    x, hx = torch.randn(1, 4, 5), state_of(layer, 4)
    one = tuple(s[0] for s in hx) if isinstance(hx, tuple) else hx[0]
    found = as_tuple(cell(x[0], one))
    assert equal(found, [s[0] for s in as_tuple(layer(x, hx)[1])])
    assert equal(cell(x[0, 2], tuple(s[2] for s in one) if isinstance(one, tuple) else one[2]),
                 tuple(s[2] for s in found) if len(found) > 1 else found[0][2])  # fmt: skip
    assert equal(cell(x[0]), [s[0] for s in as_tuple(layer(x)[1])]
                 if mode == "LSTM" else layer(x)[1][0])  # fmt: skip


@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("mode", MODES)
def test_the_short_way_is_the_long_one(mode, steps, monkeypatch):
    torch.manual_seed(7)
    layer = fastrnn.quantize_dynamic(
        build(mode, 5, 19, num_layers=2, bidirectional=True, batch_first=True)
    )
    x = torch.randn(3, steps, 5)
    _, state = layer(x)
    expected = layer(x, state)
    with monkeypatch.context() as patch, torch.no_grad():
        patch.delattr(int8, "layers")
        assert equal(layer(x, state), expected)
        if mode in ("LSTM", "GRU", "RNN"):
            cell = fastrnn.quantize_dynamic(getattr(fastrnn, f"{mode}Cell")(5, 19))
            found = cell(x[0]), cell(x[0], cell(x[0]))
    with torch.no_grad(), pytest.raises(RuntimeError, match="Expected 5, got 6"):
        layer(torch.randn(3, steps, 6))  # as many padded numbers as 5
    if mode in ("LSTM", "GRU", "RNN"):
        assert equal(found, (cell(x[0]), cell(x[0], cell(x[0]))))
        with torch.no_grad(), pytest.raises(RuntimeError, match="Expected 5, got 6"):
            cell(torch.randn(3, 6))


@pytest.mark.parametrize("mode", ["RNN", "RNN-relu"])
def test_products_keep_their_bound(mode):
    """The pre-activations' error, through a function of slope at most 1."""
    torch.manual_seed(4)
    layer = build(mode, 300, 70).double()
    x, h = torch.randn(1, 6, 300, dtype=torch.float64), torch.randn(1, 6, 70, dtype=torch.float64)
    exact = layer(x, h)[0][0]
    bound = int8.product_bound(x[0], layer.weight_ih_l0.detach())
    bound = bound + int8.product_bound(h[0], layer.weight_hh_l0.detach())
    layer = layer.float()
    found = fastrnn.quantize_dynamic(layer)(x.float(), h.float())[0][0]
    error = (found - exact).abs()
    assert (error <= bound + FLOOR[torch.float32] * 8).all()
    assert error.max() > bound.min() / 100  # a bound, not a universe


@pytest.mark.parametrize("mode", ["LSTM", "GRU", "RNN"])
def test_nearer_to_float32_than_torchs(mode):
    """torch's has a scale a matrix and seven bits of activations; it has no RNN layer."""
    torch.manual_seed(5)
    layer = getattr(nn, mode)(128, 128)
    x = torch.randn(50, 4, 128)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.ao is deprecated
        exact = layer(x)[0]
        ours = (fastrnn.quantize_dynamic(layer)(x)[0] - exact).square().mean().sqrt()
        if mode == "RNN":
            assert ours < 5e-3
            return
        theirs = torch.ao.quantization.quantize_dynamic(nn.Sequential(layer), {type(layer)})
        theirs = (theirs[0](x)[0] - exact).square().mean().sqrt()
    assert ours < theirs / 2


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("name", ALL_ISAS)
def test_not_finite_rows_give_nan_and_no_others(name, value):
    torch.manual_seed(6)
    layer = fastrnn.quantize_dynamic(fastrnn.LSTM(20, 24))
    x = torch.randn(5, 3, 20)
    expected = layer(x)[0]
    x[2, 1, 19] = value
    with use_isa(name):
        found = layer(x)[0]
    assert found[2:, 1].isnan().all()
    assert not found[:2].isnan().any() and not found[:, ::2].isnan().any()
    torch.testing.assert_close(found[:, ::2], expected[:, ::2], atol=0.05, rtol=0)
    h = torch.zeros(1, 3, 24)
    h[0, 0, 3] = value
    with use_isa(name):
        found = layer(x[:2], (h, torch.zeros(1, 3, 24)))[0]
    assert found[:, 0].isnan().all() and not found[:, 1:].isnan().any()


def test_zero_and_tiny_rows():
    layer = fastrnn.quantize_dynamic(fastrnn.GRU(4, 6))
    zero = layer(torch.zeros(2, 1, 4))[0]
    assert zero.isfinite().all()
    assert torch.equal(layer(torch.full((2, 1, 4), 1e-40))[0], zero)
    assert layer(torch.full((2, 1, 4), 3e38))[0].isfinite().all()
