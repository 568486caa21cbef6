"""The same bits from any number of threads, any neighbours in the batch, any second run."""

import concurrent.futures
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from equality import DTYPES, SEED, Case, call_fastrnn, draw, run, threads, use_isa

from fastrnn import _C
from fastrnn.cells import CELLS
from fastrnn.scan import scan

KERNELS = [cell for cell in CELLS if cell in _C.cells()]
# The loop is the same for all cells: those that torch lacks are tried in one dtype, at fewer sizes.
TORCHS = [cell for cell in KERNELS if CELLS[cell].torch_layer]


@pytest.fixture(params=_C.isas())
def isa(request):
    with use_isa(request.param):
        yield request.param


# --- how the work is split ------------------------------------------------------------------

# T, B, N, H, threads -> into how many parts recurrences, batch rows and units are cut.
# Far from where the plans change, so that constants may be tuned without touching this.
PLANS = [
    ((100, 1, 1, 4, 8), (1, 1, 1)),  # too little work to wake anybody
    ((1000, 64, 1, 512, 1), (1, 1, 1)),
    ((100, 32, 2, 512, 2), (2, 1, 1)),
    ((100, 32, 3, 512, 2), (2, 1, 1)),  # one thread has two recurrences, one has one
    ((100, 1, 1, 512, 2), (1, 1, 2)),
    ((100, 4, 2, 512, 8), (2, 1, 4)),
    ((4000, 64, 1, 4, 2), (1, 2, 1)),
    ((4000, 64, 2, 4, 8), (2, 4, 1)),
    ((40000, 3, 1, 4, 8), (1, 3, 1)),  # no more parts than rows
]


@pytest.mark.parametrize(("shape", "parts"), PLANS)
def test_plan(shape, parts, isa):
    steps, batch, recurrences, hidden, count = shape
    assert _C.plan("lstm", 0, steps, batch, recurrences, hidden, count) == parts


# --- the same bits --------------------------------------------------------------------------


def arguments_of(
    cell, dtype, steps, batch, recurrences, hidden, sizes=None, projection=0, seed=SEED
):
    """The arguments of a scan."""
    spec, generator = CELLS[cell], torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(shape, generator=generator).to(dtype)

    width, gates = projection or hidden, spec.num_gates * hidden
    rows = steps * batch if sizes is None else int(sizes.sum())
    widths = [width] + [hidden] * (len(spec.states) - 1)
    weights = [normal(gates, width) / hidden**0.5 for _ in range(recurrences)]
    return {
        "gates_x": normal(rows, recurrences, gates),
        "weight_hh": weights if spec.recurrent else None,
        "bias_hh": [normal(gates) for _ in range(recurrences)],
        "weight_hr": [normal(width, hidden) for _ in range(recurrences)] if projection else None,
        "states": [
            # A normaliser is a sum of exponentials.
            normal(recurrences, batch, each).abs() + (name == "n")
            for name, each in zip(spec.states, widths, strict=True)
        ],
        "params": [
            [normal(each * hidden) for _ in range(recurrences)] for each in spec.param_widths
        ],
        "batch_sizes": sizes,
        "reverse": [n % 2 == 1 for n in range(recurrences)],
    }


def results_of(cell, arguments, grads=None):
    """A scan's results and its gradients, not the products around it, which are torch's."""
    leaves = [arguments["gates_x"], *arguments["states"]]
    leaves = [leaf.detach().clone().requires_grad_() for leaf in leaves]
    replaced = arguments | {"gates_x": leaves[0], "states": leaves[1:]}
    out, finals, _ = scan(CELLS[cell], **replaced, backend="cpp")
    results = [out, *finals]
    if grads is None:
        # Any numbers, no two rows the same.
        grads = [torch.linspace(-1, 2, r.numel()).view(r.shape).to(r.dtype) for r in results]
    return [*results, *torch.autograd.grad(results, leaves, grads)]


def assert_same_bits(got, expected):
    for a, b in zip(got, expected, strict=True):
        assert torch.equal(a, b), f"FASTRNN_TEST_SEED={SEED}"


# T, B, N, H, and whether packed.
SHAPES = [
    (5, 3, 1, 210, False),
    (5, 3, 2, 210, True),
    (400, 17, 1, 9, False),
    (400, 17, 2, 9, True),
]


def packed_sizes(steps, batch):
    """Batch sizes falling from all sequences but one, which has no step at all, to one."""
    return torch.linspace(batch - 1, 1, steps).round().long()


@pytest.mark.parametrize("cell", [cell for cell in KERNELS if CELLS[cell].recurrent])
def test_shapes_are_cut_in_every_way(cell, isa):
    plans = {_C.plan(cell, 0, *shape[:4], count) for shape in SHAPES for count in (2, 8)}
    kinds = {tuple(part > 1 for part in plan) for plan in plans}
    recurrences, rows, units = (True, False, False), (False, True, False), (False, False, True)
    both = {(True, True, False), (True, False, True)}
    assert kinds == {recurrences, rows, units, *both}


