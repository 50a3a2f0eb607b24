"""What happened in each minute, by service: a table that each job's moves add to, and that
forgets what is older than `KEPT` minutes by itself.

A job's wait is from its upload until it first leaves the queue, and counts in the minute in which it does.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

MINUTE: Final = 60
KEPT: Final = 24 * 60

_FIRST_ATTEMPT: Final = "NOT EXISTS (SELECT 1 FROM attempts WHERE job_id = new.job_id AND key <> new.key)"
_WAIT: Final = "max(0.0, new.created_at - jobs.created_at)"

TABLES: Final = (
    """CREATE TABLE minutes (
        minute INTEGER NOT NULL,
        service TEXT NOT NULL,
        submitted INTEGER NOT NULL DEFAULT 0,
        begun INTEGER NOT NULL DEFAULT 0,
        completed INTEGER NOT NULL DEFAULT 0,
        failed INTEGER NOT NULL DEFAULT 0,
        killed INTEGER NOT NULL DEFAULT 0,
        wait_seconds REAL NOT NULL DEFAULT 0,
        longest_wait REAL NOT NULL DEFAULT 0,
        PRIMARY KEY (minute, service)
    ) STRICT, WITHOUT ROWID""",
    # By their number and not by the clock: one that has jumped ahead would take all of them away.
    f"""CREATE TRIGGER minutes_old AFTER INSERT ON minutes BEGIN
        DELETE FROM minutes WHERE minute <
            (SELECT min(minute) FROM (SELECT DISTINCT minute FROM minutes ORDER BY minute DESC LIMIT {KEPT}));
    END""",
    f"""CREATE TRIGGER jobs_minute_new AFTER INSERT ON jobs BEGIN
        INSERT INTO minutes (minute, service, submitted)
            VALUES (CAST(new.created_at / {MINUTE} AS INTEGER), new.service, 1)
            ON CONFLICT DO UPDATE SET submitted = submitted + 1;
    END""",
    f"""CREATE TRIGGER attempts_minute AFTER INSERT ON attempts WHEN {_FIRST_ATTEMPT} BEGIN
        INSERT INTO minutes (minute, service, begun, wait_seconds, longest_wait)
            SELECT CAST(new.created_at / {MINUTE} AS INTEGER), service, 1, {_WAIT}, {_WAIT}
            FROM jobs WHERE id = new.job_id
            ON CONFLICT DO UPDATE SET begun = begun + 1,
                wait_seconds = wait_seconds + excluded.wait_seconds,
                longest_wait = max(longest_wait, excluded.longest_wait);
    END""",
    f"""CREATE TRIGGER jobs_minute_ended AFTER UPDATE OF ended_at ON jobs
        WHEN old.ended_at IS NULL AND new.ended_at IS NOT NULL BEGIN
        INSERT INTO minutes (minute, service, completed, failed, killed)
            VALUES (CAST(new.ended_at / {MINUTE} AS INTEGER), new.service,
                new.status = 'Completed', new.status IN ('Failed', 'Invalid'), new.status = 'Killed')
            ON CONFLICT DO UPDATE SET completed = completed + excluded.completed,
                failed = failed + excluded.failed, killed = killed + excluded.killed;
    END""",
)


@dataclass(frozen=True, slots=True)
class Minute:
    """`at` is its beginning, wall-clock; `wait_seconds` the sum over the jobs that left the queue in it."""

    at: float
    service: str
    submitted: int
    begun: int
    completed: int
    failed: int
    killed: int
    wait_seconds: float
    longest_wait: float


def read_minutes(db: sqlite3.Connection, since: float, until: float, service: str | None) -> Sequence[Minute]:
    wanted = "AND service = ?" if service is not None else ""
    found = db.execute(
        "SELECT minute, service, submitted, begun, completed, failed, killed, wait_seconds, longest_wait "
        f"FROM minutes WHERE minute BETWEEN ? AND ? {wanted} ORDER BY minute, service",
        (int(since // MINUTE), int(until // MINUTE), *(() if service is None else (service,))),
    )
    return [Minute(float(minute * MINUTE), *rest) for minute, *rest in found]
