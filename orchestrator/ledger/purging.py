"""Forgetting jobs whose time is over: their rows in every table. What is a sum (usage, minutes) stays."""

from __future__ import annotations

import sqlite3
from typing import Final

from orchestrator.ledger.tables import batches
from orchestrator.ledger.tables.attempts import IS_UNRELEASED
from orchestrator.ledger.tables.jobs import IS_CLEANED

_OVER: Final = (
    f"SELECT id FROM jobs INDEXED BY jobs_cleaned WHERE {IS_CLEANED} AND ended_at < ? "
    # A node that has not let go is still to be told, and so is a receiver.
    f"AND NOT EXISTS (SELECT 1 FROM attempts WHERE job_id = jobs.id AND {IS_UNRELEASED}) "
    "AND NOT EXISTS (SELECT 1 FROM callbacks WHERE job_id = jobs.id AND status = 'pending') "
    "ORDER BY ended_at LIMIT ?"
)


def purge(db: sqlite3.Connection, before: float, limit: int) -> int:
    """Forget up to `limit` Cleaned jobs that ended before `before`, and as many batches; how many, of what
    was more."""
    found = db.execute(_OVER, (before, limit)).fetchall()
    for table in ("history", "callbacks", "job_tags", "attempts"):
        db.executemany(f"DELETE FROM {table} WHERE job_id = ?", found)
    db.executemany("DELETE FROM jobs WHERE id = ?", found)
    return max(len(found), batches.forget_batches(db, before, limit))
