"""How a database file becomes a ledger, and how one is recognised.

All tables are made in one transaction together with the number in `PRAGMA user_version`, so a crash leaves
a whole ledger or an empty file.

Whoever changes a table raises the number. An older ledger is then brought to it in one transaction: its
tables are made anew and filled with what both have in common.
"""

from __future__ import annotations

import logging
import secrets
import sqlite3
from contextlib import closing
from functools import cache
from typing import Final

from actors.ports.ledger import LedgerError
from actors.store.durable import is_full
from orchestrator.ledger import wal
from orchestrator.ledger.tables import (
    activity,
    attempts,
    audit,
    batches,
    callbacks,
    history,
    jobs,
    kept_bytes,
    machines,
    meta,
    nodes,
    pauses,
    queue_counts,
    sessions,
    small_files,
    tokens,
    usage,
)

log: Final = logging.getLogger("orchestrator.ledger")

APPLICATION_ID: Final = 0x4A4F4233
"""What `PRAGMA application_id` says of our files ("JOB3")."""

SCHEMA: Final = 19
"""Numbers up to 5 were of versions before 3.0, the last of them 1 once more."""

_NEW: Final = frozenset(
    {
        "absences",
        "small_inputs",
        "small_results",
        "tokens",
        "node_secrets",
        "node_names",
        "sessions",
        "audit",
        "kept_bytes",
        "batches",
        "batch_jobs",
    }
)
"""Tables that ledgers of an earlier schema may lack."""

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
    *kept_bytes.TABLES,
    *activity.TABLES,
    *callbacks.TABLES,
    *batches.TABLES,
    *small_files.TABLES,
    *tokens.TABLES,
    *sessions.TABLES,
    *audit.TABLES,
)


def prepare_writer(db: sqlite3.Connection) -> str:
    """Make sure that the file is a ledger of this schema: an empty one becomes it, and so does an older one.

    The name of its owner is the answer. Nothing is written before it is clear that the file is ours. Raises
    LedgerError for a file that is not, or that another version has written; sqlite3.Error for the rest.
    """
    db.isolation_level = None
    version = recognise(db)
    if version == 0:
        db.execute("PRAGMA auto_vacuum = INCREMENTAL")
    (mode,) = db.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":  # where it cannot be changed SQLite says so in no other way
        raise LedgerError(
            "the ledger's disk fails, or it cannot hold a write-ahead log: look at the kernel's log"
        )
    db.execute("PRAGMA synchronous = FULL")
    # What the log takes on the disk once it was longer and is begun anew.
    db.execute(f"PRAGMA journal_size_limit = {wal.USUAL}")
    if version == 0:
        _create(db)
    elif version < SCHEMA:
        log.warning("the ledger has schema %d and is brought to %d; this may take a while", version, SCHEMA)
        bring_up(db)
    db.execute("PRAGMA foreign_keys = ON")
    # A savepoint's journal is a file else, for which there may be no descriptor, inode or room.
    db.execute("PRAGMA temp_store = MEMORY")
    _settle(db)
    return meta.read_owner(db)


def set_hard(db: sqlite3.Connection, hard: bool) -> None:
    """Whether commits are synced from here on."""
    db.execute(f"PRAGMA synchronous = {'FULL' if hard else 'NORMAL'}")
    # Before a log is moved into the database it is synced, and SQLite tells nobody if that fails after a
    # commit: so this only follows one that has synced all of it.
    db.execute(f"PRAGMA wal_autocheckpoint = {wal.MOVED_FROM if hard else 0}")


def _settle(db: sqlite3.Connection) -> None:
    """Make durable what an earlier life has committed, also if it ended because that could not be synced."""
    try:
        wal.cut(db)
    except sqlite3.OperationalError as error:
        if not is_full(error):
            raise
        log.warning("the ledger's disk is full: its log stays as it is for now")


COLUMNS_OF_2X: Final = frozenset({"id", "user_id", "service", "status", "loc", "dest_id", "created_at"})
"""What the table `jobs` of job-orchestrator 2.x has."""


def prepare_reader(db: sqlite3.Connection) -> None:
    """A connection that reads and can do nothing else."""
    db.isolation_level = None
    db.execute("PRAGMA query_only = ON")


