"""The world around the orchestrator: network, disk, portal, faults. It outlives every orchestrator; each of
those is an `Epoch`, and reaches the world only through ports that are bound to it. A killed epoch's ports
raise `Dead`: a clean-up that a real kill would not run has no effect, and is seen."""

from __future__ import annotations

import math
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import httpx
import trio
from simulation.checks import Checks
from simulation.clock import sleep, sleep_until
from simulation.cluster import Cluster, Watches
from simulation.dialling import UNHEARD, Connection, SimulatedDialler
from simulation.machines import Machine, Snapshot, Stream
from simulation.plan import BATCH, LARGE, Fault, Plan
from simulation.violation import Dead, Violation
from support.memory.memory_ledger import MemoryLedger

from actors.domain.changes import Change, ChangeAnswer, ChangeResult, NewJob, Transition
from actors.domain.job import Attempt, AttemptState, HistoryEntry, Job, LiveJobs
from actors.domain.node import NodeAddress, NodeRef
from actors.domain.status import OWNER
from actors.messages import AttemptHanded
from actors.ports.ledger import LedgerError
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
from actors.ports.world import Clock
from actors.wire.pieces import Pieces
from actors.wire.protocol import frames
from orchestrator.dialled_streams import DialledStreams
from orchestrator.http_client import Reply
from orchestrator.nodes.native.results import receive
from orchestrator.storage.disk import StorageFull

T = TypeVar("T")
COLLECT_WITHIN = 100.0
"""Seconds after which results that a node does not hand over are given up."""
STALL = 30.0
CONNECT = 5.0
BEAT = 10.0
SNAPSHOTS_EVERY = 30.0
HEARD_LATE = 12.0


@dataclass
class Faulty:
    """Rules that a test breaks on purpose; all off in a real run."""

    no_key: bool = False
    any_attempt: bool = False
    no_compare: bool = False
    any_owner: bool = False
    release_forgotten: bool = False
    absence_forgotten: bool = False
    kill_trusts_first_process: bool = False
    end_needs_room: bool = False
    any_boot: bool = False
    any_batch_id: bool = False
    begins_again: bool = False
    boot_told: bool = False
    no_fence: bool = False
    any_link: bool = False


class _Discarded(Exception):
    """An order of a link that is fenced."""


