"""The keyword arguments that torch's layers do not have, as a user meets them."""

import copy
import pickle

import pytest
import torch
from torch.nn.utils.rnn import pack_padded_sequence, pack_sequence, pad_packed_sequence

import fastrnn

LAYERS = {"LSTM": fastrnn.LSTM, "GRU": fastrnn.GRU, "RNN": fastrnn.RNN}
layers = pytest.mark.parametrize("name", LAYERS)
T, B, I, H = 7, 4, 3, 5


def build(name, seed=0, **options):
    torch.manual_seed(seed)
    return LAYERS[name](I, H, dtype=torch.float64, **options)


def twin_in_torch(layer, **options):
    twin = getattr(torch.nn, type(layer).__name__)(I, H, dtype=torch.float64, **options)
    twin.load_state_dict({k: v for k, v in layer.state_dict().items() if k in twin.state_dict()})
    return twin


def normal(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def states_of(hx):
    return hx if isinstance(hx, tuple) else (hx,)


def hx_of(layer, batch=B, seed=1):
    count = layer.num_layers * (2 if layer.bidirectional else 1)
    found = tuple(normal(count, batch, H, seed=seed + i) for i in range(len(layer._spec().states)))
    return found if len(found) > 1 else found[0]


def at(hx, *index):
    found = tuple(state[index] for state in states_of(hx))
    return found if isinstance(hx, tuple) else found[0]


# --- lengths ----------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True}], ids=str)
@layers
def test_lengths_are_torch_s_packed_sequences(name, options, batch_first):
    """Outputs, final states and gradients, in any order of the lengths."""
    layer = build(name, batch_first=batch_first, **options)
    twin = twin_in_torch(layer, batch_first=batch_first, **options)
    x = normal(*((B, T) if batch_first else (T, B)), I)
    lengths = torch.tensor([3, 7, 1, 6])
    hx = hx_of(layer)
    output, finals = layer(x, hx, lengths=lengths)
    packed = pack_padded_sequence(x, lengths, batch_first=batch_first, enforce_sorted=False)
    expected, expected_finals = twin(packed, hx)
    expected, _ = pad_packed_sequence(expected, batch_first=batch_first, total_length=T)
    torch.testing.assert_close(output, expected)
    torch.testing.assert_close(finals, expected_finals)
    loss = sum(t.square().sum() for t in (output, *states_of(finals)))
    expected_loss = sum(t.square().sum() for t in (expected, *states_of(expected_finals)))
    for got, wanted in zip(
        torch.autograd.grad(loss, layer.parameters()),
        torch.autograd.grad(expected_loss, twin.parameters()),
        strict=True,
    ):
        torch.testing.assert_close(got, wanted)


@layers
def test_a_sequence_of_no_steps_keeps_its_state(name):
    layer = build(name, bidirectional=True)
    hx = hx_of(layer)
    output, finals = layer(
        normal(T, B, I), hx, lengths=torch.tensor([0, 2, 0, 7], dtype=torch.int32)
    )
    assert not output[:, 0].any()
    for before, after in zip(states_of(hx), states_of(finals), strict=True):
        assert torch.equal(before[:, [0, 2]], after[:, [0, 2]])
        assert not torch.equal(before[:, 1], after[:, 1])


def test_padding_is_never_read():
    layer = build("LSTM", num_layers=2)
    x = normal(T, B, I)
    lengths = torch.tensor([2, 7, 0, 4])
    past = torch.arange(T).unsqueeze(1) >= lengths
    x[past] = torch.nan
    x.requires_grad_()
    output, finals = layer(x, lengths=lengths)
    loss = sum(t.sum() for t in (output, *finals))
    gradients = torch.autograd.grad(loss, [x, *layer.parameters()])
    assert all(torch.isfinite(t).all() for t in (output, *finals, *gradients))
    assert not gradients[0][past].any()


# --- resets -----------------------------------------------------------------------------------


def loop(layer, x, hx, reset, to):
    """A layer of one direction step by step: output, final state, the state after each step."""
    outputs, every, initial = [], [], hx
    for t in range(len(x)):
        if to == "zero":
            other = tuple(torch.zeros_like(s) for s in states_of(hx))
        elif to == "initial":
            other = states_of(initial)
        else:
            other = states_of(at(to, t))
        mask = reset[t].unsqueeze(1)
        hx = tuple(torch.where(mask, a, b) for a, b in zip(other, states_of(hx), strict=True))
        hx = hx if len(hx) > 1 else hx[0]
        output, hx = layer(x[t : t + 1], hx)
        outputs.append(output)
        every.append(states_of(hx))
    stacked = tuple(torch.stack(kind) for kind in zip(*every, strict=True))
    return torch.cat(outputs), hx, stacked if len(stacked) > 1 else stacked[0]


@pytest.mark.parametrize("to", ["zero", "initial", "given"])
@pytest.mark.parametrize("num_layers", [1, 2])
@layers
def test_resets_are_those_of_a_loop(name, num_layers, to):
    """With all states; and the gradients, to the states that are reset to as well."""
    layer = build(name, num_layers=num_layers)
    x, hx = normal(T, B, I).requires_grad_(), hx_of(layer)
    reset = torch.rand(T, B, generator=torch.Generator().manual_seed(3)) < 0.4
    leaves = [x, *(s.requires_grad_() for s in states_of(hx)), *layer.parameters()]
    if to == "given":
        given = tuple(normal(T, num_layers, B, H, seed=9 + i) for i in range(len(states_of(hx))))
        leaves += [state.requires_grad_() for state in given]
        to = given if len(given) > 1 else given[0]

    def gradients(output, finals, every):
        found = [output, *states_of(finals), *states_of(every)]
        return torch.autograd.grad(sum((t * t.cos()).sum() for t in found), leaves)

    found = layer(x, hx, reset=reset, reset_to=to, return_all_states=True)
    expected = loop(layer, x, hx, reset, to)
    torch.testing.assert_close(found, expected)
    for got, wanted in zip(gradients(*found), gradients(*expected), strict=True):
        torch.testing.assert_close(got, wanted)


@layers
def test_no_gradient_passes_a_reset(name):
    layer = build(name, bidirectional=True)
    x = normal(T, B, I).requires_grad_()
    reset = torch.zeros(T, B, 2, dtype=torch.bool)
    reset[4, :, 0] = True  # forwards, before step 4; backwards, before step 3, which comes after it
    reset[3, :, 1] = True
    output, _ = layer(x, reset=reset)
    (early,) = torch.autograd.grad(output[:4].sum(), x, retain_graph=True)
    (late,) = torch.autograd.grad(output[4:].sum(), x)
    assert not early[4:].any() and early[:4].all()
    assert not late[:4].any() and late[4:].all()
    parts = [layer(x[:4])[0], layer(x[4:])[0]]
    torch.testing.assert_close(output, torch.cat(parts))


def test_resets_in_other_forms():
    """Batch first, unbatched, backwards."""
    x, hx = normal(T, B, I), None
    reset = torch.rand(T, B, generator=torch.Generator().manual_seed(3)) < 0.4
    expected, state, every = build("GRU")(x, hx, reset=reset, return_all_states=True)
    first = build("GRU", batch_first=True)(
        x.transpose(0, 1), hx, reset=reset.t(), return_all_states=True
    )
    torch.testing.assert_close(first, (expected.transpose(0, 1), state, every))
    one = build("GRU")(x[:, 1], reset=reset[:, 1], return_all_states=True)
    torch.testing.assert_close(one, (expected[:, 1], state[:, 1], every[:, :, 1]))
    to = normal(T, 1, B, H)
    expected = build("GRU")(x.flip(0), reset=reset.flip(0), reset_to=to.flip(0))
    found = build("GRU", reverse=True)(x, reset=reset, reset_to=to)
    torch.testing.assert_close(found, (expected[0].flip(0), expected[1]))


# --- settings ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "setting", [{"zoneout": 0.5}, {"recurrent_dropout": 0.5}, {"weight_dropout": 0.5}], ids=str
)
@layers
def test_what_is_drawn_is_drawn_anew_but_reproducibly(name, setting):
    layer, x = build(name, **setting), normal(T, B, I)
    draws = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        draws.append(layer(x)[0])
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    layer.eval()
    assert torch.equal(layer(x)[0], layer(x)[0])
    if "zoneout" not in setting:
        torch.testing.assert_close(layer(x)[0], build(name)(x)[0])


