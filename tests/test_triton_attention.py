"""Attention's Triton kernels by Triton's interpreter, against the rule of `tests/equality.py`.

Tiles are small here, so that few numbers are several tiles: 16 queries, 32 or 64 keys. Heads are
wide enough for one draw to be no matter of luck.
"""

import contextlib
import functools
from dataclasses import replace

import pytest
import test_attention_equality
import torch

pytest.importorskip("triton")

from equality import threads
from test_attention_equality import OPTIONS, Case, assert_equal, call_fastrnn, draw, run

from fastrnn import functional as F
from fastrnn import gpu, use_backend
from fastrnn.gpu import attention_call
from fastrnn.gpu.attention_plan import Tiles

if not gpu.INTERPRETED:
    pytest.skip("TRITON_INTERPRET is off: a GPU is here", allow_module_level=True)

call_triton = functools.partial(call_fastrnn, backend="triton")
F32, BF16, F16 = torch.float32, torch.bfloat16, torch.float16


@pytest.fixture(autouse=True)
def tiles(monkeypatch):
    """``tiles(**changes)``: serve all passes with these; returns the passes that were asked for."""
    used = []

    def force(**changes):
        def forced(problem, device, which):
            used.append(which)
            return replace(Tiles(16, 32, 4, 1, "asked for"), **changes)

        monkeypatch.setattr(attention_call, "choose", forced)
        return used

    force()
    return force


def hold(case, draws=1):
    assert_equal(case, ("",), call_triton, draws)


@pytest.fixture(autouse=True)
def any_isa(monkeypatch):
    """The rule's loop over instruction sets has one round, of none."""
    monkeypatch.setattr(test_attention_equality, "use_isa", lambda isa: contextlib.nullcontext())


# --- the rule -------------------------------------------------------------------------------

# Those whose masks have sizes of their own, for one sequence of 17 queries and 33 keys.
_SMALL = {
    "mask": ("mask=1,1,17,33",),
    "key_bias": ("mask=1,1,1,33", "return_weights"),
    "head_bias": ("mask=2,17,33", "softcap=2"),
    "query_bias": ("mask=1,2,17,1", "return_lse", "dropout=0.2"),
}
# What one dtype and score show, others do as well: the arithmetic is float32's in all of them.
_FOR_FLOAT32 = {"dot": [*OPTIONS], "additive": ["bottom_right", "query_bias", "everything"]}
_FOR_OTHERS = {BF16: ["causal", "head_bias"], F16: ["window", "everything"]}
CASES = [(score, F32, name) for score, names in _FOR_FLOAT32.items() for name in names]
CASES += [
    (score, dtype, name)
    for dtype, names in _FOR_OTHERS.items()
    for score, name in zip(("dot", "additive"), names, strict=True)
]


@pytest.mark.parametrize(("score", "dtype", "name"), CASES, ids=str)
def test_options(score, dtype, name, tiles):
    if "dropout" in "".join(OPTIONS[name]) and score == "dot":
        tiles(block_n=64)  # where four keys' bits come from one counter
    options = _SMALL.get(name, OPTIONS[name])
    hold(Case(dtype, score, 17, 33, 1, 2, width=16, value_width=9, options=options))


@pytest.mark.parametrize("dtype", [F32, BF16], ids=str)
@pytest.mark.parametrize("score", ["general", "cosine", "location", "scaled_dot"])
def test_scores(score, dtype):
    hold(Case(dtype, score, 18, 34, 1, 2, width=16, value_width=4, options=("window=9,3",)))


# Around the tiles of 16 queries and 32 keys, and where there is but one.
@pytest.mark.parametrize(
    ("score", "queries", "keys"),
    [("dot", 15, 31), ("dot", 16, 32), ("dot", 17, 65), ("dot", 1, 33), ("dot", 33, 1),
     ("additive", 16, 64), ("additive", 15, 33), ("additive", 17, 1)],
)  # fmt: skip
def test_sizes_around_the_tiles(score, queries, keys, monkeypatch):
    width, value_width = (16, 17) if queries % 2 else (17, 0)
    if keys == 1:
        # The weight is 1 and the score's gradient nothing but the rounding of two sums of a value's
        # width, one of them in another order (docs/performance.md, attention, 14).
        floor = test_attention_equality.FLOOR
        more = (value_width or width) * torch.finfo(F32).eps
        monkeypatch.setitem(floor, F32, floor[F32] + more)
    options = ("causal=bottom_right", "return_lse")
    if not value_width:
        options = (*options, "return_weights")
    hold(Case(F32, score, queries, keys, 1, 1, width=width, value_width=value_width,
              options=options))  # fmt: skip


