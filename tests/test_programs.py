"""Each program at a tiny size: it learns, draws, and its layers agree with torch's."""

import math
import random
from collections import Counter

import pytest
import torch

import classification
import data
import digits
import distributed
import gradients
import language_model
import policy
import sentences
import streaming
import tagging
import tree
from fastrnn.cli import rounding
from harness import Options
from words import Words

PNG = b"\x89PNG\r\n\x1a\n"

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def manual():
    training, held_out = data.manual()
    return training[:220], held_out[:12]


@pytest.fixture(scope="module")
def sources():
    training, held_out = data.sources()
    shortest = sorted(training, key=lambda file: len(file[1]))[:6]
    return shortest, sorted(held_out, key=lambda file: len(file[1]))[:2]


def easy_text(paragraphs, seed):
    """In which few steps show more than how often a character comes."""
    dice = random.Random(seed)

    def sentence():
        one, other = dice.sample(("cat", "dog", "mouse", "crow"), 2)
        return f"The {one} {dice.choice(('sees', 'hears', 'follows'))} the {other}."

    return [" ".join(sentence() for _ in range(6)) for _ in range(paragraphs)]


EASY = easy_text(40, 0), easy_text(4, 1)


def counting():
    """Nats a character of `EASY` when nothing is known of those before it."""
    counts = Counter("\n\n".join(EASY[0]))
    return -sum(n / counts.total() * math.log(n / counts.total()) for n in counts.values())


@pytest.fixture(autouse=True)
def small(monkeypatch, manual, sources):
    """Less of the data, shorter lags and texts."""
    for program in (language_model, sentences, streaming):
        monkeypatch.setattr(program, "manual", lambda: EASY)
    monkeypatch.setattr(classification, "manual", lambda: manual)
    for program in (classification, tagging):
        monkeypatch.setattr(program, "sources", lambda: sources)
    monkeypatch.setattr(gradients, "LAG", 12)
    monkeypatch.setattr(gradients, "WINDOW", 4)
    monkeypatch.setattr(tree, "DEPTH", 2)
    monkeypatch.setattr(tree, "DEEPEST", 3)
    monkeypatch.setattr(streaming, "CHARACTERS", 200)
    monkeypatch.setattr(policy, "LONGEST", 4)
    monkeypatch.setattr(policy, "WINDOW", 16)
    monkeypatch.setattr(language_model, "ORDERS", (2, 4))
    monkeypatch.setattr(language_model, "LENGTH", 32)
    monkeypatch.setattr(language_model, "SAMPLE", 20)


# Program, steps, units, and below what the last losses have to be: more than answers tell whose
# questions were shuffled. These would be told by the shares of each answer alone, in nats.
SIZES = [
    (gradients, 50, 12, 0.92 * math.log(gradients.SYMBOLS)),
    (language_model, 60, 24, 0.97 * counting()),
    (digits, 40, 16, 0.9 * math.log(10)),
    (tagging, 30, 16, 1.3),
    (classification, 40, 16, 0.9 * math.log(4)),
    (tree, 40, 16, 0.9 * math.log(10)),
    (streaming, 60, 24, 0.97 * counting()),
    (policy, 60, 12, 1.2),
]


@pytest.mark.parametrize(
    ("program", "steps", "hidden", "below"), SIZES, ids=[size[0].__name__ for size in SIZES]
)
def test_learns(program, steps, hidden, below, tmp_path):
    result = program.run(Options(steps, hidden, picture=tmp_path / "picture.png"))
    for name, losses in result.losses.items():
        # These RNNs and truncated ones show what does not learn.
        if program is gradients and name not in ("LSTM", "GRU"):
            continue
        assert sum(losses[-5:]) / 5 < below, name
    assert result.metrics and result.losses
    assert all(math.isfinite(metric.value) for metric in result.metrics)
    assert result.comparisons
    for name, found in result.comparisons.items():
        assert found.agree, name
    assert (tmp_path / "picture.png").read_bytes().startswith(PNG)


def test_torch_layers_take_the_same_curve(tmp_path, monkeypatch):
    monkeypatch.setattr(digits, "KINDS", {"LSTM": digits.KINDS["LSTM"]})
    ours, theirs = (
        digits.run(Options(8, 16, layers, picture=tmp_path / "picture.png")).losses["LSTM"]
        for layers in ("fastrnn", "torch")
    )
    # Eight steps of 3 units in the last place each, say; a fault of one in a thousand is more.
    assert max(rounding.relative_differences(ours, theirs)) < 1e-5


def test_two_processes_find_the_loss_of_one():
    options = Options(3, 8)
    text = distributed.Text(options)
    one = distributed.train(text.model(options), text, options, 0, 1)
    two = distributed.launch("FSDP", options)
    assert len(two) == 3
    # Halves of the batch are summed apart: float32 sums of 2048 terms.
    assert max(rounding.relative_differences(two, one)) < 1e-5


def test_gradients_are_what_autograd_gives_step_by_step():
    options = Options(1, 6)
    model = gradients.Copier("RNN", 6, scale=0.5)
    found = gradients.norms(model, options)
    assert found[0] == 1 and found[12] < 1e-2
    assert gradients.norms(gradients.Copier("RNN", 6, scale=3.0), options)[4] > found[4]