class World:
    def __init__(
        self,
        plan: Plan,
        nursery: trio.Nursery,
        ledger: MemoryLedger,
        clock: Clock,
        faulty: Faulty,
        *,
        watches: Watches,
        top: Path,
    ) -> None:
        """`top`: where the files of batch jobs are, of which `watches` tells."""
        self.plan = plan
        self.nursery = nursery
        self.disk = ledger
        self.faulty = faulty
        self.rng = random.Random(f"world/{plan.seed}")
        self.cuts = random.Random(f"cuts/{plan.seed}")
        self.pushes = random.Random(f"pushes/{plan.seed}")
        self.copies = random.Random(f"copies/{plan.seed}")
        self.calls = self.commits = self.orders = self.ends = 0
        self.trace: list[str] = []
        self.job_plans: dict[int, int] = {}
        self.results: dict[str, str] = {}
        self.in_flight: dict[str, int] = {}
        self.lossy: dict[str, tuple[float, str, float]] = {}
        self.full_until = 0.0
        self.fileless_until = 0.0
        self.collecting: dict[str, float] = {}
        self.slow_until = 0.0
        self.epoch: Epoch | None = None
        self.last_fault_end = 0.0

        self.cluster = Cluster(
            top,
            nursery,
            random.Random(f"cluster/{plan.seed}"),
            clock,
            watches,
            begin=lambda directory: self.machines[directory.parent.name].begin(directory.name),
            note=self.note,
            any_id=faulty.any_batch_id,
            begins_again=faulty.begins_again,
        )

        def dial(machine: Machine) -> Callable[[], Awaitable[None]]:
            rng = random.Random(f"dialler/{plan.seed}/{machine.name}/{machine.lives}")
            return SimulatedDialler(self, machine, rng).serve

        batch = plan.batch or (False,) * len(plan.slots)
        dials = plan.dials or (False,) * len(plan.slots)

        def make(i: int, slots: int, *, copy: bool = False) -> Machine:
            number = f"{i}'" if copy else str(i)
            return Machine(
                f"n{number}",
                slots,
                nursery=nursery,
                clock=clock,
                rng=random.Random(f"machine/{plan.seed}/{number}"),
                job_plan=lambda job_id: plan.jobs[self.job_plans[job_id]],
                end_needs_room=faulty.end_needs_room,
                kill_trusts_first_process=faulty.kill_trusts_first_process,
                any_boot=faulty.any_boot,
                ended=self.ended,
                copy_of=f"n{i}" if copy else "",
                cluster=self.cluster if batch[i] else None,
                told_boot=faulty.boot_told,
                dial=dial if dials[i] else None,
            )

        self.machines = {f"n{i}": make(i, slots) for i, slots in enumerate(plan.slots)}
        """By their addresses: each has one, and so have the copies that will be made of it."""
        for i in {fault.node for fault in plan.faults if fault.kind == "copy" and not batch[fault.node]}:
            self.machines[f"n{i}'"] = make(i, plan.slots[i], copy=True)
        self.checks = Checks(self)

    def note(self, text: str) -> None:
        self.trace.append(f"{trio.current_time():9.3f} {text}")

    # ------------------------------------------------------------------ network

    def reachable(self, machine: Machine) -> bool:
        return trio.current_time() >= machine.cut_until

    def suffers(self, machine: Machine, kind: str) -> bool:
        until, active, rng = self.lossy.get(machine.name, (0.0, "", 0.0))
        return active == kind and trio.current_time() < until and self.rng.random() < rng

    def latency(self, machine: Machine) -> float:
        base = self.rng.uniform(0.0005, 0.02)
        return base + (self.rng.uniform(1.0, 40.0) if self.suffers(machine, "slow") else 0.0)

    async def order(
        self, machine: Machine, link: Stream | None, act: Callable[[], T], keys: Sequence[str] = ()
    ) -> tuple[str, T | None]:
        """As `call`, over a link. What arrives once that is fenced is not done."""
        if link is None or link.over:
            await sleep(self.latency(machine))
            return "not sent", None
        if link.connection is not None and (lost := await self._swallowed(link.connection)) is not None:
            return lost

        def guarded() -> T:
            if link.connection is not None and not link.connection.lives:
                raise _Discarded
            if link.fenced and not self.faulty.no_fence:
                raise _Discarded
            if link.fenced:
                raise Violation("fence", f"{machine.name} does what was ordered by an older link")
            return act()

        how, answer = await self.call(machine, guarded, keys)
        # The answer would have come by the link.
        return (how, answer) if not link.over or how == "not sent" else ("doubt", None)

    async def _swallowed(self, connection: Connection) -> tuple[str, None] | None:
        """What becomes of what is sent over a connection that is no more, while nobody here knows that."""
        if connection.lives and self.reachable(connection.machine):
            return None
        await sleep(UNHEARD)
        return "doubt", None

    async def call_dialled(
        self,
        connection: Connection,
        link: Stream | None,
        act: Callable[[Machine], T],
        keys: Sequence[str] = (),
    ) -> tuple[str, T | None]:
        """As `call`, over what a node has opened. `link`: by which it is proved, None for what needs no
        proof."""
        machine = connection.machine
        if (lost := await self._swallowed(connection)) is not None:
            return lost

        def guarded() -> T | None:
            if not connection.lives:
                raise _Discarded
            if link is not None and machine.newest is not link:
                if self.faulty.any_link:
                    raise Violation("old link", f"{machine.name} does what was asked over another link")
                return None
            return act(machine)

        how, answer = await self.call(machine, guarded, keys)
        return ("refused", None) if how == "ok" and answer is None else (how, answer)

    async def call(
        self, machine: Machine, act: Callable[[], T], keys: Sequence[str] = ()
    ) -> tuple[str, T | None]:
        """`act` at the machine, and its answer: ("ok", answer), ("not sent", None) or ("doubt", None)."""
        if not self.reachable(machine):
            await sleep(5.0)
            return "not sent", None
        if not machine.up:
            await sleep(self.latency(machine))
            return "not sent", None
        copy = trio.CancelScope()
        if self.suffers(machine, "duplicate"):
            self.nursery.start_soon(self._repeat, copy, machine, act, keys)
        until = trio.current_time() + STALL
        arrives = trio.current_time() + self.latency(machine)
        for key in keys:
            self.in_flight[key] = self.in_flight.get(key, 0) + 1
        try:
            await sleep_until(min(arrives, until))
        except trio.Cancelled:
            # Who asked is dead, and what was asked arrives.
            self.nursery.start_soon(self._arrive, machine, act, keys, arrives)
            raise
        if arrives > until:
            self.nursery.start_soon(self._arrive, machine, act, keys, arrives)
            return "doubt", None
        answer = self._take(machine, act, keys)
        if answer is not None and isinstance(answer[0], list) and _is_refusal(answer[0]):
            copy.cancel()  # nobody repeats what was refused
        back = math.inf if answer is None else trio.current_time() + self.latency(machine)
        await sleep_until(min(back, until))
        lost = self.suffers(machine, "lossy") or self.suffers(machine, "unanswered")
        if answer is None or back > until or not self.reachable(machine) or lost:
            await sleep_until(until)
            return "doubt", None
        return "ok", answer[0]

    async def _repeat(
        self, copy: trio.CancelScope, machine: Machine, act: Callable[[], object], keys: Sequence[str]
    ) -> None:
        """A second copy of a request, which nobody sees the answer of."""
        for key in keys:
            self.in_flight[key] = self.in_flight.get(key, 0) + 1
        with copy:
            await sleep(self.latency(machine) + self.rng.uniform(0.0, 20.0))
            self._take(machine, act, keys)
            return
        for key in keys:
            self.in_flight[key] -= 1

    async def _arrive(
        self, machine: Machine, act: Callable[[], object], keys: Sequence[str], moment: float
    ) -> None:
        await sleep_until(moment)
        self._take(machine, act, keys)

    def _take(self, machine: Machine, act: Callable[[], T], keys: Sequence[str]) -> tuple[T] | None:
        for key in keys:
            self.in_flight[key] -= 1
        if not self.reachable(machine) or not machine.up or self.suffers(machine, "lossy"):
            return None
        try:
            return (act(),)
        except _Discarded:
            return None

    # ------------------------------------------------------------------ portal and faults

    async def keep_snapshots(self) -> None:
        """Of each machine the last two, for it to be set back to."""
        while self.plan.set_back_after:
            for machine in self.machines.values():
                if (now := machine.snapshot()) is not None:
                    machine.snapshots = [*machine.snapshots[-1:], now]
            await sleep(SNAPSHOTS_EVERY)

    async def upload(self, index: int) -> None:
        job_plan = self.plan.jobs[index]
        await sleep_until(job_plan.at)
        while trio.current_time() < self.fileless_until:
            await sleep(5.0)  # 507, and the portal asks again
        new = NewJob(job_plan.user, job_plan.service, f"{index:032x}", job_plan.size)
        job = await self.disk.insert(new)
        self.job_plans[job.id] = index
        self.checks.accepted(job)
        self.committed((job,))
        if job_plan.terminate_after is not None:
            await self._terminate(job.id, job_plan.terminate_after)

    async def _terminate(self, job_id: int, after: float) -> None:
        await sleep(after)
        row = await self.disk.request_terminate(job_id)
        assert row is not None
        self.note(f"job {job_id}: terminate requested")
        self.committed((row,))

    def sent(self, job_id: int) -> None:
        after = self.plan.jobs[self.job_plans[job_id]].terminate_when_sent
        if after is not None:
            self.nursery.start_soon(self._terminate, job_id, after)

    def may_give_up_results(self, key: str) -> None:
        if trio.current_time() < self.collecting[key] + COLLECT_WITHIN:
            raise Violation("given up", f"attempt {key[:6]}: its results, too early")

    def power(self, epoch: Epoch) -> None:
        """It may be cut, now that one more commit was made."""

        async def cut(after: float) -> None:
            await sleep(after)
            epoch.kill(cut=True)

        self.commits += 1
        if self.commits in self.plan.cut_after:
            self.nursery.start_soon(cut, self.cuts.choice((0.0, 0.01, 0.1)))

    def ordered(self, machine: Machine) -> None:
        """Its machine may start anew, now that one more order is on its way."""

        async def reboot(after: float, down_for: float) -> None:
            await sleep(after)
            self.note(f"{machine.name} starts anew; it has forgotten {machine.machine_down() or 'nothing'}")
            await sleep(down_for)
            machine.agent_up()

        async def set_back(to: Snapshot, after: float) -> None:
            await sleep(after)
            self.set_back(machine, to)

        self.orders += 1
        if self.orders in self.plan.reboot_after and machine.cluster is not None:
            self.lossy[machine.name] = (trio.current_time() + 1.0, "unanswered", 1.0)
        if self.orders in self.plan.set_back_after and machine.snapshots:
            self.lossy[machine.name] = (trio.current_time() + 1.0, "unanswered", 1.0)
            self.nursery.start_soon(set_back, machine.snapshots[0], self.copies.choice((0.05, 1.0, 10.0)))
        if self.orders in self.plan.reboot_after:
            self.nursery.start_soon(reboot, self.cuts.choice((0.005, 0.05, 3.0)), self.cuts.uniform(0.1, 8))
            if self.cuts.random() < 0.5:  # and what it was sent comes once more
                self.lossy[machine.name] = (trio.current_time() + 0.1, "duplicate", 1.0)

    def set_back(self, machine: Machine, to: Snapshot) -> None:
        self.note(f"{machine.name} is set back to {to.at:.3f}")
        machine.set_back(to)

    def ended(self, machine: Machine) -> None:
        """Its machine may start anew, now that one more end is recorded; nobody can store what that left."""

        async def reboot(after: float, down_for: float) -> None:
            await sleep(after)
            self.note(f"{machine.name} ends after an end; it has forgotten {machine.machine_down()}")
            await sleep(down_for)
            machine.agent_up()

        self.ends += 1
        if self.ends in self.plan.reboot_after_ends:
            self.fileless_until = max(self.fileless_until, trio.current_time() + 6.0)
            self.nursery.start_soon(reboot, self.cuts.uniform(0.1, 3.0), self.cuts.uniform(0.1, 8))

    def committed(self, rows: tuple[Job, ...]) -> None:
        if self.epoch is not None and rows:
            self.epoch.committed(rows)

    async def strike(self, fault: Fault, kill_orchestrator: Callable[[float, bool], None]) -> None:
        await sleep_until(fault.at)
        machine = self.machines[f"n{fault.node % len(self.plan.slots)}"]
        self.note(f"fault: {fault.kind} {machine.name} for {fault.length:.1f}")
        until = trio.current_time() + fault.length
        match fault.kind:
            case "torn_records":
                machine.agent_down()
                self.note(f"torn on {machine.name}: {machine.damage(fault.rng) or 'nothing'}")
                await sleep(fault.length)
                machine.agent_up()
            case "full_node":
                machine.disk.full_until = max(machine.disk.full_until, until)
            case "no_files":
                self.fileless_until = max(self.fileless_until, until)
            case "trickle" | "stall" | "endless":
                machine.spoils = fault.kind, until
            case "restart_agent":
                machine.agent_down()
                await sleep(fault.length)
                machine.agent_up()
            case "reboot_machine":
                self.note(f"{machine.name} has forgotten {machine.machine_down() or 'nothing'}")
                await sleep(fault.length)
                machine.agent_up()
            case "die":
                machine.machine_down()
                machine.dead = True
            case "set_back":
                before = machine.snapshot()
                await sleep(fault.length)
                if before is not None:
                    self.set_back(machine, before)
            case "copy" if machine.cluster is None:
                copy = self.machines[f"{machine.name}'"]
                copy.become(machine)
                await sleep(fault.length)
                copy.machine_down()
                copy.dead = True
            case "leave":
                machine.leave()
                await sleep(fault.length)
                machine.agent_up()
            case "leave_for_good":
                machine.leave()
                await sleep(fault.length)
                machine.machine_down()
                machine.dead = True
            case "partition":
                machine.cut_until = max(machine.cut_until, until)
                await sleep(UNHEARD)
                if not self.reachable(machine):
                    machine.cut_connections(told=False)
            case "half_open":
                machine.cut_connections(told=False)
            case "tear":
                for stream in machine.streams:
                    stream.tear("torn")
                machine.streams.clear()
                machine.cut_connections(told=True)
            case "kill_orchestrator":
                kill_orchestrator(fault.length, self.cuts.random() < 0.5)
            case "disk_full":
                self.full_until = max(self.full_until, until)
            case "slow_disk":
                self.slow_until = max(self.slow_until, until)
            case kind if kind in BATCH:
                self.cluster.strike(kind, fault.length, fault.rng)
            case kind:
                self.lossy[machine.name] = (until, kind, fault.rng)


