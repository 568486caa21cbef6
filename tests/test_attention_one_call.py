"""Attention in one call: the same numbers as the general way's, and only where it may."""

import pytest
import torch
from equality import ISAS, use_isa

import fastrnn
from fastrnn import attention_cpp, attention_one_call
from fastrnn import functional as F

SHAPES = {  # query, key, value, options
    "decode": ((2, 4, 1, 64), (2, 4, 300, 64), (2, 4, 300, 64), {}),
    "few": ((2, 4, 3, 24), (2, 4, 130, 24), (2, 4, 130, 20), {}),
    "tiles": ((1, 2, 140, 33), (1, 2, 150, 33), (1, 2, 150, 8), {"scale": 0.3}),
    "causal": ((2, 2, 140, 16), (2, 2, 70, 16), (2, 2, 70, 16), {"is_causal": True}),
    "grouped": ((2, 6, 5, 16), (2, 2, 9, 16), (2, 2, 9, 16), {"enable_gqa": True}),
    "three": ((3, 5, 16), (3, 9, 16), (3, 9, 8), {"score": "dot"}),
}
shapes = pytest.mark.parametrize("case", SHAPES.values(), ids=SHAPES)


@pytest.fixture
def general(monkeypatch):
    """Calls of the general way are counted."""
    calls = []
    original = attention_cpp.attention
    monkeypatch.setattr(
        attention_cpp, "attention", lambda inputs: calls.append(0) or original(inputs)
    )
    return calls


def generally(*arguments, **options):
    """The same by the general way."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention_one_call, "attention", lambda *_: None)
        return F.attention(*arguments, **options)


@shapes
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_same_bits_as_the_general_way(case, dtype, general):
    *sizes, options = case
    q, k, v = (torch.randn(size).to(dtype) for size in sizes)
    views = [t.transpose(-3, -2).contiguous().transpose(-3, -2) for t in (q, k, v)]
    for isa in ISAS:
        with use_isa(isa):
            expected = generally(q, k, v, **options)
            assert len(general) == 1
            for grad in (False, True):
                for tensors in ((q, k, v), views):
                    with torch.set_grad_enabled(grad):
                        found = F.attention(*(t.requires_grad_(grad) for t in tensors), **options)
                    assert found.requires_grad == grad
                    assert found.shape == expected.shape and torch.equal(found, expected)
            assert len(general) == 1
            general.clear()


GRADIENTS = SHAPES | {
    "one step": ((3, 1, 16), (3, 9, 16), (3, 9, 8), {"lengths_k": [9, 0, 4]}),
    "causal lengths": (
        (3, 2, 9, 16), (3, 2, 9, 16), (3, 2, 9, 8), {"lengths_k": [9, 0, 4], "is_causal": True}
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", GRADIENTS.values(), ids=GRADIENTS)
@pytest.mark.parametrize("score", ["scaled_dot", "additive", "additive, a vector a head"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_gradients_are_the_general_way_s(case, score, dtype, general):
    """Those of query, key and value to the bit; a vector's is summed in another order."""
    *sizes, options = case
    tensors = [torch.randn(size).to(dtype).requires_grad_() for size in sizes]
    options = options | {"return_weights": True}
    if "lengths_k" in options:
        options["lengths_k"] = torch.tensor(options["lengths_k"])
    if score != "scaled_dot":
        heads = tensors[0].shape[1:2] if tensors[0].dim() == 4 and "head" in score else ()
        tensors.append(torch.randn(*heads, sizes[0][-1]).to(dtype).requires_grad_())
        options["score"] = "additive"

    def run(function, tensors):
        out, weights = function(*tensors[:3], **options, vector=(*tensors, None)[3])
        count = len(general)
        found = [out, weights]
        for loss in (out.sum(), (out * out + out).sum(), (weights * weights).sum() + out.sum()):
            found += torch.autograd.grad(loss, tensors, retain_graph=True)
        assert len(general) == count
        return [each.detach() for each in found]

    expected, found = run(generally, tensors), run(F.attention, tensors)
    assert len(general) == 1
    exact = run(generally, [tensor.detach().double().requires_grad_() for tensor in tensors])
    for index, (a, b, c) in enumerate(zip(found, expected, exact, strict=True)):
        if (index - 2) % len(tensors) == 3:
            floor = 8 * torch.finfo(dtype).eps * c.abs().max()
            assert (a.double() - c).abs().max() <= (b.double() - c).abs().max() + floor, index
        else:
            assert torch.equal(a, b), index


