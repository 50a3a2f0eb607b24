"""Batches: jobs of which one callback tells once all of them have ended.

A batch is ordered when its jobs are there already. The end of a job counts for its batches in the same
transaction, and the last end writes the batch's callback (`callbacks`), so no crash and no race loses one or
makes two. `batch_jobs` holds the jobs that have not ended: a tree that stays small, and that the end of a job
of no batch looks into once.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from actors.domain.status import OVER, Status
from orchestrator.ledger.tables.callbacks import CallbackView, callback_from_row

MOST_NAMED: Final = 100
"""Jobs of a batch that are named as not Completed."""
MOST_OF_A_JOB: Final = 16
"""Batches that one job may be in, while it has not ended: each of its ends counts for all of them."""

_ENDS: Final = ("Completed", "Failed", "Invalid", "Killed")
_COUNT: Final = ", ".join(f"{end.lower()} = {end.lower()} + (new.status = '{end}')" for end in _ENDS)

# `batch_jobs.batch_id` names a row of `batches` and is no reference: that would need an index of its own.
TABLES: Final = (
    """CREATE TABLE batches (
        id TEXT PRIMARY KEY,
        user_id INTEGER,
        services TEXT NOT NULL,
        callback_url TEXT NOT NULL,
        created_at REAL NOT NULL,
        ended_at REAL,
        jobs INTEGER NOT NULL,
        left INTEGER NOT NULL,
        completed INTEGER NOT NULL,
        failed INTEGER NOT NULL,
        invalid INTEGER NOT NULL,
        killed INTEGER NOT NULL,
        not_completed TEXT NOT NULL,
        idempotency_key TEXT,
        fingerprint TEXT NOT NULL
    ) STRICT""",
    "CREATE INDEX batches_idempotency ON batches (idempotency_key) WHERE idempotency_key IS NOT NULL",
    "CREATE INDEX batches_ended ON batches (ended_at) WHERE ended_at IS NOT NULL",
    """CREATE TABLE batch_jobs (
        job_id INTEGER NOT NULL REFERENCES jobs (id),
        batch_id TEXT NOT NULL,
        PRIMARY KEY (job_id, batch_id)
    ) STRICT, WITHOUT ROWID""",
    f"""CREATE TRIGGER jobs_batched AFTER UPDATE OF ended_at ON jobs
        WHEN old.ended_at IS NULL AND new.ended_at IS NOT NULL
            AND EXISTS (SELECT 1 FROM batch_jobs WHERE job_id = new.id) BEGIN
        UPDATE batches SET left = left - 1, {_COUNT},
            ended_at = CASE left WHEN 1 THEN new.ended_at END,
            not_completed = CASE
                WHEN new.status = 'Completed' OR json_array_length(not_completed) >= {MOST_NAMED}
                THEN not_completed ELSE json_insert(not_completed, '$[#]', new.id) END
            WHERE id IN (SELECT batch_id FROM batch_jobs WHERE job_id = new.id);
        DELETE FROM batch_jobs WHERE job_id = new.id;
    END""",
    """CREATE TRIGGER batches_called AFTER UPDATE OF left ON batches WHEN new.left = 0 BEGIN
        INSERT INTO callbacks (batch_id, since, next_at) VALUES (new.id, new.ended_at, new.ended_at);
    END""",
    """CREATE TRIGGER batches_called_at_once AFTER INSERT ON batches WHEN new.left = 0 BEGIN
        INSERT INTO callbacks (batch_id, since, next_at) VALUES (new.id, new.ended_at, new.ended_at);
    END""",
)

_BATCH: Final = (
    "SELECT b.id, b.user_id, b.services, b.jobs, b.left, b.completed, b.failed, b.invalid, b.killed, "
    "b.not_completed, b.created_at, b.ended_at, b.fingerprint, "
    "b.callback_url, c.status, c.tries, c.last_error, c.next_at, c.settled_at "
    "FROM batches AS b LEFT JOIN callbacks AS c ON c.batch_id = b.id"
)
_JOBS: Final = (
    "SELECT id, user_id, service, status FROM jobs WHERE id IN (SELECT value FROM json_each(?)) "
    "ORDER BY ended_at, id"
)
# How a job ended whose data was deleted since is in its history alone.
_END: Final = (
    "SELECT target FROM history WHERE job_id = ? "
    f"AND target IN ({', '.join(repr(end) for end in _ENDS)}) ORDER BY rowid DESC LIMIT 1"
)
_CROWDED: Final = (
    "SELECT job_id FROM batch_jobs WHERE job_id IN (SELECT value FROM json_each(?)) "
    "GROUP BY job_id HAVING count(*) >= ? LIMIT 1"
)
_FORGETTABLE: Final = (
    "SELECT id FROM batches INDEXED BY batches_ended WHERE ended_at IS NOT NULL AND ended_at < ? AND "
    "NOT EXISTS (SELECT 1 FROM callbacks WHERE batch_id = batches.id AND status = 'pending') "
    "ORDER BY ended_at LIMIT ?"
)


@dataclass(frozen=True, slots=True)
class NewBatch:
    """An order: `jobs` are different ids, `callback_url` was judged. `may_see` says whether jobs of a user
    (None: of several) and of these services are theirs who order. `fingerprint` is the same for the same jobs
    and URL, and for no others."""

    id: str
    jobs: Sequence[int]
    callback_url: str
    may_see: Callable[[int | None, Sequence[str]], bool]
    fingerprint: str
    idempotency_key: str | None = None


@dataclass(frozen=True, slots=True)
class Member:
    """A job of an order."""

    id: int
    user_id: int
    service: str
    status: Status
    over: bool


@dataclass(frozen=True, slots=True)
class BatchView:
    """How it stands with a batch. `user_id`: whose jobs all of them are; None: several users'. `left`: jobs
    that have not ended; the others are counted by how they ended, but for those that 2.x had cleaned: how
    these ended is not known. `not_completed`: the first that ended otherwise than Completed. Times are
    wall-clock."""

    id: str
    user_id: int | None
    services: tuple[str, ...]
    jobs: int
    left: int
    completed: int
    failed: int
    invalid: int
    killed: int
    not_completed: tuple[int, ...]
    created_at: float
    ended_at: float | None
    callback: CallbackView
    fingerprint: str = ""


def read_batch(db: sqlite3.Connection, batch_id: str) -> BatchView | None:
    row = db.execute(f"{_BATCH} WHERE b.id = ?", (batch_id,)).fetchone()
    return None if row is None else _batch_from_row(row)


def read_idempotent_batches(db: sqlite3.Connection, key: str) -> Sequence[BatchView]:
    """Those that were ordered with this key: of one user one, and of several together one."""
    found = db.execute(f"{_BATCH} WHERE b.idempotency_key = ?", (key,))
    return [_batch_from_row(row) for row in found]


def _batch_from_row(row: tuple[Any, ...]) -> BatchView:
    return BatchView(
        id=row[0],
        user_id=row[1],
        services=tuple(json.loads(row[2])),
        jobs=row[3],
        left=row[4],
        completed=row[5],
        failed=row[6],
        invalid=row[7],
        killed=row[8],
        not_completed=tuple(json.loads(row[9])),
        created_at=row[10],
        ended_at=row[11],
        fingerprint=row[12],
        callback=callback_from_row(row[13:]),
    )


def read_members(db: sqlite3.Connection, job_ids: Sequence[int]) -> Sequence[Member]:
    """These jobs, in the order of their ends; those that are unknown are left out."""
    return [
        Member(number, user_id, service, Status(status), status in OVER)
        for number, user_id, service, status in db.execute(_JOBS, (json.dumps(list(job_ids)),))
    ]


def only_user(members: Sequence[Member]) -> int | None:
    """Whose jobs all of them are; None: several users'."""
    users = {member.user_id for member in members}
    return users.pop() if len(users) == 1 else None


