"""How many bytes are stored of each user's jobs, inputs and results: a table that the jobs' moves keep, so
that nobody adds up jobs to know it. A row goes with the last byte."""

from __future__ import annotations

import sqlite3
from typing import Final


def _results(row: str) -> str:
    """What a node says of the results, as far as it can be: sums have to stay whole numbers."""
    return f"min(coalesce({row}end_size, 0), {1 << 50})"


TABLES: Final = (
    """CREATE TABLE kept_bytes (
        user_id INTEGER PRIMARY KEY,
        bytes INTEGER NOT NULL
    ) STRICT""",
    """CREATE TRIGGER jobs_bytes_new AFTER INSERT ON jobs BEGIN
        INSERT INTO kept_bytes (user_id, bytes) VALUES (new.user_id, new.size)
            ON CONFLICT DO UPDATE SET bytes = bytes + excluded.bytes;
    END""",
    f"""CREATE TRIGGER jobs_bytes_results AFTER UPDATE OF end_size ON jobs
        WHEN old.end_size IS NOT new.end_size BEGIN
        UPDATE kept_bytes SET bytes = bytes + {_results("new.")} - {_results("old.")}
            WHERE user_id = new.user_id;
    END""",
    f"""CREATE TRIGGER jobs_bytes_gone AFTER UPDATE OF status ON jobs
        WHEN new.status = 'Cleaned' AND old.status <> 'Cleaned' BEGIN
        UPDATE kept_bytes SET bytes = bytes - new.size - {_results("new.")}
            WHERE user_id = new.user_id;
        DELETE FROM kept_bytes WHERE user_id = new.user_id AND bytes <= 0;
    END""",
)

FILL: Final = (
    f"INSERT INTO kept_bytes (user_id, bytes) SELECT user_id, sum(size + {_results('')}) FROM jobs "
    "WHERE status <> 'Cleaned' GROUP BY user_id"
)
"""What a ledger that had no such table begins with."""


def read_bytes(db: sqlite3.Connection, user_id: int) -> int:
    row = db.execute("SELECT bytes FROM kept_bytes WHERE user_id = ?", (user_id,)).fetchone()
    return 0 if row is None else int(row[0])
