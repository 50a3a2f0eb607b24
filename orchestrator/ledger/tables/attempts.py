"""Attempts: which node has a job, or had it and has not been told to let go of it yet."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any, Final

from actors.domain.job import Attempt, AttemptState

# SQLite uses a partial index only where the query repeats its condition, word for word.
IS_UNRELEASED: Final = "state IN ('given_up', 'over')"

TABLES: Final = (
    """CREATE TABLE attempts (
        key TEXT PRIMARY KEY,
        job_id INTEGER NOT NULL REFERENCES jobs (id),
        n INTEGER NOT NULL,
        node_id TEXT NOT NULL,
        state TEXT NOT NULL,
        foreign_id INTEGER,
        boot TEXT NOT NULL DEFAULT '',
        created_at REAL NOT NULL,
        updated_at REAL NOT NULL
    ) STRICT""",
    "CREATE INDEX attempts_job ON attempts (job_id)",
    "CREATE UNIQUE INDEX attempts_open ON attempts (job_id) WHERE state = 'open'",
    f"CREATE INDEX attempts_owed ON attempts (job_id) WHERE {IS_UNRELEASED}",
    "CREATE INDEX attempts_on_node ON attempts (node_id, job_id) WHERE state = 'open'",
)

_AT_ONCE: Final = 500

_ATTEMPTS: Final = "SELECT key, job_id, n, node_id, state, foreign_id, boot FROM attempts"


def attempt_from_row(row: tuple[Any, ...]) -> Attempt:
    return Attempt(row[0], row[1], row[2], row[3], AttemptState(row[4]), row[5], row[6])


def read_attempt(db: sqlite3.Connection, key: str) -> Attempt | None:
    row = db.execute(f"{_ATTEMPTS} WHERE key = ?", (key,)).fetchone()
    return None if row is None else attempt_from_row(row)


def read_attempts(db: sqlite3.Connection, job_id: int) -> Sequence[Attempt]:
    """Those of a job, in the order in which they began."""
    found = db.execute(f"{_ATTEMPTS} WHERE job_id = ? ORDER BY rowid", (job_id,))
    return [attempt_from_row(row) for row in found]


def read_unreleased(db: sqlite3.Connection) -> Sequence[Attempt]:
    # The planner would rather take another index and sort; what it cannot use here is an error.
    found = db.execute(f"{_ATTEMPTS} INDEXED BY attempts_owed WHERE {IS_UNRELEASED} ORDER BY rowid")
    return [attempt_from_row(row) for row in found]


def read_states(db: sqlite3.Connection, keys: Sequence[str]) -> Mapping[str, AttemptState]:
    """Of the keys that are known."""
    found: dict[str, AttemptState] = {}
    for begin in range(0, len(keys), _AT_ONCE):
        page = keys[begin : begin + _AT_ONCE]
        marks = ", ".join("?" * len(page))
        rows = db.execute(f"SELECT key, state FROM attempts WHERE key IN ({marks})", tuple(page))
        found |= {key: AttemptState(state) for key, state in rows}
    return found


def insert_attempt(db: sqlite3.Connection, attempt: Attempt, now: float) -> bool:
    """False, and nothing is stored, if there is one with this key, or an open one of the job."""
    stored = db.execute(
        "INSERT INTO attempts (key, job_id, n, node_id, state, foreign_id, boot, created_at, updated_at) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
        (
            attempt.key,
            attempt.job_id,
            attempt.n,
            attempt.node_id,
            str(attempt.state),
            attempt.foreign_id,
            attempt.boot,
            now,
            now,
        ),
    )
    return stored.rowcount == 1


def update_attempt(db: sqlite3.Connection, attempt: Attempt, now: float) -> None:
    db.execute(
        "UPDATE attempts SET state = ?, foreign_id = ?, updated_at = ? WHERE key = ?",
        (str(attempt.state), attempt.foreign_id, now, attempt.key),
    )
