"""The demo at a small size: curves, verdict, sampling, figure, exit status."""

import io
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console

import fastrnn
from fastrnn.cli import app, demo, rounding
from fastrnn.cli.corpus import Corpus
from fastrnn.models.language_model import EMBEDDING, LanguageModel
from fastrnn.models.sampling import sample

SMALL = {"steps": 4, "hidden": 17, "batch": 3, "length": 11, "sample": 15}
ARGUMENTS = [f"--{name}={value}" for name, value in SMALL.items()]
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def console():
    return Console(file=io.StringIO(), width=200)


class Faulty(fastrnn.LSTM):
    """One part in a thousand off."""

    def forward(self, x, hx=None):
        out, states = super().forward(x, hx)
        return out * 1.001, states


@pytest.mark.parametrize(("cell", "layers"), [("lstm", 1), ("gru", 2), ("rnn", 1)])
def test_curves_agree(cell, layers, tmp_path, console):
    options = demo.Options(cell=cell, layers=layers, out=tmp_path / "new" / "demo.png", **SMALL)
    result = demo.run(options, console)
    assert result.agree
    assert result.steps == len(result.torch.losses) == len(result.fastrnn.losses) == SMALL["steps"]
    lower, upper = result.spread
    assert 0 < lower <= upper
    assert len(result.fastrnn.text) == len(demo.PROMPT) + SMALL["sample"]
    # An untrained model guesses among all characters alike.
    assert result.torch.losses[0] == pytest.approx(math.log(len(Corpus().characters)), rel=0.1)
    assert options.out.read_bytes().startswith(PNG)


def test_a_fault_is_told_and_fails(monkeypatch, tmp_path, console):
    monkeypatch.setitem(demo.LAYERS, "lstm", (torch.nn.LSTM, Faulty))
    assert demo.main([*ARGUMENTS, f"--out={tmp_path / 'demo.png'}"], console) == 1
    assert "DO NOT AGREE to rounding" in console.file.getvalue()


def test_stops_when_the_time_is_up(tmp_path, console):
    out = tmp_path / "demo.png"
    assert demo.main([*ARGUMENTS, "--seconds=0", f"--out={out}"], console) == 0
    text = console.file.getvalue()
    assert "loss after 1 steps" in text
    assert "Stopped after 0 s, short of 4 steps" in text
    assert "Half of 1 pairs of steps" in text
    assert "run it again" in text
    assert str(out) in text


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ([2.0, 2.0], True),
        ([2.0, 2.0 * (1 + 1e-6)], True),
        ([2.0, 2.0002], False),
        ([2.0, math.nan], False),
    ],
)
def test_agreement_where_rounding_does_nothing(losses, expected):
    differences = rounding.relative_differences(losses, [2.0, 2.0])
    assert rounding.agree(differences, [0.0, 0.0]) is expected


def test_agreement_follows_what_rounding_does():
    assert rounding.agree([1e-7, 5e-4], [1e-7, 1e-4])
    assert not rounding.agree([5e-4, 1e-7], [1e-7, 1e-4])


def test_nudge_moves_by_one_unit_in_the_last_place():
    layer = torch.nn.GRU(3, 5)
    before = [parameter.detach().clone() for parameter in layer.parameters()]
    rounding.nudge(layer, torch.Generator().manual_seed(0))
    moved = 0
    for old, new in zip(before, layer.parameters(), strict=True):
        up, down = (torch.nextafter(old, torch.tensor(end)) for end in (math.inf, -math.inf))
        assert bool(((new == old) | (new == up) | (new == down)).all())
        moved += int((new != old).sum())
    assert moved > 0


def test_batches_are_windows_of_the_text():
    corpus = Corpus()
    inputs, targets = corpus.batch(length=7, size=5, generator=torch.Generator().manual_seed(0))
    assert inputs.shape == targets.shape == (7, 5)
    assert torch.equal(inputs[1:], targets[:-1])
    text = corpus.decode(corpus.tokens)
    assert all(corpus.decode(window) in text for window in inputs.T)
    with pytest.raises(ValueError, match="length must be below"):
        corpus.batch(len(corpus.tokens), 1, torch.Generator())


def test_step_by_step_sampling_is_the_whole_sequence():
    torch.manual_seed(0)
    corpus = Corpus()
    model = LanguageModel(len(corpus.characters), fastrnn.LSTM(EMBEDDING, 24, num_layers=2), 24)
    prompt = corpus.encode("The ")
    # So cold that each character drawn is the likeliest.
    drawn = sample(model, prompt, 20, 1e-6, torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits, _ = model(torch.cat([prompt, drawn]).unsqueeze(1))
    assert torch.equal(logits[len(prompt) - 1 : -1, 0].argmax(-1), drawn)


@pytest.mark.parametrize(
    "wrong", ["--steps=0", "--hidden=-1", "--batch=x", "--cell=peephole", "--device=tpu9"]
)
def test_wrong_arguments(wrong, capsys):
    with pytest.raises(SystemExit) as stopped:
        demo.main([wrong])
    assert stopped.value.code == 2
    assert wrong[2:].partition("=")[0] in capsys.readouterr().err


def test_unknown_command(capsys):
    with pytest.raises(SystemExit) as stopped:
        app.main(["dance"])
    assert stopped.value.code == 2
    assert "info" in capsys.readouterr().err


def test_missing_package_names_the_extra(monkeypatch, capsys):
    monkeypatch.delitem(sys.modules, "fastrnn.cli.demo")
    monkeypatch.delitem(sys.modules, "fastrnn.cli.demo_report")
    monkeypatch.setitem(sys.modules, "rich.console", None)
    with pytest.raises(SystemExit) as stopped:
        app.main(["demo"])
    assert stopped.value.code == 1
    assert "fastrnn[demo]" in capsys.readouterr().err


def test_command_line(tmp_path):
    command = [sys.executable, "-m", "fastrnn", "demo", *ARGUMENTS, "--cell=gru", "--out=a.png"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "torch.nn.GRU" in done.stdout and "agree to rounding" in done.stdout
    assert Path(tmp_path, "a.png").read_bytes().startswith(PNG)