def test_zoneout_in_evaluation_mixes():
    layer, x = build("LSTM", zoneout=(0.25, 0.5)).eval(), normal(T, B, I)
    plain = build("LSTM")
    hx = (torch.zeros(1, B, H, dtype=torch.float64),) * 2
    for t in range(T):
        new = plain(x[t : t + 1], hx)[1]
        hx = (0.25 * hx[0] + 0.75 * new[0], 0.5 * hx[1] + 0.5 * new[1])
    torch.testing.assert_close(layer(x)[1], hx)


def test_zoneout_of_everything_stands_still():
    layer = build("GRU", zoneout=1.0)
    hx = hx_of(layer)
    output, final = layer(normal(T, B, I), hx)
    assert torch.equal(final, hx)
    assert torch.equal(output, hx.expand(T, -1, -1))


def test_recurrent_dropout_drops_the_same_units_at_all_steps():
    """Everything or nothing of h, for one unit: a layer whose h never comes back, or as it is."""
    torch.manual_seed(0)
    layer = fastrnn.RNN(1, 1, recurrent_dropout=0.5)
    x = torch.ones(9, 64, 1)
    output, _ = layer(x)
    still = (output == output[0]).all(0).flatten()  # without h every step is the first one
    doubled = torch.nn.RNN(1, 1)
    doubled.load_state_dict(layer.state_dict())
    with torch.no_grad():
        doubled.weight_hh_l0.mul_(2)
    torch.testing.assert_close(output[:, ~still], doubled(x[:, ~still])[0])
    assert 10 < int(still.sum()) < 54