@dataclass
class Epoch:
    """One life of the orchestrator. `alive` ends it for every port at once."""

    world: World
    number: int
    hear: Callable[[tuple[Job, ...]], None] = lambda _: None
    alive: bool = True
    cut: bool = False
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    dialled: DialledStreams = field(default_factory=DialledStreams)
    connections: list[Connection] = field(default_factory=list)

    async def keep(self, node_id: str, connection: Connection) -> None:
        """What a node has opened."""
        self.connections.append(connection)
        await self.dialled.keep(node_id, connection, "")  # type: ignore[arg-type]  # a stand-in

    async def take(self, node_id: str) -> Connection | None:
        """None if the node opens none."""
        taken: Any = None
        with trio.move_on_after(CONNECT):
            taken = await self.dialled.take(node_id)
            taken.ask()
        return taken

    def kill(self, *, cut: bool = False) -> None:
        """`cut`: with its machine, and what was on the way to its disk."""
        if self.alive:
            self.world.note(
                f"the orchestrator is {'cut off its power' if cut else 'killed'} (life {self.number})"
            )
            self.alive, self.cut = False, cut
            self.scope.cancel()
            for connection in self.connections:
                connection.end(told=not cut)
                connection.over.set()
            if cut:
                self.world.disk.cut()
                self.world.checks.power_cut()

    def enter(self) -> None:
        """At each port call: dead epochs get no further, and this may be the call to die at."""
        if not self.alive:
            raise Dead
        self.world.calls += 1
        if self.world.calls == self.world.plan.crash_at_call:
            self.kill()
            if self.world.rng.random() < 0.5:
                raise Dead  # before the effect; else the effect is under way while we die

    def leave(self) -> None:
        if not self.alive:
            raise Dead

    def committed(self, rows: tuple[Job, ...]) -> None:
        if self.alive and not self.dropped():
            self.hear(rows)

    def dropped(self) -> bool:
        return self.world.rng.random() < self.world.plan.drop_messages


