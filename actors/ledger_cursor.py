"""How an actor keeps up with the ledger's rows. They come as messages, from its own commits, and with each
tick by reading what changed: twice, late, an old one after a newer. `LedgerCursor` lets each be taken in
once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import trio

from actors.domain.job import Job
from actors.domain.status import OVER
from actors.kernel.backoff import Backoff
from actors.kernel.complaint import Complaint
from actors.ports.ledger import Ledger, LedgerError
from actors.ports.world import Random


class LedgerBackoff:
    """The ledger's trouble is everybody's, and no crash of an actor: nothing was changed, so after an error
    the actor lets it be for a growing while."""

    def __init__(self, rng: Random, log: logging.Logger) -> None:
        self._backoff = Backoff(rng, first=0.2, most=4.0)
        self._complaint = Complaint(log)
        self._until = 0.0

    @property
    def lasts(self) -> bool:
        return trio.current_time() < self._until

    @contextmanager
    def guard(self) -> Iterator[None]:
        """Around the use of the ledger: a LedgerError ends it and begins a pause."""
        try:
            yield
        except LedgerError as error:
            delay = self._backoff.next()
            self._complaint.say("the ledger could not be used, and is tried again: %s", error)
            self._until = trio.current_time() + delay
        else:
            self._backoff.reset()


class LedgerCursor:
    """What one actor has seen of the ledger."""

    def __init__(self, ledger: Ledger, tick: float) -> None:
        self._ledger = ledger
        self._tick = tick
        self._seen: dict[int, int] = {}
        self._over: tuple[list[int], list[int]] = ([], [])
        self._read_to = 0
        self._read_at = 0.0

    async def begin(self) -> Sequence[Job]:
        """Every job that is not over."""
        live, self._read_to = await self._ledger.live()
        self._read_at = trio.current_time()
        return live

    def is_new(self, job: Job) -> bool:
        """Whether this row is newer than what was seen of the job; it counts as seen from now on."""
        if job.change_seq <= self._seen.get(job.id, 0):
            return False
        self._seen[job.id] = job.change_seq
        if job.status in OVER:
            self._over[1].append(job.id)
        return True

    def is_newest(self, job: Job) -> bool:
        """Whether nothing newer was seen of the job."""
        return job.change_seq >= self._seen.get(job.id, 0)

    async def catch_up(self, apply: Callable[[Job], None]) -> bool:
        """Read what changed since the last reading, once a tick: the safety net for lost messages. Whether
        it was time for that."""
        if trio.current_time() < self._read_at + self._tick:
            return False
        self._read_at = trio.current_time()
        # What was over before the last reading: no older row of it can come any more.
        for job_id in self._over[0]:
            self._seen.pop(job_id, None)
        self._over = (self._over[1], [])
        while True:
            changed = await self._ledger.changes(self._read_to)
            if not changed:
                return True
            for job in changed:
                apply(job)
            self._read_to = changed[-1].change_seq
