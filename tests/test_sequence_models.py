"""Parts of sequence-to-sequence systems: what is one call and what is steps has to agree."""

import itertools
import math

import pytest
import torch

import fastrnn
from fastrnn.models import (
    Decoder,
    Encoder,
    EncoderDecoder,
    PictureEncoder,
    PointerNetwork,
    StateSpace,
    Transformer,
    beam_search,
    greedy,
    reverse,
    sinusoids,
)

V, H, START, END = 7, 12, 1, 2
CLOSE = {"rtol": 1e-9, "atol": 1e-9}  # of float64, where only the order of sums differs


@pytest.fixture(autouse=True)
def float64():
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def attention(name, query=H, memory=2 * H):
    if name is None:
        return None
    if name in ("monotone", "predicted"):
        return fastrnn.LocalAttention(query, memory, 1, predictive=name == "predicted")
    return fastrnn.Attention(query, memory, score=name, positions=9 if name == "location" else None)


def model(name="additive", cell="gru", layers=1, bidirectional=True, **options):
    encoder = Encoder(V, 5, H, cell=cell, layers=layers, bidirectional=bidirectional)
    decoder = Decoder(
        V, 5, H, encoder.memory_size, attention(name, H, encoder.memory_size), cell=cell,
        layers=layers, **options,
    )  # fmt: skip
    return EncoderDecoder(encoder, decoder).eval()


def batch(rows=3, steps=6):
    source = torch.randint(V, (rows, 9))
    lengths = torch.tensor([9, 4, 1])[:rows]
    previous = torch.randint(V, (rows, steps))
    previous[:, 0] = START
    return source, lengths, previous


# --- encoders ------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", ["gru", "lstm"])
@pytest.mark.parametrize("backwards", [False, True])
def test_a_row_is_read_as_it_would_be_alone(cell, backwards):
    encoder = Encoder(V, 5, H, cell=cell, layers=2, bidirectional=True, backwards=backwards)
    source, lengths, _ = batch()
    states, _, final = encoder(source, lengths)
    assert states.shape == (3, 9, 2 * H)
    assert final.shape == (2, 3, 2 * H)
    for row, length in enumerate(lengths.tolist()):
        alone = encoder(source[row : row + 1, :length], lengths[row : row + 1])
        torch.testing.assert_close(states[row, :length], alone.states[0], **CLOSE)
        torch.testing.assert_close(final[:, row], alone.final[:, 0], **CLOSE)
        assert not states[row, length:].any()


def test_final_is_each_directions_own_last_state():
    encoder = Encoder(V, 5, H, bidirectional=True)
    source, lengths, _ = batch()
    states, _, final = encoder(source, lengths)
    last = states[torch.arange(3), lengths - 1, :H]
    torch.testing.assert_close(final[0], torch.cat([last, states[:, 0, H:]], 1), **CLOSE)


def test_backwards_reads_from_the_end_and_keeps_the_places():
    forth = Encoder(V, 5, H)
    back = Encoder(V, 5, H, backwards=True)
    back.load_state_dict(forth.state_dict())
    source, lengths, _ = batch()
    turned = source.clone()
    for row, length in zip(turned, lengths.tolist(), strict=True):
        row[:length] = row[:length].flip(0)
    torch.testing.assert_close(reverse(source, lengths), turned)
    expected = forth(turned, lengths)
    found = back(source, lengths)
    torch.testing.assert_close(reverse(found.states, lengths), expected.states, **CLOSE)
    torch.testing.assert_close(found.final, expected.final, **CLOSE)


def test_a_pictures_regions_are_its_places():
    encoder = PictureEncoder(8, 12, (3, 4)).eval()
    picture = torch.zeros(1, 8, 12)
    states, lengths, final = encoder(picture)
    assert (encoder.rows, encoder.columns, encoder.memory_size) == (4, 6, 4)
    assert states.shape == (1, 24, 4)
    assert lengths.tolist() == [24]
    torch.testing.assert_close(final[0], states.mean(1))
    picture[0, 6, 0] = 1.0  # row 3 of the map, column 0
    changed = (encoder(picture).states - states).abs().sum(2)[0].unflatten(0, (4, 6)) > 0
    assert changed[3, 0]
    assert not changed[:2].any()
    assert not changed[:, 3:].any()


