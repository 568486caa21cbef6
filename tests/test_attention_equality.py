"""Attention's kernels against the rule of `tests/equality.py`.

The oracle is the reference in float64; torch's own is the same formula with torch's operators
at the dtype, as a user would write it.
"""

import itertools
import math
import zlib
from dataclasses import dataclass, field, replace

import pytest
import torch
from equality import DTYPES, FLOOR_IN_ULPS, SEED, error, threads, use_isa
from torch.nn.attention.bias import causal_lower_right, causal_upper_left

from fastrnn import _C, attention_call, reference_attention
from fastrnn import functional as F

ISAS = _C.isas()

# Beyond twice torch's error. In float64 torch's own is the oracle, whose rounding then reads as
# the kernel's; the gradient of the additive vector sums over all pairs of queries and keys.
# Measured 2026-11-21 on an AMD EPYC (Zen 3, AVX2): OPTIONS and SCORES below, two instruction
# sets, 12 seeds. The most that was needed: float32 12.4, float64 39, bfloat16 1.3, float16 0.
ULPS = FLOOR_IN_ULPS | {torch.float32: 24, torch.float64: 72, torch.bfloat16: 3}
FLOOR = {dtype: ulps * torch.finfo(dtype).eps for dtype, ulps in ULPS.items()}


@dataclass(frozen=True)
class Case:
    """One call: sizes, and options by name (see `draw`)."""

    dtype: torch.dtype
    score: str = "scaled_dot"
    queries: int = 5
    keys: int = 7
    batch: int = 2
    heads: int = 2
    kv_heads: int = 0
    width: int = 8
    value_width: int = 8
    options: tuple[str, ...] = field(default=())

    def __str__(self) -> str:
        parts = [self.score, str(self.dtype).removeprefix("torch."), f"B{self.batch}"]
        parts += [f"H{self.heads}", f"Hk{self.kv_heads}"] if self.kv_heads else [f"H{self.heads}"]
        parts += [f"Tq{self.queries}", f"Tk{self.keys}", f"E{self.width}", f"Ev{self.value_width}"]
        return "-".join([*parts, *self.options])


