"""From pytest-benchmark's JSON to what matters of it, and several of these as one."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any


def trim(raw: dict[str, Any], names: Collection[str]) -> dict[str, Any]:
    """Each of the named cases once, and on what it was measured.

    Raises:
        ValueError: these are not results of the suites in bench/.
    """
    try:
        run, machine = raw["fastrnn"], raw["machine_info"]["fastrnn"]
        records = {bench["extra_info"]["name"]: bench["extra_info"] for bench in raw["benchmarks"]}
    except KeyError as error:
        raise ValueError(f"not a result of the suite in bench/: no {error}") from None
    return {
        "date": raw["datetime"],
        "machine": machine,
        "load": run["load"],
        "seed": run["seed"],
        "seconds": run["seconds"],
        "limits": run["limits"],
        "failed": [name for name in run["failed"] if name in names],
        "cases": [records[name] for name in names if name in records],
    }


def merge(parts: Sequence[dict[str, Any]], names: Collection[str]) -> dict[str, Any]:
    """Several trimmed results as one; of a case measured twice the last counts.

    Raises:
        ValueError: they come of different machines or libraries.
    """
    if any(part["machine"] != parts[0]["machine"] for part in parts):
        raise ValueError("results of different machines make no report")
    cases = {case["name"]: case for part in parts for case in part["cases"]}
    failed = {name for part in parts for name in part["failed"]} - set(cases)
    return {
        **parts[-1],
        "load": max(part["load"] for part in parts),
        "limits": _best([part["limits"] for part in parts]),
        "failed": sorted(failed),
        "cases": [cases[name] for name in names if name in cases],
    }


def _best(limits: Sequence[Any]) -> Any:
    """Of rates the highest, since everything that disturbs makes them smaller; None for none."""
    given = [each for each in limits if each is not None]
    if given and isinstance(given[0], dict):
        return {key: _best([each[key] for each in given]) for key in given[0]}
    return max(given, default=None)
