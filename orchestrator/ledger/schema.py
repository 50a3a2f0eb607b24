"""The ledger's tables, and how a database file becomes one of ours.

`MIGRATIONS[n]` takes a database from schema n to n + 1; `PRAGMA user_version` says where it stands. Each runs
in one transaction together with the new number, so a crash leaves the old schema or the new one. What was
published is never edited: a change of the tables is one more entry.

Every index is there for a query that would otherwise read all jobs; the partial ones hold only the rows that
are still of interest, so that they stay small while the history grows.
"""

from __future__ import annotations

import secrets
import sqlite3
from typing import Final

from actors.domain.status import ENDED, OVER
from actors.ports.ledger import LedgerError
from orchestrator.ledger.tables import activity, callbacks, machines, nodes, queue_counts, usage

APPLICATION_ID: Final = 0x4A4F4233
"""What `PRAGMA application_id` says of our files ("JOB3")."""

MAX_ID: Final = 2**32 - 1
"""Job ids go from 1 to here: the contract's clients keep them in 32 bits without a sign."""


def _names(statuses: frozenset[str]) -> str:
    return ", ".join(f"'{status}'" for status in sorted(statuses))


# SQLite uses a partial index only where the query repeats its condition, word for word.
IS_LIVE: Final = f"status NOT IN ({_names(frozenset(OVER))})"
IS_ENDED: Final = f"status IN ({_names(frozenset(ENDED))})"
IS_OWED: Final = "state IN ('given_up', 'over')"

_FIRST: Final = (
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID",
    """CREATE TABLE jobs (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        user_id INTEGER NOT NULL,
        service TEXT NOT NULL,
        status TEXT NOT NULL,
        message TEXT NOT NULL,
        change_seq INTEGER NOT NULL,
        created_at REAL NOT NULL,
        updated_at REAL NOT NULL,
        ended_at REAL,
        storage_key TEXT NOT NULL UNIQUE,
        size INTEGER NOT NULL,
        terminate_requested INTEGER NOT NULL DEFAULT 0,
        attempts_used INTEGER NOT NULL DEFAULT 0,
        max_runtime REAL NOT NULL,
        attempt_key TEXT REFERENCES attempts (key),
        end_status TEXT,
        end_message TEXT,
        end_exit_code INTEGER,
        end_signal INTEGER,
        end_started_at REAL,
        end_ended_at REAL,
        end_wall_seconds REAL,
        end_cpu_seconds REAL,
        end_peak_bytes INTEGER,
        end_size INTEGER,
        idempotency_key TEXT,
        fingerprint TEXT,
        name TEXT,
        tags TEXT NOT NULL DEFAULT '{}',
        callback_url TEXT,
        requires TEXT NOT NULL DEFAULT '{}',
        rerun_of INTEGER,
        input_names TEXT NOT NULL DEFAULT '[]'
    ) STRICT""",
    "CREATE UNIQUE INDEX jobs_change ON jobs (change_seq)",
    "CREATE UNIQUE INDEX jobs_idempotency ON jobs (idempotency_key) WHERE idempotency_key IS NOT NULL",
    f"CREATE INDEX jobs_live ON jobs (id) WHERE {IS_LIVE}",
    f"CREATE INDEX jobs_ended ON jobs (ended_at) WHERE {IS_ENDED}",
    # An index ends in the rowid, which is the id: these three are in the order of lists, newest last.
    "CREATE INDEX jobs_user ON jobs (user_id)",
    "CREATE INDEX jobs_service ON jobs (service)",
    "CREATE INDEX jobs_status ON jobs (status)",
    """CREATE TABLE attempts (
        key TEXT PRIMARY KEY,
        job_id INTEGER NOT NULL REFERENCES jobs (id),
        n INTEGER NOT NULL,
        node_id TEXT NOT NULL,
        state TEXT NOT NULL,
        foreign_id INTEGER,
        created_at REAL NOT NULL,
        updated_at REAL NOT NULL
    ) STRICT""",
    "CREATE INDEX attempts_job ON attempts (job_id)",
    "CREATE UNIQUE INDEX attempts_open ON attempts (job_id) WHERE state = 'open'",
    f"CREATE INDEX attempts_owed ON attempts (job_id) WHERE {IS_OWED}",
    """CREATE TABLE history (
        job_id INTEGER NOT NULL REFERENCES jobs (id),
        at REAL NOT NULL,
        source TEXT,
        target TEXT NOT NULL,
        reason TEXT NOT NULL,
        node_id TEXT,
        attempt_n INTEGER
    ) STRICT""",
    "CREATE INDEX history_job ON history (job_id)",
    """CREATE TABLE nodes (
        node_id TEXT PRIMARY KEY,
        url TEXT NOT NULL,
        services TEXT NOT NULL,
        slots INTEGER,
        labels TEXT NOT NULL,
        kind TEXT NOT NULL,
        last_seen REAL NOT NULL
    ) STRICT""",
    # How many jobs there are of each kind, without counting them.
    """CREATE TABLE tallies (
        service TEXT NOT NULL,
        status TEXT NOT NULL,
        jobs INTEGER NOT NULL,
        PRIMARY KEY (service, status)
    ) STRICT, WITHOUT ROWID""",
    """CREATE TRIGGER jobs_tally_new AFTER INSERT ON jobs BEGIN
        INSERT INTO tallies (service, status, jobs) VALUES (new.service, new.status, 1)
            ON CONFLICT DO UPDATE SET jobs = jobs + 1;
    END""",
    """CREATE TRIGGER jobs_tally_moved AFTER UPDATE OF status ON jobs WHEN old.status <> new.status BEGIN
        UPDATE tallies SET jobs = jobs - 1 WHERE service = old.service AND status = old.status;
        INSERT INTO tallies (service, status, jobs) VALUES (new.service, new.status, 1)
            ON CONFLICT DO UPDATE SET jobs = jobs + 1;
    END""",
    "INSERT INTO meta (key, value) VALUES ('change_seq', 0)",
    f"PRAGMA application_id = {APPLICATION_ID}",
)

