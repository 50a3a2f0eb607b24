"""A day in virtual time on the real AutoScaler, policy, QueueManager and ServicePool.

Simulated are the arrivals, the runs and the cloud: a request takes a second, a boot its time. The Sender and
Getter are not in it (nothing is sent and nothing fails): a job that is assigned runs at once.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import trio
from trio._core import _run
from trio.testing import MockClock

from actors.autoscaler.autoscaler import AutoScaler
from actors.domain.job import Job
from actors.domain.node import Heartbeat, JoinedNode, NodeRef
from actors.domain.scaling import (
    DecisionRecord,
    Machine,
    MachineRecord,
    MachineState,
    NodeFact,
    ScalingLimits,
    ScalingView,
)
from actors.kernel.actor import Mailbox, live
from actors.messages import Committed
from orchestrator.scaling.policy import decide
from orchestrator.scheduling.service_pool import ServicePool
from testbed.scaling.arrivals import Arrival
from testbed.scaling.line import SERVICE, Line
from testbed.scaling.standing import Outcome

BEAT = 1.0
"""Seconds between two heartbeats of a node."""


@dataclass(frozen=True, slots=True)
class Cloud:
    """How long a request and a boot take. `creates_at_once`: requests under way together."""

    boot_seconds: float = 90.0
    request_seconds: float = 1.0
    creates_at_once: int = 4


class Records:
    """Machines' records in memory; decisions are kept to be shown."""

    def __init__(self) -> None:
        self._rows: dict[str, MachineRecord] = {}
        self.noted: list[DecisionRecord] = []

    async def machines(self) -> Sequence[MachineRecord]:
        return list(self._rows.values())

    async def put_machine(self, record: MachineRecord) -> None:
        if record.state is MachineState.ENDED:
            self._rows.pop(record.token, None)
        else:
            self._rows[record.token] = record

    async def note_decision(self, decision: DecisionRecord) -> None:
        self.noted.append(decision)

    async def decisions(self, service: str | None = None, limit: int = 100) -> Sequence[DecisionRecord]:
        return self.noted[: -limit - 1 : -1]


class VirtualClock:
    def now(self) -> float:
        return trio.current_time()


class Site:
    """Pool, queue, cloud: what the AutoScaler asks, and what it pays for."""

    name = "simulated"
    owner = "simulated"

    def __init__(self, arrivals: Sequence[Arrival], *, slots: int, quota: int, cloud: Cloud) -> None:
        self.cloud = cloud
        self.line = Line(quota)
        self.pool = ServicePool(self.line.limits, random.Random("pool"))
        self.samples: list[tuple[float, int, int, int]] = []
        self.spans: list[tuple[float, float]] = []
        self.began: dict[str, float] = {}
        self.killed = 0
        self._arrivals = arrivals
        self._slots = slots
        self._ends: list[tuple[float, int, str]] = []
        self._facts: dict[str, NodeFact] = {}
        self._machines: dict[str, Machine] = {}
        self._next = 0
        self._wake = trio.Event()

    # ------------------------------------------------------------------ the day

    async def go_on(self, scaler: Mailbox) -> None:
        """Until the last job has run."""
        arrivals, ends = self._arrivals, self._ends
        while self._next < len(arrivals) or ends or self.line.queued:
            at = arrivals[self._next].at if self._next < len(arrivals) else float("inf")
            due = min(at, ends[0][0] if ends else float("inf"))
            if due > trio.current_time():
                self._wake = trio.Event()
                with trio.move_on_at(due):
                    await self._wake.wait()
            rows = self._happened(trio.current_time())
            self._assign()
            if rows:
                scaler.tell(Committed(tuple(rows)))

    def _happened(self, now: float) -> list[Job]:
        while self._next < len(self._arrivals) and self._arrivals[self._next].at <= now:
            self.line.add(self._arrivals[self._next])
            self._next += 1
        rows = []
        while self._ends and self._ends[0][0] <= now:
            _, job_id, node_id = heapq.heappop(self._ends)
            rows.append(self.line.end(job_id))
            self.pool.unreserve(str(job_id))
            self._count(node_id, -1, now)
        return rows

    def _assign(self) -> None:
        now = trio.current_time()
        while (job_id := self.line.next()) is not None and (ref := self.pool.choose(SERVICE)) is not None:
            seconds = self.line.begin(job_id, now)
            self.pool.reserve(str(job_id), ref.node_id)
            heapq.heappush(self._ends, (now + seconds, job_id, ref.node_id))
            self._count(ref.node_id, 1, now)

    def _count(self, node_id: str, change: int, now: float) -> None:
        fact = self._facts.get(node_id)
        if fact is not None:
            busy = fact.busy + change
            self._facts[node_id] = _with(fact, busy=busy, idle_since=None if busy else now)

    async def sample(self) -> None:
        while True:
            now = trio.current_time()
            self.samples.append((now, self.line.queued, len(self.began), self.line.running))
            await trio.sleep(60.0)

    # ------------------------------------------------------------------ as the Sender answers

    async def picture(self, service: str) -> ScalingView:
        now, line = trio.current_time(), self.line
        facts = tuple(_heard(fact, now) if fact.draining else fact for fact in self._facts.values())
        return ScalingView(line.runnable, line.oldest_wait(now), line.running, facts)

    async def drain(self, node_id: str, reason: str) -> bool:
        if (fact := self._facts.get(node_id)) is None:
            return False
        if not fact.draining:
            now = trio.current_time()
            self.pool.drain(node_id, reason, now)
            self._facts[node_id] = _with(fact, draining=True, drained_for=reason, drained_at=now)
        return True

    async def undrain(self, node_id: str, *, by_scaling: bool) -> bool:
        if (fact := self._facts.get(node_id)) is None:
            return False
        self.pool.undrain(node_id)
        self._facts[node_id] = _with(fact, draining=False, drained_for="", drained_at=None)
        self._wake.set()
        return True

    def word_of(self, token: str, service: str) -> str:
        return ""

    def remark(self, token: str, text: str) -> None:
        """Every machine comes as it was ordered."""

    # ------------------------------------------------------------------ as a provider

    async def create(self, token: str, service: str) -> Machine:
        self.began[token] = trio.current_time()
        await trio.sleep(self.cloud.request_seconds)
        machine = self._machines[token] = Machine(
            f"i-{token[:12]}", token, service, running=True, owner=self.owner
        )
        self._boots.start_soon(self._boot, token)
        return machine

    async def list(self) -> Sequence[Machine]:
        await trio.sleep(self.cloud.request_seconds)
        return list(self._machines.values())

    async def terminate(self, machine_ids: Sequence[str]) -> None:
        await trio.sleep(self.cloud.request_seconds)
        gone = set(machine_ids)
        for token in [token for token, one in self._machines.items() if one.machine_id in gone]:
            del self._machines[token]
            self.spans.append((self.began.pop(token), trio.current_time()))
            fact = self._facts.pop(f"node-{token}", None)
            self.killed += 0 if fact is None else fact.busy
            self.pool.forget(f"node-{token}")

    def boots_in(self, nursery: trio.Nursery) -> None:
        self._boots = nursery

    async def _boot(self, token: str) -> None:
        await trio.sleep(self.cloud.boot_seconds)
        node_id, now = f"node-{token}", trio.current_time()
        self.pool.seen(NodeRef(node_id, node_id), Heartbeat(slots=self._slots), now)
        self.pool.join(JoinedNode(node_id, node_id, (SERVICE,)), now)
        self._facts[node_id] = NodeFact(
            node_id, token, True, False, self._slots, 0, now, joined_at=now, heard_at=now
        )
        self._wake.set()


