"""Jobs: each as it is now, what was handed in with it, its tags, and how many there are of each kind.

Every index is there for a query that would otherwise read all jobs; the partial ones hold only the rows that
are still of interest, so that they stay small while the history grows.
"""

from __future__ import annotations

import json
import sqlite3
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from actors.domain.batch_request import (
    NOTHING_REQUESTED,
    BatchRequest,
    request_from_json,
    request_to_json,
)
from actors.domain.changes import JobDetails, NewJob
from actors.domain.failure import Failure
from actors.domain.job import End, Job, QueuedJobs, order_of
from actors.domain.labels import from_labels
from actors.domain.limits import UNLIMITED, JobLimits, limits_from_json, limits_to_json
from actors.domain.progress import batch_from_json, batch_to_json
from actors.domain.status import ENDED, OVER, Status
from orchestrator.ledger.tables.attempts import attempt_from_row

_NEWEST: Final = 2**63 - 1
_NOTHING: Final = "{}"
"""What is stored of labels, limits and requests where there are none."""


def _is_any(statuses: frozenset[Status]) -> str:
    """Whether a row's status is one of these. With IN, SQLite would build a table at each evaluation, twice
    for each index and each row that is written: that was a third of what a move costs."""
    return "(" + " OR ".join(f"status = '{status}'" for status in sorted(statuses)) + ")"


# SQLite uses a partial index only where the query repeats its condition, word for word.
_IS_LIVE: Final = f"NOT {_is_any(OVER)} AND (status <> 'Queued' OR terminate_requested <> 0)"
_IS_QUEUED: Final = "status = 'Queued' AND terminate_requested = 0"
IS_CLEANED: Final = f"status = '{Status.CLEANED.value}'"
_IS_ENDED: Final = _is_any(ENDED)