@pytest.mark.parametrize("score", ["dot", "additive"])
def test_grouped_heads(score):
    hold(Case(F32, score, 17, 33, 1, 4, 2, 8, 3, ("causal",)))


@pytest.mark.parametrize("score", ["dot", "additive"])
def test_sums_over_wide_heads_in_parts(score, tiles):
    tiles(part=16)
    hold(Case(F32, score, 17, 33, 1, 2, width=20, value_width=33, options=("window=9,20",)))


def test_packed_sequences():
    hold(Case(F32, "dot", 40, 50, 1, 2, width=16, options=("cu_seqlens", "causal")))


def test_additive_over_many_numbers():
    case = Case(F32, "additive", 16, 32, 1, 1, width=256, options=("return_lse",))
    hold(case, draws=3)


@pytest.mark.parametrize("size", [0.01, 3.0, 30.0])
def test_additive_on_both_sides_of_the_guard(size):
    hold(Case(F32, "additive", 16, 33, 1, 2, width=16, options=(f"big={size}",)))


def test_pairs_are_an_option(monkeypatch):
    monkeypatch.setattr(attention_call, "PAIRED", False)
    hold(Case(F32, "additive", 16, 33, 1, 2, width=16))


# --- few queries ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("score", "queries", "kv_heads", "changes"),
    [
        ("dot", 1, 0, {"block_m": 1, "splits": 3}),
        ("dot", 3, 1, {"together": True, "splits": 2}),
        ("additive", 1, 0, {"block_m": 1, "splits": 2}),
        ("additive", 2, 1, {"block_m": 1, "block_n": 8}),
    ],
)
def test_few_queries(score, queries, kv_heads, changes, tiles):
    backward = {"block_m": changes.get("block_m", 16)}

    def forced(problem, device, which):
        return replace(Tiles(16, 32, 4, 1, ""), **(changes if which == "forward" else backward))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention_call, "choose", forced)
        options = ("lengths", "return_lse") if kv_heads else ("return_lse", "dropout=0.2")
        hold(Case(F32, score, queries, 130, 1, 2, kv_heads, 16, 3, options))


def test_parts_without_a_key_weigh_nothing(tiles):
    tiles(splits=4)
    tensors, options = draw(Case(F32, "dot", 2, 40, 1, 2, width=4), 1)
    options |= {"lengths_k": torch.tensor([3]), "lengths_q": torch.tensor([1])}
    found, expected = (
        F.attention(*tensors, **options, return_lse=True, backend=name)
        for name in ("triton", "reference")
    )
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)


# --- what the rule does not see -------------------------------------------------------------


@pytest.mark.parametrize("block_n", [32, 64])
def test_dropout_is_that_of_the_cpu(block_n, tiles):
    tiles(block_n=block_n)
    q, k, v = (torch.randn(1, 2, t, 4) for t in (17, 130, 130))
    weights = [
        F.attention(q, k, v, None, 0.4, seed=2**63 + 5, return_weights=True, backend=backend)[1]
        for backend in ("triton", "reference")
    ]
    assert torch.equal(weights[0] == 0, weights[1] == 0)


@pytest.mark.parametrize("mask", ["bool", "numbers", "range"])
def test_a_query_that_sees_nothing_gives_zero(mask):
    tensors, options = draw(Case(F32, "dot", 5, 9, 1, 2), 2)
    seen = torch.ones(5, 9, dtype=torch.bool)
    seen[2] = False
    if mask == "bool":
        options["attn_mask"] = seen
    elif mask == "numbers":
        options["attn_mask"] = torch.zeros(5, 9).masked_fill(~seen, -torch.inf)
    else:
        options["lengths_q"] = torch.tensor([2])
    options |= {"return_weights": True, "return_lse": True}
    found = run(call_triton, tensors, options, 2)
    where = (0, slice(None), 2)
    assert not found["result 0"][where].any()
    assert not found["result 1"][where].any()
    assert (found["result 2"][where] == -torch.inf).all()
    assert not found["d0"][where].any()
    assert all(not tensor.isnan().any() for tensor in found.values())


