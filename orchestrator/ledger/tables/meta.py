"""What the ledger knows of itself: its owner's name, and the number of the newest change."""

from __future__ import annotations

import sqlite3
from typing import Final

TABLES: Final = (
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID",
    "INSERT INTO meta (key, value) VALUES ('change_seq', 0)",
)


def read_seq(db: sqlite3.Connection) -> int:
    """The number of the newest change."""
    return int(db.execute("SELECT value FROM meta WHERE key = 'change_seq'").fetchone()[0])


def read_seqs(db: sqlite3.Connection) -> tuple[int, int]:
    """The number of the newest change, and the one up to which changes may have been told; 0 for that in a
    new ledger."""
    found = dict(db.execute("SELECT key, value FROM meta WHERE key IN ('change_seq', 'reserved_seq')"))
    return int(found["change_seq"]), int(found.get("reserved_seq", 0))


def store_seq(db: sqlite3.Connection, seq: int) -> None:
    db.execute("UPDATE meta SET value = ? WHERE key = 'change_seq'", (seq,))


def read_highest_seq(db: sqlite3.Connection) -> int:
    """The largest number of a change that was ever told, or may have been."""
    return max(read_seqs(db))


def store_reserved_seq(db: sqlite3.Connection, seq: int) -> None:
    db.execute("INSERT OR REPLACE INTO meta (key, value) VALUES ('reserved_seq', ?)", (seq,))


def count_sync(db: sqlite3.Connection) -> None:
    """Write what is not there yet: a commit without any change is not synced."""
    db.execute(
        "INSERT INTO meta (key, value) VALUES ('syncs', 1) ON CONFLICT (key) DO UPDATE SET value = value + 1"
    )


def read_reserved_ids(db: sqlite3.Connection) -> int:
    """The id up to which ids may be given; 0 in a new ledger."""
    row = db.execute("SELECT value FROM meta WHERE key = 'reserved_ids'").fetchone()
    return 0 if row is None else int(row[0])


def store_reserved_ids(db: sqlite3.Connection, last: int) -> None:
    db.execute("INSERT OR REPLACE INTO meta (key, value) VALUES ('reserved_ids', ?)", (last,))


def read_owner(db: sqlite3.Connection) -> str:
    return str(db.execute("SELECT value FROM meta WHERE key = 'owner'").fetchone()[0])


def store_owner(db: sqlite3.Connection, owner: str) -> None:
    db.execute("INSERT INTO meta (key, value) VALUES ('owner', ?)", (owner,))