# `attempt_key` names a row of `attempts` and is no reference: that would need an index of its own, or else
# each attempt that is deleted a walk through all jobs.
TABLES: Final = (
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
        limits TEXT NOT NULL DEFAULT '{}',
        attempt_key TEXT,
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
        tags TEXT NOT NULL DEFAULT '[]',
        callback_url TEXT,
        requires TEXT NOT NULL DEFAULT '{}',
        rerun_of INTEGER,
        input_names TEXT NOT NULL DEFAULT '[]',
        ignored TEXT NOT NULL DEFAULT '[]',
        progress REAL,
        progress_message TEXT NOT NULL DEFAULT '',
        running_since REAL,
        batch TEXT,
        priority INTEGER NOT NULL DEFAULT 0,
        batch_request TEXT NOT NULL DEFAULT '{}',
        request_id TEXT NOT NULL DEFAULT '',
        end_failure TEXT
    ) STRICT""",
    "CREATE UNIQUE INDEX jobs_change ON jobs (change_seq)",
    # A key is its user's: two portals, or two people, may count up from 1.
    "CREATE UNIQUE INDEX jobs_idempotency ON jobs (user_id, idempotency_key) "
    "WHERE idempotency_key IS NOT NULL",
    f"CREATE INDEX jobs_live ON jobs (id) WHERE {_IS_LIVE}",
    # With all that its query speaks of, so that no row is read for it.
    "CREATE INDEX jobs_queued ON jobs (service, requires, user_id, priority, status, terminate_requested) "
    f"WHERE {_IS_QUEUED}",
    f"CREATE INDEX jobs_ended ON jobs (ended_at) WHERE {_IS_ENDED}",
    f"CREATE INDEX jobs_cleaned ON jobs (ended_at) WHERE {IS_CLEANED}",
    # An index ends in the rowid, which is the id: these are in the order of lists, newest last.
    "CREATE INDEX jobs_user ON jobs (user_id)",
    "CREATE INDEX jobs_service ON jobs (service)",
    "CREATE INDEX jobs_status ON jobs (status)",
    "CREATE INDEX jobs_user_status ON jobs (user_id, status)",
    "CREATE INDEX jobs_user_service ON jobs (user_id, service)",
    "CREATE INDEX jobs_service_status ON jobs (service, status)",
    "CREATE INDEX jobs_name ON jobs (name) WHERE name IS NOT NULL",
    """CREATE TABLE job_tags (
        tag TEXT NOT NULL,
        job_id INTEGER NOT NULL REFERENCES jobs (id),
        PRIMARY KEY (tag, job_id)
    ) STRICT, WITHOUT ROWID""",
    "CREATE INDEX job_tags_job ON job_tags (job_id)",
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
    """CREATE TRIGGER jobs_tally_gone AFTER DELETE ON jobs BEGIN
        UPDATE tallies SET jobs = jobs - 1 WHERE service = old.service AND status = old.status;
    END""",
)

JOB_COLUMNS: Final = (
    "id, user_id, service, status, message, change_seq, j.created_at, j.updated_at, storage_key, size, "
    "terminate_requested, attempts_used, max_runtime, ended_at, "
    "end_status, end_message, end_exit_code, end_signal, end_started_at, end_ended_at, end_wall_seconds, "
    "end_cpu_seconds, end_peak_bytes, end_size, "
    "a.key, a.job_id, a.n, a.node_id, a.state, a.foreign_id, a.boot, requires, progress, progress_message, "
    "running_since, limits, batch, priority, batch_request, request_id, end_failure"
)
_CURRENT: Final = "LEFT JOIN attempts AS a ON a.key = j.attempt_key"
FROM_JOBS: Final = f"FROM jobs AS j {_CURRENT}"
# From the tag or the node to the jobs: CROSS keeps the planner from turning it round and sorting.
FROM_TAGGED: Final = f"FROM job_tags AS t CROSS JOIN jobs AS j ON j.id = t.job_id {_CURRENT}"
FROM_NODE: Final = (
    "FROM attempts AS o INDEXED BY attempts_on_node "
    f"CROSS JOIN jobs AS j ON j.id = o.job_id AND j.attempt_key = o.key {_CURRENT}"
)

HAS_ENDED_SINCE: Final = (
    "j.id IN (WITH since (at) AS (VALUES (?)) "
    f"SELECT id FROM jobs INDEXED BY jobs_ended, since WHERE {_IS_ENDED} AND ended_at >= at UNION ALL "
    f"SELECT id FROM jobs INDEXED BY jobs_cleaned, since WHERE {IS_CLEANED} AND ended_at >= at)"
)
"""A condition on `j`; reads what has ended since, of two indices."""
JOBS: Final = f"SELECT {JOB_COLUMNS} {FROM_JOBS}"
"""Jobs with their current attempts; `job_from_row` reads its rows."""

# The planner would often rather take another index and sort; what it cannot use here is an error.
_LIVE: Final = f"SELECT {JOB_COLUMNS} FROM jobs AS j INDEXED BY jobs_live {_CURRENT} WHERE {_IS_LIVE}"
_QUEUED: Final = (
    "SELECT service, requires, user_id, priority, group_concat(id) FROM jobs INDEXED BY jobs_queued "
    f"WHERE {_IS_QUEUED} GROUP BY service, requires, user_id, priority"
)
_ENDED: Final = f"SELECT {JOB_COLUMNS} FROM jobs AS j INDEXED BY jobs_ended {_CURRENT} WHERE {_IS_ENDED}"


def job_from_row(row: tuple[Any, ...]) -> Job:
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
        end=None if row[14] is None else _end(row[14:24], row[40]),
        attempt=None if row[24] is None else attempt_from_row(row[24:31]),
        requires=_required(row[31]),
        progress=row[32],
        progress_message=row[33],
        running_since=row[34],
        limits=_limits(row[35]),
        batch=None if row[36] is None else batch_from_json(json.loads(row[36])),
        priority=row[37],
        batch_request=_request(row[38]),
        request_id=row[39],
    )


def _end(columns: tuple[Any, ...], failure: str | None) -> End:
    end = End(Status(columns[0]), *columns[1:])
    return end if failure is None else replace(end, failure=Failure(failure))


def _required(labels: str) -> str:
    return "" if labels == _NOTHING else from_labels(json.loads(labels))


def _limits(stored: str) -> JobLimits:
    return UNLIMITED if stored == _NOTHING else limits_from_json(json.loads(stored))


def _request(stored: str) -> BatchRequest:
    return NOTHING_REQUESTED if stored == _NOTHING else request_from_json(json.loads(stored))


def read_job(db: sqlite3.Connection, job_id: int) -> Job | None:
    row = db.execute(f"{JOBS} WHERE j.id = ?", (job_id,)).fetchone()
    return None if row is None else job_from_row(row)


def read_live(db: sqlite3.Connection) -> Sequence[Job]:
    """Jobs that are under way, and those that wait and are to be stopped, oldest first."""
    return [job_from_row(row) for row in db.execute(f"{_LIVE} ORDER BY id")]


def read_queued(db: sqlite3.Connection) -> Sequence[QueuedJobs]:
    """All other jobs that wait. A million takes a third of a second, and 8 MB."""
    lines: dict[tuple[str, str, int], array[int]] = {}
    for service, labels, user_id, priority, ids in db.execute(_QUEUED):
        line = lines.setdefault((service, _required(labels), user_id), array("q"))
        numbers, before = map(int, ids.split(",")), order_of(0, priority)
        line.extend(map(before.__add__, numbers) if before else numbers)
    # In whatever order SQLite has gathered them; the same labels may be stored in two.
    return [QueuedJobs(*wanted, array("q", sorted(orders))) for wanted, orders in lines.items()]


def read_changed(
    db: sqlite3.Connection, after: int, upto: int = _NEWEST, *, limit: int = -1
) -> Sequence[Job]:
    """Jobs whose newest change is above `after` and up to `upto`, in the order of these."""
    statement = f"{JOBS} WHERE change_seq > ? AND change_seq <= ? ORDER BY change_seq LIMIT ?"
    return [job_from_row(row) for row in db.execute(statement, (after, upto, limit))]


def read_ended(
    db: sqlite3.Connection, before: float, limit: int, after: tuple[float, int] | None
) -> Sequence[Job]:
    """Ended jobs whose data is kept, oldest first."""
    later, place = ("", ()) if after is None else ("AND (ended_at, id) > (?, ?)", after)
    statement = f"{_ENDED} AND ended_at < ? {later} ORDER BY ended_at, id LIMIT ?"
    return [job_from_row(row) for row in db.execute(statement, (before, *place, limit))]


def read_details(db: sqlite3.Connection, job_ids: Sequence[int]) -> Mapping[int, JobDetails]:
    statement = (
        "SELECT id, name, tags, callback_url, requires, rerun_of, input_names, ignored FROM jobs "
        f"WHERE id IN ({', '.join('?' * len(job_ids))})"
    )
    return {
        number: JobDetails(
            name,
            tuple(json.loads(tags)),
            url,
            json.loads(requires),
            rerun_of,
            tuple(json.loads(names)),
            tuple(json.loads(ignored)),
        )
        for number, name, tags, url, requires, rerun_of, names, ignored in db.execute(
            statement, tuple(job_ids)
        )
    }


def read_number_queued(db: sqlite3.Connection, service: str) -> int:
    """How many jobs of a service wait."""
    statement = "SELECT jobs FROM tallies WHERE service = ? AND status = ?"
    row = db.execute(statement, (service, Status.QUEUED.value)).fetchone()
    return 0 if row is None else int(row[0])


def read_oldest_queued(db: sqlite3.Connection) -> Sequence[Job]:
    """Of each service with jobs that wait, the one with the smallest id."""
    statement = (
        "SELECT (SELECT id FROM jobs INDEXED BY jobs_service_status "
        "WHERE service = tallies.service AND status = tallies.status ORDER BY id LIMIT 1) "
        "FROM tallies WHERE status = ? AND jobs > 0"
    )
    ids = [found for (found,) in db.execute(statement, (Status.QUEUED.value,)) if found is not None]
    return [job for job_id in ids if (job := read_job(db, job_id)) is not None]


def read_idempotent(db: sqlite3.Connection, user_id: int, key: str) -> tuple[Job, str | None] | None:
    """The user's job that was stored with this idempotency key, and the fingerprint of its content."""
    statement = "SELECT id, fingerprint FROM jobs WHERE user_id = ? AND idempotency_key = ?"
    row = db.execute(statement, (user_id, key)).fetchone()
    if row is None:
        return None
    job = read_job(db, row[0])
    assert job is not None
    return job, row[1]


