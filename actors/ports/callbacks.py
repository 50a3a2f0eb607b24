"""What the CallbackSender needs of the world: whom to tell of ended jobs and batches, and a way to do it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, Protocol


class CallbackStatus(StrEnum):
    PENDING = "pending"
    DELIVERED = "delivered"
    GIVEN_UP = "given_up"


@dataclass(frozen=True, slots=True)
class Subject:
    """Whose end is told: that of a job, or of a batch of jobs, which is that of its last one."""

    kind: Literal["job", "batch"]
    id: str

    def __str__(self) -> str:
        return f"{self.kind} {self.id}"


def subject_of(job_id: int) -> Subject:
    return Subject("job", str(job_id))


@dataclass(frozen=True, slots=True)
class Callback:
    """One end that is to be told at `url`. `seq` grows with each that is new. `since` (the end) and `next_at`
    (the next try) are wall-clock; `tries` are those that were recorded."""

    seq: int
    subject: Subject
    url: str
    since: float
    next_at: float
    tries: int = 0


@dataclass(frozen=True, slots=True)
class DeliveryOutcome:
    """What a callback is after one more try. `error`: why the try failed, None if it did not. `next_at` is
    wall-clock, None once it is settled."""

    subject: Subject
    status: CallbackStatus
    tries: int
    error: str | None = None
    next_at: float | None = None


class CallbackLedger(Protocol):
    """An end writes its callback in the same step. Both raise `LedgerError`."""

    async def pending_callbacks(self, after: int, limit: int = 500) -> Sequence[Callback]:
        """Callbacks that are not settled and whose `seq` is above `after`, ascending."""
        ...

    async def record_delivery(self, tried: DeliveryOutcome) -> None:
        """Store what became of a try; durable on return. One that is settled stays as it is."""
        ...


class PostResult(StrEnum):
    """DELIVERED: the receiver has taken it. GONE: it says that it wants nothing of this any more. FAILED: try
    again."""

    DELIVERED = "delivered"
    GONE = "gone"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class PostAnswer:
    """`reason` says why it was not delivered. `retry_after`: seconds that the receiver wants to be left
    alone. `connected`: there was a connection to its host."""

    result: PostResult
    reason: str = ""
    retry_after: float | None = None
    connected: bool = True


class Poster(Protocol):
    """Sends callbacks, each time under the same id. What the network does is in the answer; only cancellation
    and defects raise."""

    async def post(self, callback: Callback) -> PostAnswer: ...
