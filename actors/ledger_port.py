"""The ledger as the actors and the api need it: jobs, attempts, and every change to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from actors.lifecycle import Status
from actors.model import Attempt, AttemptState, End, HistoryEntry, Job


@dataclass(frozen=True, slots=True)
class Move:
    """Take a job from `source` to `target`, if it is still there under attempt `key` (None: not compared).

    `attempt` starts a new attempt with it (Queued to Processing). `attempt_state` moves the attempt `key`.
    `foreign_id` is stored with it. `spent` counts the attempt as one that may have run. `end` stores the
    verdict if none is stored yet.
    """

    job_id: int
    source: Status
    target: Status
    reason: str
    key: str | None = None
    attempt: Attempt | None = None
    attempt_state: AttemptState | None = None
    foreign_id: int | None = None
    spent: bool = False
    end: End | None = None


@dataclass(frozen=True, slots=True)
class RecordEnd:
    """Store the node's verdict on the job's current attempt; frees its quota. Changes no status."""

    job_id: int
    key: str
    end: End


@dataclass(frozen=True, slots=True)
class MoveAttempt:
    """Move an attempt's own state, whatever its job does. Never back to OPEN."""

    key: str
    state: AttemptState


@dataclass(frozen=True, slots=True)
class Note:
    """Say in the job's message what it waits for, while attempt `key` is current. Changes no status."""

    job_id: int
    key: str
    message: str


@dataclass(frozen=True, slots=True)
class TellProgress:
    """What the script says of its progress, while attempt `key` is current. `fraction` is 0 to 1, or None.
    Changes no status, and is no line of history."""

    job_id: int
    key: str
    fraction: float | None
    message: str = ""


Change = Move | RecordEnd | MoveAttempt | Note | TellProgress


class Outcome(StrEnum):
    """DONE: committed. STALE: the row is no longer as the change expected; nothing changed. REFUSED: the
    table or the order to terminate forbids it; nothing changed."""

    DONE = "done"
    STALE = "stale"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Recorded:
    """The answer to one change: what became of it, and the job's row after it (None for MoveAttempt or a
    job that does not exist)."""

    outcome: Outcome
    job: Job | None = None


@dataclass(frozen=True, slots=True)
class JobDetails:
    """What a job may have besides, which no actor decides by. `tags` are sorted and differ. `requires` are
    wishes for the node; `rerun_of` is the job that it repeats; `input_names` are the names of the files that
    came with it."""

    name: str | None = None
    tags: tuple[str, ...] = ()
    callback_url: str | None = None
    requires: Mapping[str, str] = field(default_factory=dict)
    rerun_of: int | None = None
    input_names: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class NewJob:
    """A job as the api hands it in, its files durable already under `storage_key`."""

    user_id: int
    service: str
    storage_key: str
    size: int
    max_runtime: float = 0.0
    idempotency_key: str | None = None
    fingerprint: str | None = None
    details: JobDetails = field(default_factory=JobDetails)


class LedgerError(Exception):
    """The ledger could not do it (disk full, database locked or damaged). Nothing of the item was changed;
    it may be tried again."""


class Ledger(Protocol):
    """Jobs and attempts: the truth. Every method is wholly done or not at all, cancelled or not. All raise
    `LedgerError`."""

    async def insert(self, job: NewJob) -> Job:
        """Store a Queued job with the next id. Durable on return."""
        ...

    async def record(self, changes: Sequence[Change]) -> Sequence[Recorded]:
        """Apply each change by itself, in order; durable on return."""
        ...

    async def request_terminate(self, job_id: int) -> Job | None:
        """Set the order durably unless the job is over. The row afterwards; None if unknown."""
        ...

    async def changes(self, after: int, limit: int = 500) -> Sequence[Job]:
        """Jobs whose `change_seq` is above `after`, ascending. A job stands at its newest change only."""
        ...

    async def live(self) -> tuple[Sequence[Job], int]:
        """All jobs that are not over, oldest first, and the `change_seq` that this picture is at."""
        ...

    async def owed(self) -> Sequence[Attempt]:
        """Attempts that are given up or over and not yet released."""
        ...

    async def get(self, job_id: int) -> Job | None: ...

    async def history(self, job_id: int) -> Sequence[HistoryEntry]: ...

    async def attempts(self, job_id: int) -> Sequence[Attempt]: ...

    async def ended_before(
        self, wall: float, limit: int = 100, after: tuple[float, int] | None = None
    ) -> Sequence[Job]:
        """Ended, not Cleaned jobs whose `ended_at` is before `wall`, oldest first; those after the
        (`ended_at`, id) of an earlier page's last."""
        ...

    async def unknown_directories(self, storage_keys: Sequence[str]) -> Sequence[str]:
        """Which of these storage keys belong to no job, or to a Cleaned one."""
        ...