@pytest.mark.parametrize("score", ["dot", "additive"])
def test_padding_may_hold_anything(score):
    tensors, options = draw(Case(F32, score, 18, 40, 2, 1, width=4), 1)
    lengths_q, lengths_k = torch.tensor([18, 3]), torch.tensor([33, 0])
    options |= {"lengths_q": lengths_q, "lengths_k": lengths_k}
    clean = run(call_triton, tensors, options, 1)
    q, k, v = (t.clone() for t in tensors)
    for b in range(2):
        q[b, :, lengths_q[b] :] = torch.nan
        k[b, :, lengths_k[b] :] = torch.nan
        v[b, :, lengths_k[b] :] = torch.inf
    with_padding = run(call_triton, [q, k, v], options, 1)
    for name, tensor in clean.items():
        torch.testing.assert_close(with_padding[name], tensor, msg=name)


def test_nan_goes_through_and_stays_in_its_row():
    tensors, options = draw(Case(F32, "dot", 9, 20, 1, 2), 3)
    tensors[0][0, 1, 4] = torch.nan
    out = F.attention(*tensors, **options, backend="triton")
    assert out[0, 1, 4].isnan().all()
    out[0, 1, 4] = 0
    assert not out.isnan().any()


def test_everything_is_written(monkeypatch):
    made = []
    new_empty = torch.Tensor.new_empty

    def filled(self, *args, **kwargs):
        tensor = new_empty(self, *args, **kwargs)
        made.append(tensor.fill_(torch.nan) if tensor.is_floating_point() else tensor.fill_(0))
        return tensor

    case = Case(F32, "dot", 17, 33, 1, 2, width=4, options=("mask=1,1,17,33", "local_p=9"))
    tensors, options = draw(case, 4)
    monkeypatch.setattr(torch.Tensor, "new_empty", filled)
    found = run(call_triton, tensors, options, 4)
    assert len(made) > 8
    assert not any(tensor.isnan().any() for tensor in found.values())


