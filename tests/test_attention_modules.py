"""The layers of attention: MultiheadAttention against torch's, and a decoder's attentions."""

import copy
import itertools

import pytest
import torch
from torch import nn

import fastrnn
from fastrnn import functional as F

LAYERS = {
    "plain": {},
    "nobias": {"bias": False},
    "bias_kv": {"add_bias_kv": True},
    "zero": {"add_zero_attn": True},
    "sizes": {"kdim": 6, "vdim": 10},
    "all": {"add_bias_kv": True, "add_zero_attn": True, "kdim": 6, "vdim": 10},
}
layers = pytest.mark.parametrize("options", LAYERS.values(), ids=LAYERS)


def pair(batch_first=False, **options):
    theirs = nn.MultiheadAttention(16, 4, batch_first=batch_first, dtype=torch.float64, **options)
    if options.get("bias", True):
        nn.init.normal_(theirs.in_proj_bias)
    ours = fastrnn.MultiheadAttention(
        16, 4, batch_first=batch_first, dtype=torch.float64, **options
    )
    ours.load_state_dict(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def inputs_of(layer, batch=3, queries=5, keys=7):
    def normal(length, width):
        size = (length, width) if batch is None else (batch, length, width)
        drawn = torch.randn(size, dtype=torch.float64)
        drawn = drawn if layer.batch_first or batch is None else drawn.transpose(0, 1)
        return drawn.requires_grad_()

    return normal(queries, layer.embed_dim), normal(keys, layer.kdim), normal(keys, layer.vdim)


def masks():
    causal = torch.triu(torch.ones(5, 7, dtype=torch.bool), 1)
    padding = torch.zeros(3, 7, dtype=torch.bool)
    padding[1, 4:] = True
    heads = torch.rand(12, 5, 7) < 0.3
    heads[:, :, 0] = False  # torch gives NaN where nothing is seen
    return {
        "none": {},
        "bool": {"attn_mask": causal},
        "numbers": {"attn_mask": torch.randn(5, 7, dtype=torch.float64)},
        "heads": {"attn_mask": heads},
        "padding": {"key_padding_mask": padding},
        "both": {"attn_mask": causal, "key_padding_mask": padding},
        "hint": {"attn_mask": causal, "is_causal": True},
        "hint_and_padding": {
            "attn_mask": causal, "is_causal": True, "key_padding_mask": padding,
        },
        "number_padding": {
            "attn_mask": torch.randn(5, 7, dtype=torch.float64),
            "key_padding_mask": padding.double().masked_fill(padding, -torch.inf),
        },
    }  # fmt: skip


def compare(ours, theirs, inputs, **call):
    results, gradients = [], []
    for layer in (ours, theirs):
        out, weights = layer(*inputs, **call)
        results.append((out, weights))
        total = out.sin().sum() + (0 if weights is None else weights.square().sum())
        gradients.append(torch.autograd.grad(total, [*inputs, *layer.parameters()]))
    torch.testing.assert_close(results[0][0], results[1][0])
    assert (results[0][1] is None) == (results[1][1] is None)
    if results[0][1] is not None:
        torch.testing.assert_close(results[0][1], results[1][1])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)


@layers
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("mask", masks())
def test_multihead_is_torchs(mask, batch_first, options):
    ours, theirs = pair(batch_first, **options)
    inputs = inputs_of(ours)
    given = masks()[mask]
    plain = not options
    for need_weights, average in ((True, True), (True, False), (False, True))[: 3 if plain else 1]:
        compare(
            ours, theirs, inputs, need_weights=need_weights, average_attn_weights=average,
            **given,
        )  # fmt: skip


@layers
def test_multihead_unbatched(options):
    ours, theirs = pair(**options)
    inputs = inputs_of(ours, batch=None)
    padding = torch.tensor([False] * 4 + [True] * 3)
    compare(ours, theirs, inputs)
    mask = torch.rand(4, 5, 7) < 0.2
    mask[:, :, 0] = False  # torch gives NaN where nothing is seen
    compare(ours, theirs, inputs, key_padding_mask=padding, attn_mask=mask)