# --- decoders ------------------------------------------------------------------------------

SCORES = [None, "dot", "scaled_dot", "general", "additive", "location", "cosine", "monotone",
          "predicted"]  # fmt: skip


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize(("cell", "layers"), [("gru", 1), ("lstm", 2)])
@pytest.mark.parametrize("feeding", [False, True])
def test_steps_agree_with_all_at_once(name, cell, layers, feeding):
    if feeding and name is None:
        with pytest.raises(ValueError, match="input_feeding needs an attention"):
            model(name, cell, layers, input_feeding=True)
        return
    found = model(name, cell, layers, bidirectional=False, input_feeding=feeding)
    source, lengths, previous = batch()
    logits, weights = found(source, lengths, previous, need_weights=True)
    assert logits.shape == (3, 6, V)
    assert (weights is None) == (name is None)
    state = found.start(source, lengths)
    for step in range(previous.shape[1]):
        scores, state = found.step(previous[:, step], state)
        torch.testing.assert_close(scores, torch.log_softmax(logits[:, step], -1), **CLOSE)
    assert state.position == previous.shape[1]


def test_input_feeding_feeds():
    plain, fed = model(), model(input_feeding=True)
    source, lengths, previous = batch()
    state = fed.start(source, lengths)
    _, state = fed.step(previous[:, 0], state)
    other = state._replace(feed=state.feed + 1)
    assert not torch.allclose(
        fed.step(previous[:, 1], state)[0], fed.step(previous[:, 1], other)[0]
    )
    assert plain.start(source, lengths).feed is None


def test_scheduled_sampling():
    found = model()
    source, lengths, previous = batch()
    forced, _ = found(source, lengths, previous)
    torch.testing.assert_close(found.scheduled(source, lengths, previous, 1.0), forced, **CLOSE)
    # Never told the truth, it does not depend on it.
    other = previous.clone()
    other[:, 1:] = (previous[:, 1:] + 1) % V
    torch.manual_seed(1)
    one = found.scheduled(source, lengths, previous, 0.0)
    torch.manual_seed(1)
    two = found.scheduled(source, lengths, other, 0.0)
    torch.testing.assert_close(one, two, rtol=0, atol=0)
    one.sum().backward()
    assert found.encoder.embedding.weight.grad.any()


def test_unknown_cell():
    with pytest.raises(ValueError, match="cell should be one of gru, lstm, got: 'rnn'"):
        Encoder(V, 5, H, cell="rnn")
    with pytest.raises(ValueError, match="cell should be one of"):
        Decoder(V, 5, H, H, cell="rnn")


# --- beam search -----------------------------------------------------------------------------


def chain(vocabulary=4):
    """A Markov chain as a step function, its state the number of steps."""
    table = torch.log_softmax(2 * torch.randn(9, vocabulary, vocabulary), -1)

    def step(token, time):
        return table[time, token], time + 1

    def score(tokens):
        previous = [START, *tokens[:-1]]
        pairs = zip(previous, tokens, strict=True)
        return sum(table[t, a, b].item() for t, (a, b) in enumerate(pairs))

    return step, score, torch.zeros(1, dtype=torch.int64)


def every(vocabulary, limit):
    """All sequences that end, or are cut off."""
    others = [token for token in range(vocabulary) if token != END]
    for length in range(limit):
        for tokens in itertools.product(others, repeat=length):
            yield (*tokens, END)
    yield from itertools.product(others, repeat=limit)


@pytest.mark.parametrize("penalty", [0.0, 0.7])
def test_a_wide_beam_finds_the_best(penalty):
    step, score, state = chain()
    limit = 4
    found = beam_search(
        step, state, START, END, rows=1, beams=300, limit=limit, length_penalty=penalty
    )
    wanted = {t: score(t) / ((5 + len(t)) / 6) ** penalty for t in every(4, limit)}
    best = sorted(wanted, key=wanted.__getitem__, reverse=True)
    count = len(wanted)
    for place in range(count):
        tokens = found.tokens[0, place].tolist()
        length = int(found.lengths[0, place])
        assert tuple(tokens[: length + 1]) == best[place]
        assert set(tokens[length:]) <= {END}
        assert found.scores[0, place].item() == pytest.approx(wanted[best[place]])
    assert (found.scores[0, count:] == -math.inf).all()


