"""A day in virtual time on the real queue manager, with forecasts made while it goes on: how many jobs begin
within what was said when they were handed in.

Simulated are the arrivals (batches of users, more of them in the afternoon), the run times (each user's jobs
are alike among themselves, and scatter), and the nodes, which are always ready."""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random

from actors.domain.job import Attempt, End, Job
from actors.domain.node import NodeRef, NodeState, NodeView
from actors.domain.queue_excerpt import ForecastView
from actors.domain.service import ServiceLimits
from actors.domain.status import Status
from orchestrator.scheduling.forecast import MOST_JOBS, Forecast, Span
from orchestrator.scheduling.queue_manager import QueueManager
from orchestrator.scheduling.run_history import RunHistory, in_whole_seconds

DAY = 86_400.0
SERVICES = {
    "dock": ServiceLimits("dock", runs_per_user=6, max_runs=24),
    "fold": ServiceLimits("fold", runs_per_user=2, max_runs=8),
}


@dataclass(frozen=True, slots=True)
class DayShape:
    """`load`: the share of all slots that the day's jobs need in the mean. `minutes`: the mean run of a job,
    by service. `between_users`, `within_user`: by how much (sigma of the logarithm) they differ.
    `batch`: jobs that a user hands in together, in the mean; `forecasts`: of how many jobs, about;
    `known`: runs of each user and service before the day."""

    seconds: float = DAY
    load: float = 0.9
    nodes: int = 8
    slots: int = 4
    users: int = 60
    minutes: tuple[tuple[str, float], ...] = (("dock", 2.0), ("fold", 12.0))
    between_users: float = 0.4
    within_user: float = 0.5
    batch: float = 40.0
    forecasts: int = 200
    known: int = 0


@dataclass(frozen=True, slots=True)
class Said:
    """What was said of a job at `at`, which began at `began`."""

    at: float
    begins: Span
    began: float

    @property
    def inside(self) -> bool:
        told = in_whole_seconds(self.begins)
        return told.earliest <= self.began and (told.latest is None or self.began <= told.latest)

    @property
    def wait(self) -> float:
        return self.began - self.at

    @property
    def width(self) -> float:
        return math.inf if self.begins.latest is None else self.begins.latest - self.begins.earliest


@dataclass(frozen=True, slots=True)
class _Coming:
    at: float
    service: str
    user: int
    seconds: float


def simulate_day(shape: DayShape, seed: int) -> list[Said]:
    """Forecasts of jobs that had to wait, with what became of them."""
    rng = Random(f"forecasts/{seed}")
    coming, before = _arrivals(shape, rng)
    share = shape.forecasts / len(coming)
    queue, history = QueueManager(SERVICES), RunHistory(0.0)
    for service, ended in before.items():
        history.ran(service, ended)
    rows: dict[int, Job] = {}
    runs: dict[int, float] = {}
    said: dict[int, tuple[float, Span]] = {}
    found: list[Said] = []
    ends: list[tuple[float, int]] = []
    held = dict.fromkeys((f"n{n}" for n in range(shape.nodes)), 0)
    seq, number = 0, 0

    def commit(job: Job) -> None:
        nonlocal seq
        seq += 1
        rows[job.id] = replace(job, change_seq=seq)
        queue.apply(rows[job.id])
        history.apply(rows[job.id])

    def assign(now: float) -> None:
        for service in queue.services():
            while queue.next(service) is not None:
                node = min(held, key=lambda one: (held[one], one))
                if held[node] == shape.slots:
                    return
                job_id = queue.take(service)
                assert job_id is not None
                held[node] += 1
                job = replace(rows[job_id], updated_at=now, attempt=Attempt("k", job_id, 1, node))
                commit(replace(job, status=Status.PROCESSING))
                commit(replace(job, status=Status.RUNNING, running_since=now))
                heapq.heappush(ends, (now + runs[job_id], job_id))
                if job_id in said:
                    found.append(Said(*said.pop(job_id), now))

    def views() -> Sequence[NodeView]:
        return [
            NodeView(NodeRef(name, ""), NodeState.READY, "", tuple(SERVICES), shape.slots, used, 0, 0.0)
            for name, used in held.items()
        ]

    while number < len(coming) or ends:
        if ends and (number == len(coming) or ends[0][0] <= coming[number].at):
            now, job_id = heapq.heappop(ends)
            job = rows.pop(job_id)
            assert job.attempt is not None
            held[job.attempt.node_id] -= 1
            wall = runs.pop(job_id)
            end = End(Status.COMPLETED, "", started_at=now - wall, ended_at=now, wall_seconds=wall)
            commit(replace(job, status=Status.COMPLETED, updated_at=now, end=end))
            del rows[job_id]
            assign(now)
            continue
        one = coming[number]
        number += 1
        runs[number] = one.seconds
        job = Job(number, one.user, one.service, Status.QUEUED, "", 0, one.at, one.at, "k")
        commit(job)
        assign(one.at)
        if rows[number].status is Status.QUEUED and rng.random() < share:
            view = ForecastView(queue.excerpt(sorted(SERVICES), MOST_JOBS), views())
            forecast = Forecast(view, SERVICES, history.histories(one.at, SERVICES), one.at, rng)
            while forecast.draw():
                pass
            begins = forecast.queued(number, one.service, "").begins
            if begins is not None:
                said[number] = one.at, begins
                history.try_on(rows[number])
                history.expect(rows[number], begins, one.at)
    return found


def _arrivals(shape: DayShape, rng: Random) -> tuple[list[_Coming], dict[str, list[tuple[int, float]]]]:
    """Batches until the load is reached, in the order of time; and runs before the day, by service."""
    mean = dict(shape.minutes)
    wanted = shape.load * shape.nodes * shape.slots * shape.seconds / len(mean)
    found: list[_Coming] = []
    before: dict[str, list[tuple[int, float]]] = {}
    earlier = Random(f"before/{shape.known}")
    for service, minutes in mean.items():
        paces = [60.0 * minutes * rng.lognormvariate(0.0, shape.between_users) for _ in range(shape.users)]
        before[service] = [
            (user, pace * earlier.lognormvariate(0.0, shape.within_user))
            for user, pace in enumerate(paces)
            for _ in range(shape.known)
        ]
        total = 0.0
        while total < wanted:
            at, user = shape.seconds * rng.triangular(0.0, 1.0, 0.6), rng.randrange(shape.users)
            for _ in range(1 + int(rng.expovariate(1.0 / shape.batch))):
                seconds = paces[user] * rng.lognormvariate(0.0, shape.within_user)
                total += seconds
                found.append(_Coming(at, service, user, seconds))
                at += rng.expovariate(1.0)
    return sorted(found, key=lambda one: one.at), before
