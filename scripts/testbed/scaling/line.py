"""The queue of a simulated day: the real QueueManager, fed with rows as the Sender feeds it, and what scaling
asks of it, kept up to date at each change."""

from __future__ import annotations

from dataclasses import replace

from actors.domain.job import Attempt, End, Job
from actors.domain.service import ServiceLimits
from actors.domain.status import Status
from orchestrator.scheduling.queue_manager import QueueManager
from testbed.scaling.arrivals import Arrival

SERVICE = "dock"


class Line:
    """`runs_per_user` is the quota; the service itself has none but the slots."""

    def __init__(self, runs_per_user: int) -> None:
        limits = ServiceLimits(SERVICE, runs_per_user=runs_per_user, max_runs=1_000_000)
        self.limits = {SERVICE: limits}
        self._quota = runs_per_user
        self._queue = QueueManager(self.limits)
        self._seq = 0
        self._rows: dict[int, Job] = {}
        self._waiting: dict[int, int] = {}
        self._going: dict[int, int] = {}
        self._first = 1
        self.last = 0
        self.arrived: list[Arrival] = []
        self.waits: list[float] = []
        self.runnable = 0
        self.running = 0
        self.queued = 0

    def add(self, arrival: Arrival) -> None:
        self.last += 1
        self.arrived.append(arrival)
        self.waits.append(-1.0)
        job = Job(
            self.last, arrival.user, SERVICE, Status.QUEUED, "", self._next(), arrival.at, arrival.at, "k"
        )
        self._rows[self.last] = job
        self._queue.apply(job)
        self.queued += 1
        self._count(arrival.user, waiting=1)

    def next(self) -> int | None:
        return self._queue.next(SERVICE)

    def begin(self, job_id: int, now: float) -> float:
        """The job goes; how long it will run."""
        arrival = self.arrived[job_id - 1]
        self.waits[job_id - 1] = now - arrival.at
        row = replace(
            self._rows[job_id],
            status=Status.RUNNING,
            change_seq=self._next(),
            attempt=Attempt("k", job_id, 1, "n"),
        )
        self._rows[job_id] = row
        self._queue.apply(row)
        self.queued -= 1
        self.running += 1
        self._count(arrival.user, waiting=-1, going=1)
        return arrival.seconds

    def end(self, job_id: int) -> Job:
        """The job has run; its last row."""
        arrival = self.arrived[job_id - 1]
        end = End(Status.COMPLETED, "", wall_seconds=arrival.seconds)
        row = replace(self._rows.pop(job_id), status=Status.COMPLETED, change_seq=self._next(), end=end)
        self._queue.apply(row)
        self.running -= 1
        self._count(arrival.user, going=-1)
        return row

    def oldest_wait(self, now: float) -> float:
        """Of all that wait, whether their users are at the quota or not."""
        while self._first <= self.last and self.waits[self._first - 1] >= 0:
            self._first += 1
        return now - self.arrived[self._first - 1].at if self._first <= self.last and self.runnable else 0.0

    def _count(self, user: int, *, waiting: int = 0, going: int = 0) -> None:
        before = self._may_go(user)
        self._waiting[user] = self._waiting.get(user, 0) + waiting
        self._going[user] = self._going.get(user, 0) + going
        self.runnable += self._may_go(user) - before

    def _may_go(self, user: int) -> int:
        return min(self._waiting.get(user, 0), max(0, self._quota - self._going.get(user, 0)))

    def _next(self) -> int:
        self._seq += 1
        return self._seq
