"""What forecasts go by, and how good they were: how long the jobs of each service ran lately, who came when,
and how often jobs began within what was said. Pure: rows in, as they are committed. Bounded, and in memory:
a server that begins is told the newest runs of the ledger."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil, floor
from statistics import median
from typing import Final

from actors.domain.job import Job
from actors.domain.status import OVER, Status
from orchestrator.scheduling.forecast import TAIL, ServiceHistory, Span, explain_thin
from orchestrator.scheduling.run_times import SAMPLE

MOST_RUNS: Final = 2000
"""Runs that a server which begins is told of, and delays."""

MOST_USERS: Final = 200
"""Users of a service whose newest runs are kept: those who had one last."""

MOST_ARRIVALS: Final = 2000
MOST_JUDGED: Final = 500
MOST_EXPECTED: Final = 2000
SMALL_STEP: Final = 0.01
LARGE_STEP: Final = 0.05
MOST_TAIL: Final = 0.25
"""By how much a tail follows each job that is judged, and how far. In small steps, as the jobs of a visit are
early or late together: in large ones each such visit would make ranges wider for a while. Where more than a
quarter of the newest `NEWEST` were in a tail that a tenth should be in, forecasts are wrong, not unlucky, and
its steps are large."""

NEWEST: Final = 20

WINDOW: Final = 3600.0
"""Seconds: as often as somebody came within them, somebody is taken to come."""

LEAST_WINDOW: Final = 15.0
"""As long as a server has to watch before what came counts as a rate."""


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Of the jobs for which it was tried: how many began within what was said (10th to 90th percentile), how
    wide that was, and how long they waited; medians, in seconds, None if there was none."""

    judged: int
    inside: int
    median_width: float | None
    median_wait: float | None


class _Tail:
    """`share`: of the draws, to be left out at one end."""

    __slots__ = ("_missed", "share")

    def __init__(self) -> None:
        self.share = TAIL
        self._missed: deque[bool] = deque(maxlen=NEWEST)

    def judge(self, *, missed: bool) -> None:
        """Go towards what in the long run a tenth of jobs are in."""
        self._missed.append(missed)
        step = LARGE_STEP if sum(self._missed) > NEWEST / 4 else SMALL_STEP
        self.share = min(MOST_TAIL, max(-MOST_TAIL, self.share + step * (TAIL - missed)))


@dataclass(slots=True)
class _Service:
    """`holds`: by user, last the one whose run ended last. `judged`: whether it was inside, the width and
    the wait. The last two count since the start."""

    holds: dict[int, deque[float]] = field(default_factory=dict)
    delays: deque[float] = field(default_factory=lambda: deque(maxlen=MOST_RUNS))
    arrivals: deque[tuple[float, int, str]] = field(default_factory=lambda: deque(maxlen=MOST_ARRIVALS))
    judged: deque[tuple[bool, float, float]] = field(default_factory=lambda: deque(maxlen=MOST_JUDGED))
    early: _Tail = field(default_factory=_Tail)
    late: _Tail = field(default_factory=_Tail)
    all_judged: int = 0
    all_inside: int = 0

    def held(self, user_id: int, seconds: float) -> None:
        own = self.holds.pop(user_id, None) or deque(maxlen=SAMPLE)
        own.append(seconds)
        self.holds[user_id] = own
        if len(self.holds) > MOST_USERS:
            del self.holds[next(iter(self.holds))]