def test_truncated_is_full_where_the_window_holds_all():
    torch.manual_seed(0)
    full = gradients.Copier("LSTM", 6)
    drawn = gradients.batch_of(12, 3, torch.Generator().manual_seed(0))
    found = []
    for window in (0, 100, 4):
        full.window = window
        full.zero_grad()
        value = gradients.loss(full, drawn)
        value.backward()
        found.append((value.detach(), full.recurrent.weight_hh_l0.grad.clone()))
    torch.testing.assert_close(found[0], found[1])
    torch.testing.assert_close(found[0][0], found[2][0])  # the same states
    assert not torch.allclose(found[0][1], found[2][1])  # and less of a gradient


def test_corridors():
    """Which way pays, and what is seen: the sign at its own place only."""
    generator = torch.Generator().manual_seed(0)
    corridors = policy.Corridors(6, generator)
    corridors.length[:], corridors.side[:] = 3, torch.tensor([0, 1, 0, 1, 0, 1])
    assert corridors.see().argmax(1).tolist() == [0, 1] * 3
    reward, done = corridors.act(torch.tensor([0, 0, 0, 0, 1, 2]))
    assert reward.tolist() == pytest.approx([0, 0, 0, 0, -0.05, -0.05]) and not done.any()
    corridors.act(torch.zeros(6, dtype=torch.int64))
    assert corridors.see().argmax(1).tolist() == [2] * 6
    corridors.place[:] = 3
    assert corridors.see().argmax(1).tolist() == [3] * 6
    reward, done = corridors.act(torch.tensor([1, 2, 2, 1, 0, 0]))
    assert reward.tolist() == pytest.approx([1, 1, -1, -1, -0.05, -0.05])
    assert done.tolist() == [True] * 4 + [False] * 2
    assert corridors.place.tolist() == [0] * 4 + [3] * 2
    corridors.age[4] = policy.PATIENCE - 1
    assert corridors.act(torch.zeros(6, dtype=torch.int64))[1].tolist() == [False] * 4 + [
        True,
        False,
    ]


def test_advantages():
    """Against their definition, a sum over what comes until an episode ends."""
    rewards, values = (
        torch.tensor([[1.0], [2.0], [4.0]]),
        torch.tensor([[0.5], [1.0], [2.0], [3.0]]),
    )
    ended = torch.tensor([[False], [True], [False]])
    gamma, trace = policy.DISCOUNT, policy.TRACE
    second = 2.0 - 1.0
    expected = [1 + gamma * 1.0 - 0.5 + gamma * trace * second, second, 4 + gamma * 3.0 - 2.0]
    found = policy.advantages_of(rewards, values, ended).flatten()
    torch.testing.assert_close(found, torch.tensor(expected))


def test_a_loop_of_steps_is_one_call():
    torch.manual_seed(0)
    model = policy.Policy(6)
    window = policy.Player(model)(torch.Generator().manual_seed(0))
    assert window.reset[1:].any()  # within the window
    found = []
    for model.way in ("reset", "loop"):
        value = policy.loss(model, window)
        found.append((value, *torch.autograd.grad(value, list(model.parameters()))))
    torch.testing.assert_close(*found)


def test_tags():
    text = 'def f(x):  # a\n    """b"""\n    return x + 10\n'
    names = [tagging.CLASSES[tag] for tag in tagging.tags(text)]
    assert names[:3] == ["keyword"] * 3 and names[3] == "space" and names[4] == "name"
    assert names[text.index("# a")] == names[text.index("# a") + 2] == "comment"
    assert names[text.index('"""b')] == names[text.index('b"""') + 3] == "string"
    assert names[text.index("10")] == "number" and names[text.index("+")] == "operator"


def test_kinds_of_lines():
    text = (
        '"""A module of some length."""\n\n# a comment, rather long\nvariable = 10 + 20  # more\n'
    )
    found = {
        line: classification.KINDS[kind] for line, kind in classification.lines_of_source(text)
    }
    assert found == {
        "A module of some length.": "docstring",
        "a comment, rather long": "comment",
        "variable = 10 + 20  # more": "code",
    }


def test_values_of_trees():
    example = tree.Tree(
        11, [tree.Tree(2), tree.Tree(9), tree.Tree(10, [tree.Tree(4), tree.Tree(7)])]
    )
    assert tree.words(example) == "[MAX 2 9 [MIN 4 7]]" and tree.value(example) == 9
    assert tree.flat(example) == [11, 2, 9, 10, 4, 7, tree.CLOSE, tree.CLOSE]
    for depth in range(5):
        drawn = tree.draw(depth, random.Random(depth))

        def height(node):
            return 1 + max(map(height, node.children), default=-1)

        assert height(drawn) == depth


def test_words_lose_nothing(manual):
    text = "\n\n".join(manual[0])
    assert "".join(Words.split(text)) == text
    words = Words(text)
    numbers, bits = words.encode(text)
    assert int(numbers.max()) < len(words) and bits > 0
    assert words.encode(" the")[1] == 0 and words.encode(" xylophones")[1] > 20