@pytest.mark.parametrize("batch_first", [False, True])
def test_multihead_of_one_tensor(batch_first):
    ours, theirs = pair(batch_first)
    x, y = (torch.randn(3, 5, 16, dtype=torch.float64, requires_grad=True) for _ in range(2))
    for inputs in ((x, x, x), (x, y, y), (x, y, x)):
        results = [layer(*inputs)[0] for layer in (ours, theirs)]
        torch.testing.assert_close(*results)


def test_multihead_dropout():
    ours, _ = pair(dropout=0.5)
    inputs = inputs_of(ours)
    torch.manual_seed(0)
    out, weights = ours(*inputs, average_attn_weights=False)
    assert 0.3 < float((weights == 0).double().mean()) < 0.7
    kept, plain = weights != 0, ours.eval()(*inputs, average_attn_weights=False)[1]
    torch.testing.assert_close(weights[kept], 2 * plain[kept])
    ours.train()
    torch.manual_seed(0)
    assert torch.equal(out, ours(*inputs)[0])
    ours.eval()
    assert torch.equal(ours(*inputs)[0], ours(*inputs)[0])


def test_multihead_where_all_is_masked():
    ours, _ = pair()
    out, weights = ours(*inputs_of(ours), attn_mask=torch.ones(5, 7, dtype=torch.bool))
    assert not weights.any()
    torch.testing.assert_close(out, ours.out_proj.bias.expand_as(out))


@pytest.mark.parametrize(
    ("inputs", "call"),
    [
        (((3, 5, 16), (5, 16), (5, 16)), {}),
        (((3, 5, 12), (3, 5, 12), (3, 5, 12)), {}),
        (((3, 5, 16), (3, 7, 16), (3, 6, 16)), {}),
        (((3, 5, 16), (3, 7, 16), (3, 7, 16)), {"attn_mask": torch.zeros(5, 6)}),
        (((3, 5, 16), (3, 7, 16), (3, 7, 16)), {"attn_mask": torch.zeros(5, 5, 7)}),
        (((3, 5, 16), (3, 7, 16), (3, 7, 16)), {"attn_mask": torch.zeros(5, 7).int()}),
        (((3, 5, 16), (3, 7, 16), (3, 7, 16)), {"key_padding_mask": torch.zeros(7) > 0}),
        (((3, 5, 16), (3, 7, 16), (3, 7, 16)), {"key_padding_mask": torch.zeros(3, 6) > 0}),
    ],
)
def test_multihead_errors_are_torchs(inputs, call):
    found = []
    for layer in (nn.MultiheadAttention(16, 4, batch_first=True),
                  fastrnn.MultiheadAttention(16, 4, batch_first=True)):  # fmt: skip
        with pytest.raises((AssertionError, RuntimeError)) as error:
            layer(*(torch.randn(shape) for shape in inputs), **call)
        found.append(error)
    assert found[0].type is found[1].type
    assert str(found[1].value)[:16] == str(found[0].value)[:16]


def test_multihead_constructor_is_torchs():
    with pytest.raises(ValueError, match="must be greater than 0"):
        fastrnn.MultiheadAttention(0, 1)
    with pytest.raises(AssertionError, match="divisible"):
        fastrnn.MultiheadAttention(10, 3)
    with pytest.raises(ValueError, match="backend"):
        fastrnn.MultiheadAttention(16, 4, backend="abacus")


def test_multihead_compiles_in_one_graph():
    ours, theirs = pair(True)
    inputs = inputs_of(ours)
    compiled = torch.compile(ours, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*inputs)[0], theirs(*inputs)[0])


# --- convert --------------------------------------------------------------------------------


