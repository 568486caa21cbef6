"""What a compiler makes of the Triton kernels, without a GPU; and the plan's choices."""

import os
import subprocess
import sys

import pytest
import torch

pytest.importorskip("triton")

from fastrnn.gpu.plan import A100, B200, H200, Device, Problem, choose

BF16, F32, F64 = torch.bfloat16, torch.float32, torch.float64


# --- the plan -------------------------------------------------------------------------------


def chosen(problem, device=H200):
    """Forward and backward in short: form, sequences and units a program, h where weights are
    held in registers."""
    found = []
    for backward in (False, True):
        p = choose(problem, device, backward)
        blocks = f" {p.block_b}x{p.block_h}" + "h" * p.held if p.form != "simple" else ""
        found.append(p.form + blocks)
    return tuple(found)


TABLE = [
    # device, dtype, gates, N, B, H, forward, backward
    (H200, BF16, 4, 1, 1, 64, "rows 16x64h", "rows 16x64h"),
    (H200, BF16, 4, 2, 256, 100, "rows 16x128h", "rows 16x128"),
    (H200, BF16, 3, 1, 16, 128, "rows 16x128h", "rows 16x128"),
    (H200, BF16, 4, 1, 16, 128, "rows 16x128h", "rows 16x128"),
    (H200, BF16, 4, 1, 16, 129, "grid 16x16", "grid 16x16h"),
    (H200, BF16, 4, 1, 1, 256, "grid 16x16", "grid 16x16h"),
    (H200, BF16, 4, 1, 64, 512, "grid 16x16", "grid 16x16h"),
    (H200, BF16, 4, 2, 64, 512, "grid 32x16", "grid 32x16"),
    (H200, BF16, 4, 1, 256, 512, "grid 64x16", "stream 32x32"),
    (H200, BF16, 4, 1, 64, 768, "stream 32x16", "grid 32x16"),
    (H200, BF16, 4, 2, 64, 768, "stream 64x16", "stream 32x32"),
    (H200, BF16, 4, 1, 16, 1024, "grid 16x16", "grid 16x16"),
    (H200, BF16, 3, 1, 64, 1024, "grid 32x16", "grid 32x16"),
    (H200, BF16, 4, 1, 256, 1024, "stream 128x16", "stream 64x32"),
    (H200, BF16, 4, 1, 1, 2048, "stream 16x16", "stream 16x16"),
    (H200, BF16, 4, 1, 16, 2048, "stream 16x16", "stream 16x16"),
    (H200, BF16, 4, 2, 256, 2048, "stream 128x32", "stream 64x64"),
    (H200, BF16, 1, 1, 16, 512, "grid 16x16h", "grid 16x16h"),
    (H200, BF16, 5, 1, 16, 64, "simple", "simple"),
    (H200, F32, 4, 1, 16, 64, "rows 16x64", "rows 16x64"),
    (H200, F32, 4, 1, 16, 512, "grid 16x8", "stream 16x16"),
    (H200, F32, 4, 1, 16, 768, "grid 16x8", "stream 16x16"),
    (H200, F64, 4, 1, 16, 64, "simple", "simple"),
    (A100, BF16, 4, 1, 64, 512, "grid 32x16", "grid 32x16"),
    (A100, BF16, 4, 2, 64, 512, "grid 64x16", "stream 32x32"),
    (A100, BF16, 4, 1, 256, 512, "stream 128x16", "stream 32x64"),
    (A100, BF16, 3, 1, 64, 1024, "stream 64x16", "stream 32x32"),
    (A100, BF16, 4, 1, 256, 1024, "stream 128x32", "stream 32x64"),
    (A100, BF16, 4, 1, 1, 2048, "stream 16x32", "stream 16x32"),
    (A100, BF16, 4, 1, 16, 2048, "stream 16x32", "stream 16x32"),
    (A100, F32, 4, 1, 16, 768, "stream 16x16", "stream 16x16"),
    (B200, BF16, 4, 2, 256, 100, "rows 16x128", "rows 16x128"),
    (B200, BF16, 3, 1, 16, 128, "rows 16x128", "rows 16x128"),
    (B200, BF16, 4, 1, 16, 128, "rows 16x128", "rows 16x128"),
]