class BoundLedger:
    """The ledger as one epoch sees it. A commit that is under way when the epoch dies has landed, or never
    does."""

    def __init__(self, epoch: Epoch) -> None:
        self._epoch = epoch
        self._world = epoch.world
        self._disk = epoch.world.disk

    async def record(self, changes: Sequence[Change]) -> Sequence[ChangeAnswer]:
        world, epoch = self._world, self._epoch
        epoch.enter()
        slow = trio.current_time() < world.slow_until
        await sleep(world.rng.uniform(0.0005, 2.0 if slow else 0.003))
        if trio.current_time() < world.full_until:
            world.checks.refused(changes)
            raise LedgerError("disk full")
        if epoch.cut:
            raise Dead
        with trio.CancelScope(shield=True):
            bent = [await self._bend(change) for change in changes]
            answers = await self._disk.record(bent)
        for change, answer in zip(changes, answers, strict=True):
            world.checks.recorded(change, answer)
        rows = tuple(a.job for a in answers if a.outcome is ChangeResult.DONE and a.job is not None)
        world.checks.told(rows)
        world.power(epoch)
        world.committed(rows)
        epoch.leave()
        return answers

    async def _bend(self, change: Change) -> Change:
        """The rules that a test breaks on purpose."""
        faulty = self._world.faulty
        if faulty.any_owner and isinstance(change, Transition):
            change = replace(change, by=OWNER[change.source])
        if not hasattr(change, "job_id") or not (faulty.any_attempt or faulty.no_compare):
            return change
        row = await self._disk.get(change.job_id)
        assert row is not None
        if faulty.any_attempt and change.key is not None and row.attempt is not None:
            change = replace(change, key=row.attempt.key)
        if faulty.no_compare and hasattr(change, "source"):
            # The ledger trusts what the change says that it leaves.
            self._disk.pretend(replace(row, status=change.source))
        return change

    async def changes(self, after: int, limit: int = 500) -> Sequence[Job]:
        return await self._read(lambda: self._disk.changes(after, limit))

    async def live(self, *, queued: bool = False) -> LiveJobs:
        return await self._read(lambda: self._disk.live(queued=queued))

    async def unreleased(self) -> Sequence[Attempt]:
        unreleased = await self._read(self._disk.unreleased)
        return [] if self._world.faulty.release_forgotten else unreleased

    async def note_absence(self, node_id: str, reason: str | None) -> None:
        world, epoch = self._world, self._epoch
        epoch.enter()
        await sleep(world.rng.uniform(0.0005, 0.003))
        if trio.current_time() < world.full_until:
            raise LedgerError("disk full")
        if epoch.cut:
            raise Dead
        with trio.CancelScope(shield=True):
            await self._disk.note_absence(node_id, reason)
        epoch.leave()

    async def absences(self) -> Mapping[str, str]:
        return {} if self._world.faulty.absence_forgotten else dict(self._disk.expected())

    async def attempt_states(self, keys: Sequence[str]) -> Mapping[str, AttemptState]:
        return await self._read(lambda: self._disk.attempt_states(keys))

    async def get(self, job_id: int) -> Job | None:
        return await self._read(lambda: self._disk.get(job_id))

    async def history(self, job_id: int) -> Sequence[HistoryEntry]:
        return await self._read(lambda: self._disk.history(job_id))

    async def attempts(self, job_id: int) -> Sequence[Attempt]:
        return await self._read(lambda: self._disk.attempts(job_id))

    async def insert(self, job: NewJob) -> Job:
        raise AssertionError("the actors insert no jobs")

    async def request_terminate(self, job_id: int) -> Job | None:
        raise AssertionError("the actors give no orders")

    async def ended_before(
        self, wall: float, limit: int = 100, after: tuple[float, int] | None = None
    ) -> Sequence[Job]:
        return await self._read(lambda: self._disk.ended_before(wall, limit, after))

    async def forget_audit(self, before: float, limit: int) -> int:
        raise AssertionError("nobody gives orders here")

    async def purge(self, before: float, limit: int) -> int:
        raise AssertionError("nothing is purged here")

    async def pauses(self) -> Mapping[str, tuple[str, float]]:
        return await self._read(self._disk.pauses)

    async def unknown_directories(self, storage_keys: Sequence[str]) -> Sequence[str]:
        return await self._read(lambda: self._disk.unknown_directories(storage_keys))

    async def _read(self, read: Callable[[], Any]) -> Any:
        self._epoch.enter()
        await sleep(self._world.rng.uniform(0.0002, 0.001))
        with trio.CancelScope(shield=True):
            answer = await read()
        self._epoch.leave()
        return answer