def transformer(**options):
    return nn.Transformer(16, 4, 2, 2, 32, 0.0, dtype=torch.float64, **options)


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_convert_a_transformer(training, batch_first):
    theirs = transformer(batch_first=batch_first).train(training)
    ours = fastrnn.convert(copy.deepcopy(theirs))
    kinds = [m for m in ours.modules() if isinstance(m, nn.MultiheadAttention)]
    assert len(kinds) == 6 and all(type(m) is fastrnn.MultiheadAttention for m in kinds)
    source, target = (torch.randn(4, 4, 16, dtype=torch.float64) for _ in range(2))
    mask = nn.Transformer.generate_square_subsequent_mask(4, dtype=torch.float64)
    padding = torch.zeros(4, 4, dtype=torch.bool)
    padding[1, 2:] = True
    for grad, fast in itertools.product((False, True), (False, True)):
        torch.backends.mha.set_fastpath_enabled(fast)
        try:
            with torch.set_grad_enabled(grad):
                found = [
                    model(source, target, tgt_mask=mask, src_key_padding_mask=padding,
                          memory_key_padding_mask=padding, tgt_is_causal=True)
                    for model in (ours, theirs)
                ]  # fmt: skip
        finally:
            torch.backends.mha.set_fastpath_enabled(True)
        torch.testing.assert_close(*found)


def test_convert_and_back():
    model = nn.ModuleDict({"a": nn.MultiheadAttention(8, 2), "b": nn.Linear(2, 2)})
    weight = model["a"].in_proj_weight
    fastrnn.convert(model)
    assert type(model["a"]) is fastrnn.MultiheadAttention
    assert model["a"].in_proj_weight is weight and model["a"].backend is None
    fastrnn.to_torch(model)
    assert type(model["a"]) is nn.MultiheadAttention
    assert model["a"].in_proj_weight is weight


# --- a decoder's attentions ------------------------------------------------------------------


@pytest.mark.parametrize(
    "score", ["dot", "scaled_dot", "general", "cosine", "additive", "location"]
)
def test_attention(score):
    layer = fastrnn.Attention(6, 6, score=score, positions=9 if score == "location" else None)
    query, memory = torch.randn(3, 4, 6, requires_grad=True), torch.randn(3, 9, 6)
    lengths = torch.tensor([9, 1, 5])
    context, weights = layer(query, memory, lengths)
    assert context.shape == (3, 4, 6) and weights.shape == (3, 4, 9)
    torch.testing.assert_close(weights.sum(-1), torch.ones(3, 4))
    torch.testing.assert_close(context, weights @ memory)
    assert not weights[1, :, 1:].any()
    projected = layer.project(memory, lengths)
    for t in range(4):
        one, found = layer(query[:, t], projected)
        torch.testing.assert_close(one, context[:, t])
        torch.testing.assert_close(found, weights[:, t])
    assert layer(query, memory, need_weights=False)[1] is None
    gradients = torch.autograd.grad(context.sum(), [query, *layer.parameters()])
    assert len(gradients) > len(list(layer.parameters()))


def test_additive_attention_is_its_formula():
    layer = fastrnn.Attention(5, 7, 6, normalize=True)
    nn.init.normal_(layer.bias)
    query, memory = torch.randn(2, 3, 5), torch.randn(2, 4, 7)
    hidden = (query @ layer.weight_query.t()).unsqueeze(2) + (
        memory @ layer.weight_key.t()
    ).unsqueeze(1)
    vector = layer.gain * layer.vector / layer.vector.norm()
    weights = torch.softmax(torch.tanh(hidden + layer.bias) @ vector, -1)
    context, found = layer(query, memory)
    torch.testing.assert_close(found, weights)
    torch.testing.assert_close(context, weights @ memory)


def test_location_aware_attention():
    layer = fastrnn.Attention(5, 7, 6, location_filters=3, location_kernel=5)
    query, memory = torch.randn(2, 5), torch.randn(2, 9, 7)
    _, first = layer(query, memory)
    assert first.shape == (2, 9)
    _, second = layer(query, memory, previous_weights=first)
    filtered = layer.location_proj(layer.location_conv(first.unsqueeze(1)).transpose(1, 2))
    hidden = query.unsqueeze(1) @ layer.weight_query.t() + memory @ layer.weight_key.t()
    expected = torch.softmax(torch.tanh(hidden + filtered + layer.bias) @ layer.vector, -1)
    torch.testing.assert_close(second, expected)
    with pytest.raises(ValueError, match="one query a call"):
        layer(query.unsqueeze(1).expand(2, 2, 5), memory)


