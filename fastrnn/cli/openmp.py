"""Which OpenMP runtimes this process has loaded.

torch and the extension must share one: two runtimes mean two thread pools on the same cores.
"""

from __future__ import annotations

import re
from pathlib import Path

_MAPS = Path("/proc/self/maps")
_RUNTIME = re.compile(r"(?:libgomp|libomp|libiomp5)[-.\w]*\.so[.\d]*")


def loaded_openmp_runtimes() -> list[str] | None:
    """Paths of the OpenMP runtimes in this process; None where the system does not tell."""
    if not _MAPS.exists():
        return None
    # Fields: address, permissions, offset, device, inode, path (which may hold spaces).
    fields = (line.split(maxsplit=5) for line in _MAPS.read_text().splitlines())
    paths = {field[5] for field in fields if len(field) == 6}
    return sorted(path for path in paths if _RUNTIME.fullmatch(Path(path).name))
