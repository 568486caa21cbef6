"""CUDA graphs of the simple form, with a stand-in for torch's: recording runs nothing and notes
what was to be run, and a replay runs that, on the tensors that it was recorded with.
"""

import contextlib
import warnings

import pytest
import torch

pytest.importorskip("triton")

from sequences import FEATURES, draw_scan, results
from test_triton import served  # noqa: F401
from test_triton_sequences import run_triton

import fastrnn
from fastrnn import gpu
from fastrnn.gpu import graphs, permission, simple

if not gpu.INTERPRETED:
    pytest.skip("TRITON_INTERPRET is off: a GPU is here", allow_module_level=True)


class Machine:
    """What a GPU does with graphs: counts, and faults to order."""

    def __init__(self):
        self.recorded = self.replayed = self.plain = 0
        self.recording = None
        self.fails_in = ""
        self.stream = 1

    def graph(self):
        return Graph(self)

    @contextlib.contextmanager
    def recording_into(self, graph, **options):
        assert options == {"capture_error_mode": "thread_local"} and self.recording is None
        self.recording = graph
        try:
            yield
            if self.fails_in == "recording":
                raise RuntimeError("operation not permitted when stream is capturing")
        finally:
            self.recording = None
        self.recorded += 1

    def body(self, run):
        def noted(*arguments):
            if self.recording is not None:
                self.recording.work.append((run, arguments))
                return
            self.plain += 1
            run(*arguments)

        return noted


class Graph:
    def __init__(self, machine):
        self.machine, self.work = machine, []

    def replay(self):
        if self.machine.fails_in == "replay":
            raise RuntimeError("out of memory")
        self.machine.replayed += 1
        for run, arguments in self.work:
            run(*arguments)


@pytest.fixture
def machine(monkeypatch, served):
    served("simple")
    found = Machine()
    monkeypatch.setattr(torch.cuda, "CUDAGraph", found.graph)
    monkeypatch.setattr(torch.cuda, "graph", found.recording_into)
    monkeypatch.setattr(graphs, "_records", lambda device: found.recording is None)
    monkeypatch.setattr(graphs, "_stream", lambda device: found.stream)
    for way in ("forward", "backward"):
        monkeypatch.setattr(simple, way, found.body(getattr(simple, way)))
    graphs.forget()
    yield found
    graphs.forget()


def scan_of(seed, cell="rnn_tanh", features=(), steps=4, **options):
    return draw_scan(cell, features, steps=steps, seed=seed, dtype=torch.float64, **options)


def agree(scans):
    """With leave to record: the bits that it gives without."""
    expected = [results(run_triton, scan) for scan in scans]
    with fastrnn.use_cuda_graphs():
        found = [results(run_triton, scan) for scan in scans]
    for ours, right in zip(found, expected, strict=True):
        for name, tensor in right.items():
            assert torch.equal(ours[name], tensor), name


TOGETHER = tuple(f for f in FEATURES if f not in ("reset zero", "reset given", "zoneout_p"))


@pytest.mark.parametrize(
    ("cell", "features", "options"),
    [
        ("lstm", (), {"packed": True, "reverse": [True, False]}),
        ("lstm", TOGETHER, {"projection": 2}),
        ("gru", ("lengths", "reset given", "all_states"), {}),
    ],
    ids=str,
)
def test_a_replay_gives_the_bits_of_the_steps(cell, features, options, machine):
    """Other numbers, lengths, masks and ``batch_sizes`` each time; what no step writes stays 0."""
    drawn = [scan_of(seed, cell, features, **options) for seed in range(300)]
    scans = [scan for scan in drawn if scan.gates_x.shape == drawn[0].gates_x.shape][:3]
    agree(scans)
    assert machine.recorded == 2  # forward and backward
    assert machine.replayed == 2 * 2


def test_other_sizes_streams_and_precisions_are_other_graphs(machine):
    agree([scan_of(0), scan_of(1), scan_of(2, steps=5), scan_of(3, steps=5)])
    assert (machine.recorded, machine.replayed) == (4, 4)
    machine.stream = 2
    agree([scan_of(0), scan_of(1)])
    assert machine.recorded == 6
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        agree([scan_of(0), scan_of(1)])
    finally:
        torch.set_float32_matmul_precision(before)
    assert machine.recorded == 8
    agree([scan_of(0, features=("grad_clip",)), scan_of(1, features=("gate_clip",))])
    assert machine.recorded == 8


def test_without_leave_or_within_a_capture_nothing_is_recorded(machine, monkeypatch):
    assert not permission.given
    for seed in range(2):
        results(run_triton, scan_of(seed))
    monkeypatch.setattr(graphs, "_records", lambda device: False)
    agree([scan_of(seed) for seed in range(2)])
    assert machine.recorded == 0


def test_what_can_be_recorded():
    assert not graphs._records(torch.device("cpu"))
    capturing = torch.cuda.is_current_stream_capturing
    try:
        torch.cuda.is_current_stream_capturing = lambda: True
        assert not graphs._records(torch.device("cuda"))
        torch.cuda.is_current_stream_capturing = lambda: False
        assert graphs._records(torch.device("cuda"))
    finally:
        torch.cuda.is_current_stream_capturing = capturing


def test_a_few_steps_are_not_recorded(machine):
    agree([scan_of(seed, steps=graphs.FEWEST_STEPS - 1) for seed in range(3)])
    assert machine.recorded == 0


@pytest.mark.parametrize("where", ["recording", "replay"])
def test_what_fails_at_first_is_served_step_by_step(where, machine):
    machine.fails_in = where
    with pytest.warns(UserWarning, match="steps are launched one by one: RuntimeError") as told:
        agree([scan_of(0), scan_of(1)])
    assert len(told) == 2  # forward and backward, each once
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        agree([scan_of(2), scan_of(3)])
    assert machine.replayed == 0


def test_the_least_lately_used_goes(machine, monkeypatch):
    monkeypatch.setattr(graphs, "KEPT", 2)
    agree([scan_of(0), scan_of(1)])
    agree([scan_of(0, steps=5), scan_of(1, steps=5)])
    assert len(graphs._kept) == 2 and machine.recorded == 4
    agree([scan_of(2)])
    assert machine.recorded == 6


def test_leave_ends_with_its_context():
    with pytest.raises(ValueError), fastrnn.use_cuda_graphs():
        assert permission.given
        raise ValueError
    assert not permission.given
