"""Who waits for a job to change.

The ledger tells of every committed row (`publish`); whoever waits is woken by it. Nothing polls, and nothing
is kept for jobs that nobody waits for. A waiter registers first and reads the ledger after, so that no change
falls between the two.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import trio

from actors.domain.job import Job
from orchestrator.errors import OrchestratorError


class TooManyWaiters(OrchestratorError):
    """As many wait as may wait; ask again later."""


class WaitersClosed(OrchestratorError):
    """The server stops: nothing more is told."""


class JobWaiter:
    """One waiter for one job. Keeps the newest row only."""

    def __init__(self) -> None:
        self._newest: Job | None = None
        self._closed = False
        self._changed = trio.Event()

    def put(self, job: Job) -> None:
        if self._newest is None or job.change_seq > self._newest.change_seq:
            self._newest = job
            self._changed.set()

    def close(self) -> None:
        self._closed = True
        self._changed.set()

    async def newer(self, after: int) -> Job:
        """The newest row whose `change_seq` is above `after`, as soon as there is one. Raises FeedClosed."""
        while self._newest is None or self._newest.change_seq <= after:
            if self._closed:
                raise WaitersClosed("the server stops")
            self._changed = trio.Event()
            await self._changed.wait()
        return self._newest


class JobWaiters:
    """See the module. At most `most` wait at a time."""

    def __init__(self, most: int = 4096) -> None:
        self._most = most
        self._waiting = 0
        self._closed = False
        self._watches: dict[int, set[JobWaiter]] = {}
        self._stopped = trio.Event()
        self._newest = 0
        self._moved = trio.Event()

    @property
    def closed(self) -> bool:
        """Whether the server stops."""
        return self._closed

    @property
    def waiting(self) -> int:
        """How many wait for jobs now."""
        return self._waiting

    def publish(self, job: Job) -> None:
        if job.change_seq > self._newest:
            self._newest = job.change_seq
            self._moved.set()
        for watch in self._watches.get(job.id, ()):
            watch.put(job)

    def publish_all(self, jobs: Iterable[Job]) -> None:
        for job in jobs:
            self.publish(job)

    @contextmanager
    def watch(self, job_id: int) -> Iterator[JobWaiter]:
        """Be told of `job_id` while inside. Raises FeedFull."""
        if self._waiting >= self._most:
            raise TooManyWaiters(f"{self._most} requests wait for changes already; ask again without waiting")
        watch = JobWaiter()
        if self._closed:
            watch.close()
        self._waiting += 1
        self._watches.setdefault(job_id, set()).add(watch)
        try:
            yield watch
        finally:
            self._waiting -= 1
            mine = self._watches[job_id]
            mine.discard(watch)
            if not mine:
                del self._watches[job_id]

    async def moved(self, after: int) -> None:
        """Wait until a change whose number is above `after` was published, of whatever job. Raises
        FeedClosed. Does not count as one who waits for a job."""
        while self._newest <= after:
            if self._closed:
                raise WaitersClosed("the server stops")
            if self._moved.is_set():
                self._moved = trio.Event()
            await self._moved.wait()

    async def until_closed(self) -> None:
        """Wait until the server stops."""
        await self._stopped.wait()

    def close(self) -> None:
        """Let everybody go who waits, now and later: the server stops."""
        self._closed = True
        self._stopped.set()
        self._moved.set()
        for watches in self._watches.values():
            for watch in watches:
                watch.close()
