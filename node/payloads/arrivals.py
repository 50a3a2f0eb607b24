"""Payloads that have arrived: what comes with them, and how they are taken over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from actors.domain.payload import Payload
from actors.domain.status import Status
from node.payloads.rows import Row


@dataclass(frozen=True, slots=True)
class Arrived:
    """A payload whose files have arrived whole in `directory`, which becomes its own. `key` is made up by the
    sender; `owner` "" came by the contract."""

    key: str
    directory: Path
    job_id: int = 0
    n: int = 1
    service: str = ""
    user_id: int = 0
    owner: str = ""
    max_runtime: float = 0.0


class AcceptResult(StrEnum):
    """KNOWN: it was here already, what has arrived now is not used. TOMBSTONED: it will never run here."""

    ACCEPTED = "accepted"
    KNOWN = "known"
    TOMBSTONED = "tombstoned"


@dataclass(frozen=True, slots=True)
class Accepted:
    result: AcceptResult
    payload: Payload | None


def accepted(key: str, fresh: bool, now: Mapping[str, Row]) -> Accepted:
    """What is to be said of one that has arrived, `now` being the rows after all were taken over."""
    row = now.get(key)
    if fresh and row is not None:
        return Accepted(AcceptResult.ACCEPTED, row.payload)
    if row is not None and not row.released:
        return Accepted(AcceptResult.KNOWN, row.payload)
    return Accepted(AcceptResult.TOMBSTONED, None)


def prepared(item: Arrived, number: int, now: float) -> Payload:
    """The payload that it becomes."""
    return Payload(
        key=item.key,
        id=number,
        job_id=item.job_id,
        n=item.n,
        service=item.service,
        user_id=item.user_id,
        owner=item.owner,
        status=Status.PREPARED,
        sequence=0,
        created_at=now,
        max_runtime=item.max_runtime,
    )
