"""The programs that write, point, read out and forecast, at a tiny size: each has to learn."""

import itertools
import math
import random
from datetime import date

import pytest
import torch

import captioning
import date_scores
import dates
import forecasting
import geometry
import harness
import pointer
import seq2seq
import transformer

PNG = b"\x89PNG\r\n\x1a\n"


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def run(tmp_path):
    """Runs a program; returns what it found, having checked what all of them have to do."""

    def start(module, steps, hidden, below, **options):
        """``below``: what the last losses have to be below, more than a model finds that was
        told the answers of other questions.
        """
        picture = tmp_path / "picture.png"
        found = module.run(harness.Options(steps, hidden, picture=picture, **options))
        assert picture.read_bytes().startswith(PNG)
        assert found.metrics
        for name, compared in found.comparisons.items():
            assert compared.agree, f"{name}: {compared}"
            assert compared.ratio > 0
        for name, losses in found.losses.items():
            last, limit = sum(losses[-5:]) / 5, below[name] if isinstance(below, dict) else below
            assert last < limit, f"{name}: {last:.3f}"
        return found

    return start


def test_dates():
    day = date(1987, 3, 23)
    assert dates.spoken(day) == "the twenty-third of march nineteen eighty-seven"
    spoken = {1905: "nineteen oh five", 1900: "nineteen hundred", 2000: "two thousand",
              2007: "two thousand and seven", 2015: "twenty fifteen"}  # fmt: skip
    assert {n: dates.year(n) for n in spoken} == spoken
    assert [dates.short_ordinal(n) for n in (1, 2, 3, 11, 12, 13, 21, 22, 30)] == (
        "1st 2nd 3rd 11th 12th 13th 21st 22nd 30th".split()
    )
    assert [dates.ordinal(n) for n in (5, 20, 30, 31)] == (
        "fifth twentieth thirtieth thirty-first".split()
    )
    chance = random.Random(0)
    ways = {dates.phrase(day, chance) for _ in range(200)}
    assert len(ways) == 10
    assert {"monday, march 23rd, 1987", "23.3.1987", "3/23/1987"} < ways


def test_no_day_held_out_is_trained_on():
    train, test = dates.pairs(train=300)
    trained = {dates.decode(row[1:]) for row in train.target}
    held_out = {dates.decode(row[1:]) for row in test.target}
    assert len(held_out) == 1000
    assert not trained & held_out
    back, _ = dates.pairs(True, train=3)
    assert dates.decode(back.target[0, 1:]).startswith("the ")
    assert date.fromisoformat(dates.decode(back.source[0]))


def test_exact_match_counts_ends():
    _, test = dates.pairs(train=1)
    test = test.take(torch.arange(4))
    right = test.target[:, 1:].clone()
    longer = torch.nn.functional.pad(right, (0, 2), value=dates.END)
    assert date_scores.exact(right, test).all()
    assert date_scores.exact(longer, test).all()
    assert not date_scores.exact(right[:, :-1], test).any()  # no end
    wrong = right.clone()
    wrong[1, 3] += 1
    assert date_scores.exact(wrong, test).tolist() == [True, False, True, True]


def copies(back, device):
    """Two letters to copy: what attention and the first state can learn in few steps."""

    def made(rows, seed):
        generator = torch.Generator().manual_seed(seed)
        source = torch.randint(3, 3 + LETTERS, (rows, 2), generator=generator)
        start, end = torch.full((2, rows, 1), dates.START), torch.full((rows, 1), dates.END)
        target = torch.cat([start[0], source, end], 1)
        return dates.Pairs(source, torch.full((rows,), 2), target, torch.full((rows,), 4))

    return made(300, 0), made(40, 1)


def few(module, monkeypatch, names):
    chosen = tuple(variant for variant in module.VARIANTS if variant.name in names)
    assert len(chosen) == len(names)
    monkeypatch.setattr(module, "VARIANTS", chosen)
    monkeypatch.setattr(module, "pairs", copies)