class BoundNodes:
    """The nodes as one epoch reaches them, over a network that drops, delays, repeats and cuts."""

    def __init__(self, epoch: Epoch) -> None:
        self._epoch = epoch
        self._world = epoch.world
        self._links: dict[str, Stream] = {}
        """By the address where each is asked."""
        self._refs: dict[str, NodeRef] = {}
        self._followed: set[Machine] = set()
        self._delivered: dict[str, list[bytes]] = {}
        self._delivered_by: dict[str, str] = {}

    async def submit(self, node: NodeRef, items: Sequence[Dispatch]) -> Sequence[SubmitAnswer]:
        machine = self._at(node.url)
        sent = list(items)
        self._world.ordered(machine)
        if self._world.faulty.no_key:
            fresh = [f"{self._world.rng.getrandbits(128):032x}" for _ in sent]
            sent = [replace(i, attempt=replace(i.attempt, key=k)) for i, k in zip(sent, fresh, strict=True)]
        # What is large goes beside the link.
        large = any(item.job.size >= LARGE for item in sent)
        link = self._links.get(node.url)
        if large and link is None:
            return [SubmitAnswer(SubmitResult.NOT_SENT, "there is no link")] * len(items)
        if node.url in self._refs and self._refs[node.url].has_forgotten(node.moment):
            return [SubmitAnswer(SubmitResult.NOT_SENT, "set back")] * len(items)

        def submit(machine: Machine) -> list[SubmitAnswer]:
            if large and machine.newest is not link and not self._world.faulty.any_boot:
                return [SubmitAnswer(SubmitResult.BUSY, "there is a newer link")] * len(sent)
            return machine.submit(sent, node.boot)

        keys = [i.attempt.key for i in sent]
        if large:
            how, answers = await self._beside(node.url, submit, keys, link=link)
        else:
            how, answers = await self._order(node.url, submit, keys)
        if answers is not None:
            return answers
        if how == "refused":
            return [SubmitAnswer(SubmitResult.BUSY, "it is not proved")] * len(items)
        result = SubmitResult.NOT_SENT if how == "not sent" else SubmitResult.DOUBT
        return [SubmitAnswer(result, how)] * len(items)

    async def lookup(self, node: NodeRef, attempts: Sequence[Attempt]) -> Sequence[AttemptLookup]:
        _, looks = await self._order(node.url, lambda machine: machine.lookup([a.key for a in attempts]))
        return looks if looks is not None else [AttemptLookup(LookupResult.UNKNOWN)] * len(attempts)

    async def cancel(self, node: NodeRef, attempts: Sequence[Attempt]) -> Sequence[AttemptLookup]:
        _, looks = await self._order(node.url, lambda machine: machine.cancel([a.key for a in attempts]))
        return looks if looks is not None else [AttemptLookup(LookupResult.UNKNOWN)] * len(attempts)

    async def release(self, node: NodeRef, attempts: Sequence[Attempt]) -> Sequence[bool]:
        self._world.ordered(self._at(node.url))
        _, done = await self._order(node.url, lambda machine: machine.release([a.key for a in attempts]))
        return done if done is not None else [False] * len(attempts)

    async def collect(self, node: NodeRef, items: Sequence[Dispatch]) -> Sequence[CollectAnswer]:
        machine = self._at(node.url)
        world, keys = self._world, [i.attempt.key for i in items]
        for key in keys:
            world.collecting.setdefault(key, trio.current_time())
        world.ordered(machine)
        link = self._links.get(node.url)
        how, pieces = await self._beside(
            node.url, lambda machine: machine.collect(keys, node.boot), link=link
        )
        if pieces is None:
            return [CollectAnswer(CollectResult.FAILED, reason=how)] * len(items)
        reply = Reply(_Response(world, machine, pieces), STALL)
        answers = await receive(reply, items, _ResultFiles(self._epoch))
        self._epoch.leave()
        return [answers[key] for key in keys]

    async def take_delivered(self, node: NodeRef, items: Sequence[Dispatch]) -> Sequence[CollectAnswer]:
        answers = []
        for item in items:
            key = item.attempt.key
            self._world.collecting.setdefault(key, trio.current_time())
            came = Pieces(self._delivered.pop(key, []))
            answers.append((await receive(came, [item], _ResultFiles(self._epoch)))[key])
            self._epoch.leave()
        return answers

    async def watch(self, address: NodeAddress, tell: Callable[[NodeRef, NodeEvent], None]) -> str:
        self._epoch.enter()
        stream = Stream()

        def enter(machine: Machine) -> NodeRef:
            stream.machine = machine
            machine.enter(stream)
            return NodeRef(machine.node_id, address.url, boot=machine.boot)

        how, ref = await self._beside(address.url, enter, entering=stream)
        if ref is None or stream.machine is None:
            stream.tear("its hello was not answered")
            return f"it cannot be reached ({how})"
        machine = stream.machine
        try:
            return await self._follow(machine, ref, stream, tell)
        finally:
            if self._links.get(address.url) is stream:
                del self._links[address.url]
            if stream.connection is not None:
                stream.connection.close()
            self._followed.discard(machine)
            stream.tear("it is followed no more")
            for key in [key for key in self._delivered if self._delivered_by.get(key) == machine.name]:
                del self._delivered[key]

    async def _follow(
        self, machine: Machine, ref: NodeRef, stream: Stream, tell: Callable[[NodeRef, NodeEvent], None]
    ) -> str:
        world = self._world
        silent_since = trio.current_time()
        while True:
            if stream.torn is not None:
                return stream.torn
            heard = world.reachable(machine)
            if stream.connection is not None and not stream.connection.lives:
                heard = False
            if heard:
                silent_since = trio.current_time()
                events, stream.events = stream.events, []
                for event in events or [machine.beat()]:
                    await sleep(world.latency(machine) if event is not None else 0)
                    self._epoch.leave()
                    if isinstance(event, Picture):
                        self._links[ref.url] = stream
                    if isinstance(event, Picture | Beat):
                        self._refs[ref.url] = replace(ref, tally=event.heartbeat.tally)
                    tell(ref, self._with_results(machine, event))
                    if isinstance(event, Picture):
                        self._followed.add(machine)
                        world.checks.let_in(machine, self._followed, self._epoch.number)
                    if isinstance(event, Leaving):
                        world.checks.heard_leaving(machine, self._epoch.number)
                if stream.finished is not None and not stream.events:
                    return stream.finished
            elif trio.current_time() - silent_since > HEARD_LATE:
                if stream in machine.streams:
                    machine.streams.remove(stream)
                return "silent"
            if not stream.events or not heard:
                stream.bell = trio.Event()
                with trio.move_on_after(BEAT if heard else 1.0):
                    await stream.bell.wait()

    def _with_results(self, machine: Machine, event: NodeEvent) -> NodeEvent:
        """An end may come with what it has left, which may be damaged."""
        world = self._world
        if not isinstance(event, PayloadChanged) or event.view.end is None or event.view.lost:
            return event
        if not machine.up or world.pushes.random() < 0.3:
            return event
        pieces = machine.collect([event.view.key], machine.boot)
        if world.pushes.random() < 0.1:
            pieces = pieces[:-1]
        self._delivered[event.view.key] = pieces
        self._delivered_by[event.view.key] = machine.name
        return replace(event, delivered=True)

    def follow(self, node_id: str, attempts: Sequence[Attempt]) -> None:
        raise AssertionError("no foreign node here")

    def _at(self, url: str) -> Machine:
        """Who is asked there: of those that have one name, the one whose link it is."""
        link = self._links.get(url)
        return self._world.machines[url] if link is None or link.machine is None else link.machine

    async def _order(
        self, url: str, act: Callable[[Machine], T], keys: Sequence[str] = ()
    ) -> tuple[str, Any]:
        self._epoch.enter()
        machine = self._at(url)
        answer = await self._world.order(machine, self._links.get(url), lambda: act(machine), keys)
        self._epoch.leave()
        return answer

    async def _beside(
        self,
        url: str,
        act: Callable[[Machine], T],
        keys: Sequence[str] = (),
        *,
        link: Stream | None = None,
        entering: Stream | None = None,
    ) -> tuple[str, Any]:
        """Over a connection of its own, proved by `link`; or a new link's, which is kept."""
        self._epoch.enter()
        machine = self._world.machines[url]
        answer: tuple[str, Any]
        if machine.dial is None:
            answer = await self._world.call(machine, lambda: act(machine), keys)
        elif (connection := await self._epoch.take(machine.node_id)) is None:
            answer = "not sent", None
        elif entering is None:
            answer = await self._world.call_dialled(connection, link, act, keys)
            connection.close()
        else:
            entering.connection = connection
            answer = await self._world.call_dialled(connection, None, act, keys)
        self._epoch.leave()
        return answer


