"""When the jobs of a queue will begin, and those that run will end. Pure: a copy of the queue is run ahead.

Each draw runs the queue manager itself on, with run times drawn from what the services' jobs took lately
(`run_times`), with the slots of the nodes that are ready, and with visits like those of late (`visits`): a
user who comes has turns before the second job of one who waits. Some dozens of draws give a range for each
job, from the 10th percentile to the 90th. How often jobs begin earlier or later is measured, and the range
made wider or narrower until it is a tenth each (see `run_history`). Nodes are taken to stay as they are.

A draw ends when a job comes to go behind which more wait than the copy has, or when it took enough steps:
whatever has not begun then begins later than that, and nobody says how much later.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush, merge
from itertools import count
from math import inf
from random import Random
from typing import Final

from actors.domain.job import job_of
from actors.domain.labels import satisfies
from actors.domain.node import NodeState, NodeView
from actors.domain.queue_excerpt import ForecastView
from actors.domain.service import ServiceLimits
from orchestrator.scheduling.kept_slots import ENDLESS, KeptSlots, Users
from orchestrator.scheduling.queue_manager import QueueManager
from orchestrator.scheduling.run_times import RunTimes
from orchestrator.scheduling.visits import Visits

SOON: Final = "it is estimated within some seconds"

THIN: Final = 5
"""With fewer ended runs nothing is said."""

UNKNOWN: Final = 60.0
"""Seconds that a run takes where none has ended, of no service."""

MOST_JOBS: Final = 10_000
"""Waiting jobs that a forecast is to be given, of all users together."""

DRAWS: Final = 40
LEAST_DRAWS: Final = 20
STEPS: Final = 40_000
"""Jobs that all draws of a forecast let begin and come, together: then `LEAST_DRAWS` are enough."""

MOST_STEPS: Final = 4_000
"""The same of one draw."""

_NEW: Final = 1 << 40
"""The first id of jobs that come while a draw goes on."""

TAIL: Final = 0.1

BEYOND: Final = 2.0
"""By what share of the wait a range goes beyond the draws, for a tail of minus 1."""


@dataclass(frozen=True, slots=True)
class ServiceHistory:
    """What became of a service's jobs lately, each the newest last. `holds`: whose runs held their slots for
    how many seconds; `delays`: seconds from leaving the queue to the start of the script. `arrivals`: jobs
    that came: how many seconds ago, whose, and what they require; all of the last `window` seconds are there.
    `tails`: the shares of draws that are left out below and above, for a tenth of jobs to be there; below 0
    the draws are too alike, and the range goes beyond them all."""

    holds: Sequence[tuple[int, float]] = ()
    delays: Sequence[float] = ()
    arrivals: Sequence[tuple[float, int, str]] = ()
    window: float = 0.0
    tails: tuple[float, float] = (TAIL, TAIL)


@dataclass(frozen=True, slots=True)
class Span:
    """From the 10th percentile to the 90th, wall-clock. `latest` None: nobody knows how late."""

    earliest: float
    latest: float | None


@dataclass(frozen=True, slots=True)
class Estimate:
    """When a job begins and ends; None: unknown, and `unknown` says why. `begins` of one that has left the
    queue is None."""

    begins: Span | None = None
    ends: Span | None = None
    unknown: str = ""


@dataclass(slots=True)
class _Nodes:
    """Nodes that have the same labels and services count as one. `free` slots: infinite where one of them
    runs whatever it is sent."""

    services: frozenset[str]
    labels: Mapping[str, str]
    slots: float = 0.0
    free: float = 0.0


@dataclass(slots=True)
class _Outcome:
    """One draw: seconds from now. What is not in `begins` begins later than `horizon`."""

    begins: dict[int, float] = field(default_factory=dict)
    ends: dict[int, float] = field(default_factory=dict)
    horizon: float = inf


class Forecast:
    """What the draws say of each job, as of `now`. To be made by drawing: `draw` until it says that it was
    enough, which may be done in pieces."""

    def __init__(
        self,
        view: ForecastView,
        limits: Mapping[str, ServiceLimits],
        histories: Mapping[str, ServiceHistory],
        now: float,
        rng: Random,
    ) -> None:
        self.now = now
        self._view = view
        self._limits = limits
        self._keeps = {name: one.keep_slots for name, one in limits.items() if one.keep_slots}
        self._histories = histories
        self._rng = rng
        self._outcomes: list[_Outcome] = []
        self._steps = 0
        self._nodes, self._by_node = _count_slots(view.nodes)
        self._able: dict[tuple[str, str], list[int]] = {}
        self._known = {
            job_of(order)
            for ring in view.queue.rings
            if not self._why_never(ring.service, ring.requires)
            for _, orders in ring.users
            for order in orders
        }
        self._users = {
            job_of(order): user_id
            for ring in view.queue.rings
            for user_id, orders in ring.users
            for order in orders
        }
        self._times: dict[str, RunTimes] = {}
        self._pooled: RunTimes | None = None
        self._visits: dict[str, Visits] = {}
        self._elapsed: dict[tuple[str, int], list[float]] = {}

    # ------------------------------------------------------------------ what it says

    def explain_silence(self, service: str, requires: str) -> str:
        """Why nothing can be said of jobs of this service that wait; "" if it can."""
        return self._why_thin(service) or self._why_never(service, requires)

    def covers(self, job_id: int) -> bool:
        """Whether it knows of a job that waits, or of jobs that it does not know by their ids."""
        return job_id in self._known or bool(self._view.queue.edge)

    def queued(self, job_id: int, service: str, requires: str, max_runtime: float = 0.0) -> Estimate:
        """Of a job that waits."""
        if unknown := self.explain_silence(service, requires):
            return Estimate(unknown=unknown)
        tails = self._histories[service].tails
        begins = self._span([(one.begins.get(job_id), one.horizon) for one in self._outcomes], tails)
        if begins is None:
            return Estimate(unknown="as the queue and the nodes are, its turn does not come")
        least = min(seconds for _, seconds in self._histories[service].holds)
        ends = self._span([(one.ends.get(job_id), one.horizon + least) for one in self._outcomes], tails)
        if ends is not None and max_runtime:
            ends = _cut(begins, ends, max_runtime)
        return Estimate(begins, ends)

    def going(self, job_id: int, service: str) -> Estimate:
        """Of a job that has left the queue."""
        if unknown := self._why_thin(service):
            return Estimate(unknown=unknown)
        found = [(one.ends.get(job_id), 0.0) for one in self._outcomes if job_id in one.ends]
        return Estimate(ends=self._span(found, (TAIL, TAIL))) if found else Estimate(unknown=SOON)

    def _why_thin(self, service: str) -> str:
        return explain_thin(service, len(self._histories.get(service, ServiceHistory()).holds))

    def _why_never(self, service: str, requires: str) -> str:
        if service in self._view.queue.paused:
            return f"service {service} is paused"
        if service not in self._limits:
            return f"there is no service {service} any more"
        if not self._able_nodes(service, requires):
            having = f" has {requires}" if requires else " is there"
            return f"no ready node of service {service}{having}"
        return ""

    def _span(self, found: Sequence[tuple[float | None, float]], tails: tuple[float, float]) -> Span | None:
        """Of times, each with the one that it is later than if it is not known."""
        if not found:
            return None
        early = sorted(later if at is None else at for at, later in found)
        late = sorted(inf if at is None else at for at, _ in found)
        below, above = (int(max(0.0, tail) * (len(found) - 1)) for tail in tails)
        low = early[below] * (1.0 + BEYOND * min(0.0, tails[0]))
        high = late[-1 - above] * (1.0 - BEYOND * min(0.0, tails[1]))
        if low == inf:
            return None
        return Span(self.now + low, None if high == inf else self.now + high)

    # ------------------------------------------------------------------ drawing

    def draw(self) -> bool:
        """Run the queue on once more. Whether there is anything left to draw."""
        if not self._view.queue.rings and not self._view.queue.going:
            return False
        if not self._outcomes:
            self._learn()
        draw = _Draw(self)
        self._outcomes.append(draw.run())
        self._steps += MOST_STEPS - draw.left
        enough = LEAST_DRAWS if self._steps >= STEPS else DRAWS
        return len(self._outcomes) < enough

    def _learn(self) -> None:
        """Look through what became of jobs lately. Not when it is made: where it draws nothing else waits."""
        for name, one in self._histories.items():
            if len(one.holds) >= THIN:
                self._times[name] = RunTimes(one.holds)
            if one.arrivals:
                self._visits[name] = Visits(one.arrivals, one.window)
        for job in self._view.queue.going:
            if job.since is not None and self.now > job.since:
                elapsed = self._elapsed.setdefault((job.service, job.user_id), [])
                elapsed.append(self.now - job.since)

    def _able_nodes(self, service: str, requires: str) -> list[int]:
        """Which of the nodes get such jobs."""
        key = (service, requires)
        if key not in self._able:
            self._able[key] = [
                n
                for n, one in enumerate(self._nodes)
                if service in one.services and satisfies(requires, one.labels)
            ]
        return self._able[key]

    def _sample(self, service: str, user_id: int) -> list[float]:
        """What this user's runs take in one draw, in order. Where there is too little of the service, as
        those with which it shares nodes."""
        times = self._times.get(service) or self._pooled
        if times is None:
            pooled = [held for history in self._histories.values() for held in history.holds]
            times = self._pooled = RunTimes(pooled or [(user_id, UNKNOWN)])
        return times.sample(user_id, self._elapsed.get((service, user_id), ()), self._rng)


class _Draw:
    """One run of the queue."""

    def __init__(self, forecast: Forecast) -> None:
        self._forecast = forecast
        self._rng = forecast._rng
        self._view = forecast._view.queue
        self._queue = QueueManager.of_excerpt(forecast._limits, self._view)
        self._free = [one.free for one in forecast._nodes]
        self.left = MOST_STEPS
        self._waiting = set(forecast._known)
        self._samples: dict[tuple[str, int], list[float]] = {}
        self._users: dict[int, int] = {}
        self._ends: list[tuple[float, int, int | None]] = []
        """When jobs end that hold a slot, which, and of which nodes."""
        self._outcome = _Outcome()

    def run(self) -> _Outcome:
        for job in self._view.going:
            elapsed = 0.0 if job.since is None else max(0.0, self._forecast.now - job.since)
            end = self._outcome.ends[job.job_id] = self._remaining(job.service, job.user_id, elapsed)
            nodes = None if job.node_id is None else self._forecast._by_node.get(job.node_id)
            heappush(self._ends, (end, job.job_id, nodes))
        coming = merge(*(self._come(*one) for one in sorted(self._forecast._visits.items())))
        arrival = next(coming, None)
        at, new_ids = 0.0, count(_NEW)
        while self._assign(at) and self._waiting:
            if self.left <= 0:
                self._outcome.horizon = at
                break
            if arrival is not None and (not self._ends or arrival[0] < self._ends[0][0]):
                at, service, user_id, requires = arrival
                new = next(new_ids)
                self._users[new] = user_id
                self._queue.enter(service, requires, user_id, new)
                arrival = next(coming, None)
                self.left -= 1
            elif self._ends:
                at, job_id, nodes = heappop(self._ends)
                self._queue.end(job_id)
                if nodes is not None:
                    self._free[nodes] += 1
            else:
                break
        return self._outcome

    def _assign(self, at: float) -> bool:
        """Let go what may, in the order in which the Sender does. False if the draw ends with that."""
        if not any(free > 0 for free in self._free):
            return True
        for service in self._queue.services():
            turns = deque(self._queue.requirements(service))
            while turns:
                requires = turns.popleft()
                nodes = self._choose(service, requires)
                job_id = None if nodes is None else self._queue.take(service, requires)
                if job_id is None or nodes is None:
                    continue
                if job_id in self._view.edge:
                    self._outcome.horizon = at
                    return False
                self._begin(service, job_id, nodes, at)
                turns.append(requires)
        return True

    def _choose(self, service: str, requires: str) -> int | None:
        able = [n for n in self._forecast._able_nodes(service, requires) if self._free[n] > 0]
        claims = self._claims() if able else {}
        if claims:
            kept = KeptSlots(claims, self._free_slots({*claims, service}))
            able = [n for n in able if kept.may_take(service, self._users_of(n, {*claims, service}))]
        if len(able) < 2:
            return able[0] if able else None
        nodes = self._forecast._nodes
        return max(able, key=lambda n: (1.0 if nodes[n].slots == inf else self._free[n] / nodes[n].slots, -n))

    def _claims(self) -> dict[str, int]:
        """The slots that are kept still, by service."""
        keeps = self._forecast._keeps
        return {name: n - going for name, n in keeps.items() if (going := self._queue.going(name)) < n}

    def _free_slots(self, services: Collection[str]) -> Counter[Users]:
        found: Counter[Users] = Counter()
        for n, free in enumerate(self._free):
            if free > 0:
                found[self._users_of(n, services)] += ENDLESS if free == inf else int(free)
        return found

    def _users_of(self, n: int, services: Collection[str]) -> Users:
        return self._forecast._nodes[n].services.intersection(services)

    def _begin(self, service: str, job_id: int, nodes: int, at: float) -> None:
        self.left -= 1
        self._free[nodes] -= 1
        user_id = self._users[job_id] if job_id >= _NEW else self._forecast._users[job_id]
        end = at + self._remaining(service, user_id, 0.0)
        heappush(self._ends, (end, job_id, nodes))
        if job_id in self._waiting:
            self._waiting.remove(job_id)
            delays = self._forecast._histories[service].delays if service in self._forecast._histories else ()
            begin = at + (self._rng.choice(delays) if delays else 0.0)
            self._outcome.begins[job_id] = begin
            self._outcome.ends[job_id] = max(begin, end)

    def _remaining(self, service: str, user_id: int, elapsed: float) -> float:
        """For how long a run that has lasted for `elapsed` goes on. The next one of n is longer than all of
        them once in n + 1 times, and so it is shorter."""
        key = (service, user_id)
        if key not in self._samples:
            self._samples[key] = self._forecast._sample(service, user_id)
        sample = self._samples[key]
        first = bisect_right(sample, elapsed)
        n = first + self._rng.randrange(len(sample) - first + 1) if elapsed else self._any_of(len(sample))
        if n < 0:
            held = sample[0] * self._rng.random()
        elif n < len(sample):
            held = sample[n]
        else:
            # Nobody knows how long then: half of those that lasted as long last 1.2 times that.
            held = max(elapsed, sample[-1]) * self._rng.paretovariate(4.0)
        limits = self._forecast._limits.get(service)
        if limits is not None and limits.max_runtime:
            held = min(held, max(limits.max_runtime, sample[-1]))
        return max(0.0, held - elapsed)

    def _any_of(self, n: int) -> int:
        """A place in a sorted sample; -1 and n are before and behind it."""
        outside = self._rng.random() * (n + 1)
        if outside < 1.0:
            return -1
        return n if outside < 2.0 else self._rng.randrange(n)

    def _come(self, service: str, visits: Visits) -> Iterator[tuple[float, str, int, str]]:
        """Who comes, and when: visits like those of late, at random, about as often; how often is not known
        better than it was counted. Some of them go on now."""
        rate = self._rng.gammavariate(visits.recent + 0.5, 1.0) / visits.window
        at, coming = -visits.longest, list[tuple[float, str, int, str]]()
        while True:
            at += self._rng.expovariate(rate)
            while coming and coming[0][0] <= at:
                yield heappop(coming)
            for later, user_id, requires in self._rng.choice(visits.kinds):
                if at + later > 0.0:
                    heappush(coming, (at + later, service, user_id, requires))


def explain_thin(service: str, ended: int) -> str:
    """Why nothing is said of a service of which so many runs are known; "" if it is."""
    if ended >= THIN:
        return ""
    runs = "no job" if ended == 0 else "only 1 job" if ended == 1 else f"only {ended} jobs"
    return f"{runs} of service {service} ran to an end lately; from {THIN} on times are estimated"


def _count_slots(views: Sequence[NodeView]) -> tuple[list[_Nodes], dict[str, int]]:
    """The nodes that are ready, and which of them a node belongs to."""
    alike: dict[tuple[frozenset[str], frozenset[tuple[str, str]]], int] = {}
    found: list[_Nodes] = []
    by_node: dict[str, int] = {}
    for view in views:
        if view.state is not NodeState.READY:
            continue
        kind = (frozenset(view.services), frozenset(view.labels.items()))
        if kind not in alike:
            alike[kind] = len(found)
            found.append(_Nodes(kind[0], view.labels))
        one = found[alike[kind]]
        by_node[view.node.node_id] = alike[kind]
        slots = inf if view.slots is None else view.slots
        one.slots += slots
        one.free += max(0.0, slots - view.held - view.others) - view.waiting
    return found, by_node


def _cut(begins: Span, ends: Span, max_runtime: float) -> Span:
    """Nothing runs longer than it may."""
    latest = ends.latest
    if begins.latest is not None:
        most = begins.latest + max_runtime
        latest = most if latest is None else min(latest, most)
    earliest = min(ends.earliest, begins.earliest + max_runtime)
    return Span(earliest, latest)