def test_local_attention_around_the_step():
    layer = fastrnn.LocalAttention(6, 6, 2, predictive=False, score="dot")
    query, memory = torch.randn(2, 9, 6), torch.randn(2, 9, 6)
    context, weights = layer(query, memory)
    near = (torch.arange(9).unsqueeze(1) - torch.arange(9)).abs() <= 2
    assert ((weights != 0) == near).all()
    for t in range(9):
        one, found = layer(query[:, t], memory, start=t)
        torch.testing.assert_close(found, weights[:, t])
        torch.testing.assert_close(one, context[:, t])


def test_local_attention_with_a_predicted_centre():
    layer = fastrnn.LocalAttention(6, 8, 3)
    query, memory = torch.randn(2, 4, 6), torch.randn(2, 20, 8)
    lengths = torch.tensor([20, 11])
    _, weights = layer(query, memory, lengths)
    centre = layer.centre(query, layer.project(memory, lengths))
    hidden = torch.tanh(query @ layer.weight_centre.t()) @ layer.vector_centre
    torch.testing.assert_close(centre, lengths.unsqueeze(1) * torch.sigmoid(hidden))
    position = torch.arange(20)
    distance = position - centre.unsqueeze(-1)
    seen = (distance.abs() <= 3) & (position < lengths.view(2, 1, 1))
    score = (query @ layer.weight) @ memory.transpose(1, 2)
    expected = torch.softmax(score.masked_fill(~seen, -torch.inf), -1)
    expected = expected * torch.exp(-(distance**2) / (2 * 1.5**2))
    torch.testing.assert_close(weights, expected)
    weights.square().sum().backward()
    assert layer.vector_centre.grad.any()


def test_pointer_attention():
    layer = fastrnn.PointerAttention(5, 7)
    query, memory = torch.randn(3, 4, 5), torch.randn(3, 6, 7)
    lengths, target = torch.tensor([6, 2, 4]), torch.tensor([[0, 5, 1, 2], [0, 1, 1, 0], [3] * 4])
    log_probs = layer(query, memory, lengths)
    torch.testing.assert_close(log_probs.exp().sum(-1), torch.ones(3, 4))
    loss = layer.nll(query, memory, target, lengths)
    expected = -log_probs.gather(2, target.unsqueeze(-1)).mean()
    torch.testing.assert_close(loss, expected)
    assert layer(query[:, 0], memory).shape == (3, 6)
    assert layer.nll(query[:, 0], memory, target[:, 0], reduction="none").shape == (3,)


def test_pointer_and_local_layers_know_where_they_looked():
    """The location filters of either reach its weights, and learn."""
    query, memory = torch.randn(3, 5), torch.randn(3, 6, 7)
    looked = torch.softmax(torch.randn(3, 6), -1)
    options = {"score": "additive", "location_filters": 2, "location_kernel": 3}
    plain = fastrnn.Attention(5, 7, **options)
    _, expected = plain(query, memory, previous_weights=looked)
    pointer = fastrnn.PointerAttention(5, 7, **options)
    local = fastrnn.LocalAttention(5, 7, 6, predictive=False, **options)  # a window of all
    for layer in (pointer, local):
        layer.load_state_dict(plain.state_dict())
        found = layer(query, memory, previous_weights=looked)
        found = found.exp() if layer is pointer else found[1]
        torch.testing.assert_close(found, expected)
        found[:, 0].sum().backward()
        assert layer.location_conv.weight.grad.any() and layer.location_proj.weight.grad.any()
    target = torch.tensor([0, 5, 2])
    loss = pointer.nll(query, memory, target, previous_weights=looked)
    torch.testing.assert_close(loss, -expected.log()[range(3), target].mean())
    with pytest.raises(ValueError, match="distribution, which has no dropout"):
        fastrnn.PointerAttention(5, 7, dropout=0.1)


@pytest.mark.parametrize("kind", ["Attention", "LocalAttention", "PointerAttention"])
def test_a_mask_of_one_step(kind):
    """``[B, Tk]`` without Tq, as the weights of one step have it."""
    layer = getattr(fastrnn, kind)(5, 7, *([6] if kind == "LocalAttention" else []))
    query, memory = torch.randn(3, 5), torch.randn(3, 6, 7)
    mask = torch.rand(3, 6) > 0.3
    mask[:, 2] = True
    step = layer(query, memory, attn_mask=mask)
    steps = layer(query.unsqueeze(1), memory, attn_mask=mask.unsqueeze(1))
    for a, b in zip(step, steps, strict=True):
        torch.testing.assert_close(a, b.squeeze(1) if kind != "PointerAttention" else b[0])