def draw(case: Case, seed: int) -> tuple[list[torch.Tensor], dict]:
    """Query, key and value; and options, tensors among them."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(shape, dtype=torch.float64, generator=generator).to(case.dtype)

    b, h, t, s, e = case.batch, case.heads, case.queries, case.keys, case.width
    shared = (b, case.kv_heads or h, s)
    tensors = [normal(b, h, t, e), normal(*shared, e), normal(*shared, case.value_width)]
    found = {"score": case.score}
    if case.kv_heads:
        found["enable_gqa"] = True
    if case.score == "general":
        found["weight"] = normal(e, e) / math.sqrt(e)
    elif case.score == "location":
        found["weight"] = normal(s + 2, e)
    elif case.score == "cosine":
        found["temperature"] = normal(h).abs() + 2
    elif case.score == "additive":
        found["vector"] = normal(h, e)
    for option in case.options:
        name, _, value = option.partition("=")
        if name == "causal":
            found |= {"is_causal": True, "causal_alignment": value or "top_left"}
        elif name == "window":
            found["window"] = tuple(int(v) for v in value.split(","))
        elif name == "local_p":
            centre = torch.rand(b, h, t, generator=generator, dtype=torch.float64) * s
            found |= {"window": int(value), "centre": centre.to(case.dtype)}
            found["width"] = (normal(h, 1).abs() + int(value) / 2).to(case.dtype)
        elif name == "mask":
            shape = [int(v) for v in value.split(",")]
            found["attn_mask"] = normal(*shape)
        elif name == "bool_mask":
            mask = torch.rand(b, 1, t, s, generator=generator) < 0.7
            mask[0, 0, 0] = False  # a query that sees nothing
            found["attn_mask"] = mask
        elif name == "lengths":  # where a query sees one key its gradient is rounding alone
            found["lengths_q"] = torch.randint(t // 2, t + 1, (b,), generator=generator)
            found["lengths_k"] = torch.randint(s // 2, s + 1, (b,), generator=generator)
        elif name == "cu_seqlens":
            for key, total in (("cu_seqlens_q", t), ("cu_seqlens_k", s)):
                cuts = torch.randint(0, total + 1, (4,), generator=generator).sort().values
                found[key] = torch.cat([torch.zeros(1, dtype=torch.int64), cuts])
        elif name == "dropout":
            found |= {"dropout_p": float(value), "seed": seed}
        elif name in ("softcap", "scale"):
            found[name] = float(value)
        elif name in ("return_weights", "return_lse"):
            found[name] = True
        elif name == "big":
            tensors[0] = tensors[0] * float(value)
        else:
            raise AssertionError(option)
    return tensors, found


def call_fastrnn(tensors, options, backend="cpp"):
    found = F.attention(*tensors, backend=backend, **options)
    return found if isinstance(found, tuple) else (found,)


def call_reference(tensors, options):
    return call_fastrnn(tensors, options, "reference")


def call_torch(tensors, options):
    """The formula, every operator at the dtype."""
    options = dict(options)
    operands = {n: options.pop(n, None) for n in ("weight", "temperature", "vector")}
    weights, lse = options.pop("return_weights", False), options.pop("return_lse", False)
    named = {
        "attn_mask": None, "dropout_p": 0.0, "is_causal": False, "scale": None,
        "enable_gqa": False, "score": "scaled_dot", "causal_alignment": "top_left",
        "window": None, "centre": None, "width": None, "lengths_q": None, "lengths_k": None,
        "cu_seqlens_q": None, "cu_seqlens_k": None, "softcap": None,
    }  # fmt: skip
    seed = options.pop("seed", None)
    call = attention_call.prepare(
        *tensors, *(named | options).values(), operands, seed, int(weights)
    )
    out, found_lse, found = reference_attention.formula(call.inputs)
    results = [call.restore(out)] + [call.restore(each) for each in found]
    return tuple(results + [call.restore(found_lse)] * lse)


def run(call, tensors, options, seed):
    """Results and every gradient, by name."""
    leaves = {f"d{i}": t.detach().clone().requires_grad_() for i, t in enumerate(tensors)}
    given = dict(options)
    for name, value in options.items():
        if torch.is_tensor(value) and value.is_floating_point():
            leaves[f"d{name}"] = given[name] = value.detach().clone().requires_grad_()
    results = call([leaves[f"d{i}"] for i in range(3)], given)
    generator = torch.Generator().manual_seed(seed + 1)
    upstream = []
    for result in results:
        drawn = torch.randn(result.shape, dtype=torch.float64, generator=generator)
        upstream.append(torch.where(result.isfinite(), drawn.to(result.dtype), 0))
    gradients = torch.autograd.grad(results, list(leaves.values()), upstream, allow_unused=True)
    found = {f"result {i}": result for i, result in enumerate(results)}
    found |= {n: g for n, g in zip(leaves, gradients, strict=True) if g is not None}
    return {name: tensor.detach() for name, tensor in found.items()}


def to_double(tensors, options):
    def double(value):
        return value.double() if torch.is_tensor(value) and value.is_floating_point() else value

    return [double(t) for t in tensors], {n: double(v) for n, v in options.items()}


def assert_equal(case: Case, isas=ISAS, call=call_fastrnn, draws: int = 1) -> None:
    # As many draws as make the error of a small tensor more than a matter of luck.
    count = max(draws, math.ceil(32 / max(1, case.width * case.heads)))
    seeds = [zlib.crc32(f"{case} {SEED} {attempt}".encode()) for attempt in range(count)]
    drawn = [draw(case, seed) for seed in seeds]
    with threads(1):
        oracle = [run(call_reference, *to_double(*d), s) for d, s in zip(drawn, seeds, strict=True)]
        theirs = [run(call_torch, *d, s) for d, s in zip(drawn, seeds, strict=True)]
    for isa in isas:
        with use_isa(isa):
            ours = [run(call, *d, s) for d, s in zip(drawn, seeds, strict=True)]
        for name in oracle[0]:
            found, torchs, right = ([each[name] for each in of] for of in (ours, theirs, oracle))
            hold(f"{case} {name} with {isa}", case.dtype, found, torchs, right)


def hold(what: str, dtype: torch.dtype, ours: list, theirs: list, oracle: list) -> None:
    """Finite where the oracle is, and there within the rule."""
    for our, right in zip(ours, oracle, strict=True):
        assert our.shape == right.shape, what
        finite = right.isfinite()
        assert torch.equal(our.isfinite(), finite), what
        assert torch.equal(our[~finite].double(), right[~finite]), what
    if not any(right.isfinite().any() for right in oracle):
        return
    masks = [right.isfinite() for right in oracle]
    ours, theirs, oracle = (
        [torch.where(mask, each, 0) for mask, each in zip(masks, of, strict=True)]
        for of in (ours, theirs, oracle)
    )
    for kind, a, b in zip(
        ("norm", "largest"), error(ours, oracle), error(theirs, oracle), strict=True
    ):
        bound = 2 * b + FLOOR[dtype]
        assert a <= bound, (
            f"{what}, FASTRNN_TEST_SEED={SEED}: {kind} error {a:.3g}, allowed {bound:.3g}, "
            f"torch's {b:.3g}"
        )


SCORES = ("scaled_dot", "dot", "general", "cosine", "additive", "location")
OPTIONS = {
    "plain": (),
    "causal": ("causal",),
    "bottom_right": ("causal=bottom_right",),
    "window": ("window=9,4", "return_lse"),
    "mask": ("mask=2,1,37,70",),
    "key_bias": ("mask=1,1,1,70", "return_weights"),
    "head_bias": ("mask=2,37,70", "softcap=2"),
    "query_bias": ("mask=2,2,37,1", "return_lse", "dropout=0.2"),
    "bool_mask": ("bool_mask", "return_lse", "return_weights"),
    "lengths": ("lengths", "causal"),
    "dropout": ("dropout=0.3", "return_weights"),
    "softcap": ("softcap=1.5", "scale=0.7"),
    "local_p": ("local_p=6", "return_weights"),
    "everything": ("causal=bottom_right", "lengths", "bool_mask", "dropout=0.1", "softcap=3",
                   "local_p=20", "return_weights", "return_lse"),
}  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("score", ["scaled_dot", "additive"])
def test_options(score, options, dtype):
    case = Case(dtype, score, 37, 70, width=24, value_width=20, options=options)
    # One instruction set does for the narrow dtypes, whose arithmetic is float's.
    wide = dtype in (torch.float32, torch.float64)
    assert_equal(case, ISAS if wide else ISAS[-1:])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("score", SCORES)
def test_scores(score, dtype):
    options = ("mask=2,1,130,70", "window=40,9", "return_lse")
    assert_equal(Case(dtype, score, 130, 70, options=options))


# Around the tiles: 128 queries, 128 keys, vectors of 2 to 16, 6 rows.
SIZES = sorted({(1, 1), (1, 129), (2, 127), (6, 16), (7, 17), (63, 64), (64, 128), (65, 129),
                (128, 1), (127, 128), (129, 257), (3, 600)})  # fmt: skip
WIDTHS = ((1, 1), (3, 65), (16, 17), (33, 4), (64, 64), (96, 0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("score", ["scaled_dot", "additive"])
@pytest.mark.parametrize(("queries", "keys"), SIZES)
def test_sizes_around_the_tiles(queries, keys, score, dtype):
    index = SIZES.index((queries, keys))
    width, value_width = WIDTHS[index % len(WIDTHS)]
    options = ("causal=bottom_right", "return_lse") if index % 2 else ("return_lse",)
    if not value_width:
        options = (*options, "return_weights")
    assert_equal(
        Case(dtype, score, queries, keys, 1, 2, width=width, value_width=value_width,
             options=options)
    )  # fmt: skip


@pytest.mark.parametrize("score", ["scaled_dot", "additive"])
@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 1), (6, 2), (3, 3)])
def test_grouped_heads(heads, kv_heads, score):
    case = Case(torch.float32, score, 70, 130, 2, heads, kv_heads, 16, 8, ("causal",))
    assert_equal(case)


@pytest.mark.parametrize("score", ["scaled_dot", "additive"])
def test_packed_sequences(score):
    for i in range(3):
        assert_equal(
            Case(torch.float32, score, 150 + i, 200 + i, 1, 2, options=("cu_seqlens", "causal"))
        )


def test_packed_sequences_are_those_alone():
    q, k, v = torch.randn(2, 9, 8), torch.randn(2, 14, 8), torch.randn(2, 14, 6)
    cu_q = torch.tensor([0, 4, 4, 9], dtype=torch.int32)
    cu_k = torch.tensor([0, 6, 8, 14])
    out = F.attention(q, k, v, is_causal=True, cu_seqlens_q=cu_q, cu_seqlens_k=cu_k)
    for (a, b), (c, d) in zip(
        itertools.pairwise(cu_q.tolist()), itertools.pairwise(cu_k.tolist()), strict=True
    ):
        alone = F.attention(q[:, a:b], k[:, c:d], v[:, c:d], is_causal=True)
        torch.testing.assert_close(out[:, a:b], alone)


@pytest.mark.parametrize("size", [0.01, 0.1, 3.0, 10.0, 30.0, 1000.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_additive_of_any_size(size, dtype):
    # Both sides of the guards of the form with exponentials, and between.
    assert_equal(Case(dtype, "additive", 20, 40, width=32, options=(f"big={size}", "return_lse")))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("width", [16, 32, 64, 128])
def test_few_queries(width, dtype):
    """Keys as they lie: queries that fit the registers and that do not, seen in part and whole."""
    for options in (("window=70,9", "return_lse"), ("lengths",)):
        case = Case(dtype, "scaled_dot", 3, 150, width=width, value_width=width + 3)
        assert_equal(replace(case, options=options))


@pytest.mark.parametrize("width", [256, 512])
@pytest.mark.parametrize(("queries", "keys"), [(24, 40), (40, 150)])
def test_additive_over_many_numbers(queries, keys, width):
    """Sums of that length, and with scores in the tens weights of which one is all but 1: the
    largest error is that of a few queries, so several draws are taken together."""
    case = Case(torch.float32, "additive", queries, keys, 1, width=width, options=("return_lse",))
    assert_equal(case, draws=6)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("causal", [False, True])
def test_against_scaled_dot_product_attention(causal, dtype):
    q, k, v = (torch.randn(2, 3, 90, 32).to(dtype) for _ in range(3))
    grad = torch.randn(2, 3, 90, 32).to(dtype)

    def sdpa(dtype, backend):
        leaves = [t.to(dtype).requires_grad_() for t in (q, k, v)]
        with torch.nn.attention.sdpa_kernel(backend):
            out = torch.nn.functional.scaled_dot_product_attention(*leaves, is_causal=causal)
        return [out, *torch.autograd.grad(out, leaves, grad.to(dtype))]

    math_backend = torch.nn.attention.SDPBackend.MATH
    oracle, theirs = sdpa(torch.float64, math_backend), sdpa(dtype, math_backend)
    leaves = [t.requires_grad_() for t in (q, k, v)]
    out = F.attention(*leaves, is_causal=causal)
    ours = [out, *torch.autograd.grad(out, leaves, grad)]
    for a, b, right in zip(ours, theirs, oracle, strict=True):
        for x, y in zip(error([a], [right]), error([b], [right]), strict=True):
            assert x <= 2 * y + FLOOR[dtype]


# --- what kernels must not do ---------------------------------------------------------------


@pytest.mark.parametrize("sizes", [(6, 6), (3, 9), (9, 3)], ids=str)
@pytest.mark.parametrize("corner", [causal_upper_left, causal_lower_right])
@pytest.mark.filterwarnings("ignore:Lower right causal bias will produce NaNs")
def test_a_causal_bias_of_torch(sizes, corner):
    """A tensor that says what it is by its class and holds no numbers."""
    queries, keys = sizes
    q, k, v = torch.randn(2, 3, queries, 8), torch.randn(2, 3, keys, 8), torch.randn(2, 3, keys, 8)
    bias = corner(queries, keys)
    found = F.attention(q, k, v, bias)
    assert type(found) is torch.Tensor
    # Not by SDPA: where a query sees no key, its result is NaN and ours 0.
    torch.testing.assert_close(found, F.attention(q, k, v, bias._materialize()))
    with pytest.raises(ValueError, match="CausalBias should not be used with causal=True"):
        F.attention(q, k, v, bias, is_causal=True)
    with pytest.raises(RuntimeError, match=f"CausalBias of {queries} and {keys}"):
        F.attention(q[:, :, 1:], k, v, bias)


@pytest.mark.parametrize("score", ["scaled_dot", "additive"])
@pytest.mark.parametrize("isa", ISAS)
def test_the_same_bits_for_any_number_of_threads(isa, score):
    case = Case(torch.float32, score, 200, 900, 1, 3, width=16, options=("causal", "dropout=0.1"))
    tensors, options = draw(case, 5)
    with use_isa(isa):
        found = []
        for count in (1, 2, 5):
            with threads(count):
                found.append(run(call_fastrnn, tensors, options, 5))
    for other in found[1:]:
        assert all(torch.equal(found[0][name], other[name]) for name in found[0])


@pytest.mark.parametrize("score", ["scaled_dot", "additive"])
def test_padding_may_hold_anything(score):
    case = Case(torch.float32, score, 70, 140, 3, 2, width=8)
    tensors, options = draw(case, 1)
    lengths_q, lengths_k = torch.tensor([70, 3, 0]), torch.tensor([0, 77, 140])
    options |= {"lengths_q": lengths_q, "lengths_k": lengths_k}
    clean = run(call_fastrnn, tensors, options, 1)
    q, k, v = (t.clone() for t in tensors)
    for b in range(3):
        q[b, :, lengths_q[b] :] = torch.nan
        k[b, :, lengths_k[b] :] = torch.nan
        v[b, :, lengths_k[b] :] = torch.inf
    for backend in ("cpp", "reference"):
        with_padding = run(
            lambda t, o, backend=backend: call_fastrnn(t, o, backend), [q, k, v], options, 1
        )
        for name, tensor in clean.items():
            torch.testing.assert_close(with_padding[name], tensor)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("what", ["query", "key", "value", "grad"])
@pytest.mark.parametrize("score", ["scaled_dot", "additive"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_what_is_not_seen_cannot_matter(dtype, score, what, value):
    """Of sequences packed into one tile, one is not finite: its neighbours notice nothing."""
    cu_seqlens = {"q": torch.tensor([0, 30, 70, 100]), "k": torch.tensor([0, 50, 60, 140])}
    options = {f"cu_seqlens_{name}": starts for name, starts in cu_seqlens.items()}
    options |= {"score": score, "is_causal": True, "causal_alignment": "bottom_right"}
    lengths = {"query": 105, "key": 150, "value": 150, "grad": 105}
    clean = {name: torch.randn(2, length, 24).to(dtype) for name, length in lengths.items()}
    if score == "additive":
        options["vector"] = torch.randn(24).to(dtype)
    dirty = {name: tensor.clone() for name, tensor in clean.items()}
    dirty[what][:, 35 if lengths[what] == 105 else 55] = value  # of the second sequence

    def run_on(tensors):
        *leaves, grad = (t.clone().requires_grad_(n != "grad") for n, t in tensors.items())
        out = F.attention(*leaves, **options)
        return [out.detach(), *torch.autograd.grad(out, leaves, grad)]

    for isa in ISAS:
        with use_isa(isa):
            for a, b in zip(run_on(clean), run_on(dirty), strict=True):
                start, end = cu_seqlens["q" if a.shape[1] == 105 else "k"][1:3]
                others = torch.arange(a.shape[1])
                others = others[(others < start) | (others >= end)]
                x, y = a[:, others].double(), b[:, others]
                # Sums of another order, and weights that are not rounded to bfloat16.
                assert max(error([y], [x])) < FLOOR[dtype]


@pytest.mark.parametrize("keys", [1, 300])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_single_weight_has_no_gradient(dtype, keys):
    """The softmax's mean is summed as the gradients are, so that of one key's nothing is left, be
    it the only one or left over by a mask."""
    q = (torch.randn(1, 2, 9, 64) * 50).to(dtype).requires_grad_()
    k, v = (torch.randn(1, 2, keys, 64).to(dtype).requires_grad_() for _ in range(2))
    mask = torch.zeros(1, 1, 9, keys, dtype=torch.bool)
    mask[..., 0, 0] = mask[..., 1:, -1] = True
    grad = torch.randn(1, 2, 9, 64).to(dtype)
    for isa in ISAS:
        with use_isa(isa):
            out = F.attention(q, k, v, mask if keys > 1 else None)
            grads = torch.autograd.grad(out, (q, k), grad)
        assert not any(each.any() for each in grads), isa


@pytest.mark.parametrize("score", ["scaled_dot", "additive"])
@pytest.mark.parametrize("mask", ["bool", "numbers", "range"])
def test_a_query_that_sees_nothing_gives_zero(mask, score):
    tensors, options = draw(Case(torch.float32, score, 5, 9), 2)
    seen = torch.ones(5, 9, dtype=torch.bool)
    seen[2] = False
    if mask == "bool":
        options["attn_mask"] = seen
    elif mask == "numbers":
        options["attn_mask"] = torch.zeros(5, 9).masked_fill(~seen, -torch.inf)
    else:
        options["lengths_q"] = torch.tensor([2, 5])
    options |= {"return_weights": True, "return_lse": True}
    found = run(call_fastrnn, tensors, options, 2)
    where = (0, slice(None), 2)
    assert not found["result 0"][where].any()
    assert not found["result 1"][where].any()
    assert (found["result 2"][where] == -torch.inf).all()
    assert not found["d0"][where].any()
    assert all(not tensor.isnan().any() for tensor in found.values())


@pytest.mark.parametrize("score", ["scaled_dot", "additive"])
def test_nan_goes_through_and_stays_in_its_row(score):
    tensors, options = draw(Case(torch.float32, score, 9, 20), 3)
    tensors[0][1, 0, 4] = torch.nan
    out = F.attention(*tensors, **options)
    assert out[1, 0, 4].isnan().all()
    out[1, 0, 4] = 0
    assert not out.isnan().any()


@pytest.mark.parametrize("score", ["scaled_dot", "additive"])
def test_views_and_expanded_inputs(score):
    q, k, v = (torch.randn(2, t, 3, 16) for t in (20, 30, 30))
    vector = {"vector": torch.randn(32)[::2]} if score == "additive" else {}
    views = [t.transpose(1, 2)[..., ::2] for t in (q, k, v)]
    if vector:
        vector["vector"] = vector["vector"][:8]
    out = F.attention(*views, score=score, **vector)
    dense = F.attention(*(t.contiguous() for t in views), score=score, **vector)
    assert torch.equal(out, dense)
    one = k[:1, :, :1].transpose(1, 2)[..., ::2]
    spread = F.attention(views[0], one, one, score=score, **vector)
    expanded = one.expand(2, 3, 30, 8).contiguous()
    assert torch.equal(spread, F.attention(views[0], expanded, expanded, score=score, **vector))


@pytest.mark.parametrize("sizes", [(0, 2, 3, 4), (2, 0, 3, 4), (2, 2, 0, 4), (2, 2, 3, 0)])
@pytest.mark.parametrize("score", ["scaled_dot", "additive"])
def test_empty(sizes, score):
    b, h, t, s = sizes
    q, k = torch.randn(b, h, t, 8, requires_grad=True), torch.randn(b, h, s, 8)
    vector = {"vector": torch.randn(8, requires_grad=True)} if score == "additive" else {}
    out = F.attention(q, k, k, score=score, **vector)
    assert out.shape == (b, h, t, 8) and not out.any()
    out.sum().backward()
    assert not q.grad.any()
    assert all(not tensor.grad.any() for tensor in vector.values())


def test_no_width_at_all():
    q, k, v = torch.randn(1, 1, 3, 0), torch.randn(1, 1, 4, 0), torch.randn(1, 1, 4, 5)
    torch.testing.assert_close(F.attention(q, k, v), v.mean(2, keepdim=True).expand(1, 1, 3, 5))


@pytest.mark.parametrize("score", ["additive", "scaled_dot"])
def test_pointer(score):
    q, k = torch.randn(2, 5, 8, requires_grad=True), torch.randn(2, 9, 8, requires_grad=True)
    options = {"score": score, "lengths_k": torch.tensor([9, 4])}
    if score == "additive":
        options["vector"] = torch.randn(8)
    target = torch.tensor([[0, 8, 3, 1, -100], [3, 0, 1, 2, 2]])
    log_probs = F.pointer_log_probs(q, k, **options)
    torch.testing.assert_close(log_probs.exp().sum(-1), torch.ones(2, 5))
    expected = torch.nn.functional.nll_loss(log_probs.flatten(0, 1), target.flatten())
    loss = F.pointer_nll(q, k, target, **options)
    torch.testing.assert_close(loss, expected)
    for a, b in zip(
        torch.autograd.grad(loss, (q, k)), torch.autograd.grad(expected, (q, k)), strict=True
    ):
        torch.testing.assert_close(a, b)
