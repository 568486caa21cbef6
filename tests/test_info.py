"""`python -m fastrnn info`: what it tells, and how many OpenMP runtimes there are."""

import subprocess
import sys

import pytest
import torch

from fastrnn import _C, backends
from fastrnn.cli import info
from fastrnn.cli.openmp import loaded_openmp_runtimes


@pytest.fixture
def printed(capsys):
    def run():
        assert info.main([]) == 0
        return capsys.readouterr().out

    return run


def test_tells_versions_threads_and_every_backend(printed):
    text = printed()
    lines = text.splitlines()
    assert any(line.split() == ["torch", torch.__version__] for line in lines)
    assert any(line.split() == ["threads", str(torch.get_num_threads())] for line in lines)
    assert f"instruction set {_C.isa()} " in text
    for op, backend, reason in backends.report():
        state = "on" if reason is None else f"off: {reason}"
        assert any(op in line and backend in line and state in line for line in lines)


@pytest.mark.parametrize("isa", _C.isas())
def test_cap_of_the_instruction_set(isa, monkeypatch):
    monkeypatch.setenv("FASTRNN_ISA", isa)
    command = [sys.executable, "-m", "fastrnn", "info"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert f"instruction set {isa} " in done.stdout
    assert f"capped by FASTRNN_ISA={isa}" in done.stdout


def test_needs_nothing_but_torch():
    program = (
        "import sys; sys.modules['rich'] = sys.modules['matplotlib'] = None;"
        "from fastrnn.cli.app import main; sys.exit(main(['info']))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "instruction set" in done.stdout


def test_without_the_extension(monkeypatch, printed):
    monkeypatch.setitem(sys.modules, "fastrnn._C", None)
    monkeypatch.delattr("fastrnn._C")
    assert "cannot be imported" in printed()


def test_one_openmp_runtime():
    program = (
        "import fastrnn; from fastrnn.cli.openmp import loaded_openmp_runtimes as loaded;"
        "print(len(loaded() or ['unknown']))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "1"
    runtimes = loaded_openmp_runtimes()
    assert runtimes is None or len(runtimes) >= 1
