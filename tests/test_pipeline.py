"""Layers of a stack side by side: taken where it pays, and the same bits as one after the other."""

import pytest
import torch
from equality import threads

import fastrnn
from fastrnn import _C

LAYERS = {
    "LSTM": lambda **o: fastrnn.LSTM(5, 80, **o),
    "LSTM-projected": lambda **o: fastrnn.LSTM(5, 40, proj_size=7, **o),
    "GRU": lambda **o: fastrnn.GRU(5, 96, bias=False, **o),
    "RNN": lambda **o: fastrnn.RNN(5, 200, batch_first=True, **o),
}


def flat(results):
    if isinstance(results, torch.Tensor):
        return [results]
    return [tensor for result in results for tensor in flat(result)]


@pytest.mark.parametrize(("num_layers", "count"), [(2, 2), (3, 2), (4, 3)])
@pytest.mark.parametrize("name", LAYERS)
@torch.no_grad()
def test_the_same_bits(name, num_layers, count):
    for dtype, steps, batch in (
        (torch.float32, 24, 3),
        (torch.float32, 30, 1),
        (torch.float64, 53, 2),
        (torch.bfloat16, 24, 2),  # one after the other: its states are float32 in the loop
    ):
        layer = LAYERS[name](num_layers=num_layers, dtype=dtype)
        x = torch.randn(steps, batch, 5, dtype=dtype)
        if layer.batch_first:
            x = x.transpose(0, 1)
        with threads(1):
            expected = layer(x), layer(x, layer(x)[1])
        with threads(count):
            sizes = steps, batch, layer.hidden_size, num_layers, count
            assert _C.side_by_side(layer.mode.lower(), *sizes) or layer.proj_size
            found = layer(x), layer(x, expected[0][1])
        for one, other in zip(flat(found), flat(expected), strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("arguments", "pays"),
    [
        (("lstm", 100, 1, 64, 2, 2), True),
        (("gru", 100, 7, 128, 2, 2), True),
        (("lstm", 100, 1, 64, 2, 1), False),  # one thread
        (("lstm", 100, 1, 64, 1, 2), False),  # one layer
        (("lstm", 100, 8, 64, 2, 2), False),  # rows enough for both
        (("lstm", 100, 1, 256, 2, 2), False),  # weights that two caches hold better than one
        (("lstm", 23, 1, 64, 2, 2), False),  # few steps
        (("rnn_tanh", 100, 1, 64, 2, 2), False),  # one thread has it done before two have met
    ],
)
def test_where_it_pays(arguments, pays):
    assert _C.side_by_side(*arguments) is pays