def test_the_same_bits_every_time_and_whatever_the_neighbours():
    tensors, options = draw(Case(F32, "dot", 17, 40, 2, 2, width=4), 5)
    options["is_causal"] = True
    first, second = (run(call_triton, tensors, options, 5) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    alone = F.attention(*(t[1:] for t in tensors), **options, backend="triton")
    assert torch.equal(alone, first["result 0"][1:])


def test_views_and_expanded_inputs_are_not_copied_wrong():
    q, k, v = (torch.randn(1, t, 2, 8).transpose(1, 2) for t in (9, 20, 20))
    mask = torch.randn(1, 1, 1, 20).expand(1, 2, 9, 20)
    views = (q[..., ::2], k[..., ::2], v)
    found = F.attention(*views, mask, backend="triton")
    dense = F.attention(*(t.contiguous() for t in (*views, mask)), backend="triton")
    assert torch.equal(found, dense)
    one = k[:, :1]
    spread = F.attention(q, one, one, backend="triton")
    expected = F.attention(q, *[one.expand(1, 2, 20, 8).contiguous()] * 2, backend="triton")
    assert torch.equal(spread, expected)


@pytest.mark.parametrize("sizes", [(0, 2, 3, 4), (2, 0, 3, 4), (1, 1, 0, 4), (1, 1, 3, 0)])
def test_empty(sizes):
    b, h, t, s = sizes
    q, k = torch.randn(b, h, t, 4, requires_grad=True), torch.randn(b, h, s, 4)
    out = F.attention(q, k, k, backend="triton")
    assert out.shape == (b, h, t, 4) and not out.any()
    out.sum().backward()
    assert not q.grad.any()


def test_pointer():
    q, k = torch.randn(1, 5, 6, requires_grad=True), torch.randn(1, 35, 6, requires_grad=True)
    options = {"vector": torch.randn(6), "lengths_k": torch.tensor([34])}
    target = torch.tensor([[0, 8, 33, 1, -100]])
    with use_backend("triton"):
        log_probs = F.pointer_log_probs(q, k, **options)
        loss = F.pointer_nll(q, k, target, **options)
    expected = F.pointer_log_probs(q, k, **options, backend="reference")
    torch.testing.assert_close(log_probs, expected)
    nll = torch.nn.functional.nll_loss(expected.flatten(0, 1), target.flatten())
    torch.testing.assert_close(loss, nll)
    grads, others, right = (
        torch.autograd.grad(each, (q, k), retain_graph=True)
        for each in (loss, (log_probs.exp() * log_probs.detach().exp())[..., :34].sum(), nll)
    )
    for a, b in zip(grads, right, strict=True):
        torch.testing.assert_close(a, b)
    by_reference = (expected.exp() * expected.detach().exp())[..., :34].sum()
    for a, b in zip(others, torch.autograd.grad(by_reference, (q, k)), strict=True):
        torch.testing.assert_close(a, b)


def test_double_backward_and_vmap_go_through():
    q, k = torch.randn(1, 1, 5, 4, requires_grad=True), torch.randn(1, 1, 7, 4)

    def twice(backend):
        out = F.attention(q, k, k, backend=backend)
        (first,) = torch.autograd.grad(out.sin().sum(), q, create_graph=True)
        return torch.autograd.grad(first.square().sum(), q)[0]

    torch.testing.assert_close(twice("triton"), twice("reference"))
    stacked = torch.randn(3, 1, 1, 5, 4)
    together = torch.func.vmap(lambda q: F.attention(q, k, k, backend="triton"))(stacked)
    alone = [F.attention(each, k, k, backend="triton") for each in stacked]
    torch.testing.assert_close(together, torch.stack(alone))


# --- who serves -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "width", "value_width", "reason"),
    [
        (torch.float64, 8, 8, "it has no attention kernel for torch.float64"),
        (F32, 257, 8, "queries and keys of 257 numbers are wider than 256"),
        (F32, 8, 300, "values of 300 numbers are wider than 256"),
    ],
)
def test_gaps_say_why(dtype, width, value_width, reason):
    q = torch.randn(1, 1, 2, width, dtype=dtype)
    with pytest.raises(RuntimeError, match=f"backend 'triton' was asked for .*{reason}"):
        F.attention(q, q, torch.randn(1, 1, 2, value_width, dtype=dtype), backend="triton")


def test_float32_products_follow_torchs_switch():
    assert attention_call.float32_product() == "tf32x3"
    try:
        torch.set_float32_matmul_precision("high")
        assert attention_call.float32_product() == "tf32"
    finally:
        torch.set_float32_matmul_precision("highest")


# --- that the tests can fail ----------------------------------------------------------------


@pytest.mark.parametrize("fault", ["hull", "delta", "dropout", "seers"])
def test_the_rule_sees_a_fault(fault, monkeypatch, tiles):
    from fastrnn.kernels import attention_backward, attention_forward, attention_spans

    options = ("window=6,2",)
    if fault == "hull":  # a tile of keys too few
        hull = attention_forward.hull
        monkeypatch.setattr(
            attention_forward, "hull", lambda *a: (lambda h: (h[0], h[1] - 1, *h[2:]))(hull(*a))
        )
    elif fault == "delta":  # what all of a row's gradients share
        weighed = attention_backward.weighed
        monkeypatch.setattr(
            attention_backward, "weighed", lambda x, dw, s, d, *a: weighed(x, dw, s, d * 1.001, *a)
        )
    elif fault == "dropout":
        options = ("dropout=0.3",)
        kept = attention_forward.kept
        monkeypatch.setattr(
            attention_forward, "kept", lambda seed, n, t, *a: kept(seed, n, t + 1, *a)
        )
    else:  # the last tile of queries that sees a key
        seers = attention_spans.seers

        class Short:
            def __getitem__(self, grid):
                def launch(spans, found, *args, **kwargs):
                    seers[grid](spans, found, *args, **kwargs)
                    found[..., 1] -= 1
                    found[..., 2:] = found[..., :1]

                return launch

        monkeypatch.setattr(attention_spans, "seers", Short())
    with pytest.raises(AssertionError, match="error"), threads(1):
        hold(Case(F32, "dot", 33, 40, 1, 2, width=16, options=options))
