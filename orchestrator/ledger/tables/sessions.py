"""Sessions of the dashboard, by the hashes of their secrets."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from typing import Final

from orchestrator.access.sessions import SessionRecord

TABLES: Final = (
    """CREATE TABLE sessions (
        hash TEXT PRIMARY KEY,
        token TEXT NOT NULL,
        expires_at REAL NOT NULL
    ) STRICT, WITHOUT ROWID""",
)


def read_sessions(db: sqlite3.Connection) -> Sequence[SessionRecord]:
    return [SessionRecord(*row) for row in db.execute("SELECT hash, token, expires_at FROM sessions")]


def store_session(db: sqlite3.Connection, session: SessionRecord) -> None:
    db.execute(
        "INSERT INTO sessions (hash, token, expires_at) VALUES (?, ?, ?)",
        (session.hash, session.token, session.expires_at),
    )


def remove_sessions(db: sqlite3.Connection, hashes: Iterable[str]) -> None:
    db.executemany("DELETE FROM sessions WHERE hash = ?", [(one,) for one in hashes])