def read_unknown_directories(db: sqlite3.Connection, storage_keys: Sequence[str]) -> Sequence[str]:
    """Those of the keys that belong to no job whose data is still kept."""
    unknown = []
    for key in storage_keys:
        found = db.execute("SELECT status FROM jobs WHERE storage_key = ?", (key,)).fetchone()
        if found is None or found[0] == Status.CLEANED.value:
            unknown.append(key)
    return unknown


def read_job_counts(db: sqlite3.Connection) -> Mapping[tuple[str, Status], int]:
    found = db.execute("SELECT service, status, jobs FROM tallies WHERE jobs > 0")
    return {(service, Status(name)): jobs for service, name, jobs in found}


def read_last_id(db: sqlite3.Connection) -> int:
    """The largest id that was ever given; 0 if none was."""
    row = db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'jobs'").fetchone()
    return 0 if row is None else int(row[0])


def store_last_id(db: sqlite3.Connection, last: int) -> None:
    """The next job's id follows `last`."""
    if db.execute("UPDATE sqlite_sequence SET seq = ? WHERE name = 'jobs'", (last,)).rowcount == 0:
        db.execute("INSERT INTO sqlite_sequence (name, seq) VALUES ('jobs', ?)", (last,))


def insert_job(db: sqlite3.Connection, job: NewJob, *, message: str, seq: int, now: float) -> int:
    """Store what was handed in; the id that it got."""
    details = job.details
    cursor = db.execute(
        "INSERT INTO jobs (user_id, service, status, message, change_seq, created_at, updated_at, "
        "storage_key, size, max_runtime, idempotency_key, fingerprint, name, tags, callback_url, requires, "
        "rerun_of, input_names, ignored, limits, priority, batch_request, request_id) "
        "VALUES (?, ?, 'Queued', ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            job.user_id,
            job.service,
            message,
            seq,
            now,
            now,
            job.storage_key,
            job.size,
            job.max_runtime,
            job.idempotency_key,
            job.fingerprint,
            details.name,
            json.dumps(list(details.tags)) if details.tags else "[]",
            details.callback_url,
            json.dumps(dict(details.requires)) if details.requires else _NOTHING,
            details.rerun_of,
            json.dumps(list(details.input_names)) if details.input_names else "[]",
            json.dumps(list(details.ignored)) if details.ignored else "[]",
            _NOTHING if job.limits is UNLIMITED else json.dumps(limits_to_json(job.limits)),
            job.priority,
            _NOTHING
            if job.batch_request is NOTHING_REQUESTED
            else json.dumps(request_to_json(job.batch_request)),
            job.request_id,
        ),
    )
    job_id = cursor.lastrowid
    assert job_id is not None
    if details.tags:
        db.executemany(
            "INSERT INTO job_tags (tag, job_id) VALUES (?, ?)", [(tag, job_id) for tag in details.tags]
        )
    return job_id