def recognise(db: sqlite3.Connection) -> int:
    """The schema of a ledger that this version can use; 0 for a file with nothing in it. Raises LedgerError
    for any other."""
    version = int(db.execute("PRAGMA user_version").fetchone()[0])
    application = int(db.execute("PRAGMA application_id").fetchone()[0])
    found = _statements(db)
    if not found and version == 0:
        return 0
    if application != APPLICATION_ID:
        if "jobs" in found and "meta" not in found:
            if missing := COLUMNS_OF_2X - {row[1] for row in db.execute("PRAGMA table_info(jobs)")}:
                raise LedgerError(
                    "this file is a database, but not a job ledger: its table jobs is not that of "
                    f"job-orchestrator 2.x either (no {', '.join(sorted(missing))}): name another one"
                )
            raise LedgerError(
                "this database was written by job-orchestrator 2.x: name it as DB_PATH, and the server takes "
                "its jobs over when it starts"
            )
        raise LedgerError("this file is a database, but not a job ledger: name another one")
    if version > SCHEMA:
        raise LedgerError(
            f"this ledger has schema {version}, and this version knows schema {SCHEMA}: "
            "it was written by a newer version; start that one, or restore the backup from before the upgrade"
        )
    if version == SCHEMA:
        other = sorted(name for name, text in _wanted().items() if found.get(name) != text)
        if other:
            raise LedgerError(
                f"this ledger says that it has schema {SCHEMA}, but is not made so ({', '.join(other)}): it "
                "was changed, or written by a version between two; start that one, or restore the ledger"
            )
    elif _tables(_wanted()) - _NEW - _tables(found):
        raise LedgerError(
            f"this ledger has schema {version}, which is too old for this version: let its jobs end with the "
            "version that wrote it, then move the file away or name another one, and a new ledger is created"
        )
    return version


def _statements(db: sqlite3.Connection) -> dict[str, str]:
    """What was made, by name, in the order in which it was."""
    made = db.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY rowid")
    return {str(name): " ".join(str(text).split()) for name, text in made}


@cache
def _wanted() -> dict[str, str]:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
        for statement in TABLES:
            db.execute(statement)
        return _statements(db)


def _tables(statements: dict[str, str]) -> set[str]:
    # SQLite makes those itself.
    return {
        name
        for name, text in statements.items()
        if text.startswith("CREATE TABLE") and not name.startswith("sqlite_")
    }


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


def bring_up(db: sqlite3.Connection) -> None:
    """Make an older ledger's tables anew, with what was in them. Ids, and the order of rows, stay."""
    db.execute("PRAGMA foreign_keys = OFF")
    # What refers to a table goes on to refer to its name.
    db.execute("PRAGMA legacy_alter_table = ON")
    db.execute("BEGIN IMMEDIATE")
    try:
        last = jobs.read_last_id(db)
        before = _statements(db)
        old = _tables(before)
        for name, text in before.items():
            kind = text.removeprefix("CREATE UNIQUE ").removeprefix("CREATE ").partition(" ")[0]
            if kind in ("INDEX", "TRIGGER"):
                db.execute(f'DROP {kind} "{name}"')
        for table in old:
            db.execute(f'ALTER TABLE "{table}" RENAME TO "old {table}"')
        later = []
        for statement in TABLES:
            if statement.startswith(("CREATE TRIGGER", "CREATE INDEX", "CREATE UNIQUE")):
                later.append(statement)
            else:
                db.execute(statement)
        remade = {"usage"} if "hour" in _columns(db, "old usage") else set()
        for table in (_tables(_wanted()) & old) - remade:
            columns = ", ".join(
                f'"{name}"' for name in _columns(db, table) if name in _columns(db, f"old {table}")
            )
            rowid = "" if "WITHOUT ROWID" in before[table] else "ORDER BY rowid"
            db.execute(
                f'INSERT OR REPLACE INTO "{table}" ({columns}) SELECT {columns} FROM "old {table}" {rowid}'
            )
        if "kept_bytes" not in old:
            db.execute(kept_bytes.FILL)
        if remade:
            db.execute(usage.FROM_HOURS)
        for table in old:
            db.execute(f'DROP TABLE "old {table}"')
        for statement in later:
            db.execute(statement)
        jobs.store_last_id(db, max(last, jobs.read_last_id(db)))
        db.execute(f"PRAGMA user_version = {SCHEMA}")
        db.execute("COMMIT")
    finally:
        if db.in_transaction:
            db.execute("ROLLBACK")
        db.execute("PRAGMA legacy_alter_table = OFF")


def _columns(db: sqlite3.Connection, table: str) -> list[str]:
    return [row[1] for row in db.execute(f'PRAGMA table_info("{table}")')]
