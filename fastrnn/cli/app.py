"""Arguments of ``python -m fastrnn`` and the choice of the command."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Sequence

COMMANDS = {
    "info": "versions, processor, instruction set, threads, and the backends of each op",
    "demo": "train a character language model with torch.nn's layer and with fastrnn's",
    "aot": "compile the Triton kernels without a GPU: registers, spills, shared memory",
    "bench": "run the benchmark suites of a source checkout; arguments go to pytest",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m fastrnn",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="\n".join(f"  {name:6} {summary}" for name, summary in COMMANDS.items()),
    )
    parser.add_argument("command", choices=COMMANDS)
    # The command parses its own arguments, "--help" among them.
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    chosen = parser.parse_args(argv)
    try:
        command = importlib.import_module(f"fastrnn.cli.{chosen.command}")
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in ("rich", "matplotlib"):
            raise
        parser.exit(1, f"{package} is not installed: pip install 'fastrnn[demo]'\n")
    status: int = command.main(chosen.arguments)
    return status