def test_what_a_layer_says_it_is():
    options = {"attention_size": 3, "bias": False, "normalize": True, "dropout": 0.2}
    for layer, text in (
        (fastrnn.Attention(5, 7), "5, 7, attention_size=5, score='additive'"),
        (
            fastrnn.Attention(5, 7, **options),
            "5, 7, attention_size=3, score='additive', bias=False, normalize=True, dropout=0.2",
        ),
        (
            fastrnn.LocalAttention(5, 7, 4, predictive=False),
            "5, 7, score='general', window=4, predictive=False",
        ),
    ):
        assert layer.extra_repr() == text


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"score": "cubic"}, "score should be one of"),
        ({"score": "dot"}, "to be the same"),
        ({"score": "location"}, "needs positions"),
        ({"dropout": 2.0}, "probability"),
        ({"score": "general", "location_filters": 2}, 'score="additive"'),
        ({"backend": "abacus"}, "backend should be"),
    ],
)
def test_attention_constructor_errors(options, match):
    with pytest.raises(ValueError, match=match):
        fastrnn.Attention(5, 7, **options)


@pytest.mark.parametrize("kind", ["Attention", "PointerAttention"])
def test_errors_name_the_arguments_of_the_layer(kind):
    layer = getattr(fastrnn, kind)(8, 6)
    query, memory = torch.randn(2, 3, 8), torch.randn(2, 5, 6)
    same_batch = r"query and memory to have the same batch size, got \[2, 3, 8\] and \[3, 5, 6\]"
    for arguments, error, match in (
        ((query, torch.randn(3, 5, 6)), RuntimeError, same_batch),
        ((query, memory.double()), RuntimeError, "memory of torch.float32, got torch.float64"),
        ((query.double(), memory), RuntimeError, "query and memory to have the same dtype"),
        ((query, memory, torch.tensor([1, 2, 3])), RuntimeError, r"lengths size \[2\], got \[3\]"),
        ((query, memory, torch.tensor([1, 6])), ValueError, "lengths should be between 0 and"),
        ((query, memory, [1, 2]), TypeError, "'lengths' must be Tensor, not list"),
        ((None, memory), TypeError, "'query' must be Tensor, not NoneType"),
        ((query, None), TypeError, "'memory' must be Tensor, not NoneType"),
    ):
        with pytest.raises(error, match=match):
            layer(*arguments)
    layer(query[:1], memory)  # one query for all memories


def test_errors_of_a_pointer_layers_target():
    layer, memory = fastrnn.PointerAttention(8, 6), torch.randn(2, 5, 6)
    for query, target, match in (
        (torch.randn(2, 3, 8), torch.zeros(2, 4).long(), r"size \[2, 3\], got .* \[2, 4\]"),
        (torch.randn(2, 8), torch.zeros(2, 1).long(), r"size \[2\], got .* \[2, 1\]"),
        (torch.randn(2, 8), torch.zeros(2), "target to be int64"),
    ):
        with pytest.raises(RuntimeError, match=match):
            layer.nll(query, memory, target)


def test_previous_weights_of_the_wrong_size():
    layer = fastrnn.Attention(8, 6, location_filters=2, location_kernel=3)
    with pytest.raises(RuntimeError, match=r"previous_weights size \[2, 5\].*got \[2, 4\]"):
        layer(torch.randn(2, 8), torch.randn(2, 5, 6), previous_weights=torch.ones(2, 4))


def test_attention_call_errors():
    layer = fastrnn.Attention(5, 7)
    query, memory = torch.randn(2, 3, 5), torch.randn(2, 4, 7)
    with pytest.raises(RuntimeError, match="Expected query size"):
        layer(memory, memory)
    with pytest.raises(RuntimeError, match="Expected memory size"):
        layer(query, query)
    with pytest.raises(ValueError, match="given to project"):
        layer(query, layer.project(memory), torch.tensor([1, 2]))
    with pytest.raises(ValueError, match="location_filters"):
        layer(query, memory, previous_weights=torch.zeros(2, 4))


