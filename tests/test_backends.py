"""Who serves a call: the choice, the asking, the refusal; and that the backends agree."""

import os
import subprocess
import sys
import threading

import pytest
import torch
from equality import Case, call_fastrnn, call_reference, draw, error, run, use_isa

import fastrnn
from fastrnn import _C, backends, functional, gpu, use_backend
from fastrnn.cells import CELLS
from fastrnn.scores import SCORES

CPU, CUDA, META = (torch.device(name) for name in ("cpu", "cuda", "meta"))


@pytest.fixture
def kernel_calls(monkeypatch):
    """The calls that reach the compiled forward."""
    calls = []

    def count(original):
        return lambda *args: calls.append(args) or original(*args)

    for name in ("forward", "layer"):
        monkeypatch.setattr(_C, name, count(getattr(_C, name)))
    return calls


@pytest.fixture
def served_by(kernel_calls):
    """Calls a layer; the name of the backend that did the work."""
    case = Case("lstm", torch.float32, 4)
    arguments = draw(case, 0)

    def serve(backend=None):
        kernel_calls.clear()
        call_fastrnn(case, arguments, backend)
        return "cpp" if kernel_calls else "reference"

    return serve


# --- asking ---------------------------------------------------------------------------------


def test_by_itself_the_cpu_takes_the_kernels(served_by):
    assert served_by() == "cpp"
    assert backends.choose(CELLS["lstm"], CPU, torch.float32, None) == "cpp"


@pytest.mark.parametrize("name", ["cpp", "reference"])
def test_by_argument(served_by, name):
    assert served_by(name) == name


@pytest.mark.parametrize("name", ["cpp", "reference"])
def test_by_context(served_by, name):
    with use_backend(name):
        assert served_by() == name
        with use_backend("reference"):
            assert served_by() == "reference"
            with use_backend(None):  # the automatic choice again
                assert served_by() == "cpp"
            assert served_by("cpp") == "cpp"  # a call's own wish comes first
        assert served_by() == name
    assert served_by() == "cpp"


def test_a_context_ends_with_an_error_too(served_by):
    with pytest.raises(KeyError), use_backend("reference"):
        raise KeyError
    assert served_by() == "cpp"


def test_a_context_is_its_threads_own(served_by):
    found = []
    with use_backend("reference"):
        thread = threading.Thread(target=lambda: found.append(served_by()))
        thread.start()
        thread.join()
    assert found == ["cpp"]


@pytest.mark.parametrize("layer", [fastrnn.LSTM, fastrnn.LSTMCell])
@pytest.mark.parametrize("name", ["cpp", "reference"])
def test_by_module(kernel_calls, layer, name):
    layer(3, 4, backend=name)(torch.zeros(2, 3))
    assert bool(kernel_calls) == (name == "cpp")


def test_the_backward_is_served_by_the_same(monkeypatch):
    called = []
    backward = _C.layer_backward
    monkeypatch.setattr(_C, "layer_backward", lambda *args: called.append(1) or backward(*args))
    case = Case("gru", torch.float32, 4)
    run(call_reference, case, draw(case, 0))
    assert not called
    run(call_fastrnn, case, draw(case, 0))
    assert called


# --- refusing -------------------------------------------------------------------------------


def asked_by_argument(name, *args):
    return functional.lstm_cell(*args, backend=name)


def asked_by_context(name, *args):
    with use_backend(name):
        return functional.lstm_cell(*args)


ASK = pytest.mark.parametrize("ask", [asked_by_argument, asked_by_context])


def cell_arguments(dtype=torch.float32):
    shapes = (2, 3), (2, 4), (2, 4), (16, 3), (16, 4)
    x, h, c, w_ih, w_hh = (torch.zeros(shape, dtype=dtype) for shape in shapes)
    return x, (h, c), w_ih, w_hh


@ASK
def test_triton_says_why_it_cannot(ask, monkeypatch):
    monkeypatch.setattr(gpu, "INTERPRETED", False)  # which would serve the CPU
    with pytest.raises(
        RuntimeError, match=r"'triton' was asked for but cannot serve 'lstm'.*: \w+"
    ):
        ask("triton", *cell_arguments())


@ASK
def test_the_kernels_say_which_dtype_they_lack(ask):
    with pytest.raises(RuntimeError, match=r"'cpp'.*no kernel for torch\.complex64"):
        ask("cpp", *cell_arguments(torch.complex64))
    assert functional.lstm_cell(*cell_arguments(torch.complex64))[0].is_complex()


def test_the_kernels_refuse_another_device():
    with pytest.raises(RuntimeError, match=r"'cpp'.*runs on the CPU only.*cuda"):
        backends.choose(CELLS["lstm"], CUDA, torch.float32, "cpp")
    assert backends.choose(CELLS["lstm"], META, torch.float32, "cpp") == "cpp"


@ASK
def test_an_unknown_name(ask):
    with pytest.raises(
        ValueError, match=r"backend should be one of cpp, triton, reference.*'cuda'"
    ):
        ask("cuda", *cell_arguments())


@pytest.mark.parametrize("name", ["LSTM", "GRUCell", "MinGRU", "MinGRUCell"])
def test_a_layer_refuses_an_unknown_name_as_it_is_made(name):
    with pytest.raises(ValueError, match=r"backend should be one of cpp, .*'cuda'"):
        getattr(fastrnn, name)(2, 3, backend="cuda")