def read_end(db: sqlite3.Connection, job_id: int) -> Status | None:
    """How a job ended whose data was deleted since; None where that is not known."""
    row = db.execute(_END, (job_id,)).fetchone()
    return None if row is None else Status(row[0])


def find_crowded(db: sqlite3.Connection, job_ids: Sequence[int]) -> int | None:
    """One of these jobs that can be in no more batches; None: all can."""
    row = db.execute(_CROWDED, (json.dumps(list(job_ids)), MOST_OF_A_JOB)).fetchone()
    return None if row is None else int(row[0])


def insert_batch(
    db: sqlite3.Connection,
    new: NewBatch,
    members: Sequence[Member],
    ends: Mapping[int, Status | None],
    now: float,
) -> None:
    """`ends`: how those have ended that have, in the order of their ends."""
    counts = Counter(ends.values())
    others = [number for number, end in ends.items() if end not in (None, Status.COMPLETED)]
    db.execute(
        "INSERT INTO batches (id, user_id, services, callback_url, created_at, ended_at, jobs, left, "
        "completed, failed, invalid, killed, not_completed, idempotency_key, fingerprint) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            new.id,
            only_user(members),
            json.dumps(sorted({member.service for member in members})),
            new.callback_url,
            now,
            now if len(ends) == len(members) else None,
            len(members),
            len(members) - len(ends),
            *(counts[Status(end)] for end in _ENDS),
            json.dumps(others[:MOST_NAMED]),
            new.idempotency_key,
            new.fingerprint,
        ),
    )
    db.executemany(
        "INSERT INTO batch_jobs (job_id, batch_id) VALUES (?, ?)",
        [(member.id, new.id) for member in members if member.id not in ends],
    )


def forget_batches(db: sqlite3.Connection, before: float, limit: int) -> int:
    """Forget up to `limit` that ended before `before` and whose callback is settled; how many."""
    found = db.execute(_FORGETTABLE, (before, limit)).fetchall()
    db.executemany("DELETE FROM callbacks WHERE batch_id = ?", found)
    db.executemany("DELETE FROM batches WHERE id = ?", found)
    return len(found)