def test_a_beam_of_one_is_greedy():
    found = model()
    source, lengths, _ = batch()
    arguments = {"rows": 3, "limit": 8}
    tokens, counted = greedy(found.step, found.start(source, lengths), START, END, **arguments)
    beams = beam_search(
        found.step, found.start(source, lengths), START, END, beams=1, select=found.select,
        **arguments,
    )  # fmt: skip
    torch.testing.assert_close(beams.tokens[:, 0], tokens)
    torch.testing.assert_close(beams.lengths[:, 0], counted)


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize(
    "make",
    [
        lambda: model("additive", "lstm", 2, input_feeding=True),
        lambda: model("general", "gru"),
        lambda: model(None, "gru"),
        lambda: Transformer(V, H, 3, 2).eval(),
    ],
    ids=["additive-lstm-feeding", "general-gru", "fixed-gru", "transformer"],
)
def test_each_beam_has_its_own_state(make, rows):
    """Scores are those of the tokens, read again from the start: no state went astray."""
    found = make()
    source, lengths, _ = batch(rows)
    beams = beam_search(
        found.step, found.start(source, lengths), START, END, rows=rows, beams=5, limit=6,
        select=found.select,
    )  # fmt: skip
    assert len({tuple(row) for row in beams.tokens[0].tolist()}) == 5
    for k in range(5):
        tokens = beams.tokens[:, k]
        previous = torch.nn.functional.pad(tokens[:, :-1], (1, 0), value=START)
        logits, _ = found(source, lengths, previous)
        each = torch.log_softmax(logits, -1).gather(2, tokens.unsqueeze(2)).squeeze(2)
        counts = torch.arange(tokens.shape[1]) <= beams.lengths[:, k].unsqueeze(1)
        torch.testing.assert_close((each * counts).sum(1), beams.scores[:, k], **CLOSE)


def test_beam_search_refuses_nothing_to_do():
    step, _, state = chain()
    with pytest.raises(ValueError, match="beams should be positive, got: 0"):
        beam_search(step, state, START, END, rows=1, beams=0, limit=3)


# --- Transformer -----------------------------------------------------------------------------


def test_sinusoids():
    found = sinusoids(3, 6, torch.zeros(()), start=5)
    for t in range(3):
        for i in range(3):
            angle = (5 + t) / 10000 ** (2 * i / 6)
            assert found[t, 2 * i].item() == pytest.approx(math.sin(angle), abs=1e-5)
            assert found[t, 2 * i + 1].item() == pytest.approx(math.cos(angle), abs=1e-5)
    with pytest.raises(ValueError, match="size should be even, got: 5"):
        sinusoids(3, 5, torch.zeros(()))


def test_transformer_steps_agree_with_all_at_once():
    found = Transformer(V, H, 3, 2).eval()
    source, lengths, previous = batch()
    logits, weights = found(source, lengths, previous, need_weights=True)
    torch.testing.assert_close(weights.sum(2), torch.ones(3, 6), **CLOSE)
    assert not weights[1, :, 4:].any()
    state = found.start(source, lengths)
    for step in range(previous.shape[1]):
        scores, state = found.step(previous[:, step], state)
        torch.testing.assert_close(scores, torch.log_softmax(logits[:, step], -1), **CLOSE)
    # What is behind the lengths, and what comes later, changes nothing.
    other = source.clone()
    other[1, 4:] = (source[1, 4:] + 1) % V
    later = previous.clone()
    later[:, 4:] = (previous[:, 4:] + 1) % V
    again, _ = found(other, lengths, later)
    torch.testing.assert_close(again[:, :4], logits[:, :4], **CLOSE)
    assert not torch.allclose(again[:, 4:], logits[:, 4:])


# --- pointer network --------------------------------------------------------------------------


