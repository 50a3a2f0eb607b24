"""Simulated nodes: what a node promises, in the simplest form. A payload's process outlives its agent (the
shepherd), not its machine; tombstones and ends are on the node's disk."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

import trio
from simulation.plan import JobPlan
from simulation.violation import Violation

from actors.domain.job import End
from actors.domain.node import Heartbeat, PayloadView, StreamPosition
from actors.domain.progress import Progress
from actors.domain.status import Status
from actors.ports.nodes import (
    AttemptLookup,
    Beat,
    CollectAnswer,
    CollectResult,
    Dispatch,
    Leaving,
    LookupResult,
    NodeEvent,
    PayloadChanged,
    Picture,
    SubmitAnswer,
    SubmitResult,
)


@dataclass
class SimPayload:
    key: str
    plan: JobPlan
    job_id: int
    processes: int = 0
    exit_code: int | None = None
    killed: bool = False
    status: Status = Status.PREPARED
    end: End | None = None
    lost: bool = False
    cancelled: bool = False
    progress: Progress | None = None
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)

    def view(self) -> PayloadView:
        return PayloadView(self.key, self.status, self.end, self.lost, self.progress)


class Stream:
    """One open event stream: what the node has said and the reader has not heard yet."""

    def __init__(self) -> None:
        self.events: list[NodeEvent] = []
        self.torn: str | None = None
        self.finished: str | None = None
        self.bell = trio.Event()

    def say(self, event: NodeEvent) -> None:
        self.events.append(event)
        self.bell.set()

    def finish(self, why: str) -> None:
        """It ends once all has been read."""
        self.finished = why
        self.bell.set()

    def tear(self, why: str) -> None:
        self.torn = why
        self.bell.set()


class Machine:
    """One node. Its methods are what its agent does on a request, at one instant; no network is in here."""

    def __init__(
        self,
        name: str,
        slots: int,
        nursery: trio.Nursery,
        rng: random.Random,
        job_plan: Callable[[int], JobPlan],
        *,
        kill_trusts_first_process: bool = False,
    ) -> None:
        self.name = name
        self.slots = slots
        self.up = True
        self.dead = False
        self.away = False
        """It left on purpose, said that it will be back, and is not yet."""
        self.cut_until = 0.0
        self.payloads: dict[str, SimPayload] = {}
        self.tombstones: set[str] = set()
        self.starts: dict[str, int] = {}
        self.streams: list[Stream] = []
        self.lives = 0
        self.sequence = 0
        self._nursery = nursery
        self._rng = rng
        self._job_plan = job_plan
        self._kill_trusts_first_process = kill_trusts_first_process

    # ------------------------------------------------------------------ requests

    def submit(self, items: list[Dispatch]) -> list[SubmitAnswer]:
        return [self._submit(item) for item in items]

    def _submit(self, item: Dispatch) -> SubmitAnswer:
        key = item.attempt.key
        if key in self.tombstones:
            return SubmitAnswer(SubmitResult.TOMBSTONED)
        payload = self.payloads.get(key)
        if payload is None:
            payload = self.payloads[key] = SimPayload(key, self._job_plan(item.job.id), item.job.id)
            self._changed(payload)
            self._start_some()
        return SubmitAnswer(SubmitResult.HAS, view=payload.view(), mark=self.mark())

    def lookup(self, keys: list[str]) -> list[AttemptLookup]:
        return [self._look(key) for key in keys]

    def _look(self, key: str) -> AttemptLookup:
        if key in self.payloads:
            return AttemptLookup(LookupResult.FOUND, self.payloads[key].view())
        return AttemptLookup(LookupResult.TOMBSTONED if key in self.tombstones else LookupResult.GONE)

    def cancel(self, keys: list[str]) -> list[AttemptLookup]:
        for key in keys:
            self.tombstones.add(key)
            payload = self.payloads.get(key)
            if payload is None or payload.cancelled or payload.end is not None:
                continue
            payload.cancelled = True
            if payload.status is Status.PREPARED:
                self._end(payload, End(Status.KILLED, "terminated"))
                self._start_some()
            else:
                self._nursery.start_soon(self._kill, payload)
        return [self._look(key) for key in keys]

    def release(self, keys: list[str]) -> list[bool]:
        for key in keys:
            self.tombstones.add(key)
            payload = self.payloads.pop(key, None)
            if payload is not None:
                payload.scope.cancel()
                payload.processes = 0
        self._start_some()
        return [True] * len(keys)

    def collect(self, keys: list[str]) -> list[CollectAnswer]:
        return [self._collect(key) for key in keys]

    def _collect(self, key: str) -> CollectAnswer:
        payload = self.payloads.get(key)
        if payload is None:
            return CollectAnswer(CollectResult.GONE)
        if payload.end is None:
            return CollectAnswer(CollectResult.NOT_ENDED)
        return CollectAnswer(CollectResult.STORED, payload.end)

    def picture(self) -> Picture:
        return Picture(self.mark(), {k: p.view() for k, p in self.payloads.items()}, self.beat().heartbeat)

    def beat(self) -> Beat:
        return Beat(Heartbeat(load=0.0, slots=self.slots))

    def mark(self) -> StreamPosition:
        return StreamPosition(f"{self.name}/{self.lives}", self.sequence)

    # ------------------------------------------------------------------ what happens to it

    def agent_down(self) -> None:
        self.up = False
        for stream in self.streams:
            stream.tear("the agent went away")
        self.streams.clear()

    def leave(self) -> None:
        """It is stopped on purpose, and says so on its streams."""
        if not self.up:
            return
        self.up, self.away = False, bool(self.payloads)
        for stream in self.streams:
            stream.say(Leaving(len(self.payloads), back=self.away))
            stream.finish("the node closed its stream of events")
        self.streams.clear()

    def agent_up(self) -> None:
        if self.dead or self.up:
            return
        self.up, self.away = True, False
        self.lives += 1
        self.sequence = 0
        for payload in self.payloads.values():
            if payload.status is not Status.RUNNING:
                continue
            if payload.processes == 0:
                self._learn(payload)
            elif payload.cancelled:
                self._nursery.start_soon(self._kill, payload)
        self._start_some()

    def machine_down(self) -> None:
        """The machine's own end: every process goes, and what had not ended is lost."""
        self.agent_down()
        for payload in self.payloads.values():
            payload.scope.cancel()
            if payload.end is None and (payload.processes or payload.status is Status.PREPARED):
                payload.lost = True
                payload.end = End(Status.FAILED, "machine restarted")
                payload.status = Status.FAILED
            payload.processes = 0

    # ------------------------------------------------------------------ running

    def running(self) -> int:
        return sum(p.status is Status.RUNNING for p in self.payloads.values())

    def _start_some(self) -> None:
        if not self.up:
            return
        for payload in self.payloads.values():
            if self.running() >= self.slots:
                return
            if payload.status is Status.PREPARED and not payload.cancelled:
                self.starts[payload.key] = self.starts.get(payload.key, 0) + 1
                if self.starts[payload.key] > 1:
                    raise Violation("started twice", f"attempt {payload.key} of job {payload.job_id}")
                payload.status = Status.RUNNING
                payload.processes = 2 if payload.plan.stubborn else 1
                self._changed(payload)
                self._nursery.start_soon(self._run, payload)

    async def _run(self, payload: SimPayload) -> None:
        with payload.scope:
            plan = payload.plan
            for word in range(1, plan.words + 1):
                await trio.sleep(plan.length / (plan.words + 1))
                payload.progress = Progress(plan.told(word))
                # It stands in its file: an agent that is down reads it when it is back.
                if self.up and payload.processes:
                    self._changed(payload)
            await trio.sleep(plan.length / (plan.words + 1))
            if payload.processes:
                payload.processes = 0
                payload.exit_code = payload.plan.exit_code
                self._learn(payload)

    async def _kill(self, payload: SimPayload) -> None:
        await trio.sleep(self._rng.uniform(0.01, 0.5))
        if payload.processes == 2 and self.up:
            if self._kill_trusts_first_process:
                payload.killed = True
                payload.processes = 1
                self._end(payload, End(Status.KILLED, "terminated"))
                return
            await trio.sleep(5.0)
        if not self.up or payload.end is not None or not payload.processes:
            return
        payload.scope.cancel()
        payload.killed = True
        payload.processes = 0
        self._learn(payload)

    def _learn(self, payload: SimPayload) -> None:
        """The agent finds that the last process has ended, if there is an agent."""
        if not self.up or payload.end is not None or payload.key not in self.payloads:
            return
        if payload.killed:
            end = End(Status.KILLED, "terminated")
        elif payload.exit_code == 0:
            end = End(Status.COMPLETED, "", exit_code=0)
        else:
            end = End(Status.FAILED, f"exit code {payload.exit_code}", exit_code=payload.exit_code)
        self._end(payload, end)
        self._start_some()

    def _end(self, payload: SimPayload, end: End) -> None:
        payload.end = end
        payload.status = end.status
        self._changed(payload)

    def _changed(self, payload: SimPayload) -> None:
        self.sequence += 1
        for stream in self.streams:
            stream.say(PayloadChanged(payload.view()))