@pytest.mark.parametrize(
    ("device", "dtype", "G", "N", "B", "H", "forward", "backward"), TABLE, ids=str
)
def test_choice(device, dtype, G, N, B, H, forward, backward):
    assert chosen(Problem(dtype, G, N, B, H, H), device) == (forward, backward)


def test_choice_of_other_calls():
    assert chosen(Problem(BF16, 4, 1, 16, 512, 512, single=True))[0] == "simple"
    assert chosen(Problem(BF16, 4, 1, 16, 512, 256, projected=True))[0] == "stream 16x16"
    assert chosen(Problem(BF16, 4, 1, 16, 512, 512, plain=False))[0] == "stream 16x16"
    assert chosen(Problem(BF16, 4, 1, 16, 100, 50, projected=True))[0] == "rows 16x128h"
    assert chosen(Problem(F32, 4, 1, 16, 64, 64, precision="ieee"))[0] == "simple"
    assert chosen(Problem(F32, 4, 1, 16, 512, 512, precision="tf32"))[0] == "grid 16x16"


OTHER_CELLS = [
    # what is other, dtype, gates, B, H, forward, backward
    ({"recurrent": False}, BF16, 3, 16, 20, "rows 4x32", "rows 4x32"),
    ({"recurrent": False}, F64, 2, 1, 512, "rows 1x128", "rows 1x128"),
    ({"recurrent": False}, F32, 2, 256, 2048, "rows 8x128", "rows 8x128"),
    ({"recurrent": False, "precision": "ieee"}, F32, 2, 1, 8, "rows 8x16", "rows 8x16"),
    ({"whole_row": True, "plain": False}, BF16, 4, 16, 64, "rows 16x64h", "rows 16x64h"),
    ({"whole_row": True, "plain": False}, BF16, 3, 16, 128, "rows 16x128", "simple"),
    ({"whole_row": True, "plain": False}, BF16, 4, 16, 128, "simple", "simple"),
    ({"whole_row": True, "plain": False}, F32, 4, 16, 64, "rows 16x64", "rows 16x64"),
    ({"whole_row": True, "plain": False, "asked": 1}, F32, 4, 16, 64, "simple", "simple"),
    (
        {"whole_row": True, "plain": False, "asked": 1},
        BF16,
        4,
        16,
        64,
        "rows 16x64h",
        "rows 16x64h",
    ),
    ({"whole_row": True, "plain": False, "asked": 2}, BF16, 4, 16, 64, "rows 16x64h", "simple"),
    ({"precision": "tf32"}, F32, 4, 64, 768, "stream 32x16", "stream 32x16"),
    ({"precision": "tf32"}, F32, 3, 64, 768, "stream 32x16", "grid 32x16"),
    ({"second": True}, BF16, 3, 16, 128, "rows 16x128h", "rows 16x128"),
    ({"second": True}, BF16, 3, 16, 512, "simple", "simple"),
    ({"plain": False, "asked": 1}, BF16, 4, 16, 128, "rows 16x128", "rows 16x128"),
    ({"plain": False, "asked": 1}, F32, 4, 16, 64, "rows 16x64", "stream 16x16"),
]


@pytest.mark.parametrize(
    ("other", "dtype", "G", "B", "H", "forward", "backward"), OTHER_CELLS, ids=str
)
def test_choice_for_other_cells_and_options(other, dtype, G, B, H, forward, backward):
    assert chosen(Problem(dtype, G, 1, B, H, H, **other)) == (forward, backward)


