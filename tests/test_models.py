"""The parts of language and tree models, held against what defines them."""

import itertools
import math

import pytest
import torch
from torch import nn

import fastrnn
from fastrnn.models.ends import SequenceModel
from fastrnn.models.feed_forward import FeedForwardLanguageModel
from fastrnn.models.language_model import EMBEDDING, LanguageModel
from fastrnn.models.ngram import NGram
from fastrnn.models.sampling import draw
from fastrnn.models.transformer_language_model import TransformerLanguageModel
from fastrnn.models.tree import ChildSumTreeLSTM, Forest, Tree

TEXT = [0, 1, 2, 0, 1, 3, 0, 1, 2, 4, 4, 0, 2]


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_ngram_probabilities_sum_to_one(order):
    model = NGram(TEXT, 6, order)  # token 5 never occurs
    for context in ([], [0], [0, 1], [5], [4, 4, 0], [1, 2, 0, 1]):
        add = [model.add(context, token, 0.3) for token in range(6)]
        back_off = [model.back_off(context, token, 0.6) for token in range(6)]
        assert min(add) > 0 and min(back_off) > 0
        assert sum(add) == pytest.approx(1) and sum(back_off) == pytest.approx(1)


def test_ngram_by_hand():
    model = NGram(TEXT, 6, 3)
    # After 0 1: 2 twice, 3 once.
    assert model.add([0, 1], 2, 0.5) == pytest.approx(2.5 / 6)
    assert model.back_off([0, 1], 2, 0.5) == pytest.approx(1.5 / 3)
    # Unseen after 0 1; after 1: the same two; so from single tokens, add-one.
    single = {token: (TEXT.count(token) + 1) / (len(TEXT) + 6) for token in range(6)}
    free = 1 - single[2] - single[3]
    after_1 = (2 * 0.5 / 3) / free * single[4]
    assert model.back_off([1], 4, 0.5) == pytest.approx(after_1)
    seen = model.back_off([1], 2, 0.5) + model.back_off([1], 3, 0.5)
    assert model.back_off([0, 1], 4, 0.5) == pytest.approx((2 * 0.5 / 3) / (1 - seen) * after_1)
    assert model.bits([0, 1, 2], order=1) == pytest.approx(
        -sum(math.log2(single[token]) for token in (0, 1, 2))
    )


@pytest.mark.parametrize(("tokens", "order"), [([0, 6], 2), ([0, -1], 2), ([0, 1], 0)])
def test_ngram_refuses(tokens, order):
    with pytest.raises(ValueError, match="should be"):
        NGram(tokens, 6, order)


MODELS = {
    "GRU": lambda: LanguageModel(7, fastrnn.GRU(EMBEDDING, 11, num_layers=2), 11),
    "feed-forward, 1": lambda: FeedForwardLanguageModel(7, 1, 5, 11),
    "feed-forward, 4": lambda: FeedForwardLanguageModel(7, 4, 5, 11),
    "Transformer": lambda: TransformerLanguageModel(7, 8, 2, 2, window=12),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_text_in_parts_is_the_text(name):
    torch.manual_seed(0)
    model = MODELS[name]()
    tokens = torch.randint(7, (12, 3), generator=torch.Generator().manual_seed(0))
    whole, _ = model(tokens)
    parts, hx = [], None
    for part in tokens.split([1, 5, 1, 5]):
        logits, hx = model(part, hx)
        parts.append(logits)
    torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-5, atol=1e-5)
    changed = tokens.clone()
    changed[7] = (tokens[7] + 1) % 7
    assert torch.equal(model(changed)[0][:7], whole[:7])  # what comes later is not seen
    assert not torch.equal(model(changed)[0][7], whole[7])


def test_feed_forward_sees_its_window_alone():
    model = FeedForwardLanguageModel(7, 4, 5, 11)
    tokens = torch.zeros(10, 1, dtype=torch.int64)
    changed = tokens.clone()
    changed[2] = 1
    differs = (model(tokens)[0] != model(changed)[0]).flatten(1).any(1)
    assert differs.tolist() == [2 <= step <= 5 for step in range(10)]


def test_draw():
    logits = torch.tensor([[0.0, 2.0, 1.0], [3.0, 0.0, 0.0]])
    assert draw(logits, 0.0).tolist() == [1, 0]
    generator = torch.Generator().manual_seed(0)
    drawn = draw(logits[0].expand(20000, -1), 0.5, generator)
    share = torch.bincount(drawn, minlength=3) / 20000
    expected = torch.softmax(logits[0] / 0.5, 0)
    # Five standard deviations of a share.
    assert bool(((share - expected).abs() < 5 * (expected / 20000).sqrt()).all())
    with pytest.raises(ValueError, match="temperature"):
        draw(logits, -1.0)


