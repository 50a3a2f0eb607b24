"""What was used, by month (UTC), user and service: a table that each job's end adds to, in its own commit, so
that nobody has to count jobs to know it. Cleaning, deleting and forgetting take nothing back.

Triggers do it: to sum up the ends of a commit in Python first took 20 to 45 µs more a job.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Final, TypeAlias

HOUR: Final = 3600
"""Up to schema 11 there was a row for each hour."""
_MOST_BYTES: Final = 1 << 50
"""Of one job: sums have to stay whole numbers, whatever a node says."""
_MOST_SUM: Final = 1 << 62
_MOST_SECONDS: Final = 1e12


@dataclass(frozen=True, slots=True)
class Usage:
    """What the jobs of one user and service that ended in one month have used. `month` is as 2026-11, by UTC.
    `jobs` counts the four ends, and jobs that 2.x had cleaned: how those ended is not known. Seconds are of
    scripts, of attempts too that were run again, as far as a node has told them. `memory_byte_seconds` is the
    most bytes that a script held at once, times its wall seconds. `bytes_in` was uploaded, `bytes_out` was
    there to be collected."""

    month: str
    user_id: int
    service: str
    jobs: int
    completed: int
    failed: int
    invalid: int
    killed: int
    wall_seconds: float
    cpu_seconds: float
    memory_byte_seconds: float
    bytes_in: int
    bytes_out: int


UsageKey: TypeAlias = tuple[str, int, str]
"""Month, user and service: rows are told in the order of these."""


@dataclass(frozen=True, slots=True)
class UsageFilter:
    """What the rows are narrowed to; None: not by this. From the month `first` to the month `last`, both of
    them in. `services`: any of these; empty: of whatever service."""

    first: str | None = None
    last: str | None = None
    user: int | None = None
    service: str | None = None
    services: frozenset[str] = frozenset()


_COLUMNS: Final = tuple(one.name for one in fields(Usage))
_LIST: Final = ", ".join(_COLUMNS)
_SUMS: Final = _COLUMNS[3:]


def _ends(status: str, jobs: str, *, named: bool = False) -> str:
    return ", ".join(
        f"{jobs} * ({status} = '{end}')" + (f" AS {end.lower()}" if named else "")
        for end in ("Completed", "Failed", "Invalid", "Killed")
    )


def _month(seconds: str) -> str:
    return f"strftime('%Y-%m', {seconds}, 'unixepoch')"


def _bounded(column: str, most: float) -> str:
    return f"min(max(coalesce({column}, 0), 0), {most})"


def _wall(row: str) -> str:
    return _bounded(f"{row}end_wall_seconds", _MOST_SECONDS)


def _memory(row: str) -> str:
    return f"{_bounded(f'{row}end_peak_bytes', _MOST_BYTES)} * {_wall(row)}"


def _seconds(row: str) -> str:
    """Wall seconds, CPU seconds and memory of a row's end, where there is one."""
    return f"{_wall(row)}, {_bounded(f'{row}end_cpu_seconds', _MOST_SECONDS)}, {_memory(row)}"


def _bytes(row: str) -> str:
    return f"{_bounded(f'{row}size', _MOST_BYTES)}, {_bounded(f'{row}end_size', _MOST_BYTES)}"


def _add(values: str) -> str:
    whole = {"bytes_in", "bytes_out"}
    sums = ", ".join(
        f"{name} = min({name} + excluded.{name}, {_MOST_SUM})"
        if name in whole
        else f"{name} = {name} + excluded.{name}"
        for name in _SUMS
    )
    return f"INSERT INTO usage ({_LIST}) VALUES ({values}) ON CONFLICT DO UPDATE SET {sums};"


_AT_END: Final = (
    f"{_month('new.ended_at')}, new.user_id, new.service, 1, {_ends('new.status', '1')}, "
    f"{_seconds('new.')}, {_bytes('new.')}"
)
_OF_LOST_RUN: Final = (
    f"{_month('new.updated_at')}, new.user_id, new.service, 0, 0, 0, 0, 0, {_seconds('old.')}, 0, 0"
)

TABLES: Final = (
    """CREATE TABLE usage (
        month TEXT NOT NULL,
        user_id INTEGER NOT NULL,
        service TEXT NOT NULL,
        jobs INTEGER NOT NULL,
        completed INTEGER NOT NULL,
        failed INTEGER NOT NULL,
        invalid INTEGER NOT NULL,
        killed INTEGER NOT NULL,
        wall_seconds REAL NOT NULL,
        cpu_seconds REAL NOT NULL,
        memory_byte_seconds REAL NOT NULL,
        bytes_in INTEGER NOT NULL,
        bytes_out INTEGER NOT NULL,
        PRIMARY KEY (month, user_id, service)
    ) STRICT, WITHOUT ROWID""",
    "CREATE INDEX usage_user ON usage (user_id)",
    f"""CREATE TRIGGER jobs_used AFTER UPDATE OF ended_at ON jobs
        WHEN old.ended_at IS NULL AND new.ended_at IS NOT NULL BEGIN
        {_add(_AT_END)}
    END""",
    # An attempt that has ended, and whose results are lost: the end of the next takes the place of its own.
    f"""CREATE TRIGGER jobs_used_again AFTER UPDATE OF end_status ON jobs
        WHEN old.end_status IS NOT NULL AND new.end_status IS NULL BEGIN
        {_add(_OF_LOST_RUN)}
    END""",
)

_TOTALS: Final = ", ".join(
    f"CAST(min(total({name}), {_MOST_SUM}.0) AS INTEGER)" if name.startswith("bytes") else f"sum({name})"
    for name in _SUMS
)
FROM_HOURS: Final = f"""INSERT INTO usage ({_LIST}) SELECT month, user_id, service, {_TOTALS} FROM (
    SELECT {_month(f"hour * {HOUR}")} AS month, user_id, service, jobs, {_ends("status", "jobs", named=True)},
        wall_seconds, cpu_seconds, 0 AS memory_byte_seconds, 0 AS bytes_in, 0 AS bytes_out FROM "old usage"
    UNION ALL
    SELECT {_month("ended_at")}, user_id, service, 0, 0, 0, 0, 0, 0, 0, {_memory("")}, {_bytes("")}
        FROM jobs WHERE ended_at IS NOT NULL
) GROUP BY month, user_id, service"""
"""What a ledger begins with that had a row for each hour: its sums, and of the jobs that it still has what
was not summed up."""


def read_usage(
    db: sqlite3.Connection, wanted: UsageFilter, after: UsageKey | None, limit: int
) -> Sequence[Usage]:
    given: dict[str, str | int | None] = {
        "month >= ?": wanted.first,
        "month <= ?": wanted.last,
        "user_id = ?": wanted.user,
        "service = ?": wanted.service,
        "service IN (SELECT value FROM json_each(?))": json.dumps(sorted(wanted.services))
        if wanted.services
        else None,
    }
    places = [text for text, value in given.items() if value is not None]
    if after is not None:
        places.append("(month, user_id, service) > (?, ?, ?)")
    where = f"WHERE {' AND '.join(places)}" if places else ""
    values = [value for value in given.values() if value is not None]
    found = db.execute(
        f"SELECT {_LIST} FROM usage {where} ORDER BY month, user_id, service LIMIT ?",
        (*values, *(after or ()), limit),
    )
    return [Usage(*row) for row in found]
