"""First attempts of jobs that are just being stored.

Where nothing waits and a slot is free, a job is not stored first and taken to Processing then: it gets its
attempt before it is stored, and both are one commit. From then until the Sender has seen that commit the
attempt holds its slot and its place in the quotas by what is noted here. That outlasts each of the Sender's
lives, as does a commit that is under way.

A key that is noted here was never given to a dispatcher, in no life: nothing of its attempt was sent.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from actors.domain.changes import FirstAttempt, NewJob, change_new_job
from actors.domain.job import Job
from actors.domain.labels import from_labels
from actors.kernel.actor import Mailbox
from actors.messages import ReserveFirst


@dataclass(frozen=True, slots=True)
class Reservation:
    """A slot of the node, and a place in the quotas of the service and of its user."""

    node_id: str
    service: str
    user_id: int


class Reservations:
    """`sender` is where the Sender is asked, which notes in `out`, by its key, what it gives, and takes out
    what it finds committed."""

    def __init__(self, sender: Mailbox) -> None:
        self.out: dict[str, Reservation] = {}
        self._sender = sender
        self._without: Counter[str] = Counter()
        """How many jobs of a service are being stored without an attempt: no later one is to go before."""

    async def store(self, job: NewJob, insert: Callable[[NewJob], Awaitable[Job]]) -> Job:
        """Have `insert` store a job, with its first attempt if it may go at once; what that gives. Where it
        stores nothing, or gives a job that was there already, the attempt is given back."""
        first = self._reserve(job)
        if first is None:
            self._without[job.service] += 1
            try:
                return await insert(job)
            finally:
                self._without[job.service] -= 1
        key = first.attempt.key
        stored: Job | None = None
        try:
            stored = await insert(change_new_job(job, first=first))
            return stored
        finally:
            if stored is None or stored.attempt is None or stored.attempt.key != key:
                self.out.pop(key, None)
                self._sender.ring()

    def _reserve(self, job: NewJob) -> FirstAttempt | None:
        if self._without[job.service]:
            return None
        requires = from_labels(job.details.requires)
        return self._sender.ask_now(ReserveFirst(job.service, job.user_id, requires))
