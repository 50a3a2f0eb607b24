"""The world around the orchestrator: network, disk, portal, faults. It outlives every orchestrator; each of
those is an `Epoch`, and reaches the world only through ports that are bound to it. A killed epoch's ports
raise `Dead`: a clean-up that a real kill would not run has no effect, and is seen."""

from __future__ import annotations

import math
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import trio
from simulation.checks import Checks
from simulation.clock import sleep, sleep_until
from simulation.cluster import Cluster, Watches
from simulation.dialling import UNHEARD, Connection, SimulatedDialler
from simulation.machines import Machine, Snapshot, Stream
from simulation.plan import BATCH, Fault, Plan
from simulation.violation import Dead, Violation
from support.memory.memory_ledger import MemoryLedger

from actors.domain.changes import NewJob
from actors.domain.job import Job
from actors.ports.ledger import LedgerError
from actors.ports.nodes import SubmitAnswer, SubmitResult
from actors.ports.world import Clock
from orchestrator.dialled_streams import DialledStreams

T = TypeVar("T")
COLLECT_WITHIN = 100.0
"""Seconds after which results that a node does not hand over are given up."""
STALL = 30.0
CONNECT = 5.0
SNAPSHOTS_EVERY = 30.0
ASKED_AGAIN = 0.5
"""Seconds after which a portal that was refused, or got no answer, sends its upload again."""


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
                ahead=plan.ahead,
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
        new = NewJob(
            job_plan.user, job_plan.service, f"{index:032x}", job_plan.size, idempotency_key=str(index)
        )
        while (job := await self._hand_in(new)) is None:
            await sleep(ASKED_AGAIN)
        if job_plan.terminate_after is not None:
            await self._terminate(job.id, job_plan.terminate_after)

    async def _hand_in(self, new: NewJob) -> Job | None:
        """None for an answer that has the portal ask again, and for none."""
        epoch = self.epoch
        if epoch is None or not epoch.alive or trio.current_time() < self.fileless_until:
            await sleep(0.001)
            return None
        try:
            return await epoch.upload(new)
        except (LedgerError, Dead):
            return None

    def stored(self, new: NewJob, job: Job) -> None:
        """A job is in the ledger, unless it was there already."""
        if job.id not in self.job_plans:
            self.job_plans[job.id] = int(new.storage_key, 16)
            self.checks.accepted(new, job)
            self.checks.told((job,))

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
    upload: Callable[[NewJob], Awaitable[Job]] = field(init=False)
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


def _is_refusal(answers: list[object]) -> bool:
    return any(isinstance(one, SubmitAnswer) and one.result is SubmitResult.BUSY for one in answers)