def test_clips():
    layer = build("LSTM", cell_clip=0.1)
    _, _, (_, c) = layer(normal(T, B, I), return_all_states=True)
    assert c.abs().max() == 0.1
    projected = fastrnn.LSTM(I, H, proj_size=2, proj_clip=0.05, dtype=torch.float64)
    assert projected(normal(T, B, I))[0].abs().max() == 0.05
    x = normal(T, B, I).requires_grad_()
    layer = build("RNN", grad_clip=1e-3)
    (grad,) = torch.autograd.grad(layer(x)[0].sum(), layer.bias_ih_l0)
    assert grad.abs().max() == pytest.approx(1e-3 * T * B)


@layers
def test_backwards(name):
    x, hx = normal(T, B, I), None
    output, state = build(name, reverse=True)(x, hx)
    expected, expected_state = build(name)(x.flip(0), hx)
    torch.testing.assert_close(output, expected.flip(0))
    torch.testing.assert_close(state, expected_state)


@layers
def test_a_learnt_initial_state(name):
    layer = build(name, num_layers=2, learn_initial_state=True)
    x = normal(T, B, I)
    assert list(layer.state_dict())[-1] == ("initial_c" if name == "LSTM" else "initial_h")
    begins = [p for n, p in layer.named_parameters() if n.startswith("initial_")]
    with torch.no_grad():
        for parameter in begins:
            parameter.normal_()
        given = tuple(parameter.expand(-1, B, -1) for parameter in begins)
        expected = layer(x, given if len(given) > 1 else given[0])
        torch.testing.assert_close(layer(x), expected)
    layer(x)[0].sum().backward()
    assert all(parameter.grad.any() for parameter in begins)
    packed = pack_sequence([x[:, 0], x[:3, 1]])
    torch.testing.assert_close(pad_packed_sequence(layer(packed)[0])[0][:, 0], layer(x)[0][:, 0])


@pytest.mark.parametrize("sizes", [(H, H), (H, 2)], ids=str)
@layers
def test_directions_of_two_sizes(name, sizes):
    """Equal, they are torch's; unequal, each is a layer of one direction."""
    torch.manual_seed(0)
    module = fastrnn.Bidirectional(LAYERS[name], I, sizes, 2, dtype=torch.float64)
    x, lengths = normal(T, B, I), torch.tensor([7, 0, 3, 5])
    begins = [tuple(normal(2, B, s, seed=s) for _ in hx_of(build("LSTM"))) for s in sizes]
    hx = tuple(each if name == "LSTM" else each[0] for each in begins)
    reset = torch.rand(T, B, 2, generator=torch.Generator().manual_seed(3)) < 0.3
    output, (forwards, backwards), every = module(
        x, hx, lengths=lengths, reset=reset, return_all_states=True
    )
    assert output.shape == (T, B, sum(sizes))
    assert states_of(every[1])[0].shape == (T, 2, B, sizes[1])
    if sizes == (H, H):
        layer = build(name, num_layers=2, bidirectional=True)
        for i, (one, other) in enumerate(zip(module.forwards, module.backwards, strict=True)):
            for kind, tensor in one.state_dict().items():
                layer.state_dict()[kind.replace("l0", f"l{i}")].copy_(tensor)
            for kind, tensor in other.state_dict().items():
                layer.state_dict()[kind.replace("l0", f"l{i}") + "_reverse"].copy_(tensor)
        pairs = zip(*begins, strict=True)
        joined = tuple(torch.stack(p, 1).flatten(0, 1) for p in pairs)
        expected, finals = layer(
            x, joined if name == "LSTM" else joined[0], lengths=lengths, reset=reset
        )
        torch.testing.assert_close(output, expected)
        for d, states in enumerate((forwards, backwards)):
            torch.testing.assert_close(states_of(states), tuple(s[d::2] for s in states_of(finals)))
    output.sum().backward()
    assert all(parameter.grad is not None for parameter in module.parameters())
    other = copy.deepcopy(module)
    other.load_state_dict(module.state_dict())


