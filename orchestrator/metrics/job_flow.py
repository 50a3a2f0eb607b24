"""How jobs go through: how long each stage took, how they ended, and how many bytes they brought.

It hears of each commit, and remembers of jobs that are under way when they entered their state: as many as
the quotas let go. What was under way before the server started is not timed to its next stage.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from prometheus_client import CollectorRegistry

from actors.domain.job import Job
from actors.domain.status import ENDED, Status
from actors.metrics.tallies import Counters, Spreads

OTHER: Final = "other"
"""The label of services that the settings do not have (any more)."""

_SHORT: Final = (0.01, 0.05, 0.2, 1.0, 5.0, 30.0, 120.0)
_LONG: Final = (0.1, 1.0, 10.0, 60.0, 300.0, 1800.0, 3600.0, 4 * 3600.0, 24 * 3600.0)


@dataclass(frozen=True, slots=True)
class _Stage:
    """Which state a job is in, since when, and when its end was recorded."""

    status: Status
    since: float
    ended: float | None


class JobFlow:
    """`services`: those that have a label of their own."""

    def __init__(self, services: Collection[str], registry: CollectorRegistry) -> None:
        self._services = services
        self._under_way: dict[int, _Stage] = {}

        def seconds(stage: str, text: str, bounds: Sequence[float]) -> Spreads:
            return Spreads(registry, f"orchestrator_job_{stage}_seconds", text, bounds, "service")

        def number(name: str, text: str, *labels: str) -> Counters:
            return Counters(registry, f"orchestrator_{name}", text, *labels)

        self._queued = seconds(
            "queue_wait", "From upload, or from being queued again, to a node's slot.", _LONG
        )
        self._dispatched = seconds(
            "dispatch", "From a node's slot to the node's word that it has it.", _SHORT
        )
        self._ran = seconds("run", "Wall time on the node, as the node measured it.", _LONG)
        self._collected = seconds(
            "collect", "From the end on the node to the results here; by its clock.", _SHORT
        )
        self._uploaded = number("jobs_uploaded", "Jobs that were uploaded.", "service")
        self._requeued = number("jobs_requeued", "Attempts after which a job was queued again.", "service")
        self._ended = number(
            "jobs_ended", "Jobs that have ended, by how and why.", "service", "status", "reason"
        )
        self._cpu = number("job_cpu_seconds", "CPU time of jobs that have ended.", "service")
        moved = number("transferred_bytes", "Bytes of jobs: uploaded, sent to nodes, fetched.", "direction")
        self._bytes_in, self._bytes_out = moved.of("uploaded"), moved.of("to_node")
        self._bytes_back = moved.of("from_node")
        for service in services:  # a counter that is there before it counts has no gap
            self._uploaded.of(service)
            self._cpu.of(service)

    def label(self, service: str) -> str:
        """What a service is called in labels."""
        return service if service in self._services else OTHER

    def committed(self, rows: Iterable[Job]) -> None:
        """The jobs as a commit has changed them, in their order."""
        for job in rows:
            before = self._under_way.get(job.id)
            if job.status in ENDED:
                self._end(job, before)
            elif job.status is Status.QUEUED:
                self._queue(job, before)
            elif job.status is not Status.CLEANED:
                self._go_on(job, before)

    def _queue(self, job: Job, before: _Stage | None) -> None:
        if before is not None and before.status is not Status.QUEUED:
            self._under_way[job.id] = _Stage(Status.QUEUED, job.updated_at, None)
            self._requeued.of(self.label(job.service)).value += 1
        elif before is None and job.change_seq and job.updated_at == job.created_at:
            self._uploaded.of(self.label(job.service)).value += 1
            self._bytes_in.value += job.size

    def _go_on(self, job: Job, before: _Stage | None) -> None:
        ended = job.updated_at if job.end is not None else None
        if before is not None and before.status is job.status:
            if ended is not None and before.ended is None:
                self._under_way[job.id] = _Stage(job.status, before.since, ended)
            return
        self._under_way[job.id] = _Stage(job.status, job.updated_at, ended)
        service = self.label(job.service)
        if job.status is Status.PROCESSING:
            first = job.attempt is not None and job.attempt.n == 1
            since = before.since if before is not None else job.created_at if first else None
            if since is not None:
                self._queued.of(service).add(max(0.0, job.updated_at - since))
        elif before is not None and before.status is Status.PROCESSING:
            self._dispatched.of(service).add(max(0.0, job.updated_at - before.since))
            self._bytes_out.value += job.size

    def _end(self, job: Job, before: _Stage | None) -> None:
        if before is None and job.updated_at != job.ended_at:
            return  # something was said of it afterwards
        self._under_way.pop(job.id, None)
        service = self.label(job.service)
        self._ended.of(service, job.status, why_ended(job)).value += 1
        end = job.end
        if end is None or job.ended_at is None:
            return
        if end.wall_seconds is not None:
            self._ran.of(service).add(end.wall_seconds)
        if end.cpu_seconds:
            self._cpu.of(service).value += end.cpu_seconds
        since = end.ended_at if end.ended_at is not None else before.ended if before is not None else None
        if since is not None and job.status is not Status.KILLED:
            self._collected.of(service).add(max(0.0, job.ended_at - since))
            self._bytes_back.value += end.size


def why_ended(job: Job) -> str:
    """One of a few words for how an ended job came to its end."""
    failure = job.failure
    if failure is not None:
        return failure
    return "completed" if job.status is Status.COMPLETED else "terminated"