# Schema 4, with the table of usage: what lists, streams of changes and paused services need.
_LISTS: Final = (
    "CREATE INDEX jobs_user_status ON jobs (user_id, status)",
    "CREATE INDEX jobs_user_service ON jobs (user_id, service)",
    "CREATE INDEX jobs_service_status ON jobs (service, status)",
    "CREATE INDEX jobs_name ON jobs (name) WHERE name IS NOT NULL",
    """CREATE TABLE job_tags (
        tag TEXT NOT NULL,
        job_id INTEGER NOT NULL REFERENCES jobs (id),
        PRIMARY KEY (tag, job_id)
    ) STRICT, WITHOUT ROWID""",
    # The number of the change that wrote the line; NULL for those of before.
    "ALTER TABLE history ADD COLUMN change_seq INTEGER",
    "CREATE UNIQUE INDEX history_change ON history (change_seq) WHERE change_seq IS NOT NULL",
    """CREATE TABLE pauses (
        service TEXT PRIMARY KEY,
        reason TEXT NOT NULL,
        since REAL NOT NULL
    ) STRICT, WITHOUT ROWID""",
)

# Schema 5: what people look at. With tables of who waits, what each minute brought, and who is to be called.
_LOOKS: Final = (
    "ALTER TABLE jobs ADD COLUMN progress REAL",
    "ALTER TABLE jobs ADD COLUMN progress_message TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE jobs ADD COLUMN running_since REAL",
    "CREATE INDEX attempts_on_node ON attempts (node_id, job_id) WHERE state = 'open'",
)

MIGRATIONS: Final[tuple[tuple[str, ...], ...]] = (
    _FIRST,
    machines.TABLES,
    nodes.TABLES,
    _LISTS + usage.TABLES,
    _LOOKS + queue_counts.TABLES + activity.TABLES + callbacks.TABLES,
)
SCHEMA: Final = len(MIGRATIONS)


def prepare_writer(db: sqlite3.Connection) -> str:
    """Make sure that the file is a ledger, of this schema; create or migrate it if need be.

    The name of its owner is the answer. Nothing is written before it is clear that the file is ours. Raises
    LedgerError for a file that is not, or that a newer version has written; sqlite3.Error for the rest.
    """
    db.isolation_level = None
    version = _recognise(db)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    db.execute("PRAGMA foreign_keys = ON")
    for number in range(version, SCHEMA):
        _migrate(db, number)
    row = db.execute("SELECT value FROM meta WHERE key = 'owner'").fetchone()
    return str(row[0])


def prepare_reader(db: sqlite3.Connection) -> None:
    """A connection that reads and can do nothing else."""
    db.isolation_level = None
    db.execute("PRAGMA query_only = ON")


def _recognise(db: sqlite3.Connection) -> int:
    version = int(db.execute("PRAGMA user_version").fetchone()[0])
    application = int(db.execute("PRAGMA application_id").fetchone()[0])
    tables = {str(name) for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if not tables and version == 0:
        return 0
    if application != APPLICATION_ID:
        if "jobs" in tables and "meta" not in tables:
            raise LedgerError(
                "this database was written by job-orchestrator 2.x, whose jobs cannot be taken over: "
                "move the file away or name another one, and a new ledger is created"
            )
        raise LedgerError("this file is a database, but not a job ledger: name another one")
    if version > SCHEMA:
        raise LedgerError(
            f"this ledger has schema {version}, and this version knows schemas up to {SCHEMA}: "
            "it was written by a newer version; start that one, or restore the backup from before the upgrade"
        )
    return version


def _migrate(db: sqlite3.Connection, number: int) -> None:
    db.execute("BEGIN IMMEDIATE")
    try:
        for statement in MIGRATIONS[number]:
            db.execute(statement)
        if number == 0:
            db.execute("INSERT INTO meta (key, value) VALUES ('owner', ?)", (secrets.token_hex(16),))
        db.execute(f"PRAGMA user_version = {number + 1}")
        db.execute("COMMIT")
    finally:
        if db.in_transaction:
            db.execute("ROLLBACK")