def test_report_names_every_op_and_backend():
    rows = backends.report()
    ops = [*CELLS, *(f"attention: {score}" for score in SCORES)]
    assert {(op, backend) for op, backend, _ in rows} == {
        (op, backend) for op in ops for backend in backends.NAMES
    }
    reasons = {(cell, backend): reason for cell, backend, reason in rows}
    for cell in _C.cells():
        assert reasons[cell, "cpp"] is None and reasons[cell, "reference"] is None


# --- environment ----------------------------------------------------------------------------


def in_new_process(script, **environment):
    paths = os.pathsep.join(sys.path)
    return subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"PYTHONPATH": paths} | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_backend_from_the_environment():
    """It holds where nothing else is asked for."""
    script = """
from fastrnn import use_backend
from fastrnn.backends import requested
print(requested(None), requested("cpp"))
with use_backend("cpp"): print(requested(None))
with use_backend(None): print(requested(None))
"""
    done = in_new_process(script, FASTRNN_BACKEND="reference")
    assert done.stdout.split() == ["reference", "cpp", "cpp", "None"], done.stderr


def test_no_such_backend_in_the_environment():
    done = in_new_process("import fastrnn", FASTRNN_BACKEND="cuda")
    assert done.returncode == 1
    assert "backend should be one of cpp, triton, reference" in done.stderr


def test_neither_yes_nor_no_to_cuda_graphs_in_the_environment():
    script = "from fastrnn.gpu import permission; print(permission.given)"
    for value, given in (("on", "True"), ("0", "False")):
        assert in_new_process(script, FASTRNN_CUDA_GRAPHS=value).stdout.strip() == given
    done = in_new_process("import fastrnn", FASTRNN_CUDA_GRAPHS="maybe")
    assert done.returncode == 1
    assert "FASTRNN_CUDA_GRAPHS should be 1 or 0" in done.stderr


def test_without_the_extension():
    """A source tree that was not built computes by the reference; `make gpu` runs in it."""
    script = """
import sys
sys.modules["fastrnn._C"] = None
import pytest, torch, fastrnn
x = torch.randn(5, 2, 3)
for grad in (False, True):
    with torch.set_grad_enabled(grad):
        for layer in (fastrnn.LSTM(3, 4), fastrnn.MinGRU(3, 4), fastrnn.Attention(3, 3)):
            out = layer(x, x)[0] if isinstance(layer, fastrnn.Attention) else layer(x)[0]
        fastrnn.GRUCell(3, 4)(x[0])
        fastrnn.functional.attention(x, x, x)
with fastrnn.use_backend("triton"):  # its products around the scan are anyone's
    fastrnn.GRU(3, 4)(x)[0].sum().backward()
with pytest.raises(RuntimeError, match="extension cannot be imported"):
    fastrnn.quantize_dynamic(fastrnn.LSTM(3, 4))
with pytest.raises(RuntimeError, match="extension cannot be imported"):
    fastrnn.LSTM(3, 4, backend="cpp")(x)
print(fastrnn.backends.report()[0])
"""
    done = in_new_process(script, TRITON_INTERPRET="1")
    assert "extension cannot be imported" in done.stdout, done.stderr


@pytest.mark.parametrize("cap", ["baseline", "amx"])
def test_cap_of_the_instruction_set(cap):
    """The best there is up to the cap, be the cap itself there or not."""
    done = in_new_process("from fastrnn import _C; print(_C.isa())", FASTRNN_ISA=cap)
    expected = "baseline" if cap == "baseline" else _C.isas()[-1]
    assert done.stdout.strip() == expected, done.stderr


def test_no_such_instruction_set():
    """A misspelt cap must not leave the user with the reference, unknowing."""
    done = in_new_process("import fastrnn", FASTRNN_ISA="avx1024")
    assert done.returncode == 1
    assert (
        "FASTRNN_ISA should be one of baseline, avx2, avx512, avx512bf16, amx, got: 'avx1024'"
        in done.stderr
    )


# --- the compiled side ----------------------------------------------------------------------


def test_instruction_sets():
    assert _C.isas()[0] == "baseline"
    for name in _C.isas():
        with use_isa(name):
            assert _C.isa() == name
    with pytest.raises(ValueError, match="'avx1024' was not built or is not available"):
        _C.use_isa("avx1024")


@pytest.mark.parametrize("isa", _C.isas())
@pytest.mark.parametrize("cell", _C.cells())
def test_cell_layout(cell, isa):
    """What the kernels assume of a cell is what its CellSpec says."""
    spec = CELLS[cell]
    with use_isa(isa):
        layout = _C.cell_layout(cell)
    assert layout["gates"] == len(spec.gates)
    assert layout["states"] == len(spec.states)
    assert layout["saved"] == len(spec.saved)
    assert layout["params"] == sum(spec.param_widths) and len(spec.params) == len(spec.param_widths)
    assert layout["second"] == len(spec.second)
    assert layout["recurrent"] == spec.recurrent


def test_no_such_cell():
    with pytest.raises(ValueError, match="no_such_cell"):
        _C.cell_layout("no_such_cell")


@pytest.mark.parametrize("form", ["dense", "packed"])
@pytest.mark.parametrize("cell", _C.cells())
def test_backends_agree(cell, form):
    case = Case(cell, torch.float64, 9, layers=2, bidirectional=True, form=form)
    arguments = draw(case, 0)
    expected = run(call_reference, case, arguments)
    for name, result in run(call_fastrnn, case, arguments).items():
        assert max(error([result], [expected[name]])) < 1e-13, name