def _is_refusal(answers: list[object]) -> bool:
    return any(isinstance(one, SubmitAnswer) and one.result is SubmitResult.BUSY for one in answers)


class _Response:
    """An answer with results, as the HTTP library has it. A node that is spoilt never comes to an end."""

    status_code = 200
    headers: Mapping[str, str] = MappingProxyType({})

    def __init__(self, world: World, machine: Machine, pieces: list[bytes]) -> None:
        self._world = world
        self._machine = machine
        how, until = machine.spoils
        self._how = how if trio.current_time() < until else ""
        self._pieces = iter(pieces[:1] if self._how else pieces)
        self._more = {"trickle": ENDLESS[:5], "endless": ENDLESS}.get(self._how, b"")
        self._begun = False

    def aiter_raw(self) -> _Response:
        return self

    def __aiter__(self) -> _Response:
        return self

    async def __anext__(self) -> bytes:
        if self._begun and self._world.suffers(self._machine, "lossy"):
            raise httpx.ReadError("torn")
        self._begun = True
        for piece in self._pieces:
            return piece
        if not self._world.reachable(self._machine) or self._how == "stall":
            await trio.sleep_forever()
        if not self._how:
            raise StopAsyncIteration
        piece = self._more
        if self._how == "trickle":
            await sleep(10.0)
            self._more = b"."
        else:
            await sleep(1.0)
        return piece


