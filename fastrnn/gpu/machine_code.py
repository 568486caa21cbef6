"""What the assembler made of a kernel: registers, stack, and whether a loop touches the stack.

A number that is stored once before the time loop and loaded once after it costs nothing; one that
is loaded in the loop is a spill, however small. The stack's size does not tell the two apart, the
instructions do.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import triton

_TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
_LABEL = re.compile(r"^(\S+):\s*$")
_INSTRUCTION = re.compile(r"^\s*/\*[0-9a-f]+\*/\s+(.*?);")
_TARGET = re.compile(r"`\((\S+?)\)")
_LOCAL = re.compile(r"\b(?:LDL|STL)\b")


@dataclass(frozen=True)
class Resources:
    """Of a thread: registers, stack bytes, and instructions in loops that touch the stack."""

    registers: int
    stack: int
    spills: int


def resources(cubin: bytes) -> Resources:
    """Of a kernel's machine code."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        text = _tool("cuobjdump", "-res-usage", file.name)
        found = re.search(r"REG:(\d+) STACK:(\d+)", text)
        if found is None:
            raise RuntimeError(f"cuobjdump names no registers: {text}")
        registers, stack = map(int, found.groups())
        spills = spills_in_loops(_tool("nvdisasm", "-c", file.name)) if stack else 0
    return Resources(registers, stack, spills)


def _tool(name: str, *arguments: str) -> str:
    command = [str(_TOOLS / name), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def spills_in_loops(text: str) -> int:
    """Instructions of ``nvdisasm``'s text that touch the stack between a label and a jump back.

    What is called from there counts as there. Blocks that lie out of line make a loop look longer
    than it is, never shorter.
    """
    labels: dict[str, int] = {}
    code: list[str] = []
    for line in text.splitlines():
        if label := _LABEL.match(line):
            labels[label[1]] = len(code)
        elif found := _INSTRUCTION.match(line):
            code.append(found[1])
    looped: set[int] = set()
    calls: list[tuple[int, int]] = []
    for at, instruction in enumerate(code):
        target = _TARGET.search(instruction)
        if target is None or target[1] not in labels:
            continue
        to = labels[target[1]]
        if "CALL" in instruction:
            calls.append((at, to))
        elif "BRA" in instruction and to <= at:
            looped.update(range(to, at + 1))
    for _ in calls:  # one may call another
        for at, to in calls:
            if at in looped:
                ends = (i for i in range(to, len(code)) if "RET" in code[i])
                looped.update(range(to, next(ends, len(code) - 1) + 1))
    return sum(bool(_LOCAL.search(code[at])) for at in looped)
