"""How an actor keeps up with the ledger's rows. They come as messages, from its own commits, and with each
tick by reading what changed: twice, late, an old one after a newer. `LedgerCursor` lets each be taken in
once.

It remembers no more than what came since the last reading: whatever is not newer than that has been read, or
was overtaken by what was read. So it costs the same however many jobs there are. Changes are numbered without
gaps, so it knows up to which of them nothing is missing, and only what comes after that is read."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable
from types import TracebackType

import trio

from actors.domain.job import Job, LiveJobs
from actors.kernel.backoff import Backoff
from actors.kernel.complaint import Complaint
from actors.ports.ledger import Ledger, LedgerError
from actors.ports.world import Random


class LedgerBackoff:
    """The ledger's trouble is everybody's, and no crash of an actor: nothing was changed, so after an error
    the actor lets it be for a growing while. To be entered around the use of the ledger: a LedgerError ends
    that and begins a pause."""

    def __init__(self, rng: Random, log: logging.Logger) -> None:
        self._backoff = Backoff(rng, first=0.2, most=4.0)
        self._complaint = Complaint(log)
        self._until = 0.0

    @property
    def lasts(self) -> bool:
        return self._until > 0 and trio.current_time() < self._until

    def __enter__(self) -> None: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if error is None:
            # While the pause lasts, who entered this may have had nothing to ask.
            if self._until and not self.lasts:
                self._until = 0.0
                self._backoff.reset()
        elif isinstance(error, LedgerError):
            delay = self._backoff.next()
            self._complaint.say("the ledger could not be used, and is tried again: %s", error)
            self._until = trio.current_time() + delay
            return True
        return False


class LedgerCursor:
    """What one actor has seen of the ledger."""

    def __init__(self, ledger: Ledger, tick: float) -> None:
        self._ledger = ledger
        self._tick = tick
        self._seen: dict[int, int] = {}
        """The newest change of each job that came since the last reading."""
        self._ahead: set[int] = set()
        """Numbers of changes that came while others before them have not."""
        self._read_to = 0
        self._heard_to = 0
        """All changes up to this one have come, or were read."""
        self._read_at = 0.0

    async def begin(self, *, queued: bool = False) -> LiveJobs:
        """Every job that is not over; those that only wait if `queued`. All of them count as seen."""
        live = await self._ledger.live(queued=queued)
        self._read_to = self._heard_to = live.seq
        self._read_at = trio.current_time()
        return live

    def is_new(self, job: Job) -> bool:
        """Whether this row is newer than what was seen of the job; it counts as seen from now on."""
        seq = job.change_seq
        if seq > self._heard_to:
            self._hear(seq)
        if seq <= self._seen.get(job.id, self._read_to):
            return False
        self._seen[job.id] = seq
        return True

    def newest(self, jobs: Iterable[Job]) -> Collection[Job]:
        """Of these rows those that are new, of several of one job the last; all of them count as seen."""
        return {job.id: job for job in jobs if self.is_new(job)}.values()

    def _hear(self, seq: int) -> None:
        if seq > self._heard_to + 1:
            self._ahead.add(seq)
            return
        self._heard_to = seq
        while self._ahead and self._heard_to + 1 in self._ahead:
            self._heard_to += 1
            self._ahead.remove(self._heard_to)

    async def catch_up(self, apply: Callable[[Job], None], now: float) -> bool:
        """Read what changed since the last reading, once a tick: the safety net for lost messages. Whether
        it was time for that, `now` being monotonic."""
        if now < self._read_at + self._tick:
            return False
        self._read_at = now
        while changed := await self._ledger.changes(self._heard_to):
            for job in changed:
                apply(job)
            self._heard_to = max(self._heard_to, changed[-1].change_seq)
            self._ahead = {seq for seq in self._ahead if seq > self._heard_to}
        self._read_to = self._heard_to
        self._seen = {job_id: seq for job_id, seq in self._seen.items() if seq > self._read_to}
        return True