def every_sequence(longest):
    for length in range(longest + 1):
        yield from itertools.product(range(2), repeat=length)


@pytest.mark.parametrize("ends", ["symbol", "stop", "length"])
def test_sequences_probabilities_sum_to_one(ends):
    torch.manual_seed(0)
    longest = 8
    model = SequenceModel(2, 5, ends, longest)
    with torch.no_grad():
        if ends == "stop":
            model.stop.bias.fill_(3.0)  # so that hardly any sequence is longer
        elif ends == "symbol":
            model.head.bias[2] = 3.0
        else:
            model.lengths.normal_()
        rows = list(every_sequence(longest))[0 if ends == "symbol" else 1 :]
        lengths = torch.tensor([len(row) for row in rows])
        tokens = torch.zeros(longest, len(rows), dtype=torch.int64)
        for i, row in enumerate(rows):
            tokens[: len(row), i] = torch.tensor(row, dtype=torch.int64)
        log_p = model(tokens, lengths)
        assert log_p.exp().sum().item() == pytest.approx(
            1.0, abs=1e-5 if ends == "length" else 1e-3
        )
        # Padding does not count.
        noise = torch.where(torch.arange(longest)[:, None] < lengths, tokens, 1)
        torch.testing.assert_close(model(noise, lengths), log_p)


@pytest.mark.parametrize("ends", ["symbol", "stop", "length"])
def test_sequences_drawn_are_distributed_as_their_probabilities(ends):
    torch.manual_seed(1)
    model = SequenceModel(2, 5, ends, 2)
    count = 20000
    drawn = model.sample(count, 1.0, torch.Generator().manual_seed(0))
    for row in ([0], [1]):
        with torch.no_grad():
            p = model(torch.tensor([[row[0]]]), torch.tensor([1])).exp().item()
        assert abs(drawn.count(row) / count - p) < 5 * math.sqrt(p / count)
    assert max(map(len, drawn)) <= 2


def test_sequence_model_refuses():
    with pytest.raises(ValueError, match="ends should be one of symbol, stop, length"):
        SequenceModel(2, 5, "never", 8)


def test_a_tree_that_is_a_chain_is_an_lstm():
    torch.manual_seed(0)
    tree, lstm = ChildSumTreeLSTM(3, 4), nn.LSTM(3, 4)
    with torch.no_grad():
        i, f, g, o = lstm.weight_ih_l0.chunk(4)
        tree.input.weight.copy_(torch.cat([i, o, g, f]))
        i, f, g, o = lstm.weight_hh_l0.chunk(4)
        tree.summed.weight.copy_(torch.cat([i, o, g]))
        tree.forget.weight.copy_(f)
        i, f, g, o = (lstm.bias_ih_l0 + lstm.bias_hh_l0).chunk(4)
        tree.input.bias.copy_(torch.cat([i, o, g, f]))
    chain = Tree(0)
    for token in range(1, 6):
        chain = Tree(token, [chain])
    forest = Forest.of([chain])
    assert forest.tokens.tolist() == list(range(6)) and forest.roots.tolist() == [5]
    x = torch.randn(6, 3)
    h, c = tree(x, forest)
    expected, (_, last) = lstm(x)
    torch.testing.assert_close(h, expected)
    torch.testing.assert_close(c[-1], last[0])


TREES = [
    Tree(1, [Tree(2), Tree(3, [Tree(4), Tree(5), Tree(6)]), Tree(7)]),
    Tree(8),
    Tree(9, [Tree(10, [Tree(11, [Tree(12)])]), Tree(13, [Tree(14), Tree(15)])]),
]


def test_trees_of_a_batch_do_not_meet_and_children_have_no_order():
    torch.manual_seed(0)
    tree, embedding = ChildSumTreeLSTM(3, 4), nn.Embedding(16, 3)

    def roots(trees):
        forest = Forest.of(trees)
        return tree(embedding(forest.tokens), forest)[0][forest.roots]

    together = roots(TREES)
    torch.testing.assert_close(together, torch.cat([roots([one]) for one in TREES]))
    first = TREES[0]
    torch.testing.assert_close(roots([Tree(1, first.children[::-1])]), together[:1])
    other = Tree(1, [first.children[0], first.children[1], Tree(0)])
    assert not torch.allclose(roots([other]), together[:1])


def test_tree_gradients():
    torch.manual_seed(0)
    tree, forest = ChildSumTreeLSTM(2, 3).double(), Forest.of(TREES)
    x = torch.randn(len(forest.tokens), 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: tree(x, forest), x)


def test_tree_refuses():
    with pytest.raises(ValueError, match="input should have 15 rows, got 3"):
        ChildSumTreeLSTM(2, 3)(torch.zeros(3, 2), Forest.of(TREES))