# --- windows ----------------------------------------------------------------------------------


@pytest.mark.parametrize("every", [1, 3, 20])
@layers
def test_checkpoints_change_nothing(name, every):
    options = {"bidirectional": True, "num_layers": 2, "zoneout": 0.3}
    x = normal(T, B, I)
    call = {
        "lengths": torch.tensor([7, 0, 3, 5]),
        "reset": torch.rand(T, B, generator=torch.Generator().manual_seed(3)) < 0.3,
        "reset_to": "initial",
        "return_all_states": True,
    }
    found = []
    for setting in ({}, {"checkpoint_every": every}):
        layer = build(name, **options, **setting)
        hx = hx_of(layer)
        torch.manual_seed(5)
        output, finals, states = layer(x, hx, **call)
        results = [output, *states_of(finals), *states_of(states)]
        loss = sum(t.square().sum() for t in results)
        found.append([*results, *torch.autograd.grad(loss, layer.parameters())])
    for got, wanted in zip(*found, strict=True):
        torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize("steps", [1, T])
def test_checkpoints_of_no_sequences(steps):
    layer = build("LSTM", checkpoint_every=2)
    x = torch.zeros(steps, 0, I, dtype=torch.float64, requires_grad=True)
    output, (h, c) = layer(x)
    assert output.shape == (steps, 0, H) and h.shape == c.shape == (1, 0, H)
    (output.sum() + h.sum() + c.sum()).backward()
    assert x.grad.shape == x.shape
    assert not any(parameter.grad.any() for parameter in layer.parameters())


def test_checkpoints_save_memory():
    """What is kept for the backward, counted: outputs and a window."""
    kept = []
    for setting in ({}, {"checkpoint_every": 8}):
        layer = fastrnn.LSTM(8, 8, **setting)
        found = {}

        def pack(tensor, found=found):
            found[tensor.data_ptr()] = tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            layer(torch.randn(64, 16, 8))
        kept.append(sum(found.values()))
    assert kept[1] < kept[0] / 2


@layers
def test_truncated_backpropagation(name):
    layer, x = build(name), normal(T, B, I)
    x.requires_grad_()
    reset = torch.rand(T, B, generator=torch.Generator().manual_seed(3)) < 0.3
    lengths = torch.tensor([7, 0, 3, 5])
    windows = list(fastrnn.tbptt(layer, x, None, 3, lengths=lengths, reset=reset))
    outputs, hx = [output for output, _ in windows], windows[-1][1]
    expected, finals = layer(x, lengths=lengths, reset=reset)
    torch.testing.assert_close(torch.cat(outputs), expected)
    torch.testing.assert_close(hx, finals)
    (grad,) = torch.autograd.grad(outputs[1].sum(), x)
    assert not grad[:3].any() and grad[3:6].any() and not grad[6:].any()


# --- the rest of PyTorch ----------------------------------------------------------------------


@layers
def test_copies_and_pickles(name):
    layer = build(name, zoneout=0.5, learn_initial_state=True, reverse=True)
    x = normal(T, B, I)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert repr(other) == repr(layer)
        torch.manual_seed(0)
        expected = layer(x)[0]
        torch.manual_seed(0)
        assert torch.equal(other(x)[0], expected)


def test_it_does_not_become_torch_s():
    for setting in ({"zoneout": 0.5}, {"reverse": True}, {"learn_initial_state": True}):
        with pytest.raises(RuntimeError, match=next(iter(setting))):
            fastrnn.to_torch(torch.nn.Sequential(build("LSTM", **setting)))
    model = torch.nn.Sequential(build("LSTM"), build("LSTM", reverse=True))
    with pytest.raises(RuntimeError, match="reverse"):
        fastrnn.to_torch(model)
    assert all(type(layer) is fastrnn.LSTM for layer in model), "half a model was swapped"


def test_it_compiles():
    layer = build("LSTM", num_layers=2, recurrent_dropout=0.0, grad_clip=1.0)
    x, lengths = normal(T, B, I), torch.tensor([7, 0, 3, 5])
    reset = torch.rand(T, B, generator=torch.Generator().manual_seed(3)) < 0.3

    def call(x):
        return layer(x, lengths=lengths, reset=reset, reset_to="initial", return_all_states=True)

    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), call(x))
    found, expected = (
        torch.autograd.grad(f(x)[0].square().sum(), layer.parameters()) for f in (compiled, call)
    )
    torch.testing.assert_close(found, expected)
