"""Attention by the tiles of AMX: bfloat16, and float32 in terms of it (`csrc/attention/terms.h`).

Where no processor with AMX is, in its emulation, which rounds as the tiles do.
"""

import pytest
import test_attention_equality as plain
import torch
from equality import error, has_isa, use_isa
from test_attention_equality import FLOOR, Case, assert_equal, call_fastrnn, draw, run, to_double

from fastrnn import functional as F
from fastrnn import use_precision, use_splitting

TILES = [isa for isa in ("amx", "amx_emulated") if has_isa(isa)]
pytestmark = pytest.mark.skipif(not TILES, reason="needs AMX, or AVX-512 for its emulation")

DTYPES = [torch.bfloat16, torch.float32]
OPTIONS = ("plain", "mask", "query_bias", "bool_mask", "dropout", "everything")
# Rows, columns and depths of one and two tiles and what is left over; one block and several.
SIZES = {
    (1, 1, 1, 1): ("return_lse",),
    (5, 16, 32, 16): ("causal",),
    (16, 33, 7, 17): ("return_weights",),
    (31, 15, 33, 48): ("causal", "return_lse"),
    (49, 130, 64, 64): ("lengths",),
    (129, 65, 96, 31): ("window=40,9",),
    (150, 600, 24, 20): ("causal=bottom_right",),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("score", ["scaled_dot", "additive"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_sizes_around_the_tiles(size, score, dtype):
    queries, keys, width, value_width = size
    case = Case(dtype, score, queries, keys, 1, 2, 0, width, value_width, SIZES[size])
    with use_precision("highest"):
        assert_equal(case, TILES)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("options", OPTIONS)
def test_options(options, dtype):
    case = Case(dtype, "scaled_dot", 37, 70, width=24, value_width=20)
    case = plain.replace(case, options=plain.OPTIONS[options])
    with use_precision("highest"):
        assert_equal(case, TILES)
        assert_equal(plain.replace(case, heads=4, kv_heads=2, options=("causal",)), TILES)


def test_each_term_is_worth_eight_bits():
    """One term leaves 2^-9 of a number, two 2^-18, and three nothing."""
    case = Case(torch.float32, queries=70, keys=200, width=64, value_width=64)
    tensors, options = draw(case, 3)
    right = run(plain.call_reference, *to_double(tensors, options), 3)
    narrow = run(plain.call_torch, [t.bfloat16() for t in tensors], options, 3)
    full = run(plain.call_torch, tensors, options, 3)
    for isa in TILES:
        with use_isa(isa):
            found = {}
            for name in ("medium", "high", "highest"):
                with use_precision(name):
                    found[name] = run(call_fastrnn, tensors, options, 3)
        for name, oracle in right.items():
            errors = {p: error([of[name]], [oracle]) for p, of in found.items()}
            for i in range(2):
                rounded = 2 * error([narrow[name]], [oracle])[i] + FLOOR[torch.bfloat16]
                exact = 2 * error([full[name]], [oracle])[i] + FLOOR[torch.float32]
                assert exact < errors["medium"][i] <= rounded, (isa, name)
                assert exact / 8 < errors["high"][i] <= rounded / 2**8 + exact, (isa, name)
                assert errors["highest"][i] <= exact, (isa, name)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("keys", [1, 300])
def test_a_single_weight_has_no_gradient(keys, dtype, monkeypatch):
    monkeypatch.setattr(plain, "ISAS", TILES)
    plain.test_a_single_weight_has_no_gradient(dtype, keys)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("what", ["query", "key", "value", "grad"])
def test_what_is_not_seen_cannot_matter(what, value, monkeypatch):
    monkeypatch.setattr(plain, "ISAS", TILES)
    for dtype in DTYPES:
        plain.test_what_is_not_seen_cannot_matter(dtype, "scaled_dot", what, value)


@pytest.mark.parametrize("precision", ["high", "highest"])
@pytest.mark.parametrize("size", [torch.inf, -torch.inf, torch.nan, 3.4e38, 1e25])
@pytest.mark.parametrize("what", ["query", "key", "value", "grad"])
def test_what_cannot_be_split_is_multiplied_as_it_is(what, size, precision):
    """Infinity less infinity is none of the terms that were meant, and 3.4e38 rounds to it."""
    names = ("query", "key", "value", "grad")
    given = {name: torch.randn(1, 2, 140, 24) for name in names}
    given[what][0, 1, 50, 3] = size
    mask = torch.randn(1, 1, 140, 140)

    def results():
        q, k, v, bias = (t.clone().requires_grad_() for t in (*list(given.values())[:3], mask))
        out = F.attention(q, k, v, bias)
        return [out, *torch.autograd.grad(out, (q, k, v, bias), given["grad"])]

    with use_isa("avx512"):
        wanted = results()
    for isa in TILES:
        with use_isa(isa), use_precision(precision):
            found = results()
        for ours, right in zip(found, wanted, strict=True):
            assert torch.equal(ours.isnan(), right.isnan())
            assert torch.equal(ours.isinf(), right.isinf())
            for head in range(ours.shape[1]):
                if head == 1 and size == 1e25 and precision == "high" and ours is not found[0]:
                    continue  # gradients are what two terms leave of 1, times 1e25
                a, b = (t[:, head].detach() for t in (ours, right))
                a, b = (torch.where(b.isfinite(), t, 0) for t in (a, b))
                bound = FLOOR[torch.float32] if precision == "highest" else 2.0**-12
                assert max(error([a], [b.double()])) <= bound


def test_the_same_bits_for_any_number_of_threads():
    for isa in TILES:
        plain.test_the_same_bits_for_any_number_of_threads(isa, "scaled_dot")


def test_splitting_switched_off_leaves_no_terms():
    q, k, v = torch.randn(3, 1, 2, 40, 24).unbind()
    for isa in TILES:
        found = {}
        with use_isa(isa):
            for name in ("highest", "high"):
                for on in (True, False):
                    with use_precision(name), use_splitting(on):
                        found[name, on] = F.attention(q, k, v)
        assert torch.equal(found["highest", False], found["high", False])
        assert not torch.equal(found["highest", True], found["highest", False])
        assert not torch.equal(found["high", True], found["high", False])