# --- errors of the functional form ------------------------------------------------------------

Q, K = torch.randn(2, 4, 5, 8), torch.randn(2, 4, 7, 8)
LENGTHS = torch.tensor([3, 7])


@pytest.mark.parametrize(
    ("arguments", "options", "kind", "match"),
    [
        ((Q[0, 0, 0], K, K), {}, RuntimeError, "at least 2 dimensional"),
        ((Q, K[..., :7], K), {}, RuntimeError, "same size in their last dimension"),
        ((Q, K, K[:, :, :6]), {}, RuntimeError, "same sequence length"),
        ((Q, K.double(), K), {}, RuntimeError, "to have the same dtype.*key.dtype: double"),
        ((Q, K.to("meta"), K), {}, RuntimeError, "to have the same device"),
        ((Q.int(), K.int(), K.int()), {}, RuntimeError, "floating point"),
        ((Q, K[:, :3], K[:, :3]), {}, RuntimeError, r"tensor a \(4\).*tensor b \(3\)"),
        ((Q, K[:, :3], K[:, :3]), {"enable_gqa": True}, RuntimeError, "must divide"),
        ((Q, K, K, torch.ones(5, 6) > 0), {}, RuntimeError, r"tensor a \(7\).*tensor b \(6\)"),
        ((Q, K, K, torch.ones(5, 7).int()), {}, RuntimeError, "attn_mask dtype to be bool"),
        ((Q, K, K, torch.ones(3, 2, 4, 5, 7)), {}, RuntimeError, "broadcastable"),
        ((Q, K, K, "mask"), {}, TypeError, "'attn_mask' must be Tensor, not str"),
        ((Q, K, K, None, 1.5), {}, RuntimeError, "dropout probability has to be between 0 and 1"),
        ((Q, K, K), {"scale": "x"}, TypeError, "'scale' must be float"),
        ((Q, K, K), {"is_causal": 1}, TypeError, "'is_causal' must be bool"),
        ((Q, K, K), {"score": "cubic"}, ValueError, "score should be one of"),
        ((Q, K, K), {"weight": Q}, TypeError, "takes no argument 'weight'"),
        ((Q, K, K), {"score": "additive"}, ValueError, "needs the argument 'vector'"),
        ((Q, K, K), {"score": "additive", "vector": torch.ones(7)}, RuntimeError, "as wide as"),
        ((Q, K, K), {"score": "general", "weight": torch.ones(8, 7)}, RuntimeError, "weight size"),
        ((Q, K, K), {"score": "general", "weight": 3}, TypeError, "'weight' must be Tensor"),
        ((Q, K, K), {"score": "location", "weight": torch.ones(6, 8)}, RuntimeError, "at least 7"),
        ((Q, None, K), {}, TypeError, "must be Tensor, not NoneType"),
        ((Q, K, K), {"window": -1}, ValueError, "should not be negative"),
        ((Q, K, K), {"window": (1, -2)}, ValueError, "should not be negative"),
        ((Q, K, K), {"window": (1, 2, 3)}, ValueError, "one number or two"),
        ((Q, K, K), {"window": 1.5}, TypeError, "'window' must be int"),
        ((Q, K, K), {"softcap": 0}, ValueError, "softcap should be a positive"),
        ((Q, K, K), {"causal_alignment": "left"}, ValueError, "causal_alignment should be"),
        ((Q, K, K), {"seed": 1.5, "dropout_p": 0.1}, TypeError, "'seed' must be int"),
        ((Q, K, K), {"lengths_k": LENGTHS + 1}, ValueError, "between 0 and .* 7, got 8"),
        ((Q, K, K), {"lengths_k": -LENGTHS}, ValueError, "got -7"),
        ((Q, K, K), {"lengths_k": LENGTHS.float()}, RuntimeError, "int32 or int64"),
        ((Q, K, K), {"lengths_q": LENGTHS[:1]}, RuntimeError, r"lengths_q size \[2\]"),
        ((Q, K, K), {"cu_seqlens_q": LENGTHS}, ValueError, "given together"),
        ((Q, K, K), {"width": 2.0}, ValueError, "only with a centre"),
        ((Q, K, K), {"centre": torch.ones(5)}, ValueError, "needs a window"),
        ((Q, K, K), {"centre": torch.ones(4), "window": 2}, RuntimeError, "centre broadcastable"),
        ((Q, K, K), {"centre": torch.ones(5), "width": -1.0}, ValueError, "width should be"),
        ((Q, K, K), {"backend": "abacus"}, ValueError, "backend should be one of"),
        ((Q, K, K), {"score": ["dot"]}, ValueError, "score should be one of"),
        ((Q, K, K), {"scale": 10**400}, ValueError, "scale should be .* got about 2"),
        ((Q, K, K), {"dropout_p": None}, TypeError, "'dropout_p' must be float, not NoneType"),
        ((Q, K, K), {"centre": torch.ones(5), "width": "2"}, TypeError, "'width' must be float"),
        ((Q.to_sparse(), K, K), {}, RuntimeError, "to be strided, but got torch.sparse_coo"),
    ],
)
def test_errors(arguments, options, kind, match):
    with pytest.raises(kind, match=match):
        F.attention(*arguments, **options)


