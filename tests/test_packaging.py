"""The source distribution, the wheel made of it, and what an installed wheel loads."""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ("csrc", "fastrnn", "kernels")

pytestmark = pytest.mark.slow


def run(*command, cwd):
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


def files(folder):
    """Paths under ``folder`` that belong to the project, relative to the checkout."""
    return {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and path.suffix not in (".pyc", ".so")
    }


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    """The source distribution, unpacked."""
    folder = tmp_path_factory.mktemp("sdist")
    build = f"from scikit_build_core.build import build_sdist; print(build_sdist({str(folder)!r}))"
    name = run(sys.executable, "-c", build, cwd=ROOT).splitlines()[-1]
    with tarfile.open(folder / name) as archive:
        archive.extractall(folder, filter="data")
    return folder / name.removesuffix(".tar.gz")


@pytest.fixture(scope="module")
def wheel(sdist, tmp_path_factory):
    """The wheel of that source distribution; unoptimised, since its contents are what counts."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-build-isolation", "--no-deps")
    options = ("cmake.build-type=Debug", "cmake.define.FASTRNN_ISAS=baseline")
    settings = [f"--config-settings={option}" for option in options]
    run(*pip, *settings, "--wheel-dir", str(folder), str(sdist), cwd=folder)
    (path,) = folder.glob("*.whl")
    return path


def test_sdist_holds_all_that_a_build_needs(sdist):
    expected = {"CMakeLists.txt", "pyproject.toml", "LICENSE", "README.md"}
    expected |= {path for folder in SOURCES for path in files(folder)}
    missing = {path for path in expected if not (sdist / path).is_file()}
    assert not missing


def test_wheel_contents(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
    information = {name for name in names if name.split("/")[0].endswith(".dist-info")}
    assert any(name.endswith("/LICENSE") for name in information)
    (extension,) = (name for name in names if name.endswith(".so"))
    assert extension.startswith("fastrnn/_C.")
    # kernels/ is part of the package, and no package of its own.
    kernels = {f"fastrnn/{name}" for name in files("kernels")}
    assert "fastrnn/kernels/__init__.py" in kernels
    assert "fastrnn/py.typed" in names
    assert names - information == files("fastrnn") | kernels | {extension}


def test_installed_wheel_runs_on_one_openmp_runtime(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    program = f"""
import sys
# An editable installation of the checkout would come first.
sys.meta_path = [finder for finder in sys.meta_path if "Redirect" not in type(finder).__name__]
sys.path.insert(0, {str(tmp_path / "site")!r})
import fastrnn, fastrnn.kernels, torch
assert fastrnn.__file__.startswith({str(tmp_path)!r}), fastrnn.__file__
assert fastrnn._C.__file__.startswith({str(tmp_path)!r}), fastrnn._C.__file__
with torch.no_grad(), fastrnn.use_backend("cpp"):
    fastrnn.LSTM(8, 16)(torch.randn(4, 32, 8))
from fastrnn.cli.openmp import loaded_openmp_runtimes
print(*(loaded_openmp_runtimes() or ["unknown"]), sep="\\n")
"""
    runtimes = run(sys.executable, "-c", program, cwd=tmp_path).splitlines()
    if runtimes == ["unknown"]:
        pytest.skip("the system does not tell what is loaded")
    assert len(runtimes) == 1, runtimes
