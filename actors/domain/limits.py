"""What one job may use of a node, and how that is written: `4G` of memory, 90 seconds of CPU time."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final


@dataclass(frozen=True, slots=True)
class JobLimits:
    """None: no limit. `memory_bytes`: of all its processes together. `cpu_seconds`: of all its processes
    together. `processes`: at once, threads included. `file_bytes`: of any single file. `open_files`: of each
    process. `disk_bytes`: of its directory."""

    memory_bytes: int | None = None
    cpu_seconds: float | None = None
    processes: int | None = None
    file_bytes: int | None = None
    open_files: int | None = None
    disk_bytes: int | None = None


UNLIMITED: Final = JobLimits()

LIMITS: Final[Mapping[str, str]] = {
    "memory": "memory_bytes",
    "cpu_time": "cpu_seconds",
    "processes": "processes",
    "file_size": "file_bytes",
    "open_files": "open_files",
    "disk": "disk_bytes",
}
"""What each is called in settings and uploads, and what here."""

LEAST: Final = {
    "memory_bytes": 4 << 20,
    "cpu_seconds": 0.001,
    "processes": 2,
    "file_bytes": 64 << 10,
    "open_files": 8,
}
"""With less no script can begin at all."""
_MOST: Final = 1 << 60
_UNITS: Final = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}
_NUMBER: Final = re.compile(r"([0-9]{1,18})(\.[0-9]{1,6})?([KMGT]?)", re.ASCII)


def expected(name: str) -> str:
    """What this limit may be."""
    field = LIMITS[name]
    if field.endswith("_bytes"):
        least = f", {show_limit(field, LEAST[field])} at least" if field in LEAST else ""
        return f"a size such as 512M or 4G{least}"
    if field == "cpu_seconds":
        return "a number of seconds, 0.001 at least"
    return f"a whole number, {LEAST.get(field, 1)} at least"


def parse_limit(name: str, given: object) -> int | float:
    """What somebody wrote, in bytes, seconds or as a number. Raises ValueError with what was expected."""
    field = LIMITS[name]
    match = _NUMBER.fullmatch(given if isinstance(given, str) else _plain(given))
    value: int | float = -1
    if match is not None:
        whole, part, unit = match.groups("")
        if field == "cpu_seconds":
            value = -1 if unit else float(whole + part)
        elif field.endswith("_bytes"):
            size = int(whole) << _UNITS[unit]
            value = -1 if part and not unit else size + int(float(part or 0) * (1 << _UNITS[unit]))
        else:
            value = -1 if part or unit else int(whole)
    if not _fits(field, value):
        raise ValueError(expected(name))
    return value


def _plain(given: object) -> str:
    """A number as it would be written."""
    return str(given) if isinstance(given, int | float) and not isinstance(given, bool) else ""


def _fits(field: str, value: object) -> bool:
    right = int | float if field == "cpu_seconds" else int
    if isinstance(value, bool) or not isinstance(value, right):
        return False
    return math.isfinite(value) and LEAST.get(field, 1) <= value <= _MOST


def show_limit(field: str, value: float) -> str:
    """A limit for people: `2 GiB`, `90 s`, `100`."""
    if field == "cpu_seconds":
        return f"{value:g} s"
    if not field.endswith("_bytes"):
        return str(value)
    unit = next((name for name in "TGMK" if value >= 1 << _UNITS[name]), "")
    return f"{value / (1 << _UNITS[unit]):.4g} {unit and unit + 'i'}B"


def limits_to_json(limits: JobLimits) -> dict[str, int | float]:
    """Those that there are."""
    if limits is UNLIMITED:
        return {}
    given = ((field, getattr(limits, field)) for field in LIMITS.values())
    return {field: value for field, value in given if value is not None}


def limits_from_json(data: Any) -> JobLimits:
    """Kinds that this version does not know are passed over. Raises ValueError for what is no such object."""
    if data == {}:
        return UNLIMITED
    if not isinstance(data, dict):
        raise ValueError("no object of limits")
    given = {field: data[field] for field in LIMITS.values() if field in data}
    for field, value in given.items():
        if not _fits(field, value):
            raise ValueError(f"no {field}: {value!r:.50}")
    return _limits(tuple(given.items()))


@lru_cache(maxsize=1024)
def _limits(given: tuple[tuple[str, Any], ...]) -> JobLimits:
    # Most jobs of a service have the same.
    return JobLimits(**dict(given)) if given else UNLIMITED
