"""``python -m bench.gpu``: checks, soak, sanitizer, benchmark, report; nine minutes in all.

Kernels are compiled meanwhile by other processes, into the cache that Triton keeps on disk. Each
result is written as it comes, so a run that is cut short leaves what it has.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__)
    parser.add_argument("--seconds", type=float, default=510, help="for everything")
    parser.add_argument("--out", type=Path, help="folder of the report")
    parser.add_argument("--dry-run", action="store_true", help="on a CPU, small, figures void")
    parser.add_argument("--checks-only", action="store_true", help="some small checks, no report")
    parser.add_argument("--tune", action="store_true", help="other plans than the chosen, a table")
    parser.add_argument("--resume", type=Path, help=argparse.SUPPRESS)  # after a lost device
    parser.add_argument("--warm", help=argparse.SUPPRESS)  # i/n: compile each n-th case
    return parser.parse_args()


def main() -> int:
    options = arguments()
    if options.dry_run:
        os.environ["TRITON_INTERPRET"] = "1"  # before Triton is imported
    start = time.monotonic()
    import torch

    if not options.dry_run and not torch.cuda.is_available():
        print("PyTorch finds no CUDA device; --dry-run takes every path on a CPU.", file=sys.stderr)
        return 1
    device = torch.device("cpu" if options.dry_run else "cuda:0")
    if options.warm:
        return warm(options, device)
    if options.checks_only:
        return small_checks(device)
    if options.tune:
        from . import tune

        return tune.main(options, device, start)
    return everything(options, device, start)


def small_checks(device: object) -> int:
    """For the sanitizer, which is slow: the kernel with the most addresses of its own first."""
    from . import attention_checks, checks

    end = time.monotonic() + 200
    found: checks.Found = {}
    rest = (device, end, print, found, lambda: None)
    attention_checks.run_all(attention_checks.for_a_dry_run(), *rest)  # type: ignore[arg-type]
    checks.run_all(checks.for_a_dry_run(), *rest)  # type: ignore[arg-type]
    return 1 if any(found.values()) else 0


def warm(options: argparse.Namespace, device: object) -> int:
    """Compile, by running once, every n-th of the cases from the i-th on."""
    from . import attention
    from .cases import cases, for_a_dry_run
    from .layers import build

    index, count = map(int, options.warm.split("/"))
    end = time.monotonic() + options.seconds
    of_attention = attention.for_a_dry_run() if options.dry_run else attention.cases()
    of_layers = for_a_dry_run() if options.dry_run else cases()
    work = [(attention.build, case) for case in of_attention]
    work += [(build, case) for case in of_layers]  # type: ignore[misc]
    for make, case in work[index::count]:
        if time.monotonic() > end:
            break
        for training in (False, True):
            try:
                make(case, device, training)["fastrnn"]()  # type: ignore[arg-type]
            except Exception as error:  # the measurement will meet it again, and tell
                print(f"warm: {case}: {error}", file=sys.stderr)
    return 0


def everything(options: argparse.Namespace, device: object, start: float) -> int:
    import torch

    from . import attention, report
    from .state import State

    dry = options.dry_run
    name = "dry run" if dry else torch.cuda.get_device_name(device)  # type: ignore[arg-type]
    out = options.out or ROOT / "bench" / "results" / report.slug(name)
    machine = {
        "device": name,
        "date": time.strftime("%Y-%m-%d"),
        "driver": driver(),
        "torch": torch.__version__,
        "triton": version("triton"),
        "CUDA": torch.version.cuda,
        "cuDNN": torch.backends.cudnn.version(),
        "Python": platform.python_version(),
        "dry_run": dry,
    }
    print(machine, flush=True)
    state = State.begin(out, start, options.resume)
    start = state.start
    run_checks(options, device, state)
    run_speed(options, device, state, machine, out)
    attention.write(out, machine, state.attention)
    report.write(out, machine, state.summary(), state.speed)
    print((out / "README.md").read_text()[:4000])
    print(f"{len(state.speed)} figures; report in {out}")
    state.end()
    faults = state.all_faults()
    for fault in faults:
        print("FAULT:", fault)
    return 1 if faults else 0


def run_checks(options: argparse.Namespace, device: object, state: object) -> None:
    """Equality, behaviour, soak, sanitizer; other processes compile meanwhile."""
    from . import attention_checks, behaviour, checks
    from .state import State

    assert isinstance(state, State)
    dry, share, start = options.dry_run, options.seconds, state.start
    workers = 1 if dry else max(1, min(8, (os.cpu_count() or 2) // 2))
    command = [sys.executable, "-m", "bench.gpu", "--seconds", str(0.45 * share)]
    command += ["--dry-run"] if dry else []
    helpers = [
        subprocess.Popen([*command, "--warm", f"{i}/{workers}"], cwd=ROOT)
        for i in range(0 if state.resumed else workers)
    ]

    def after_fault() -> None:
        state.after_fault(device, helpers)

    found = state.checks
    try:
        which = checks.for_a_dry_run() if dry else checks.checks()
        checks.run_all(which, device, start + 0.38 * share, say, found, after_fault)  # type: ignore[arg-type]
        behaviour.run_all(device, start + 0.43 * share, say, found, after_fault)  # type: ignore[arg-type]
        which_attention = attention_checks.for_a_dry_run() if dry else attention_checks.checks()
        attention_checks.run_all(
            which_attention, device, start + 0.5 * share, say, found, after_fault  # type: ignore[arg-type]
        )  # fmt: skip
        if "soak" not in found:
            print("soak", flush=True)
            problem = checks.soak(device, 1 if dry else 0.04 * share)  # type: ignore[arg-type]
            found["soak"] = [f"soak: {problem}"] * (problem is not None)
            if problem:
                after_fault()
        if "compute-sanitizer" not in found:
            found["compute-sanitizer"] = []  # should it take this process along
            found["compute-sanitizer"] = sanitize(0.12 * share)
        for helper in helpers:
            helper.wait(timeout=max(1.0, start + 0.6 * share - time.monotonic()))
    except subprocess.TimeoutExpired:
        print("compiling is not done; the measurement goes on", flush=True)
    finally:
        for helper in helpers:
            helper.kill()
            helper.wait()


def run_speed(
    options: argparse.Namespace,
    device: object,
    state: object,
    machine: dict[str, object],
    out: Path,
) -> None:
    """Attention, what lies beside the grid, and the grid as far as the time goes."""
    from . import attention, beside, report, speed
    from .cases import cases, for_a_dry_run
    from .state import State

    assert isinstance(state, State)
    dry, share, start = options.dry_run, options.seconds, state.start

    def after_fault() -> None:
        report.write(out, machine, state.summary(), state.speed)
        attention.write(out, machine, state.attention)
        state.after_fault(device, [])

    def keep(result: dict[str, object]) -> None:
        state.speed.append(result)
        print(result.get("error") or f"{result['case']}: x {result['ratio']:.2f}", flush=True)
        if len(state.speed) % 20 == 0:
            report.write(out, machine, state.summary(), state.speed)
        if "error" in result:
            after_fault()

    attention.measure(
        attention.for_a_dry_run() if dry else attention.cases(),
        device,  # type: ignore[arg-type]
        start + 0.72 * share,
        say,
        state.attention,
        after_fault,
    )
    attention.write(out, machine, state.attention)
    beside.measure(
        beside.for_a_dry_run() if dry else beside.cases(),
        device,  # type: ignore[arg-type]
        start + 0.78 * share,
        keep,
        {(each["case"], each["training"]) for each in state.speed},
    )
    left = speed.measure(
        for_a_dry_run() if dry else cases(),
        device,  # type: ignore[arg-type]
        start + 0.96 * share,
        keep,
        {(each["case"], each["training"]) for each in state.speed},
    )
    print(f"{left} cases left out for want of time", flush=True)


def driver() -> str:
    """The version of the GPU's driver."""
    try:
        command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
        return done.stdout.split("\n")[0].strip() or "unknown"
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def sanitize(seconds: float) -> list[str]:
    """Some small checks once more under compute-sanitizer, where it is installed."""
    tool = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
    if not Path(tool).exists():
        print("compute-sanitizer is not here", flush=True)
        return []
    command = [tool, "--error-exitcode", "86", sys.executable, "-m", "bench.gpu", "--checks-only"]
    try:
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=seconds,
            env=os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"},
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        print("compute-sanitizer was not done in time", flush=True)
        return []
    print(f"compute-sanitizer: {done.returncode}", flush=True)
    return [] if done.returncode == 0 else [f"compute-sanitizer: {done.stdout[-600:]}"]


def version(package: str) -> str:
    from importlib import metadata

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