@pytest.mark.parametrize("everyone", [False, True])
def test_pointer_steps_add_up_to_its_loss(everyone):
    found = PointerNetwork(2, H, all=everyone)
    points, lengths = torch.rand(2, 5, 2), torch.tensor([5, 3])
    target = torch.tensor([[3, 1, 5, 2, 4, 0], [2, 3, 1, 0, 0, 0]])
    if not everyone:
        target = torch.tensor([[3, 1, 5, 0], [2, 3, 0, 0]])
    loss = found(points, lengths, target)
    state, place, total, count = found.start(points, lengths), torch.zeros(2).long(), 0.0, 0
    for step in range(target.shape[1]):
        scores, state = found.step(place, state)
        place = target[:, step]
        for row in range(2):
            if 0 not in target[row, :step]:
                total, count = total - scores[row, place[row]].item(), count + 1
        assert (scores[1, 4:] == -math.inf).all()
    assert loss.item() == pytest.approx(total / count)
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in found.parameters())


def test_a_tour_visits_all_and_nothing_twice():
    found = PointerNetwork(2, H, all=True)
    points, lengths = torch.rand(2, 5, 2), torch.tensor([5, 3])
    tokens, counted = greedy(found.step, found.start(points, lengths), 0, 0, rows=2, limit=6)
    assert counted.tolist() == [5, 3]
    assert sorted(tokens[0, :5].tolist()) == [1, 2, 3, 4, 5]
    assert sorted(tokens[1, :3].tolist()) == [1, 2, 3]


def test_a_hull_points_at_nothing_twice():
    found = PointerNetwork(2, H)
    points, lengths = torch.rand(4, 5, 2), torch.tensor([5, 3, 1, 4])
    beams = beam_search(found.step, found.start(points, lengths), 0, 0, rows=4, beams=3, limit=6)
    for row, length in enumerate(lengths.tolist()):
        for tokens in beams.tokens[row][beams.scores[row] > -math.inf].tolist():
            places = [place for place in tokens if place]
            assert len(set(places)) == len(places)
            assert max(places, default=0) <= length


# --- state space ------------------------------------------------------------------------------


@pytest.mark.parametrize("recurrence", ["output", "both"])
@pytest.mark.parametrize("conditioning", ["none", "step"])
def test_feedback_reads_what_it_is_told_then_itself(recurrence, conditioning):
    found = StateSpace(1, 2, H, context=3, recurrence=recurrence, conditioning=conditioning)
    inputs, context, truth = torch.randn(2, 7, 1), torch.randn(2, 3), torch.randn(2, 7, 2)
    forced = found(inputs, context, truth)
    free = found(inputs, context)
    # Told its own outputs it does what it does alone.
    torch.testing.assert_close(found(inputs, context, free), free, **CLOSE)
    half = found(inputs, context, truth[:, :4])
    torch.testing.assert_close(half[:, :4], forced[:, :4], **CLOSE)
    again = torch.cat([truth[:, :4], half[:, 4:]], 1)
    torch.testing.assert_close(found(inputs, context, again)[:, 4:], half[:, 4:], **CLOSE)
    assert not torch.allclose(half[:, 5:], forced[:, 5:])


@pytest.mark.parametrize("conditioning", ["none", "initial", "step", "both"])
def test_context_comes_in_where_it_should(conditioning):
    found = StateSpace(1, 2, H, context=3, conditioning=conditioning)
    inputs, context = torch.randn(2, 5, 1), torch.randn(2, 3)
    out = found(inputs, context)
    assert out.shape == (2, 5, 2)
    assert torch.allclose(out, found(inputs, context + 1)) == (conditioning == "none")
    assert (found.first is not None) == (conditioning in ("initial", "both"))
    assert found.recurrent.input_size == (4 if conditioning in ("step", "both") else 1)


def test_state_space_refuses():
    with pytest.raises(ValueError, match="recurrence 'output' has no first state"):
        StateSpace(1, 2, H, context=3, conditioning="initial", recurrence="output")
    with pytest.raises(ValueError, match="conditioning should be one of"):
        StateSpace(1, 2, H, conditioning="always")
    with pytest.raises(ValueError, match="recurrence should be one of"):
        StateSpace(1, 2, H, recurrence="none")