class RunHistory:
    """See the module. `now` is wall-clock, when it begins to watch."""

    def __init__(self, now: float) -> None:
        self._begun = now
        self.newest = 0
        self._tried = 0
        self._services: dict[str, _Service] = {}
        self._left_queue: dict[int, float] = {}
        """When the jobs that are under way left the queue."""
        self._expected: dict[int, tuple[float, Span]] = {}
        """When it was said when a job begins, and what."""

    def ran(self, service: str, runs: Sequence[tuple[int, float]]) -> None:
        """Whose runs took how many seconds before it began to watch, the newest first."""
        for user_id, seconds in reversed(runs):
            self._service(service).held(user_id, seconds)

    def apply(self, job: Job) -> None:
        """Take a row in, once, in the order of the job's changes."""
        if job.status is Status.QUEUED:
            self._left_queue.pop(job.id, None)
            if job.id > self.newest:
                self.newest = job.id
                self._service(job.service).arrivals.append((job.created_at, job.user_id, job.requires))
            return
        if job.id == self._tried:
            self._tried = 0
        if job.status is Status.PROCESSING:
            self._left_queue.setdefault(job.id, job.updated_at)
            return
        started = job.running_since if job.end is None else job.end.started_at
        if started is not None and job.id in self._expected:
            self._judge(job, started)
        if job.end is not None or job.status in OVER:
            self._expected.pop(job.id, None)
            left = self._left_queue.pop(job.id, None)
            if left is not None and job.end is not None and job.end.wall_seconds is not None:
                one = self._service(job.service)
                one.held(job.user_id, max(0.0, job.updated_at - left))
                if started is not None:
                    one.delays.append(max(0.0, started - left))

    def explain_silence(self, service: str) -> str:
        """Why nothing can be said of a service's jobs; "" if it can."""
        return explain_thin(service, sum(map(len, self._service(service).holds.values())))

    def try_on(self, job: Job) -> None:
        """Tell whether this job, which waits, still does by the time that something is said of it."""
        self._tried = job.id

    def expect(self, job: Job, begins: Span, now: float) -> None:
        """Remember what was said of the job that it is tried on, to be judged; not if that has gone already:
        it did not wait."""
        if job.id != self._tried:
            return
        self._tried = 0
        self._expected[job.id] = (now, begins)
        while len(self._expected) > MOST_EXPECTED:
            del self._expected[next(iter(self._expected))]

    def histories(self, now: float, services: Collection[str]) -> Mapping[str, ServiceHistory]:
        """These services, as forecasts take them."""
        window = min(WINDOW, max(LEAST_WINDOW, now - self._begun))
        found = {}
        for name in services:
            one = self._service(name)
            seen = window
            if len(one.arrivals) == MOST_ARRIVALS:
                seen = min(window, max(1.0, now - one.arrivals[0][0]))
            came = [(max(0.0, now - at), user, requires) for at, user, requires in one.arrivals]
            holds = [(user, seconds) for user, own in one.holds.items() for seconds in own]
            tails = one.early.share, one.late.share
            found[name] = ServiceHistory(holds, tuple(one.delays), tuple(came), seen, tails)
        return found

    def accuracy(self, service: str) -> Accuracy:
        """Of the newest that were judged."""
        judged = self._service(service).judged
        return Accuracy(
            len(judged),
            sum(inside for inside, _, _ in judged),
            median(width for _, width, _ in judged) if judged else None,
            median(wait for _, _, wait in judged) if judged else None,
        )

    def judged(self) -> Mapping[str, tuple[int, int]]:
        """How many were judged since the start, and how many of these were inside, by service."""
        return {name: (one.all_judged, one.all_inside) for name, one in self._services.items()}

    def _judge(self, job: Job, started: float) -> None:
        said_at, said = self._expected.pop(job.id)
        if said.latest is None:
            return
        told = in_whole_seconds(said)
        assert told.latest is not None
        inside = told.earliest <= started <= told.latest
        one = self._service(job.service)
        one.early.judge(missed=started < told.earliest)
        one.late.judge(missed=started > told.latest)
        one.judged.append((inside, said.latest - said.earliest, max(0.0, started - said_at)))
        one.all_judged += 1
        one.all_inside += inside

    def _service(self, name: str) -> _Service:
        found = self._services.get(name)
        if found is None:
            found = self._services[name] = _Service()
        return found


def in_whole_seconds(span: Span) -> Span:
    """As it is told."""
    return Span(floor(span.earliest), None if span.latest is None else ceil(span.latest))
