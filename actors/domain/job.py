"""The values that the actors speak of: jobs, attempts, payloads, nodes. All frozen.

Times called `…_at` are wall-clock seconds since the epoch; durations are seconds; sizes are bytes.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, fields
from enum import StrEnum
from operator import attrgetter
from typing import Any, Final, Protocol, TypeVar

from actors.domain.batch_request import NOTHING_REQUESTED, BatchRequest
from actors.domain.failure import Failure
from actors.domain.limits import UNLIMITED, JobLimits
from actors.domain.progress import BatchStand
from actors.domain.status import QUOTA, Status

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class End:
    """How an attempt ended on its node, as the node tells it.

    `status` is one of Completed, Failed, Invalid, Killed. `exit_code` and `signal` exclude each other; both
    are None when nothing ran. `size` is the sum of the bytes that are there to be collected. `failure`: why
    it failed, None where these two tell it and where nobody knows.
    """

    status: Status
    message: str
    exit_code: int | None = None
    signal: int | None = None
    started_at: float | None = None
    ended_at: float | None = None
    wall_seconds: float | None = None
    cpu_seconds: float | None = None
    peak_bytes: int | None = None
    size: int = 0
    failure: Failure | None = None


class AttemptState(StrEnum):
    """OPEN: it may run. GIVEN_UP: its node is lost, another attempt may run. OVER: its end is settled, the
    node still has to be told. RELEASED: the node has confirmed that it let go."""

    OPEN = "open"
    GIVEN_UP = "given_up"
    OVER = "over"
    RELEASED = "released"


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try at a job on one node. `key` is 32 hex digits (128 random bits), the name under which the node
    knows it; `n` counts from 1 and is what the script sees. `boot` is that of the node's machine when it was
    made, and how far the node had come (`NodeRef.moment`); "" is not known: by a node that knows only the
    contract, or before a server was brought to this version. `foreign_id` is the id a node gave that knows
    only the contract."""

    key: str
    job_id: int
    n: int
    node_id: str
    state: AttemptState = AttemptState.OPEN
    foreign_id: int | None = None
    boot: str = ""


MOST_PRIORITY: Final = 100
_FAILED: Final = (Status.FAILED, Status.INVALID)
_ID_BITS: Final = 48
"""More than an id has, and few enough for the order to have 64 with any priority."""


def order_of(job_id: int, priority: int) -> int:
    """One number for both: ascending, those of a higher priority come first, of the same one the older."""
    return job_id - (priority << _ID_BITS)


def job_of(order: int) -> int:
    """The id of the job that has this order."""
    return order & ((1 << _ID_BITS) - 1)


@dataclass(frozen=True, slots=True)
class Job:
    """One row of the ledger, with its current attempt.

    `change_seq` grows with every change of any job: who remembers the largest one it has seen can ask for
    what changed since. `attempts_used` counts attempts that may have run. `end` is the node's verdict, which
    frees the quota before the results are here. `max_runtime` 0 means no limit. `requires`: labels that its
    node has to have, in the form of `requirements`. `progress` is the share that its script says is done, 0
    to 1, None as long as it says nothing. `running_since`: when this attempt was first seen to run; its `end`
    knows better. `batch`: how its attempt stands, or has ended, in a batch system, if one runs it;
    `batch_request`: what it asks of that. Of a user's jobs for a service those of a higher `priority` go
    first. `request_id`: of the request that handed it in, "" if nobody knows it.
    """

    id: int
    user_id: int
    service: str
    status: Status
    message: str
    change_seq: int
    created_at: float
    updated_at: float
    storage_key: str
    size: int = 0
    terminate_requested: bool = False
    attempts_used: int = 0
    max_runtime: float = 0.0
    limits: JobLimits = UNLIMITED
    attempt: Attempt | None = None
    end: End | None = None
    ended_at: float | None = None
    requires: str = ""
    progress: float | None = None
    progress_message: str = ""
    running_since: float | None = None
    batch: BatchStand | None = None
    priority: int = 0
    batch_request: BatchRequest = NOTHING_REQUESTED
    request_id: str = ""

    @property
    def order(self) -> int:
        """By which its user's jobs go, the smallest first."""
        return order_of(self.id, self.priority)

    @property
    def counts(self) -> bool:
        """Whether the job counts against the quotas."""
        return self.status in QUOTA and self.end is None

    @property
    def failure(self) -> Failure | None:
        """Why it failed, also once it is cleaned; None if it has not."""
        end = self.end
        if self.status in _FAILED:
            if end is None:
                return Failure.INVALID if self.status is Status.INVALID else Failure.NOT_RUN
        elif self.status is not Status.CLEANED or end is None or end.status not in _FAILED:
            return None
        if end.failure is not None:
            return end.failure
        if end.status is Status.INVALID:
            return Failure.INVALID
        if end.status is Status.COMPLETED:
            return Failure.RESULTS
        if end.signal is not None:
            return Failure.SIGNAL
        return Failure.EXIT_CODE if end.exit_code else Failure.NODE


class NoSuchField(KeyError, TypeError):
    """A change of a field that there is not; `dataclasses.replace` says a TypeError."""


class Changer(Protocol[T]):
    """Gives the value with these fields changed. Raises NoSuchField."""

    def __call__(self, one: T, /, **changes: Any) -> T: ...


def make_changer(kind: type[T]) -> Changer[T]:
    """`dataclasses.replace` in two thirds of its time, for what is changed with each step of a job."""
    places = {one.name: place for place, one in enumerate(fields(kind))}  # type: ignore[arg-type]
    values_of = attrgetter(*places)

    def change(one: T, /, **changes: Any) -> T:
        values = list(values_of(one))
        try:
            for name, value in changes.items():
                values[places[name]] = value
        except KeyError as error:
            raise NoSuchField(*error.args) from None
        return kind(*values)

    return change


change_job: Final = make_changer(Job)
change_attempt: Final = make_changer(Attempt)
change_end: Final = make_changer(End)


@dataclass(frozen=True, slots=True)
class QueuedJobs:
    """The jobs of one user that wait for the same, each by its order, 8 bytes. They ascend; who gets them may
    keep and change them."""

    service: str
    requires: str
    user_id: int
    orders: array[int]


@dataclass(frozen=True, slots=True)
class LiveJobs:
    """The jobs that are not over, as of the change `seq`. `jobs`, oldest first: all but those that only wait,
    which are `queued`, each user's of a service and requirement once; empty where nobody asked for it."""

    jobs: Sequence[Job]
    queued: Sequence[QueuedJobs]
    seq: int


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """One recorded transition. `source` is None for the first."""

    job_id: int
    at: float
    source: Status | None
    target: Status
    reason: str
    node_id: str | None
    attempt_n: int | None
