"""What may be written to the ledger, and what it answers: the values of its port."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

from actors.domain.batch_request import NOTHING_REQUESTED, BatchRequest
from actors.domain.job import Attempt, AttemptState, End, Job, make_changer
from actors.domain.limits import UNLIMITED, JobLimits
from actors.domain.progress import BatchStand
from actors.domain.status import Owner, Status


@dataclass(frozen=True, slots=True)
class Transition:
    """Take a job from `source` to `target`, if it is still there under attempt `key` (None: not compared) and
    the state is `by`'s to leave.

    `attempt` starts a new attempt with it (Queued to Processing); its `n` is the ledger's to count.
    `attempt_state` moves the attempt `key`.
    `foreign_id` is stored with it. `spent` 1 counts the attempt as one that may have run, -1 takes that back.
    `end` stores the verdict if none is stored yet. `results`: small results, packed, which are kept with the
    end.
    """

    job_id: int
    source: Status
    target: Status
    reason: str
    key: str | None = None
    attempt: Attempt | None = None
    attempt_state: AttemptState | None = None
    foreign_id: int | None = None
    spent: int = 0
    end: End | None = None
    results: bytes | None = field(default=None, repr=False)
    by: Owner = field(kw_only=True)


@dataclass(frozen=True, slots=True)
class RecordEnd:
    """Store the node's verdict on the job's current attempt; frees its quota. Changes no status."""

    job_id: int
    key: str
    end: End


@dataclass(frozen=True, slots=True)
class MoveAttempt:
    """Move an attempt's own state, whatever its job does. Never back to OPEN. `job_id`: its job, where that
    is known; nothing needs to be looked up then."""

    key: str
    state: AttemptState
    job_id: int | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class SetMessage:
    """Say in the job's message what it waits for, while attempt `key` is current. Changes no status."""

    job_id: int
    key: str
    message: str


@dataclass(frozen=True, slots=True)
class SetProgress:
    """What the script says of its progress, and a batch system of it, while attempt `key` is current.
    `fraction` is 0 to 1, or None. Changes no status, and is no line of history."""

    job_id: int
    key: str
    fraction: float | None
    message: str = ""
    batch: BatchStand | None = None


Change = Transition | RecordEnd | MoveAttempt | SetMessage | SetProgress


class ChangeResult(StrEnum):
    """DONE: committed. STALE: the row is no longer as the change expected; nothing changed. REFUSED: the
    table, the order to terminate or whose state it is forbids it; nothing changed."""

    DONE = "done"
    STALE = "stale"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class ChangeAnswer:
    """The answer to one change: what became of it, and the job's row after it (None for MoveAttempt or a
    job that does not exist)."""

    outcome: ChangeResult
    job: Job | None = None


@dataclass(frozen=True, slots=True)
class JobDetails:
    """What a job may have besides, which no actor decides by. `tags` are sorted and differ. `requires` are
    wishes for the node; `rerun_of` is the job that it repeats; `input_names` are the names of the files that
    came with it, `ignored` of the fields that came and mean nothing here."""

    name: str | None = None
    tags: tuple[str, ...] = ()
    callback_url: str | None = None
    requires: Mapping[str, str] = field(default_factory=dict)
    rerun_of: int | None = None
    input_names: Sequence[str] = ()
    ignored: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FirstAttempt:
    """With which a job begins in the commit that stores it, and what its history says of that. The number of
    the job and `n` are the ledger's to fill in."""

    attempt: Attempt
    reason: str

    def begin(self, job_id: int) -> Transition:
        """The move that follows the job's first row."""
        attempt = replace(self.attempt, job_id=job_id)
        return Transition(
            job_id, Status.QUEUED, Status.PROCESSING, self.reason, attempt=attempt, by=Owner.SENDER
        )


@dataclass(frozen=True, slots=True)
class NewJob:
    """A job as the api hands it in, its files durable already under `storage_key`, or here as `files`,
    packed, to be kept with it. `request_id`: of the request that brought it. `first`: it goes at once."""

    user_id: int
    service: str
    storage_key: str
    size: int
    max_runtime: float = 0.0
    limits: JobLimits = UNLIMITED
    priority: int = 0
    batch_request: BatchRequest = NOTHING_REQUESTED
    idempotency_key: str | None = None
    fingerprint: str | None = None
    details: JobDetails = field(default_factory=JobDetails)
    request_id: str = ""
    files: bytes | None = field(default=None, repr=False)
    first: FirstAttempt | None = None


change_new_job: Final = make_changer(NewJob)
