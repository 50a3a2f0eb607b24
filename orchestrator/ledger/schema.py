"""How a database file becomes a ledger, and how one is recognised.

All tables are made in one transaction together with the number in `PRAGMA user_version`, so a crash leaves
a whole ledger or an empty file.
"""

from __future__ import annotations

import secrets
import sqlite3
from typing import Final

from actors.ports.ledger import LedgerError
from orchestrator.ledger import wal
from orchestrator.ledger.tables import (
    activity,
    attempts,
    callbacks,
    history,
    jobs,
    machines,
    meta,
    nodes,
    pauses,
    queue_counts,
    usage,
)

APPLICATION_ID: Final = 0x4A4F4233
"""What `PRAGMA application_id` says of our files ("JOB3")."""

SCHEMA: Final = 1

# A trigger comes after the table that it is on.
TABLES: Final = (
    *meta.TABLES,
    *jobs.TABLES,
    *attempts.TABLES,
    *history.TABLES,
    *nodes.TABLES,
    *machines.TABLES,
    *pauses.TABLES,
    *usage.TABLES,
    *queue_counts.TABLES,
    *activity.TABLES,
    *callbacks.TABLES,
)


def prepare_writer(db: sqlite3.Connection) -> str:
    """Make sure that the file is a ledger of this schema; create it if it is empty.

    The name of its owner is the answer. Nothing is written before it is clear that the file is ours. Raises
    LedgerError for a file that is not, or that another version has written; sqlite3.Error for the rest.
    """
    db.isolation_level = None
    is_new = _recognise(db)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    db.execute("PRAGMA foreign_keys = ON")
    # What the log takes on the disk once it was longer and is begun anew.
    db.execute(f"PRAGMA journal_size_limit = {wal.USUAL}")
    if is_new:
        _create(db)
    return meta.read_owner(db)


def prepare_reader(db: sqlite3.Connection) -> None:
    """A connection that reads and can do nothing else."""
    db.isolation_level = None
    db.execute("PRAGMA query_only = ON")


def _recognise(db: sqlite3.Connection) -> bool:
    """Whether the file is new, with nothing in it."""
    version = int(db.execute("PRAGMA user_version").fetchone()[0])
    application = int(db.execute("PRAGMA application_id").fetchone()[0])
    tables = {str(name) for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if not tables and version == 0:
        return True
    if application != APPLICATION_ID:
        if "jobs" in tables and "meta" not in tables:
            raise LedgerError(
                "this database was written by job-orchestrator 2.x, whose jobs cannot be taken over: "
                "move the file away or name another one, and a new ledger is created"
            )
        raise LedgerError("this file is a database, but not a job ledger: name another one")
    if version != SCHEMA:
        raise LedgerError(
            f"this ledger has schema {version}, and this version knows schema {SCHEMA}: "
            "it was written by a newer version; start that one, or restore the backup from before the upgrade"
        )
    return False


def _create(db: sqlite3.Connection) -> None:
    db.execute("BEGIN IMMEDIATE")
    try:
        for statement in TABLES:
            db.execute(statement)
        meta.store_owner(db, secrets.token_hex(16))
        db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        db.execute(f"PRAGMA user_version = {SCHEMA}")
        db.execute("COMMIT")
    finally:
        if db.in_transaction:
            db.execute("ROLLBACK")
