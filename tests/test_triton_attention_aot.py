"""What a compiler makes of attention's Triton kernels, without a GPU; and the plan's choices."""

import pytest
import torch

pytest.importorskip("triton")

from test_triton_aot import compile_in_new_process

from fastrnn.gpu.attention_plan import PASSES, Problem, choose, parts, splits
from fastrnn.gpu.plan import A100, B200, H200, Device

BF16, F16, F32 = torch.bfloat16, torch.float16, torch.float32


# --- the plan -------------------------------------------------------------------------------


def chosen(problem, device=H200):
    """Tiles of a forward, of queries and of keys in short: queries x keys, and what is special."""
    found = []
    for which in PASSES[:3]:
        tiles = choose(problem, device, which)
        text = f"{tiles.block_m}x{tiles.block_n}" + " together" * tiles.together
        found.append(text + f" in {tiles.splits}" * (tiles.splits > 1))
    return tuple(found)


TABLE = [
    # dtype, kind, heads, groups, Tq, Tk, E, Ev, device, forward, of_queries, of_keys
    (BF16, "dot", 16, 1, 4096, 4096, 64, 64, H200, "128x128", "64x128", "32x128"),
    (BF16, "dot", 16, 1, 4096, 4096, 64, 64, A100, "128x128", "64x32", "32x128"),
    (BF16, "dot", 16, 1, 4096, 4096, 128, 128, H200, "128x64", "128x64", "32x64"),
    (BF16, "dot", 16, 1, 4096, 4096, 128, 128, A100, "128x64", "64x64", "32x64"),
    (F16, "dot", 16, 1, 4096, 4096, 96, 40, H200, "128x64", "128x64", "32x64"),
    (BF16, "dot", 16, 1, 4096, 4096, 256, 256, H200, "128x64", "64x32", "16x64"),
    (BF16, "dot", 16, 1, 4096, 4096, 256, 256, A100, "64x32", "64x32", "16x32"),
    (BF16, "dot", 16, 1, 1, 4096, 128, 128, H200, "1x64 in 16", "1x32", "1x32"),
    (BF16, "dot", 16, 8, 1, 4096, 128, 128, H200, "16x64 together in 16", "1x32", "1x32"),
    (BF16, "dot", 64, 1, 1, 300, 64, 64, H200, "1x64", "1x32", "1x32"),
    (BF16, "dot", 16, 1, 64, 64, 64, 64, H200, "64x64", "64x128", "32x128"),
    (BF16, "dot", 16, 1, 4096, 4096, 128, 128, B200, "128x64", "128x64", "32x64"),
    (F32, "dot", 16, 1, 4096, 4096, 64, 64, H200, "64x32", "32x32", "16x32"),
    (F32, "dot", 16, 1, 4096, 4096, 256, 256, H200, "32x32", "32x32", "16x32"),
    (BF16, "additive", 16, 1, 128, 128, 256, 256, H200, "32x64", "32x64", "16x16"),
    (F32, "additive", 16, 1, 1, 4096, 256, 64, H200, "1x64 in 16", "1x64", "1x64"),
]


@pytest.mark.parametrize("row", TABLE, ids=str)
def test_choice(row):
    *sizes, device, forward, of_queries, of_keys = row
    assert chosen(Problem(*sizes), device) == (forward, of_queries, of_keys)


def test_what_costs_registers_gets_smaller_tiles():
    plain, extras = (
        Problem(BF16, "dot", 16, 1, 4096, 4096, 64, 64, extras=each) for each in (False, True)
    )
    for a, b in zip(chosen(plain), chosen(extras), strict=True):
        (m, n), (less_m, less_n) = (map(int, each.split("x")) for each in (a, b))
        assert less_m * less_n < m * n


@pytest.mark.parametrize("device", [A100, B200, Device((8, 6), 10, 99 << 10)])
@pytest.mark.parametrize("dtype", [BF16, F32], ids=str)
@pytest.mark.parametrize("kind", ["dot", "additive"])
def test_tiles_are_what_kernels_can_take(kind, dtype, device):
    for width in (1, 16, 40, 64, 100, 128, 200, 256):
        for queries in (1, 2, 16, 17, 64, 65, 5000):
            for groups in (1, 8):
                for which in PASSES:
                    p = Problem(dtype, kind, 8, groups, queries, 5000, width, width)
                    tiles = choose(p, device, which)
                    assert tiles.block_m in (1, 16, 32, 64, 128)
                    # A tile of keys never leaves the padded columns of the additive score.
                    assert 128 % tiles.block_n == 0
                    # Matrix units take 16 keys; one query has no use for them.
                    assert tiles.block_n >= (8 if tiles.block_m == 1 else 16)
                    assert tiles.splits == 1 or which == "forward"
                    # An additive vector is a head's own.
                    assert not (tiles.together and (which != "forward" or kind == "additive"))
                    assert tiles.why


def test_splits_fill_the_device_and_no_more():
    assert splits(1, 100, 64, H200) == 1  # too few keys to share
    assert splits(1, 1 << 20, 64, H200) == 64
    assert splits(64, 8192, 64, H200) == 4
    assert splits(1000, 1 << 20, 64, H200) == 1


@pytest.mark.parametrize(
    ("own", "shared", "expected"), [(1, 1, 1), (1, 64, 64), (64, 64, 8), (5000, 64, 1)]
)
def test_parts_of_a_masks_gradient(own, shared, expected):
    assert parts(own, shared) == expected


# --- the compiler ---------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "only", "matrix"),
    [
        ("sm_90", "dot bfloat16 E128 ranges", "wgmma.mma_async"),
        ("sm_80", "dot bfloat16 E64 ranges local", "mma.sync"),
        ("sm_100", "dot bfloat16 E64 dropout", "tcgen05.mma"),
        ("sm_90", "additive bfloat16", "mma.sync"),
    ],
)
def test_chosen_kernels_fit(target, only, matrix):
    done = compile_in_new_process("-m", "fastrnn", "aot", "--targets", target, "--only", only)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "FAULT" not in done.stdout
    lines = [line for line in done.stdout.splitlines() if only in line]
    kernels = {line[len(only) :].split()[0] for line in lines} | {
        word for line in lines for word in line.split() if word in ("forward", "of_queries")
    }
    assert {"forward", "of_queries"} <= kernels
    assert any(matrix in line for line in lines)


@pytest.mark.slow
def test_a_spill_is_a_fault():
    script = """
import sys
from dataclasses import replace
from fastrnn.cli import aot
from fastrnn.gpu import attention_call
choose = attention_call.choose
# More sums than there are registers for.
attention_call.choose = lambda *args: replace(choose(*args), block_m=128, block_n=128, warps=4)
sys.exit(aot.main(["--targets", "sm_90", "--only", "dot bfloat16 E128 decode groups8"]))
"""
    done = compile_in_new_process("-c", script)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "FAULT: spills" in done.stdout or "FAULT: wants" in done.stdout
