"""The files of small jobs: what was uploaded, and what came back, each packed into one run of bytes.

They are the storage's to read (`orchestrator.storage.bundle`). A blob is read whole; it goes with its job's
data.
"""

from __future__ import annotations

import sqlite3
from typing import Final

from actors.ports.storage import Part

TABLES: Final = (
    """CREATE TABLE small_inputs (
        job_id INTEGER PRIMARY KEY REFERENCES jobs (id),
        data BLOB NOT NULL
    ) STRICT""",
    """CREATE TABLE small_results (
        job_id INTEGER PRIMARY KEY REFERENCES jobs (id),
        data BLOB NOT NULL
    ) STRICT""",
)

_TABLE: Final = {"input": "small_inputs", "result": "small_results"}


def store_files(db: sqlite3.Connection, job_id: int, part: Part, data: bytes) -> None:
    db.execute(f"INSERT INTO {_TABLE[part]} (job_id, data) VALUES (?, ?)", (job_id, data))


def read_files(db: sqlite3.Connection, storage_key: str, part: Part) -> bytes | None:
    """None if the job has none of this part here."""
    statement = f"SELECT data FROM {_TABLE[part]} WHERE job_id = (SELECT id FROM jobs WHERE storage_key = ?)"
    row = db.execute(statement, (storage_key,)).fetchone()
    return None if row is None else bytes(row[0])


def remove_files(db: sqlite3.Connection, job_id: int) -> None:
    for table in _TABLE.values():
        db.execute(f"DELETE FROM {table} WHERE job_id = ?", (job_id,))