def _with(fact: NodeFact, **changes: Any) -> NodeFact:
    """`dataclasses.replace`, at a third of its time."""
    values = {name: getattr(fact, name) for name in NodeFact.__slots__}
    return NodeFact(**(values | changes))


def _heard(fact: NodeFact, now: float) -> NodeFact:
    """Only of a draining node does it matter when it was heard last."""
    beats = (now - fact.joined_at) // BEAT
    return _with(fact, heard_at=fact.joined_at + beats * BEAT)


def scaled(
    arrivals: Sequence[Arrival],
    limits: ScalingLimits,
    *,
    quota: int,
    cloud: Cloud,
    seed: int = 0,
    look_every: float = 1.0,
    name: str = "scaled",
) -> tuple[Outcome, Records]:
    """The day under the AutoScaler, until the last job and all that is still paid for then have ended."""
    site = Site(arrivals, slots=limits.slots_per_node, quota=quota, cloud=cloud)
    records = Records()
    scaler = Mailbox("autoscaler")
    make = partial(
        AutoScaler,
        pool=site,
        ledger=records,
        providers={SERVICE: site},
        limits=[limits],
        decide=decide,
        clock=VirtualClock(),
        rng=random.Random(f"scaler/{seed}"),
        tick=look_every,
        pace=look_every,
        controller={"creates_at_once": cloud.creates_at_once},
    )

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            site.boots_in(nursery)
            nursery.start_soon(site.sample)
            await nursery.start(live, scaler, make)
            await site.go_on(scaler)
            await trio.sleep(limits.idle_timeout + limits.cooldown + 60.0)
            nursery.cancel_scope.cancel()

    # Trio takes tasks that are ready in a random order; here the same seed is to be the same day. It offers
    # this to Hypothesis only, hence by its inner names.
    before, _run._ALLOW_DETERMINISTIC_SCHEDULING = _run._ALLOW_DETERMINISTIC_SCHEDULING, True
    _run._r.seed(seed)
    try:
        trio.run(main, clock=MockClock(autojump_threshold=0))
    finally:
        _run._ALLOW_DETERMINISTIC_SCHEDULING = before
    now = site.samples[-1][0]
    spans = site.spans + [(began, now) for began in site.began.values()]
    assert site.killed == 0, "scaling has ended a job"
    outcome = Outcome(name, arrivals, site.line.waits, limits.slots_per_node, spans, site.samples)
    return outcome, records
