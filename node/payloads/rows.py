"""A payload as a row of the table: its columns, there and back."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any, Final

from actors.domain.job import End
from actors.domain.payload import Payload, PayloadMove
from actors.domain.status import Status
from actors.wire.protocol.attempts import end_from_json, end_to_json, progress_from_json, progress_to_json

SCHEMA: Final = """
CREATE TABLE payload (
    key TEXT PRIMARY KEY, id INTEGER UNIQUE NOT NULL, job_id INTEGER NOT NULL, n INTEGER NOT NULL,
    service TEXT NOT NULL, user_id INTEGER NOT NULL, owner TEXT NOT NULL, status TEXT NOT NULL,
    sequence INTEGER UNIQUE NOT NULL, created_at REAL NOT NULL, max_runtime REAL NOT NULL,
    cancelled INTEGER NOT NULL, pid INTEGER NOT NULL, started_at REAL, verdict TEXT, lost INTEGER NOT NULL,
    released INTEGER NOT NULL, ended_at REAL, progress TEXT, through INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE tombstone (key TEXT PRIMARY KEY, kind TEXT NOT NULL, at REAL NOT NULL) WITHOUT ROWID;
CREATE INDEX tombstone_at ON tombstone (at);
"""

PUT: Final = f"INSERT OR REPLACE INTO payload VALUES ({', '.join('?' * 20)})"
OLD_TOMBSTONES: Final = "SELECT key FROM tombstone WHERE at < ? AND key NOT IN (SELECT key FROM payload)"


@dataclass(frozen=True, slots=True)
class Row:
    """`released`: its orchestrator has let go of it; only the Runner still sees it, until it has ended."""

    payload: Payload
    released: bool


def apply_move(payload: Payload, move: PayloadMove) -> Payload:
    """The payload after a move."""
    return replace(
        payload,
        status=move.target,
        pid=move.pid or payload.pid,
        started_at=payload.started_at if move.started_at is None else move.started_at,
        end=move.end,
        lost=move.lost or payload.lost,
    )


def lose(payload: Payload, why: str, now: float) -> Payload:
    """A payload of which nothing lives, and nothing is left that could be relied upon."""
    end = End(Status.FAILED, why, started_at=payload.started_at, ended_at=now)
    return replace(payload, status=Status.FAILED, end=end, lost=True)


def columns_of(row: Row) -> tuple[Any, ...]:
    p = row.payload
    verdict = None if p.end is None else json.dumps(end_to_json(p.end))
    progress = None if p.progress is None else json.dumps(progress_to_json(p.progress))
    ended_at = None if p.end is None else (p.created_at if p.end.ended_at is None else p.end.ended_at)
    return (
        *(
            p.key,
            p.id,
            p.job_id,
            p.n,
            p.service,
            p.user_id,
            p.owner,
            p.status.value,
            p.sequence,
            p.created_at,
        ),
        *(p.max_runtime, p.cancelled, p.pid, p.started_at, verdict, p.lost, row.released, ended_at, progress),
        p.through,
    )


def row_of(columns: tuple[Any, ...]) -> Row:
    (key, id_, job_id, n, service, user_id, owner, status, sequence, created_at) = columns[:10]
    (max_runtime, cancelled, pid, started_at, verdict, lost, released, _, progress, through) = columns[10:]
    payload = Payload(
        key=key,
        id=id_,
        job_id=job_id,
        n=n,
        service=service,
        user_id=user_id,
        owner=owner,
        status=Status(status),
        sequence=sequence,
        created_at=created_at,
        max_runtime=max_runtime,
        cancelled=bool(cancelled),
        pid=pid,
        started_at=started_at,
        end=None if verdict is None else end_from_json(json.loads(verdict)),
        lost=bool(lost),
        progress=None if progress is None else progress_from_json(json.loads(progress)),
        through=bool(through),
    )
    return Row(payload, bool(released))
