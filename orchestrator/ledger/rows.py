"""Rows of the ledger's tables as values, and back.

Plain functions on a connection, for the thread that has it.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from typing import Any, Final

from actors.domain.changes import JobDetails, NewJob
from actors.domain.job import Attempt, AttemptState, End, HistoryEntry, Job
from actors.domain.labels import from_labels
from actors.domain.status import Status
from orchestrator.ledger.schema import IS_ENDED, IS_LIVE, IS_OWED
from orchestrator.ledger.transitions import AppliedChange

Row = tuple[Any, ...]


JOB_COLUMNS: Final = (
    "id, user_id, service, status, message, change_seq, j.created_at, j.updated_at, storage_key, size, "
    "terminate_requested, attempts_used, max_runtime, ended_at, "
    "end_status, end_message, end_exit_code, end_signal, end_started_at, end_ended_at, end_wall_seconds, "
    "end_cpu_seconds, end_peak_bytes, end_size, "
    "a.key, a.job_id, a.n, a.node_id, a.state, a.foreign_id, requires, progress, progress_message, "
    "running_since"
)
_CURRENT: Final = "LEFT JOIN attempts AS a ON a.key = j.attempt_key"
FROM_JOBS: Final = f"FROM jobs AS j {_CURRENT}"
# From the tag or the node to the jobs: CROSS keeps the planner from turning it round and sorting.
FROM_TAGGED: Final = f"FROM job_tags AS t CROSS JOIN jobs AS j ON j.id = t.job_id {_CURRENT}"
FROM_NODE: Final = (
    "FROM attempts AS o INDEXED BY attempts_on_node "
    f"CROSS JOIN jobs AS j ON j.id = o.job_id AND j.attempt_key = o.key {_CURRENT}"
)

JOBS: Final = f"SELECT {JOB_COLUMNS} {FROM_JOBS}"
"""Jobs with their current attempts; `job_of` reads its rows."""

# The planner would often rather take another index and sort; what it cannot use here is an error.
JOBS_LIVE: Final = f"SELECT {JOB_COLUMNS} FROM jobs AS j INDEXED BY jobs_live {_CURRENT} WHERE {IS_LIVE}"
JOBS_ENDED: Final = f"SELECT {JOB_COLUMNS} FROM jobs AS j INDEXED BY jobs_ended {_CURRENT} WHERE {IS_ENDED}"

ATTEMPTS: Final = "SELECT key, job_id, n, node_id, state, foreign_id FROM attempts"
ATTEMPTS_OWED: Final = f"{ATTEMPTS} INDEXED BY attempts_owed WHERE {IS_OWED}"


def job_of(row: Row) -> Job:
    return Job(
        id=row[0],
        user_id=row[1],
        service=row[2],
        status=Status(row[3]),
        message=row[4],
        change_seq=row[5],
        created_at=row[6],
        updated_at=row[7],
        storage_key=row[8],
        size=row[9],
        terminate_requested=bool(row[10]),
        attempts_used=row[11],
        max_runtime=row[12],
        ended_at=row[13],
        end=None if row[14] is None else End(Status(row[14]), *row[15:24]),
        attempt=None if row[24] is None else attempt_of(row[24:30]),
        requires="" if row[30] == "{}" else from_labels(json.loads(row[30])),
        progress=row[31],
        progress_message=row[32],
        running_since=row[33],
    )


def attempt_of(row: Row) -> Attempt:
    return Attempt(row[0], row[1], row[2], row[3], AttemptState(row[4]), row[5])


def history_of(row: Row) -> HistoryEntry:
    source = None if row[2] is None else Status(row[2])
    return HistoryEntry(row[0], row[1], source, Status(row[3]), row[4], row[5], row[6])


def details_of(row: Row) -> JobDetails:
    return JobDetails(
        row[0], tuple(json.loads(row[1])), row[2], json.loads(row[3]), row[4], tuple(json.loads(row[5]))
    )


def get_job(db: sqlite3.Connection, job_id: int) -> Job | None:
    row = db.execute(f"{JOBS} WHERE j.id = ?", (job_id,)).fetchone()
    return None if row is None else job_of(row)


def get_attempt(db: sqlite3.Connection, key: str) -> Attempt | None:
    row = db.execute(f"{ATTEMPTS} WHERE key = ?", (key,)).fetchone()
    return None if row is None else attempt_of(row)


def has_open_attempt(db: sqlite3.Connection, job_id: int) -> bool:
    found = db.execute("SELECT 1 FROM attempts WHERE job_id = ? AND state = 'open'", (job_id,)).fetchone()
    return found is not None


def insert_job(db: sqlite3.Connection, job: NewJob, *, seq: int, now: float) -> int:
    """Store what was handed in; the id that it got."""
    details = job.details
    cursor = db.execute(
        "INSERT INTO jobs (user_id, service, status, message, change_seq, created_at, updated_at, "
        "storage_key, size, max_runtime, idempotency_key, fingerprint, name, tags, callback_url, requires, "
        "rerun_of, input_names) VALUES (?, ?, 'Queued', '', ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            job.user_id,
            job.service,
            seq,
            now,
            now,
            job.storage_key,
            job.size,
            job.max_runtime,
            job.idempotency_key,
            job.fingerprint,
            details.name,
            json.dumps(list(details.tags)),
            details.callback_url,
            json.dumps(dict(details.requires)),
            details.rerun_of,
            json.dumps(list(details.input_names)),
        ),
    )
    job_id = cursor.lastrowid
    assert job_id is not None
    db.executemany(
        "INSERT INTO job_tags (tag, job_id) VALUES (?, ?)", [(tag, job_id) for tag in details.tags]
    )
    return job_id


def store(db: sqlite3.Connection, step: AppliedChange, now: float) -> None:
    """Write what a rule has decided."""
    if step.new_attempt is not None:
        new = step.new_attempt
        db.execute(
            "INSERT INTO attempts (key, job_id, n, node_id, state, foreign_id, created_at, updated_at) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (new.key, new.job_id, new.n, new.node_id, new.state.value, new.foreign_id, now, now),
        )
    if step.changed_attempt is not None:
        store_attempt(db, step.changed_attempt, now)
    _update_job(db, step.job)
    if step.history is not None:
        entry = step.history
        source = None if entry.source is None else entry.source.value
        db.execute(
            "INSERT INTO history (job_id, at, source, target, reason, node_id, attempt_n, change_seq) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                entry.job_id,
                entry.at,
                source,
                entry.target.value,
                entry.reason,
                entry.node_id,
                entry.attempt_n,
                step.job.change_seq,
            ),
        )


def store_attempt(db: sqlite3.Connection, attempt: Attempt, now: float) -> None:
    db.execute(
        "UPDATE attempts SET state = ?, foreign_id = ?, updated_at = ? WHERE key = ?",
        (attempt.state.value, attempt.foreign_id, now, attempt.key),
    )


def known_directories(db: sqlite3.Connection, storage_keys: Iterable[str]) -> set[str]:
    """Those of the keys that belong to a job whose data is still kept."""
    known = set()
    for key in storage_keys:
        found = db.execute("SELECT status FROM jobs WHERE storage_key = ?", (key,)).fetchone()
        if found is not None and found[0] != Status.CLEANED.value:
            known.add(key)
    return known


def _update_job(db: sqlite3.Connection, job: Job) -> None:
    end = job.end
    db.execute(
        "UPDATE jobs SET status = ?, message = ?, change_seq = ?, updated_at = ?, ended_at = ?, "
        "terminate_requested = ?, attempts_used = ?, attempt_key = ?, end_status = ?, end_message = ?, "
        "end_exit_code = ?, end_signal = ?, end_started_at = ?, end_ended_at = ?, end_wall_seconds = ?, "
        "end_cpu_seconds = ?, end_peak_bytes = ?, end_size = ?, progress = ?, progress_message = ?, "
        "running_since = ? WHERE id = ?",
        (
            job.status.value,
            job.message,
            job.change_seq,
            job.updated_at,
            job.ended_at,
            int(job.terminate_requested),
            job.attempts_used,
            job.attempt.key if job.attempt is not None else None,
            *(_end_columns(end) if end is not None else (None,) * 10),
            job.progress,
            job.progress_message,
            job.running_since,
            job.id,
        ),
    )


def _end_columns(end: End) -> Row:
    return (
        end.status.value,
        end.message,
        end.exit_code,
        end.signal,
        end.started_at,
        end.ended_at,
        end.wall_seconds,
        end.cpu_seconds,
        end.peak_bytes,
        end.size,
    )
