"""Who did what, the newest last. Lines outlast the jobs and nodes that they are about."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any, Final

from orchestrator.access.audit import AuditEntry, AuditFilter, AuditLine

TABLES: Final = (
    """CREATE TABLE audit (
        id INTEGER PRIMARY KEY,
        at REAL NOT NULL,
        who TEXT NOT NULL,
        token_id TEXT,
        role TEXT,
        address TEXT NOT NULL,
        action TEXT NOT NULL,
        job_id INTEGER,
        node TEXT,
        about TEXT,
        detail TEXT NOT NULL
    ) STRICT""",
    # An index ends in the id: these are in the order of lists, newest last.
    "CREATE INDEX audit_who ON audit (who)",
    "CREATE INDEX audit_job ON audit (job_id) WHERE job_id IS NOT NULL",
    "CREATE INDEX audit_node ON audit (node) WHERE node IS NOT NULL",
    "CREATE INDEX audit_at ON audit (at)",
    # A line of each job has that one, so it is soon found without.
    "CREATE INDEX audit_action ON audit (action) WHERE action <> 'submit'",
)

_COLUMNS: Final = "id, at, who, token_id, role, address, action, job_id, node, about, detail"
# The wall clock may jump: then the lines that it jumped over are not found by their time.
_SINCE: Final = "id >= coalesce((SELECT id FROM audit WHERE at >= ? ORDER BY at LIMIT 1), 1 << 62)"


def store_entries(
    db: sqlite3.Connection, entries: Iterable[AuditEntry], now: float, *, job: int | None = None
) -> None:
    """`job`: what they are about, if they do not say it themselves."""
    db.executemany(
        "INSERT INTO audit (at, who, token_id, role, address, action, job_id, node, about, detail) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (
                now,
                one.who,
                one.token,
                one.role,
                one.address,
                one.action,
                job if one.job is None else one.job,
                one.node,
                one.about,
                one.detail,
            )
            for one in entries
        ],
    )


def read_lines(
    db: sqlite3.Connection, wanted: AuditFilter, before: int | None, limit: int
) -> Sequence[AuditLine]:
    """The newest that fit, with ids below `before`."""
    # A plus keeps a column's index out: a job or a node has few lines, and anybody may have many.
    by_action = wanted.action not in (None, "submit") and wanted.job is None and wanted.node is None
    conditions: dict[str, Any] = {
        "+who = ?" if by_action else "who = ?": wanted.who,
        "job_id = ?": wanted.job,
        "node = ?": wanted.node,
        "action <> 'submit' AND action = ?" if by_action else "+action = ?": wanted.action,
        _SINCE: wanted.since,
        "id < ?": before,
    }
    given = {condition: value for condition, value in conditions.items() if value is not None}
    where = f"WHERE {' AND '.join(given)}" if given else ""
    found = db.execute(
        f"SELECT {_COLUMNS} FROM audit {where} ORDER BY id DESC LIMIT ?", (*given.values(), limit)
    )
    return [AuditLine(row[0], row[1], AuditEntry(*row[2:])) for row in found]


def forget(db: sqlite3.Connection, before: float, limit: int) -> int:
    """Forget up to `limit` lines from before `before`; how many."""
    gone = db.execute(
        "DELETE FROM audit WHERE id IN (SELECT id FROM audit WHERE at < ? ORDER BY at LIMIT ?)",
        (before, limit),
    )
    return gone.rowcount