LETTERS = 4
# Of three tokens to write, the end is sure; who does not look has to guess the others.
GUESSING = 2 / 3 * math.log(LETTERS)


@pytest.mark.parametrize(
    ("layers", "names"),
    [
        ("fastrnn", ("fixed context", "fixed, source reversed", "additive", "local, predicted",
                     "additive, scheduled sampling", "back: additive")),
        ("torch", ("fixed context", "additive")),
    ],
)  # fmt: skip
def test_seq2seq(run, monkeypatch, layers, names):
    module = seq2seq
    monkeypatch.setattr(module, "DRAWN", [name for name in module.DRAWN if name in names])
    few(module, monkeypatch, names)
    found = run(module, 100, 32, 0.7 * GUESSING, layers=layers)
    assert set(found.losses) == set(names)
    assert set(found.comparisons) == {"fixed context", "additive"}
    for metric in found.metrics:
        assert metric.value > 0.5, metric  # a guess: 1/16


def test_every_attention_of_seq2seq_is_made():
    module = seq2seq
    asked = {variant.attention for variant in module.VARIANTS}
    assert asked >= {"dot", "scaled_dot", "general", "additive", "location", "cosine",
                     "monotone", "predicted", None}  # fmt: skip
    for variant in module.VARIANTS:
        made = variant.make(16)
        attention = made.decoder.attention
        if variant.attention in ("monotone", "predicted"):
            assert attention.predictive == (variant.attention == "predicted")
        else:
            assert (attention and attention.score) == variant.attention
        assert made.encoder.recurrent.bidirectional == variant.bidirectional
        assert made.encoder.backwards == variant.source_reversed


def test_transformer(run, monkeypatch):
    module = transformer
    monkeypatch.setattr(module, "DRAWN", ("2 layers, 4 heads",))
    few(module, monkeypatch, ("2 layers, 4 heads", "GRU, additive attention"))
    for metric in run(module, 100, 32, 0.7 * GUESSING).metrics:
        assert metric.value > 0.5, metric


def test_pointer(run, monkeypatch):
    module = pointer
    monkeypatch.setattr(module, "HULLS", range(5, 6))
    monkeypatch.setattr(module, "TOURS", range(5, 6))
    monkeypatch.setattr(module, "TRAIN", 128)
    monkeypatch.setattr(module, "TEST", 20)
    found = run(module, 60, 32, {"hull": 1.36, "tour": 0.7})
    valid, area, tour = (metric.value for metric in found.metrics)
    assert 0 <= area <= 1
    assert 0 <= valid <= 1
    assert tour >= 1 - 1e-6  # nothing is shorter than the shortest


def test_geometry():
    square = torch.tensor([[[0.5, 0.5], [0.0, 0.0], [1.0, 1.0], [1.0, 0.1], [0.1, 1.0]]])
    assert geometry.hulls(square)[0].tolist() == [2, 4, 3, 5, 0, 0]
    around = torch.tensor([[2, 4, 3, 5]])
    assert geometry.areas(square, around).item() == pytest.approx(0.9)
    assert geometry.areas(square, around.flip(1)).item() == pytest.approx(-0.9)
    assert geometry.simple(square[0, around[0] - 1])
    assert not geometry.simple(square[0, torch.tensor([1, 2, 3, 4])])
    assert not geometry.simple(square[0, :2])


def test_tours_are_the_shortest():
    given = geometry.points(6, 6, torch.Generator().manual_seed(0))
    found = geometry.tours(given)
    assert (found[:, -1] == 0).all()
    assert (
        given.gather(1, (found[:, :1] - 1).unsqueeze(2))[:, 0, 0] == given[:, :, 0].amin(1)
    ).all()
    assert (geometry.areas(given, found) > 0).all()
    every = torch.tensor([(1, *rest) for rest in itertools.permutations(range(2, 7))])
    for row in range(6):
        repeated = given[row : row + 1].expand(len(every), -1, -1)
        shortest = geometry.lengths(repeated, every).min()
        torch.testing.assert_close(geometry.lengths(given[row : row + 1], found[row : row + 1])[0],
                                   shortest)  # fmt: skip