ENDLESS = frames.encode(frames.STDOUT, bytes(256 << 10))


class _ResultFiles:
    """Our storage, as far as a collection knows it, for as long as the epoch lives."""

    def __init__(self, epoch: Epoch) -> None:
        self._epoch = epoch

    async def input_files(self, storage_key: str) -> Sequence[tuple[str, Path, int]]:
        raise AssertionError("no inputs here")

    def receive_result(self, storage_key: str, attempt_key: str) -> Any:
        self._epoch.leave()
        world = self._epoch.world
        if trio.current_time() < max(world.full_until, world.fileless_until):
            world.collecting[attempt_key] = trio.current_time()  # nobody may blame the node for that
            raise StorageFull("no room")
        return _Sink(self._epoch, storage_key)


class _Sink:
    def __init__(self, epoch: Epoch, storage_key: str) -> None:
        self._epoch = epoch
        self._storage_key = storage_key
        self._zip = b""

    async def write_zip(self, data: bytes) -> None:
        self._zip += data

    async def write_log(self, stream: str, data: bytes) -> None:
        pass

    def expect(self, most: object) -> None:
        pass

    async def commit(self, manifest: object, expected: object, crc: int | None) -> None:
        await sleep(self._epoch.world.rng.uniform(0.0002, 0.005))
        self._epoch.leave()
        self._epoch.world.results[self._storage_key] = self._zip.decode()

    async def abort(self) -> None:
        self._epoch.leave()


def hand_over(epoch: Epoch, tell: Callable[[AttemptHanded], None]) -> Callable[[AttemptHanded], None]:
    """A message between actors that may be lost."""

    def maybe(message: AttemptHanded) -> None:
        if not epoch.dropped():
            tell(message)

    return maybe