@pytest.mark.parametrize(
    ("starts", "kind", "match"),
    [
        ([1, 3, 5], ValueError, "start with 0"),
        ([0, 4, 3], ValueError, "ascending"),
        ([0, 4, 6], ValueError, "end at the sequence length 5"),
        ([[0, 4]], RuntimeError, "one dimension"),
    ],
)
def test_errors_of_packed_sequences(starts, kind, match):
    with pytest.raises(kind, match=match):
        F.attention(
            Q[0],
            K[0],
            K[0],
            cu_seqlens_q=torch.tensor(starts),
            cu_seqlens_k=torch.tensor([0, 3, 7]),
        )


def test_packed_sequences_are_no_batch():
    starts = torch.tensor([0, 5])
    with pytest.raises(RuntimeError, match="got a batch of 2"):
        F.attention(Q, K, K, cu_seqlens_q=starts, cu_seqlens_k=starts)


def test_errors_of_a_pointers_target():
    q, k = torch.randn(2, 3, 8), torch.randn(2, 4, 8)
    for target, kind in (
        (torch.zeros(2, 3), RuntimeError),
        (torch.zeros(2, 2).long(), RuntimeError),
        (torch.full((2, 3), 4), IndexError),
        (torch.full((2, 3), -1), IndexError),
        ([0, 1, 2], TypeError),
    ):
        with pytest.raises(kind):
            F.pointer_nll(q, k, target, score="dot")
    with pytest.raises(ValueError, match="reduction"):
        F.pointer_nll(q, k, torch.zeros(2, 3).long(), score="dot", reduction="max")
    no_keys, ignored = k[:, :0], torch.full((2, 3), -100)
    assert not F.pointer_nll(q, no_keys, ignored, score="dot", reduction="sum")
    with pytest.raises(IndexError):
        F.pointer_nll(q, no_keys, ignored + 100, score="dot")


@pytest.mark.parametrize("window", [2**62, 2**63, (10**30, None), (3, 2**63 - 1)])
@pytest.mark.parametrize("centred", [False, True])
def test_a_window_wider_than_any_number(window, centred):
    options = {"centre": torch.ones(5), "width": 2.0} if centred else {}
    before = None if isinstance(window, int) or window[0] != 3 else 3
    out = F.attention(Q, K, K, window=window, **options)
    assert torch.equal(out, F.attention(Q, K, K, window=(before, None), **options))


def test_what_lies_out_of_the_keys_is_cut():
    # Where numbers are not at hand (here: under vmap) nobody checks them.
    lengths = torch.tensor([[5, 2**40], [-3, 2]])
    found = torch.func.vmap(
        lambda n: F.attention(Q, K, K, lengths_k=n, window=2_000_000_000)
    )(lengths)  # fmt: skip
    assert found.isfinite().all()
    torch.testing.assert_close(found[0, 1], F.attention(Q, K, K)[1])
    assert not found[1, 0].any()