def test_captioning(run, monkeypatch):
    module = captioning
    for name, value in {"LEAST": 1, "MOST": 1, "LINES": 1, "COLUMNS": 2, "TEST": 50,
                        "HEIGHT": module.CELL, "WIDTH": 2 * module.CELL}.items():  # fmt: skip
        monkeypatch.setattr(module, name, value)
    scanned = module.digits

    def three():
        """Of 0, 1 and 2 alone, one to a picture."""
        return [
            tuple(part[labels < 3] for part in (images, labels)) for images, labels in scanned()
        ]

    monkeypatch.setattr(module, "digits", three)
    found = run(module, 80, 32, 0.75 * math.log(3) / 2)
    assert found.metrics[0].value > 0.6  # a guess: 1/3


def test_a_picture_says_what_it_shows():
    module = captioning
    images = torch.stack([torch.full((8, 8), (1 + i) / 10) for i in range(10)])
    pictures, said = module.compose(
        images, torch.arange(10), 30, torch.Generator().manual_seed(0), warp=False
    )
    assert pictures.shape == (30, module.HEIGHT, module.WIDTH)
    cell = module.CELL
    for picture, line in zip(pictures, said.tolist(), strict=True):
        assert line[0] == module.START
        shown = []
        for row in range(module.LINES):
            for column in range(module.COLUMNS):
                tile = picture[row * cell : (row + 1) * cell, column * cell : (column + 1) * cell]
                if tile.any():
                    shown.append(round(tile.max().item() * 10) - 1)
                    assert tile.sum().item() == pytest.approx(64 * tile.max().item(), rel=0.02)
        assert line[1 : 1 + len(shown)] == shown
        assert set(line[1 + len(shown) :]) == {module.END}
        assert module.LEAST <= len(shown) <= module.MOST


def test_forecasting(run, monkeypatch):
    module = forecasting
    monkeypatch.setattr(module, "STEPS", 24)
    monkeypatch.setattr(module, "OBSERVED", 6)
    monkeypatch.setattr(module, "SHOWN", (1, 5, 18))
    told = {6: 6, 20: 6, 80: 24}
    for group in ("CONTEXT", "FEEDBACK"):
        variants = [
            module.dataclasses.replace(v, told=told.get(v.told, 0)) for v in getattr(module, group)
        ]
        monkeypatch.setattr(module, group, tuple(variants))
    names = (variant.name for variant in (*module.CONTEXT, *module.FEEDBACK))
    # Who is told the angle before has to come nearer than the mean angle does.
    run(module, 25, 16, {name: 0.2 if "teacher" in name else 0.4 for name in names})


def test_the_pendulum():
    module = forecasting
    coarse, fine = module.simulate(20, 0, "cpu"), module.simulate(20, 0, "cpu", fine=16)
    torch.testing.assert_close(coarse.angle, fine.angle, rtol=0, atol=1e-4)
    torch.testing.assert_close(fine.angle.norm(dim=2), torch.ones(20, module.STEPS))
    # Against a first step by hand: the speed turns the angle, which the context has at the start.
    start = torch.atan2(fine.context[:, 3], fine.context[:, 2])
    stiffness, friction, speed = fine.context[:, 0], fine.context[:, 1] / 5, fine.context[:, 4]
    pull = -stiffness * start.sin() - friction * speed + fine.drive[:, 0, 0]
    after = start + module.PERIOD * speed + 0.5 * module.PERIOD**2 * pull
    expected = torch.stack([after.cos(), after.sin()], 1)
    torch.testing.assert_close(fine.angle[:, 0], expected, rtol=0, atol=0.01)
