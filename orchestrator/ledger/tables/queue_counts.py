"""Who has jobs that wait and jobs that are under way: a table that each job's moves keep, so that
nobody walks through the queue to know who fills it. A row goes with its last job."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final


def _under_way(row: str) -> str:
    """Whether a row's job is under way. With IN, SQLite would build a table at each evaluation: that alone
    doubled the ledger's cost of a job."""
    return f"(instr('Processing Submitted Prepared Running Locked', {row}.status) > 0)"


def _adds(row: str, sign: str) -> str:
    """A statement that counts a job's row in (`+`) or out (`-`)."""
    return (
        f"UPDATE crowd SET queued = queued {sign} ({row}.status = 'Queued'), "
        f"under_way = under_way {sign} {_under_way(row)} "
        f"WHERE service = {row}.service AND user_id = {row}.user_id;"
    )


TABLES: Final = (
    """CREATE TABLE crowd (
        service TEXT NOT NULL,
        user_id INTEGER NOT NULL,
        queued INTEGER NOT NULL DEFAULT 0,
        under_way INTEGER NOT NULL DEFAULT 0,
        PRIMARY KEY (service, user_id)
    ) STRICT, WITHOUT ROWID""",
    "CREATE INDEX crowd_user ON crowd (user_id)",
    """CREATE TRIGGER jobs_crowd_new AFTER INSERT ON jobs BEGIN
        INSERT INTO crowd (service, user_id, queued) VALUES (new.service, new.user_id, 1)
            ON CONFLICT DO UPDATE SET queued = queued + 1;
    END""",
    f"""CREATE TRIGGER jobs_crowd_moved AFTER UPDATE OF status ON jobs
        WHEN (old.status = 'Queued') <> (new.status = 'Queued')
            OR {_under_way("old")} <> {_under_way("new")} BEGIN
        {_adds("old", "-")}
        {_adds("new", "+")}
        DELETE FROM crowd
            WHERE service = new.service AND user_id = new.user_id AND queued = 0 AND under_way = 0;
    END""",
)


@dataclass(frozen=True, slots=True)
class QueueShare:
    """How many jobs of a user wait for a service, and how many are under way."""

    service: str
    user_id: int
    queued: int
    under_way: int


def read_queued_of_user(db: sqlite3.Connection, user_id: int) -> int:
    """How many of a user's jobs wait, for whatever service."""
    statement = "SELECT coalesce(sum(queued), 0) FROM crowd INDEXED BY crowd_user WHERE user_id = ?"
    return int(db.execute(statement, (user_id,)).fetchone()[0])


def read_queue_shares(
    db: sqlite3.Connection, service: str | None, limit: int, skip: int = 0
) -> Sequence[QueueShare]:
    where, given = ("WHERE service = ?", (service,)) if service is not None else ("", ())
    found = db.execute(
        f"SELECT service, user_id, queued, under_way FROM crowd {where} "
        "ORDER BY queued DESC, under_way DESC, service, user_id LIMIT ? OFFSET ?",
        (*given, limit, skip),
    )
    return [QueueShare(*row) for row in found]
