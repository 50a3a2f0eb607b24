"""Paused services."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from typing import Final

TABLES: Final = (
    """CREATE TABLE pauses (
        service TEXT PRIMARY KEY,
        reason TEXT NOT NULL,
        since REAL NOT NULL
    ) STRICT, WITHOUT ROWID""",
)


def read_pauses(db: sqlite3.Connection) -> Mapping[str, tuple[str, float]]:
    return {row[0]: (row[1], row[2]) for row in db.execute("SELECT service, reason, since FROM pauses")}


def store_pause(db: sqlite3.Connection, service: str, reason: str | None, now: float) -> None:
    if reason is None:
        db.execute("DELETE FROM pauses WHERE service = ?", (service,))
    else:
        db.execute(
            "INSERT INTO pauses (service, reason, since) VALUES (?, ?, ?) "
            "ON CONFLICT (service) DO UPDATE SET reason = excluded.reason",
            (service, reason, now),
        )
