"""The short way of attention without gradients: the same numbers, and only where it may."""

import pytest
import torch
from equality import ISAS, use_isa

import fastrnn
from fastrnn import attention_cpp
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


@shapes
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_same_bits_as_the_general_way(case, dtype, general):
    *sizes, options = case
    q, k, v = (torch.randn(size).to(dtype) for size in sizes)
    views = [t.transpose(-3, -2).contiguous().transpose(-3, -2) for t in (q, k, v)]
    for isa in ISAS:
        with use_isa(isa):
            expected = F.attention(q, k, v, **options)
            assert len(general) == 1
            with torch.no_grad():
                for tensors in ((q, k, v), views):
                    found = F.attention(*tensors, **options)
                    assert found.shape == expected.shape and torch.equal(found, expected)
            assert len(general) == 1
            general.clear()


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
        assert went(lambda: F.attention(torch.nn.Parameter(q), k, v))
        with torch.autocast("cpu", torch.bfloat16):
            assert F.attention(q, k, v).dtype == torch.bfloat16
        with fastrnn.use_backend("reference"):
            assert not went(lambda: F.attention(q, k, v))
        assert F.attention(q[:, :0], k, v).shape == (2, 0, 8)
        assert not F.attention(q, k[:, :0], v[:, :0]).any()
    assert went(lambda: F.attention(q, k, v))


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