_STAND: Final = (
    "status = ?, message = ?, change_seq = ?, updated_at = ?, terminate_requested = ?, attempts_used = ?, "
    "attempt_key = ?, progress = ?, progress_message = ?, running_since = ?, batch = ?"
)
_END: Final = (
    "ended_at = ?, end_status = ?, end_message = ?, end_exit_code = ?, end_signal = ?, end_started_at = ?, "
    "end_ended_at = ?, end_wall_seconds = ?, end_cpu_seconds = ?, end_peak_bytes = ?, end_size = ?, "
    "end_failure = ?"
)


def update_job(db: sqlite3.Connection, job: Job, before: Job | None = None) -> None:
    """Store what can change of a row. `before`: the row as it is. An end that stays as it was is not written:
    six triggers wait for one."""
    stand = (
        str(job.status),
        job.message,
        job.change_seq,
        job.updated_at,
        int(job.terminate_requested),
        job.attempts_used,
        job.attempt.key if job.attempt is not None else None,
        job.progress,
        job.progress_message,
        job.running_since,
        None if job.batch is None else json.dumps(batch_to_json(job.batch)),
    )
    end = job.end
    if before is not None and before.end is end and before.ended_at == job.ended_at:
        db.execute(f"UPDATE jobs SET {_STAND} WHERE id = ?", (*stand, job.id))
        return
    ended = _end_columns(end) if end is not None else (None,) * 11
    db.execute(f"UPDATE jobs SET {_STAND}, {_END} WHERE id = ?", (*stand, job.ended_at, *ended, job.id))


def _end_columns(end: End) -> tuple[Any, ...]:
    return (
        str(end.status),
        end.message,
        end.exit_code,
        end.signal,
        end.started_at,
        end.ended_at,
        end.wall_seconds,
        end.cpu_seconds,
        end.peak_bytes,
        end.size,
        None if end.failure is None else str(end.failure),
    )


def read_latest_runs(db: sqlite3.Connection, service: str, limit: int) -> list[tuple[int, float]]:
    """Whose jobs ran for how many seconds, the newest end first. It looks at the newest ones of each status
    that are over, by their numbers."""
    found: list[tuple[float, int, float]] = []
    for status in sorted(OVER):
        found += db.execute(
            "SELECT coalesce(ended_at, updated_at), user_id, end_wall_seconds FROM "
            "(SELECT * FROM jobs WHERE service = ? AND status = ? ORDER BY id DESC LIMIT ?) "
            "WHERE end_wall_seconds IS NOT NULL",
            (service, status, limit),
        )
    return [(user_id, seconds) for _, user_id, seconds in sorted(found, reverse=True)[:limit]]
