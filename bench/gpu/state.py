"""What a run has found so far, and how it goes on after a fault that loses the device.

An illegal access makes a GPU useless to the process that did it: every call fails from there on. So
what was found is written down, and a new process takes this one's place and goes on behind it.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .clock import lost

# A device that is lost more often than this is not worth more time.
MOST_RESTARTS = 6


@dataclass
class State:
    """Checks by name, and figures; ``start`` is by the system's clock, which processes share."""

    path: Path
    start: float
    restarts: int = 0
    checks: dict[str, list[str]] = field(default_factory=dict)
    attention: list[dict[str, Any]] = field(default_factory=list)
    speed: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def begin(cls, folder: Path, start: float, resume: Path | None) -> State:
        folder.mkdir(parents=True, exist_ok=True)
        if resume is None:
            return cls(folder / "unfinished.json", start)
        return cls(path=resume, **json.loads(resume.read_text()))

    @property
    def resumed(self) -> bool:
        return self.restarts > 0

    def summary(self) -> dict[str, Any]:
        """For the report: how many checks there were, and their faults."""
        faults = [fault for each in self.checks.values() for fault in each]
        return {"count": len(self.checks), "faults": faults}

    def all_faults(self) -> list[str]:
        figures = (*self.attention, *self.speed)
        errors = [f"{each['case']}: {each['error']}" for each in figures if "error" in each]
        return [*self.summary()["faults"], *errors]

    def save(self) -> None:
        kept = {n: v for n, v in vars(self).items() if n != "path"}
        self.path.write_text(json.dumps(kept))

    def after_fault(self, device: Any, helpers: Sequence[Any]) -> None:
        """Go on in a new process if the device is lost; does not return then."""
        if not lost(device):
            return
        self.restarts += 1
        self.save()
        for helper in helpers:
            helper.kill()
            helper.wait()
        if self.restarts > MOST_RESTARTS:
            raise SystemExit(f"the device was lost {self.restarts} times; see {self.path}")
        print("the device is lost: a new process goes on", flush=True)
        arguments = [each for each in sys.argv[1:] if not each.startswith("--resume")]
        command = [sys.executable, "-m", "bench.gpu", *arguments, f"--resume={self.path}"]
        os.execv(sys.executable, command)

    def end(self) -> None:
        self.path.unlink(missing_ok=True)
