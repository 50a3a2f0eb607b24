"""What was used, by hour, service and user: a table that each job's end adds to, so that nobody
has to count jobs to know it. Cleaning and deleting take nothing back."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from actors.domain.status import Status

HOUR: Final = 3600

_ADD: Final = (
    "ON CONFLICT DO UPDATE SET jobs = jobs + excluded.jobs, "
    "cpu_seconds = cpu_seconds + excluded.cpu_seconds, wall_seconds = wall_seconds + excluded.wall_seconds"
)

TABLES: Final = (
    """CREATE TABLE usage (
        hour INTEGER NOT NULL,
        service TEXT NOT NULL,
        user_id INTEGER NOT NULL,
        status TEXT NOT NULL,
        jobs INTEGER NOT NULL,
        cpu_seconds REAL NOT NULL,
        wall_seconds REAL NOT NULL,
        PRIMARY KEY (hour, service, user_id, status)
    ) STRICT, WITHOUT ROWID""",
    f"""CREATE TRIGGER jobs_used AFTER UPDATE OF ended_at ON jobs
        WHEN old.ended_at IS NULL AND new.ended_at IS NOT NULL BEGIN
        INSERT INTO usage (hour, service, user_id, status, jobs, cpu_seconds, wall_seconds)
            VALUES (CAST(new.ended_at / {HOUR} AS INTEGER), new.service, new.user_id, new.status, 1,
                coalesce(new.end_cpu_seconds, 0.0), coalesce(new.end_wall_seconds, 0.0))
            {_ADD};
    END""",
)


@dataclass(frozen=True, slots=True)
class Usage:
    """What the jobs of one user and service that ended alike have used. Sums over jobs, in seconds."""

    service: str
    user_id: int
    status: Status
    jobs: int
    cpu_seconds: float
    wall_seconds: float


def read_usage(
    db: sqlite3.Connection, since: float, user: int | None, service: str | None
) -> tuple[Sequence[Usage], float]:
    hour = int(since // HOUR)
    given = {"hour >= ?": hour, "user_id = ?": user, "service = ?": service}
    wanted = {condition: value for condition, value in given.items() if value is not None}
    found = db.execute(
        "SELECT service, user_id, status, sum(jobs), sum(cpu_seconds), sum(wall_seconds) FROM usage "
        f"WHERE {' AND '.join(wanted)} GROUP BY service, user_id, status ORDER BY service, user_id, status",
        tuple(wanted.values()),
    )
    return [Usage(s, u, Status(end), *rest) for s, u, end, *rest in found], float(hour * HOUR)
