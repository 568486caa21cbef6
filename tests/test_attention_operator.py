"""The operators of attention: as `torch.library` wants them, gradients, vmap, tracing."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.library import opcheck

from fastrnn import attention_cpp, philox, reference_attention
from fastrnn import functional as F
from fastrnn.reference_attention import Inputs
from fastrnn.scores import SCORES

OPERATORS = torch.ops.fastrnn
COUNT = len(Inputs._fields)

# Between them: every kind of score, each argument there and not there.
CASES = {
    "dot": {},
    "dot-causal-gqa": {"heads": 4, "kv_heads": 2, "ranges": True},
    "dot-mask-softcap": {"mask": (2, 1, 3, 5), "softcap": 1.5},
    "dot-key-bias": {"mask": (1, 1, 1, 5), "extra": reference_attention.WEIGHTS},
    "dot-gaussian": {"gaussian": True, "ranges": True},
    "dot-dropout": {"dropout_p": 0.4, "extra": reference_attention.WEIGHTS},
    "dot-logs": {"extra": reference_attention.LOG_PROBABILITIES, "ranges": True},
    "additive": {"kind": "additive"},
    "additive-all": {
        "kind": "additive",
        "heads": 2,
        "kv_heads": 1,
        "mask": (2, 2, 3, 5),
        "gaussian": True,
        "ranges": True,
        "dropout_p": 0.3,
        "softcap": 2.0,
    },
}
cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def inputs_of(
    kind="dot",
    batch=2,
    heads=1,
    kv_heads=1,
    mask=None,
    ranges=False,
    gaussian=False,
    softcap=0.0,
    dropout_p=0.0,
    extra=0,
    dtype=torch.float64,
    seed=0,
):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=dtype).requires_grad_()

    queries, keys = 3, 5
    first = torch.tensor([0, 1, 2], dtype=torch.int32).expand(batch, heads, queries)
    last = torch.tensor([5, 3, 2], dtype=torch.int32).expand(batch, heads, queries)
    return Inputs(
        kind,
        normal(batch, heads, queries, 4),
        normal(batch, kv_heads, keys, 4),
        normal(batch, kv_heads, keys, 3),
        normal(batch, heads, 4) if kind == "additive" else None,
        normal(*mask) if mask else None,
        first if ranges else None,
        last if ranges else None,
        normal(batch, heads, queries) if gaussian else None,
        (normal(batch, heads, queries).detach().abs() + 1).requires_grad_() if gaussian else None,
        torch.tensor(12345678901234567) if dropout_p else None,
        batch * heads,
        0.7,
        softcap,
        dropout_p,
        extra,
    )


def numbers_in(inputs):
    fields = inputs._asdict()
    return {k: v for k, v in fields.items() if torch.is_tensor(v) and v.is_floating_point()}


def backward_arguments_of(**case):
    inputs = inputs_of(**case)
    out, lse, found = (
        [t.detach() for t in r] if isinstance(r, list) else r.detach()
        for r in OPERATORS.attention(*inputs)
    )
    return (
        *inputs,
        out,
        lse,
        found,
        torch.randn_like(out).requires_grad_(),
        torch.randn_like(lse).requires_grad_(),
        [torch.randn_like(each).requires_grad_() for each in found],
        inputs.mask is not None,
    )


@pytest.mark.parametrize("name", ["dot", "dot-logs", "additive-all"])
def test_opcheck(name):
    case = CASES[name]
    opcheck(OPERATORS.attention.default, inputs_of(**case))
    opcheck(OPERATORS.attention_backward.default, backward_arguments_of(**case))


def finite_only(found):
    """-inf in log-probabilities is right, but no finite difference."""
    return [torch.where(each.isfinite(), each, 0) for each in found]


@cases
def test_gradients(case):
    inputs = inputs_of(**case)
    names = list(numbers_in(inputs))

    def run(*values):
        out, lse, found = OPERATORS.attention(
            *inputs.replace(**dict(zip(names, values, strict=True)))
        )
        return (out, *finite_only([lse, *found]))

    values = tuple(numbers_in(inputs).values())
    assert gradcheck(run, values, fast_mode=True)
    assert gradgradcheck(run, values, fast_mode=True)


@cases
def test_the_backward_of_the_kernel_is_that_of_the_reference(case):
    arguments = backward_arguments_of(**case)
    inputs = Inputs(*arguments[:COUNT])
    _, _, _, grad_out, grad_lse, grad_found, with_mask = arguments[COUNT:]
    from fastrnn.attention import _reference_backward

    grad_lse = torch.where(arguments[COUNT + 1].isfinite(), grad_lse, 0)
    ours = OPERATORS.attention_backward(*arguments[: COUNT + 4], grad_lse, grad_found, with_mask)
    upstream = {"out": grad_out, "found": grad_found, "lse": grad_lse}
    theirs = _reference_backward(inputs, upstream, with_mask)
    assert len(ours) == len(theirs)
    for our, their in zip(ours, theirs, strict=True):
        torch.testing.assert_close(our, their)


@cases
@pytest.mark.parametrize("shared", [(), ("key", "value", "vector"), ("query", "mask")], ids=str)
def test_vmap(case, shared):
    inputs = [inputs_of(**case, seed=seed) for seed in range(3)]
    names = [name for name in numbers_in(inputs[0]) if name not in shared]

    def run(values):
        out, _, found = OPERATORS.attention(*inputs[0].replace(**values))
        return out, found

    def gradients(values):
        def loss(values):
            out, found = run(values)
            return (out * out).sum() + sum(each.exp().sum() for each in found)

        return torch.func.grad(loss)(values)

    stacked = {n: torch.stack([getattr(each, n).detach() for each in inputs]) for n in names}
    for function in (run, gradients):
        together = torch.func.vmap(function)(stacked)
        alone = [function({n: t[i] for n, t in stacked.items()}) for i in range(3)]
        flat = torch.utils._pytree.tree_leaves
        for each, *singles in zip(flat(together), *map(flat, alone), strict=True):
            torch.testing.assert_close(each, torch.stack(singles))


@cases
def test_many_gradients_at_once(case):
    inputs = inputs_of(**case)
    leaves = list(numbers_in(inputs).values())
    out = OPERATORS.attention(*inputs)[0]
    upstream = torch.randn(2, *out.shape, dtype=out.dtype)
    together = torch.autograd.grad(
        out, leaves, upstream, is_grads_batched=True, retain_graph=True, allow_unused=True
    )
    for i in range(2):
        alone = torch.autograd.grad(out, leaves, upstream[i], retain_graph=True, allow_unused=True)
        for each, single in zip(together, alone, strict=True):
            torch.testing.assert_close(each[i], single)


@pytest.mark.parametrize("score", sorted(SCORES))
def test_compile_in_one_graph(score):
    q, k, v = (torch.randn(2, 2, t, 8, requires_grad=True) for t in (5, 7, 7))
    operands = {
        "general": {"weight": torch.randn(8, 8)},
        "location": {"weight": torch.randn(9, 8)},
        "additive": {"vector": torch.randn(8)},
        "cosine": {"temperature": 3.0},
    }.get(score, {})

    def run(q, k, v, lengths):
        out, lse = F.attention(
            q, k, v, is_causal=True, window=3, lengths_k=lengths, score=score, return_lse=True,
            **operands,
        )  # fmt: skip
        return out.sin().sum() + lse.nan_to_num(0, 0, 0).sum()

    lengths = torch.tensor([7, 4])
    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    ours = torch.autograd.grad(compiled(q, k, v, lengths), (q, k, v), allow_unused=True)
    plain = torch.autograd.grad(run(q, k, v, lengths), (q, k, v), allow_unused=True)
    for a, b in zip(ours, plain, strict=True):
        torch.testing.assert_close(a, b)


def test_compile_with_lengths_that_change():
    q = torch.randn(2, 2, 6, 8)
    torch._dynamo.reset()
    compiled = torch.compile(F.attention, fullgraph=True, backend="aot_eager", dynamic=True)
    for queries, keys in ((6, 6), (3, 11), (5, 4)):
        q, k = torch.randn(2, 2, queries, 8), torch.randn(2, 2, keys, 8)
        torch.testing.assert_close(compiled(q, k, k), F.attention(q, k, k))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype):
    q, k, v = (torch.randn(1, 2, 6, 8, requires_grad=True) for _ in range(3))
    with torch.autocast("cpu", dtype=dtype):
        out = F.attention(q, k, v, torch.randn(6, 6))
        theirs = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    assert out.dtype == theirs.dtype == dtype
    assert torch.autograd.grad(out.sum(), q)[0].dtype == torch.float32


def test_philox_is_the_published_generator():
    # Known answers of Random123 for philox4x32-10.
    one, zero = torch.tensor(0xFFFFFFFF), torch.tensor(0)
    words = philox.philox((zero, zero, zero, zero), torch.tensor(0))
    assert [int(w) for w in words] == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    words = philox.philox((one, one, one, one), torch.tensor(-1))
    assert [int(w) for w in words] == [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]


@pytest.mark.parametrize("seed", [0, 7, 2**63, -1])
@pytest.mark.parametrize("probability", [0.1, 0.5, 1.0])
def test_kernel_and_reference_drop_the_same_weights(seed, probability):
    q, k, v = (torch.randn(2, 3, t, 8, dtype=torch.float64) for t in (70, 300, 300))
    found = [
        F.attention(q, k, v, None, probability, seed=seed, return_weights=True, backend=backend)[1]
        for backend in ("cpp", "reference")
    ]
    assert torch.equal(found[0] == 0, found[1] == 0)
    assert abs(float((found[0] == 0).double().mean()) - probability) < 0.01
    torch.testing.assert_close(*found)


def test_dropout_draws_from_torchs_generator():
    q = torch.randn(1, 2, 9, 8)
    torch.manual_seed(3)
    a, b = (F.attention(q, q, q, dropout_p=0.5) for _ in range(2))
    torch.manual_seed(3)
    assert torch.equal(a, F.attention(q, q, q, dropout_p=0.5))
    assert not torch.equal(a, b)


@pytest.mark.parametrize(
    ("batch", "heads", "keys", "expected"),
    [(1, 1, 128, 1), (1, 1, 2048, 8), (1, 1, 100_000, 16), (4, 8, 2048, 1), (1, 3, 10_000, 6)],
)
def test_slices_depend_on_sizes_alone(batch, heads, keys, expected):
    assert attention_cpp.slices(batch, heads, keys) == expected