def test_differentiated_again_and_mapped():
    torch.manual_seed(0)
    lengths = torch.tensor([3, 1])
    tensors = [
        torch.randn(*size, dtype=torch.float64, requires_grad=True)
        for size in ((2, 2, 3), (2, 3, 3), (2, 3, 2), (3,))
    ]

    def call(q, k, v, vector):
        return F.attention(
            q, k, v, score="additive", vector=vector, lengths_k=lengths, return_weights=True
        )

    assert torch.autograd.gradcheck(call, tensors, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(call, tensors)
    q = tensors[0]
    out = F.attention(q, q, q)  # one tensor in three places
    (expected,) = torch.autograd.grad(generally(q, q, q).sum(), q, create_graph=True)
    (found,) = torch.autograd.grad(out.sum(), q, create_graph=True)
    torch.testing.assert_close(found, expected)
    for each in (found, expected):
        assert each.requires_grad


def test_of_the_weights_alone_by_the_reference():
    q, k, v = (torch.randn(2, n, 4, requires_grad=True) for n in (3, 5, 5))
    with fastrnn.use_backend("reference"):
        expected = F.attention(q, k, v, return_weights=True, scale=0.5)[1]
    of_both = [q, k]
    upstream = torch.randn_like(expected)
    expected = torch.autograd.grad(expected, of_both, upstream)
    weights = F.attention(q, k, v, return_weights=True)[1]
    with fastrnn.use_backend("reference"):
        found = torch.autograd.grad(weights, of_both, upstream, create_graph=True)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_autocast_begun_after_the_forward():
    q, k, v = (torch.randn(2, n, 8, requires_grad=True) for n in (3, 5, 5))
    out = F.attention(q, k, v)
    expected = torch.autograd.grad(out.sum(), (q, k, v), retain_graph=True)
    with torch.autocast("cpu", torch.bfloat16):
        found = torch.autograd.grad(out.sum(), (q, k, v), create_graph=True)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("queries", [2, 9])
@pytest.mark.parametrize("size", [64, 300])
def test_one_key_has_the_whole_weight(queries, size):
    """However large its score, and whatever its rounding: that is the same twice."""
    q, k, v = (20 * torch.randn(3, n, size) for n in (queries, 1, 1))
    for isa in ISAS:
        with use_isa(isa):
            weights = F.attention(q, k, v, scale=1.7, return_weights=True)[1]
        assert torch.equal(weights, torch.ones(3, queries, 1)), isa


@pytest.mark.parametrize("isa", ISAS)
def test_weights_of_large_scores(isa):
    """Against float64's softmax of the same scores, at the rounding of scores in the thousands."""
    torch.manual_seed(0)
    q, k, v = 1e3 * torch.randn(4, 3, 8), torch.randn(4, 5, 8), torch.randn(4, 5, 8)
    with use_isa(isa):
        weights = F.attention(q, k, v, return_weights=True)[1].double()
    exact = torch.softmax(q.double() @ k.double().transpose(1, 2) / 8**0.5, -1)
    torchs = torch.softmax(q @ k.transpose(1, 2) / 8**0.5, -1).double()
    eps = torch.finfo(torch.float32).eps
    assert (weights - exact).abs().max() <= 2 * (torchs - exact).abs().max() + eps
    torch.testing.assert_close(weights.sum(-1), torch.ones(4, 3).double(), atol=8 * eps, rtol=0)


def test_a_module_s_step_is_one_call(general):
    layer = fastrnn.Attention(6, 5, 8)
    memory, query = torch.randn(3, 7, 5), torch.randn(3, 6, requires_grad=True)
    projected = layer.project(memory, torch.tensor([7, 2, 0]))
    for need_weights in (False, True):
        context, _ = layer(query, projected, need_weights=need_weights)
        context.sum().backward(retain_graph=True)
    assert not general
    assert layer.vector.grad is not None and layer.weight_query.grad is not None


def test_who_watches_goes_the_general_way(general):
    q, k, v = (torch.randn(2, 3, 8) for _ in range(3))
    count = 0

    def went(call):
        nonlocal count
        before, count = count, len(general)
        call()
        before, count = count, len(general)
        return count > before

    with torch.no_grad():
        assert not went(lambda: F.attention(q, k, v))
        assert went(lambda: torch.func.vmap(F.attention)(q, k, v))
        assert went(lambda: F.attention(q, k, v, window=1))
        assert went(lambda: F.attention(q, k, v, dropout_p=0.5))
        assert went(lambda: F.attention(q, k, v, return_lse=True))
        assert went(lambda: F.attention(q, k, v, causal_alignment="bottom_right", is_causal=True))
        assert went(lambda: F.attention(q[:1], k, v))  # broadcast
        assert went(lambda: F.attention(q[..., ::2], k[..., ::2], v))
        assert not went(lambda: F.attention(torch.nn.Parameter(q), k, v))
        with torch.autocast("cpu", torch.bfloat16):
            assert F.attention(q, k, v).dtype == torch.bfloat16
        with fastrnn.use_backend("reference"):
            assert not went(lambda: F.attention(q, k, v))
        assert F.attention(q[:, :0], k, v).shape == (2, 0, 8)
        assert not F.attention(q, k[:, :0], v[:, :0]).any()
    assert not went(lambda: F.attention(q, k, v))
    assert went(lambda: torch.func.grad(lambda q: F.attention(q, k, v).sum())(q))


@pytest.mark.parametrize(
    ("change", "kind", "match"),
    [
        (lambda q, k, v: (q, k[..., :7], v), RuntimeError, "same size in their last dimension"),
        (lambda q, k, v: (q, k, v[..., :6, :]), RuntimeError, "same sequence length"),
        (lambda q, k, v: (q, k.double(), v), RuntimeError, "same dtype"),
        (lambda q, k, v: (q, k[:, :1].expand(2, 3, 7, 8), v), RuntimeError, "must match"),
        (lambda q, k, v: (q[0, 0, 0], k, v), RuntimeError, "at least 2 dimensional"),
        (lambda q, k, v: (q.int(), k.int(), v.int()), RuntimeError, "floating point"),
        (lambda q, k, v: (None, k, v), TypeError, "must be Tensor"),
    ],
)
def test_errors_have_the_general_words(change, kind, match):
    tensors = (torch.randn(2, 2, 5, 8), torch.randn(2, 2, 7, 8), torch.randn(2, 2, 7, 8))
    with torch.no_grad(), pytest.raises(kind, match=match):
        F.attention(*change(*tensors))
