"""What the scaled day is held against: pools of a fixed size, and an oracle that knows the arrivals.

The oracle has as many nodes as are allowed, each booted just in time for the first job that needs it, and
packs jobs onto as few nodes as it can. So nobody could let jobs wait less under the same limits, and it pays
for boots and for work, and for idle time only where another boot would cost more.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field

from testbed.scaling.arrivals import Arrival
from testbed.scaling.line import Line


@dataclass(slots=True)
class Outcome:
    """Of one day: the wait of each job, samples of (time, backlog, nodes, running), node-hours as (from, to)
    spans of single nodes."""

    name: str
    arrivals: Sequence[Arrival]
    waits: list[float]
    slots_per_node: int
    spans: list[tuple[float, float]] = field(default_factory=list)
    samples: list[tuple[float, int, int, int]] = field(default_factory=list)

    def node_hours(self, since: float = float("-inf"), until: float = float("inf")) -> float:
        return sum(max(0.0, min(b, until) - max(a, since)) for a, b in self.spans) / 3600

    @property
    def utilisation(self) -> float:
        work = sum(job.seconds for job in self.arrivals) / 3600
        return work / (self.node_hours() * self.slots_per_node) if self.spans else 0.0

    def wait(self, part: float, *, crowd: bool | None = None) -> float:
        chosen = sorted(
            wait
            for wait, job in zip(self.waits, self.arrivals, strict=True)
            if crowd is None or job.crowd == crowd
        )
        return chosen[min(len(chosen) - 1, int(part * len(chosen)))] if chosen else 0.0


def fixed(arrivals: Sequence[Arrival], nodes: int, *, slots: int, quota: int, name: str) -> Outcome:
    """A pool of always as many nodes."""
    outcome, _ = _serve(arrivals, nodes, slots, quota, name)
    end = max(outcome.samples[-1][0], arrivals[-1].at)
    outcome.spans = [(0.0, end)] * nodes
    outcome.samples = [(t, backlog, nodes, running) for t, backlog, _, running in outcome.samples]
    return outcome


def oracle(
    arrivals: Sequence[Arrival], nodes: int, *, slots: int, quota: int, boot_seconds: float
) -> Outcome:
    outcome, busy = _serve(arrivals, nodes, slots, quota, "oracle")
    for intervals in busy.values():
        spans: list[list[float]] = []
        for begin, end in sorted(intervals):
            if spans and begin - spans[-1][1] <= boot_seconds:
                spans[-1][1] = max(spans[-1][1], end)
            else:
                spans.append([begin - boot_seconds, end])
        outcome.spans += [(a, b) for a, b in spans]
    changes = sorted([(a, 1) for a, _ in outcome.spans] + [(b, -1) for _, b in outcome.spans])
    samples, there, i = [], 0, 0
    for t, backlog, _, running in outcome.samples:
        while i < len(changes) and changes[i][0] <= t:
            there += changes[i][1]
            i += 1
        samples.append((t, backlog, there, running))
    outcome.samples = samples
    return outcome


def _serve(
    arrivals: Sequence[Arrival], nodes: int, slots: int, quota: int, name: str
) -> tuple[Outcome, dict[int, list[tuple[float, float]]]]:
    """Each job on the lowest node with a free slot, as soon as the queue lets it go."""
    line = Line(quota)
    free = [node for node in range(nodes) for _ in range(slots)]
    ends: list[tuple[float, int, int]] = []
    busy: dict[int, list[tuple[float, float]]] = {}
    samples: list[tuple[float, int, int, int]] = []
    i, next_sample = 0, 0.0
    while i < len(arrivals) or ends:
        now = min(arrivals[i].at if i < len(arrivals) else float("inf"), ends[0][0] if ends else float("inf"))
        while next_sample <= now:
            samples.append((next_sample, line.queued, 0, line.running))
            next_sample += 60.0
        while i < len(arrivals) and arrivals[i].at <= now:
            line.add(arrivals[i])
            i += 1
        while ends and ends[0][0] <= now:
            _, job_id, node = heapq.heappop(ends)
            line.end(job_id)
            heapq.heappush(free, node)
        while free and (job := line.next()) is not None:
            node = heapq.heappop(free)
            end = now + line.begin(job, now)
            busy.setdefault(node, []).append((now, end))
            heapq.heappush(ends, (end, job, node))
    return Outcome(name, arrivals, line.waits, slots, samples=samples), busy
