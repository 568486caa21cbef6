"""What the example programs share: training, comparison, record, page."""

import json
import math

import pytest
import torch
from torch import nn

import data
import fastrnn
import harness
import run_all
from harness import Metric, Options, Result, build, compare, fit, main, picture

PNG = b"\x89PNG\r\n\x1a\n"


class Model(nn.Module):
    def __init__(self, layer=fastrnn.GRU):
        super().__init__()
        self.recurrent = layer(3, 5)
        self.attention = fastrnn.Attention(5, 5)
        self.head = nn.Linear(5, 1)

    def forward(self, x):
        states, _ = self.recurrent(x)
        context, _ = self.attention(states.transpose(0, 1), states.transpose(0, 1))
        return self.head(context)


class Faulty(fastrnn.GRU):
    """One part in a thousand off."""

    def forward(self, x, hx=None):
        out, states = super().forward(x, hx)
        return out * 1.001, states


def batch(generator):
    x = torch.rand(6, 4, 3, generator=generator)
    return x, x.sum((0, 2))


def loss(model, drawn):
    return (model(drawn[0]).mean((1, 2)) - drawn[1]).square().mean()


def test_layers_of_torch_and_back():
    model = build(Options(1, 1, "torch"), Model)
    assert type(model.recurrent) is nn.GRU and model.attention.backend == "reference"
    ours = build(Options(1, 1), Model)
    assert type(ours.recurrent) is fastrnn.GRU and ours.attention.backend is None
    for a, b in zip(model.parameters(), ours.parameters(), strict=True):
        assert torch.equal(a, b)


def test_both_kinds_of_layers_learn_alike_and_a_fault_is_told(monkeypatch):
    options = Options(12, 1)
    model = build(options, Model)
    before = [parameter.clone() for parameter in model.parameters()]
    found = compare(model, batch, loss, options)
    assert found.agree and found.ratio > 0
    for parameter, old in zip(model.parameters(), before, strict=True):
        assert torch.equal(parameter, old)

    def spoilt(copied):
        copied.recurrent.__class__ = Faulty
        return copied

    monkeypatch.setattr(harness, "on_fastrnn", spoilt)
    assert not compare(model, batch, loss, options).agree


def test_fit_is_repeatable_and_learns():
    options = Options(60, 1)
    curves = [fit(build(options, Model), batch, loss, options, "", rate=3e-2) for _ in range(2)]
    assert curves[0] == curves[1] and len(curves[0]) == 60
    assert sum(curves[0][-10:]) < 0.5 * sum(curves[0][:10])


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        (Metric("a", 0.98, 0.97), ("0.98", "≥ 0.97", "yes")),
        (Metric("a", 0.98, 0.97, higher=False), ("0.98", "≤ 0.97", "**no**")),
        (Metric("a", math.nan, 0.97), ("nan", "≥ 0.97", "**no**")),
        (Metric("a", 2.0), ("2", "", "")),
    ],
)
def test_metric(metric, words):
    assert metric.words() == words


def run(options):
    """A program."""
    with picture(options) as axes:
        axes[0, 0].plot([1, 2])
    model = build(options, Model)
    missed = Metric("error", 2.0, 1.0, higher=False, remark="it was late")
    return Result([missed], {"GRU": compare(model, batch, loss, options)}, {}, ["some words"])


def test_a_record_becomes_a_page(tmp_path, capsys):
    main(run, steps=4, hidden=1, argv=["--record", str(tmp_path), "--seed=3"])
    assert "goal ≤ 1: NOT REACHED" in capsys.readouterr().out
    assert (tmp_path / "test_harness.png").read_bytes().startswith(PNG)
    record = json.loads((tmp_path / "test_harness.json").read_text())
    assert record["options"] == {
        "steps": "4", "hidden": "1", "layers": "fastrnn", "device": "cpu", "seed": "3",
    }  # fmt: skip
    page = run_all.page([record])
    assert "| [test_harness](#test_harness) | error | 2 | ≤ 1 | **no** | GRU " in page
    assert "Not reached, error: it was late" in page and "some words" in page


@pytest.mark.parametrize("wrong", ["--steps=0", "--hidden=0", "--layers=keras"])
def test_wrong_arguments(wrong, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(run, steps=4, hidden=1, argv=[wrong])
    assert stopped.value.code == 2
    assert wrong[2:].partition("=")[0] in capsys.readouterr().err


def test_nothing_held_out_is_trained_on():
    training, held_out = data.manual()
    assert len(held_out) > 50 and not set(training) & set(held_out)
    assert len(set(training)) == len(training)
    files, others = ({name for name, _ in part} for part in data.sources())
    assert len(others) > 5 and not files & others
    (images, labels), (tests, _) = data.digits()
    assert images.shape == (1437, 8, 8) and tests.shape == (360, 8, 8)
    assert 0 <= images.min() and images.max() == 1 and labels.unique().tolist() == list(range(10))


def test_every_program_is_listed():
    texts = {path.stem: path.read_text() for path in run_all.HERE.glob("*.py")}
    programs = {name for name, text in texts.items() if "\n    main(run, steps=" in text}
    assert programs <= set(run_all.PROGRAMS)