def test_choice_says_why():
    assert choose(Problem(BF16, 4, 1, 16, 64, 64), H200).why.startswith("weights of 32 KB fit one")
    why = choose(Problem(BF16, 4, 1, 256, 1024, 1024), H200).why
    assert "nor do they fit 132 at once: 128 tiles of 64 x 128 read from" in why


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("device", [A100, H200, Device((8, 6), 10, 99 << 10)])
def test_all_programs_of_a_grid_run_at_once(device, backward):
    """One on each multiprocessor, that is: the barrier waits for all of them."""
    grids = 0
    for dtype in (BF16, F32):
        for G in (1, 2, 3, 4):
            for N in (1, 2, 7):
                for B in (1, 17, 64, 300):
                    for H in (1, 100, 129, 300, 512, 1000, 1024, 3000):
                        plan = choose(Problem(dtype, G, N, B, H, H), device, backward)
                        if plan.form == "stream":
                            assert plan.programs <= device.processors
                        if plan.form == "grid":
                            groups = N * -(-B // plan.block_b)
                            assert groups * -(-H // plan.block_h) <= device.processors
                            grids += 1
    assert grids


# --- the compiler ---------------------------------------------------------------------------


def compile_in_new_process(*arguments):
    """Where kernels are not for the interpreter."""
    paths = os.pathsep.join(sys.path)
    return subprocess.run(
        [sys.executable, *arguments],
        env=os.environ | {"PYTHONPATH": paths, "TRITON_INTERPRET": "0"},
        capture_output=True,
        text=True,
        timeout=600,
    )


def test_no_shape_of_that_name():
    done = compile_in_new_process("-m", "fastrnn", "aot", "--only", "nothing")
    assert done.returncode == 2
    assert "no shape's name contains 'nothing'" in done.stderr
    assert "lstm bfloat16 H64 B16" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "only", "matrix"),
    [
        ("sm_80", "gru bfloat16 H1024", "mma.sync"),
        ("sm_90", "lstm bfloat16 H", "wgmma.mma_async"),
        ("sm_90", "tf32x3 H", "mma.sync"),
        ("sm_100", "lstm bfloat16 H1024", "mma.sync"),
        ("sm_90", "lstm bfloat16 H2048", "wgmma.mma_async"),
        ("sm_90", "peephole_lstm bfloat16 H64", "mma.sync"),
    ],
)
def test_chosen_kernels_fit(target, only, matrix):
    done = compile_in_new_process("-m", "fastrnn", "aot", "--targets", target, "--only", only)
    assert done.returncode == 0, done.stdout + done.stderr
    assert matrix in done.stdout and "FAULT" not in done.stdout
    lines = [line for line in done.stdout.splitlines() if only in line]
    assert len(lines) >= 3  # a forward with and without saving, a backward


CODE = """
 /*0000*/  STL [R1], R2 ;
.L_x_0:
 /*0010*/  {inside} ;
 /*0020*/  @P0 CALL.REL.NOINC `(helper) ;
 /*0030*/  @!P0 BRA `(.L_x_0) ;
 /*0040*/  LDL R2, [R1] ;
 /*0050*/  EXIT ;
helper:
 /*0060*/  {called} ;
 /*0070*/  RET.REL.NODEC R4 `(kernel) ;
.L_x_1:
 /*0080*/  BRA `(.L_x_1) ;
"""


def test_what_a_loop_does_not_touch_is_parked():
    from fastrnn.gpu.machine_code import spills_in_loops

    assert spills_in_loops(CODE.format(inside="FADD R2, R2, R2", called="NOP")) == 0
    assert spills_in_loops(CODE.format(inside="LDL.64 R44, [R1]", called="NOP")) == 1
    assert spills_in_loops(CODE.format(inside="NOP", called="STL [R1+0x4], R2")) == 1


@pytest.mark.slow
def test_a_spill_is_a_fault():
    script = """
import sys, torch
from dataclasses import replace
from fastrnn.cli import aot
from fastrnn.gpu import forms, plan
choose = forms.choose
# Four times as many sequences as there are registers for.
forms.choose = lambda *args: replace(choose(*args), block_b=64)
sys.exit(aot.main(["--targets", "sm_90", "--only", "lstm bfloat16 H1024"]))
"""
    done = compile_in_new_process("-c", script)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "FAULT: spills" in done.stdout


def test_without_triton_it_says_so():
    script = """
import sys
sys.modules["triton"] = None  # as if it were not there
import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *args: None if name == "triton" else find(name, *args)
from fastrnn.cli.app import main
sys.exit(main(["aot"]))
"""
    done = compile_in_new_process("-c", script)
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.strip() == "Triton is not installed: pip install 'fastrnn[gpu]'"


def test_the_interpreter_compiles_nothing():
    script = "import sys, os; os.environ['TRITON_INTERPRET'] = '1'\n"
    script += "from fastrnn.cli.app import main; sys.exit(main(['aot']))"
    done = compile_in_new_process("-c", script)
    assert done.returncode == 2 and "TRITON_INTERPRET is set" in done.stderr
