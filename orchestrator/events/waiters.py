"""Who waits for a job to change.

The ledger tells of every committed row (`publish`); whoever waits is woken by it. Nothing polls, and nothing
is kept for jobs that nobody waits for. A waiter registers first and reads the ledger after, so that no change
falls between the two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Self

import trio

from actors.domain.job import Job
from orchestrator.errors import OrchestratorError


class TooManyWaiters(OrchestratorError):
    """As many wait as may wait; ask again later."""


class WaitersClosed(OrchestratorError):
    """The server stops: nothing more is told."""


def _any(job: Job) -> bool:
    return True


class JobWaiter:
    """One waiter for one job, which is told of it while inside. Keeps the newest row only."""

    def __init__(self, waiters: JobWaiters, job_id: int) -> None:
        self._waiters = waiters
        self._job_id = job_id
        self.newest: Job | None = None
        """The last that was told."""
        self._closed = False
        self._after = 0
        self._enough: Callable[[Job], bool] = _any
        self._woken: trio.Event | None = None

    def __enter__(self) -> Self:
        """Raises TooManyWaiters."""
        self._waiters.add(self._job_id, self)
        return self

    def __exit__(self, *_: object) -> None:
        self._waiters.discard(self._job_id, self)

    def put(self, job: Job) -> None:
        if self.newest is None or job.change_seq > self.newest.change_seq:
            self.newest = job
            if self._woken is not None and job.change_seq > self._after and self._enough(job):
                self._woken.set()

    def close(self) -> None:
        self._closed = True
        if self._woken is not None:
            self._woken.set()

    async def newer(self, after: int, enough: Callable[[Job], bool] = _any) -> Job:
        """The newest row whose `change_seq` is above `after`, as soon as there is one that is `enough`.
        Raises WaitersClosed."""
        self._after, self._enough = after, enough
        while self.newest is None or self.newest.change_seq <= after or not enough(self.newest):
            if self._closed:
                raise WaitersClosed("the server stops")
            self._woken = trio.Event()
            await self._woken.wait()
        return self.newest


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
        if job.id in self._watches:
            for watch in self._watches[job.id]:
                watch.put(job)

    def publish_all(self, jobs: Iterable[Job]) -> None:
        for job in jobs:
            self.publish(job)

    def watch(self, job_id: int) -> JobWaiter:
        """Is told of `job_id` while one is inside."""
        return JobWaiter(self, job_id)

    def add(self, job_id: int, watch: JobWaiter) -> None:
        """From now on it is told. Raises TooManyWaiters."""
        if self._waiting >= self._most:
            raise TooManyWaiters(f"{self._most} requests wait for changes already; ask again without waiting")
        if self._closed:
            watch.close()
        self._waiting += 1
        self._watches.setdefault(job_id, set()).add(watch)

    def discard(self, job_id: int, watch: JobWaiter) -> None:
        """It is told no more."""
        self._waiting -= 1
        mine = self._watches[job_id]
        mine.discard(watch)
        if not mine:
            del self._watches[job_id]

    async def moved(self, after: int) -> None:
        """Wait until a change whose number is above `after` was published, of whatever job. Raises
        WaitersClosed. Does not count as one who waits for a job."""
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
