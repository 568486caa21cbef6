"""The benchmarks of what torch lacks, cells and options: they run, and time nothing wrong."""

import pytest

from bench import cells, sequences
from bench.gate import CheckFailed


@pytest.mark.parametrize("name", cells.PEERS)
def test_a_row(name):
    scripted = cells.PEERS[name].scripted is not None
    row = cells.measure(name, 2, 8, rounds=1, steps=3, compiled=None if scripted else False)
    assert row["case"] == f"{name} B2 H8"
    assert row["times the loop"] > 0 and row["of the plain layer"] > 0


def test_what_is_wrong_is_not_timed(monkeypatch):
    right = cells.of_layer

    def wrong(layer, x, grad):
        return right(layer, x if layer.backend == "reference" else 1.001 * x, grad)

    monkeypatch.setattr(cells, "of_layer", wrong)
    with pytest.raises(CheckFailed, match="error"):
        cells.measure("LayerNormGRU", 2, 8, rounds=1, steps=3)


@pytest.mark.parametrize("feature", sequences.FEATURES)
@pytest.mark.parametrize("cell", ["LSTM", "GRU"])
def test_a_feature(cell, feature, monkeypatch):
    monkeypatch.setattr(sequences, "STEPS", 4)
    found = sequences.measure(cell, feature, 2, 8, seconds=0.01)
    assert found["price"]["median"] > 0 and found["gain"]["median"] > 0