@pytest.mark.parametrize(
    ("cell", "dtype", "shape"),
    [
        (cell, dtype, shape)
        for cell in KERNELS
        for dtype in (torch.float32, torch.float64, torch.bfloat16)
        for shape in SHAPES
        if cell in TORCHS or (dtype == torch.float32 and shape[-1])
    ],
    ids=str,
)
def test_any_number_of_threads(cell, dtype, shape, isa):
    *shape, packed = shape
    arguments = arguments_of(cell, dtype, *shape, packed_sizes(*shape[:2]) if packed else None)
    with threads(1):
        expected = results_of(cell, arguments)
    for count in (2, 8):
        with threads(count):
            assert_same_bits(results_of(cell, arguments), expected)


def test_any_number_of_threads_with_a_projection(isa):
    arguments = arguments_of("lstm", torch.float32, 100, 17, 1, 20, projection=7)
    with threads(1):
        expected = results_of("lstm", arguments)
    for count in (2, 8):
        with threads(count):
            assert_same_bits(results_of("lstm", arguments), expected)


# Batches around the groups of rows that a tile holds.
@pytest.mark.parametrize(
    ("cell", "dtype", "batch"),
    [
        (cell, dtype, batch)
        for cell in KERNELS
        for dtype in DTYPES
        for batch in (1, 2, 3, 5, 8, 9, 13)
        if cell in TORCHS or (dtype == torch.float32 and batch in (2, 9))
    ],
    ids=str,
)
def test_a_row_does_not_see_its_neighbours(cell, dtype, batch, isa):
    """Each row alone gets the bits it gets among others, though the tiles are others."""
    steps, hidden = 3, 37
    arguments = arguments_of(cell, dtype, steps, batch, 1, hidden)
    count = 1 + len(arguments["states"])
    grads = [torch.randn_like(result) for result in results_of(cell, arguments)[:count]]
    together = results_of(cell, arguments, grads)

    def only(row, tensors):
        """Of outputs and states, or their gradients: one row's."""
        by_step, *states = tensors
        by_step = by_step.view(steps, batch, 1, -1)[:, row]
        return [by_step, *(state[:, row : row + 1] for state in states)]

    for row in {0, batch // 2, batch - 1}:
        gates_x, *states = only(row, [arguments["gates_x"], *arguments["states"]])
        alone = arguments | {"gates_x": gates_x, "states": states}
        expected = only(row, together[:count]) + only(row, together[count:])
        assert_same_bits(results_of(cell, alone, only(row, grads)), expected)


@pytest.mark.parametrize("cell", TORCHS)
def test_two_runs(cell, isa):
    case = Case(cell, torch.float32, 65, batch=7, steps=20, layers=2, bidirectional=True)
    arguments = draw(case, SEED)
    first, second = (run(call_fastrnn, case, arguments) for _ in range(2))
    assert_same_bits(second.values(), first.values())


# --- many at once ---------------------------------------------------------------------------


def test_many_python_threads():
    """The GIL is released; calls share nothing but the weights."""
    case = Case("lstm", torch.float32, 65, batch=7, steps=20, layers=2, bidirectional=True)
    drawn = [draw(case, SEED + i) for i in range(8)]
    expected = [run(call_fastrnn, case, arguments) for arguments in drawn]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for _ in range(3):
            found = pool.map(lambda arguments: run(call_fastrnn, case, arguments), drawn)
            for got, wanted in zip(found, expected, strict=True):
                assert_same_bits(got.values(), wanted.values())


# Another process finds what this one does.
ENVIRONMENT = os.environ | {
    "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path]),
}


def digest(seed):
    """Of the bits of some scans, forwards and backwards."""
    found = hashlib.sha256()
    for cell in KERNELS:
        for shape, sizes in (((5, 3, 2, 210), None), ((40, 17, 2, 9), packed_sizes(40, 17))):
            arguments = arguments_of(cell, torch.float32, *shape, sizes, seed=seed)
            for tensor in results_of(cell, arguments):
                found.update(tensor.detach().numpy().tobytes())
    return found.hexdigest()


def test_two_processes():
    """Both at once; in one, memory fresh from malloc holds numbers of 1e38 (with glibc)."""
    script = f"from test_threads import digest; print(digest({SEED}))"
    running = [
        subprocess.Popen(
            [sys.executable, "-c", script],
            env=ENVIRONMENT | extra,
            stdout=subprocess.PIPE,
            text=True,
        )
        for extra in ({}, {"MALLOC_PERTURB_": "129"})
    ]
    for process in running:
        printed, _ = process.communicate(timeout=120)
        assert process.returncode == 0
        assert printed.strip() == digest(SEED)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_forked_with_one_thread():
    """As the workers of a DataLoader are. With more threads OpenMP itself hangs, torch's too."""
    script = (
        "import os, sys, torch, test_threads\n"
        "torch.set_num_threads(2)\n"
        "before = test_threads.digest(0)\n"
        "child = os.fork()\n"
        "torch.set_num_threads(1 if child == 0 else 2)\n"
        "same = test_threads.digest(0) == before\n"
        "if child == 0: os._exit(not same)\n"
        "sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) or not same)\n"
    )
    subprocess.run([sys.executable, "-c", script], env=ENVIRONMENT, timeout=120, check=True)
