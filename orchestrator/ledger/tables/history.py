"""The history of jobs: a line for each transition, under the number of the change that made it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from actors.domain.job import HistoryEntry
from actors.domain.status import Status

TABLES: Final = (
    """CREATE TABLE history (
        job_id INTEGER NOT NULL REFERENCES jobs (id),
        at REAL NOT NULL,
        source TEXT,
        target TEXT NOT NULL,
        reason TEXT NOT NULL,
        node_id TEXT,
        attempt_n INTEGER,
        change_seq INTEGER NOT NULL
    ) STRICT""",
    "CREATE INDEX history_job ON history (job_id)",
    "CREATE UNIQUE INDEX history_change ON history (change_seq)",
)

_LINES: Final = "SELECT change_seq, job_id, at, source, target, reason, node_id, attempt_n FROM history"


def _entry_from_row(row: tuple[Any, ...]) -> HistoryEntry:
    _, job_id, at, source, target, *rest = row
    return HistoryEntry(job_id, at, None if source is None else Status(source), Status(target), *rest)


def read_history(db: sqlite3.Connection, job_id: int) -> Sequence[HistoryEntry]:
    found = db.execute(f"{_LINES} WHERE job_id = ? ORDER BY rowid", (job_id,))
    return [_entry_from_row(row) for row in found]


def read_lines(db: sqlite3.Connection, after: int, upto: int) -> Mapping[int, HistoryEntry]:
    """The lines of changes above `after` and up to `upto`, by the change's number."""
    found = db.execute(f"{_LINES} WHERE change_seq > ? AND change_seq <= ?", (after, upto))
    return {row[0]: _entry_from_row(row) for row in found}


def read_job_lines(db: sqlite3.Connection, job_id: int, after: int) -> Mapping[int, HistoryEntry]:
    """The same of one job, to its newest."""
    found = db.execute(f"{_LINES} WHERE job_id = ? AND +change_seq > ?", (job_id, after))
    return {row[0]: _entry_from_row(row) for row in found}


def insert_lines(db: sqlite3.Connection, lines: Iterable[tuple[HistoryEntry, int]]) -> None:
    """Each with the number of its change."""
    db.executemany(
        "INSERT INTO history (job_id, at, source, target, reason, node_id, attempt_n, change_seq) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (
                entry.job_id,
                entry.at,
                None if entry.source is None else str(entry.source),
                str(entry.target),
                entry.reason,
                entry.node_id,
                entry.attempt_n,
                seq,
            )
            for entry, seq in lines
        ],
    )
