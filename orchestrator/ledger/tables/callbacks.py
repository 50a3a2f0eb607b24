"""Whom to tell of ended jobs and batches: a table. The end of a job that asked for it, and that of a batch's
last job, writes its row in the same transaction, so no crash forgets a callback."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from actors.ports.callbacks import Callback, CallbackStatus, DeliveryOutcome, Subject, subject_of

# Who reads on after a `seq` would miss one that is given twice, once its row was forgotten.
TABLES: Final = (
    """CREATE TABLE callbacks (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        job_id INTEGER UNIQUE REFERENCES jobs (id),
        batch_id TEXT UNIQUE REFERENCES batches (id),
        status TEXT NOT NULL DEFAULT 'pending',
        since REAL NOT NULL,
        next_at REAL,
        tries INTEGER NOT NULL DEFAULT 0,
        last_error TEXT,
        settled_at REAL,
        CHECK ((job_id IS NULL) <> (batch_id IS NULL))
    ) STRICT""",
    "CREATE INDEX callbacks_pending ON callbacks (seq) WHERE status = 'pending'",
    """CREATE TRIGGER jobs_called AFTER UPDATE OF ended_at ON jobs
        WHEN old.ended_at IS NULL AND new.ended_at IS NOT NULL AND new.callback_url IS NOT NULL BEGIN
        INSERT INTO callbacks (job_id, since, next_at) VALUES (new.id, new.ended_at, new.ended_at)
            ON CONFLICT DO NOTHING;
    END""",
    # How many there are of each kind, without counting them.
    """CREATE TABLE callback_tallies (
        status TEXT PRIMARY KEY,
        callbacks INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID""",
    "INSERT INTO callback_tallies VALUES ('pending', 0), ('delivered', 0), ('given_up', 0)",
    """CREATE TRIGGER callbacks_tally_new AFTER INSERT ON callbacks BEGIN
        UPDATE callback_tallies SET callbacks = callbacks + 1 WHERE status = new.status;
    END""",
    """CREATE TRIGGER callbacks_tally_moved AFTER UPDATE OF status ON callbacks
        WHEN old.status <> new.status BEGIN
        UPDATE callback_tallies SET callbacks = callbacks - 1 WHERE status = old.status;
        UPDATE callback_tallies SET callbacks = callbacks + 1 WHERE status = new.status;
    END""",
    """CREATE TRIGGER callbacks_tally_gone AFTER DELETE ON callbacks BEGIN
        UPDATE callback_tallies SET callbacks = callbacks - 1 WHERE status = old.status;
    END""",
)

_PENDING: Final = (
    "SELECT c.seq, c.job_id, c.batch_id, coalesce(j.callback_url, b.callback_url), c.since, c.next_at, "
    "c.tries FROM callbacks AS c INDEXED BY callbacks_pending LEFT JOIN jobs AS j ON j.id = c.job_id "
    "LEFT JOIN batches AS b ON b.id = c.batch_id "
    "WHERE c.status = 'pending' AND c.seq > ? ORDER BY c.seq LIMIT ?"
)


@dataclass(frozen=True, slots=True)
class CallbackView:
    """How it stands with a callback; before the end that it tells nothing was tried. Times are wall-clock."""

    url: str
    status: CallbackStatus = CallbackStatus.PENDING
    tries: int = 0
    last_error: str | None = None
    next_at: float | None = None
    settled_at: float | None = None


def read_pending(db: sqlite3.Connection, after: int, limit: int) -> Sequence[Callback]:
    return [
        Callback(seq, subject_of(job_id) if batch_id is None else Subject("batch", batch_id), *rest)
        for seq, job_id, batch_id, *rest in db.execute(_PENDING, (after, limit))
    ]


def read_callback(db: sqlite3.Connection, job_id: int) -> CallbackView | None:
    row = db.execute(
        "SELECT j.callback_url, c.status, c.tries, c.last_error, c.next_at, c.settled_at "
        "FROM jobs AS j LEFT JOIN callbacks AS c ON c.job_id = j.id "
        "WHERE j.id = ? AND j.callback_url IS NOT NULL",
        (job_id,),
    ).fetchone()
    return None if row is None else callback_from_row(row)


def callback_from_row(row: Sequence[Any]) -> CallbackView:
    """Out of its URL and what is in the table; no status: there is no row yet."""
    return CallbackView(row[0]) if row[1] is None else CallbackView(row[0], CallbackStatus(row[1]), *row[2:])


def read_callback_counts(db: sqlite3.Connection) -> Mapping[str, int]:
    found: list[tuple[str, Any]] = db.execute("SELECT status, callbacks FROM callback_tallies").fetchall()
    return dict(found)


def store_delivery(db: sqlite3.Connection, tried: DeliveryOutcome, now: float) -> None:
    settled = None if tried.status is CallbackStatus.PENDING else now
    subject = tried.subject
    owner, number = ("batch_id", subject.id) if subject.kind == "batch" else ("job_id", int(subject.id))
    db.execute(
        "UPDATE callbacks SET status = ?, tries = ?, last_error = COALESCE(?, last_error), next_at = ?, "
        f"settled_at = ? WHERE {owner} = ? AND status = 'pending'",
        (tried.status.value, tried.tries, tried.error, tried.next_at, settled, number),
    )
