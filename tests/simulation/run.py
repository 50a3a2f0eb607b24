"""One run of a plan: the real Sender and Getter, queue manager and pool, under a mock clock, on a simulated
world. The same plan gives the same run, to the letter of its trace."""

from __future__ import annotations

import math
import os
import random
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar
from unittest.mock import patch

import trio
from simulation.checks import BACK_WITHIN
from simulation.clock import VirtualClock, sleep, sleep_until
from simulation.cluster import Watches
from simulation.dialling import until_asked
from simulation.plan import KEEPER, SERVICE, Plan
from simulation.ports import BoundLedger, BoundNodes, hand_over
from simulation.violation import Dead, Violation
from simulation.world import COLLECT_WITHIN, Epoch, Faulty, World
from support.memory.memory_ledger import MemoryLedger

from actors.domain.job import Job
from actors.domain.node import NodeAddress, NodeRef
from actors.domain.service import ServiceLimits
from actors.getter.getter import Getter
from actors.kernel.actor import Mailbox, live
from actors.messages import Committed, NodeSeen
from actors.sender.reservations import Reservations
from actors.sender.sender import Sender
from node.executors.slurm import slurm_executor, slurm_run
from node.host import dialling
from orchestrator import dialled_streams
from orchestrator.nodes.native import results
from orchestrator.scheduling.queue_manager import QueueManager
from orchestrator.scheduling.service_pool import ServicePool

T = TypeVar("T")
MEMORY = "/dev/shm" if os.path.isdir("/dev/shm") else None
"""Where syncs take no time."""
TICK = 5.0
SUSPECT_AFTER = 15.0
LOST_AFTER = 60.0
PATIENCE = 600.0
"""Virtual seconds after the last fault within which everything must have ended."""
QUEUED = 60.0
"""More of them for each job, where some wait in a batch system."""


@dataclass(frozen=True)
class Result:
    """`violation` is None for a clean run."""

    violation: str | None
    kind: str | None
    trace: tuple[str, ...]
    port_calls: int
    virtual_seconds: float


class _MockWallClock:
    def now(self) -> float:
        return 1_700_000_000.0 + trio.current_time()


def run(
    plan: Plan,
    *,
    faulty: Faulty | None = None,
    broken: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> Result:
    """Run `plan` to its end. `faulty` and `broken` break rules on purpose."""
    # Trio shuffles runnable tasks by a generator of its own; as its Hypothesis support does, it is seeded.
    trio._core._run._ALLOW_DETERMINISTIC_SCHEDULING = True
    trio._core._run._r.seed(f"trio/{plan.seed}")
    simulation = _Simulation(plan, faulty or Faulty())
    violation: list[Violation] = []
    with ExitStack() as stack:
        stack.enter_context(patch.object(results, "UNTOLD", 1000))
        stack.enter_context(patch.object(dialled_streams, "DialledStream", lambda connection: connection))
        stack.enter_context(patch.object(dialling, "_until_asked", until_asked))
        if any(plan.batch):
            simulation.top = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=MEMORY)))
            stack.enter_context(_without_threads_and_time(simulation.watches))
        stack.enter_context(broken())
        try:
            trio.run(simulation.main, clock=VirtualClock())
        except* Violation as group:
            violation = [e for e in _leaves(group) if isinstance(e, Violation)]
    world = simulation.world
    assert world is not None
    return Result(
        violation=str(violation[0]) if violation else None,
        kind=violation[0].kind if violation else None,
        trace=tuple(world.trace),
        port_calls=world.calls,
        virtual_seconds=simulation.ended_at,
    )


@contextmanager
def _without_threads_and_time(watches: Watches) -> Iterator[None]:
    """For the executor of batch jobs, which works on files."""

    async def run_at_once(work: Callable[..., T], *arguments: Any, **_: Any) -> T:
        await trio.lowlevel.checkpoint()
        return work(*arguments)

    shown = SimpleNamespace(time=_MockWallClock().now, monotonic=trio.current_time)
    with (
        patch.object(trio.to_thread, "run_sync", run_at_once),
        patch.object(slurm_run, "time", shown),
        patch.object(slurm_executor, "Inotify", lambda: watches),
    ):
        yield


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    found: list[BaseException] = []
    for error in group.exceptions:
        found.extend(_leaves(error) if isinstance(error, BaseExceptionGroup) else [error])
    return found


class _Simulation:
    def __init__(self, plan: Plan, faulty: Faulty) -> None:
        self.plan = plan
        self.faulty = faulty
        self.world: World | None = None
        self.watches = Watches()
        self.top = Path()
        self.ended_at = 0.0
        self._down_for = 0.1

    async def main(self) -> None:
        plan = self.plan
        async with trio.open_nursery() as nursery:
            clock = _MockWallClock()
            world = self.world = World(
                plan,
                nursery,
                MemoryLedger(clock=clock),
                clock,
                self.faulty,
                watches=self.watches,
                top=self.top,
            )
            for index in range(len(plan.jobs)):
                nursery.start_soon(world.upload, index)
            for fault in plan.faults:
                nursery.start_soon(world.strike, fault, self._kill_orchestrator)
            nursery.start_soon(world.keep_snapshots)
            nursery.start_soon(self._orchestrators, world)
            await self._end(world)
            nursery.cancel_scope.cancel()
        self.ended_at = trio.current_time()

    def _kill_orchestrator(self, down_for: float, cut: bool) -> None:
        assert self.world is not None
        if self.world.epoch is not None and self.world.epoch.alive:
            self._down_for = down_for
            self.world.epoch.kill(cut=cut)

    async def _orchestrators(self, world: World) -> None:
        """One life after the other, each with nothing but what is on the disk."""
        number = 0
        while True:
            number += 1
            world.disk.settle()
            epoch = world.epoch = Epoch(world, number)
            world.note(f"the orchestrator starts (life {number})")
            try:
                with epoch.scope:
                    await self._live(world, epoch)
            except* Dead:
                pass
            await sleep(self._down_for)
            self._down_for = 0.1

    async def _live(self, world: World, epoch: Epoch) -> None:
        plan = self.plan
        rng = random.Random(f"actors/{plan.seed}/{epoch.number}")
        addresses = tuple(
            NodeAddress(name, services=(SERVICE, KEEPER))
            for name, machine in world.machines.items()
            if machine.dial is None or name == machine.node_id  # there is one for all that open connections
        )
        quotas = plan.runs_per_user, plan.max_runs, plan.max_attempts
        limits = {
            name: ServiceLimits(name, *quotas, keep_slots=kept, addresses=addresses)
            for name, kept in ((SERVICE, 0), (KEEPER, plan.kept))
        }
        ledger, nodes = BoundLedger(epoch), BoundNodes(epoch)
        sender, getter = Mailbox("sender"), Mailbox("getter")

        seen: dict[str, NodeRef] = {}

        def tell_sender(message: object) -> None:
            dropped = epoch.dropped()
            if isinstance(message, NodeSeen):
                # That it was set back, be it before this life of ours, is seen once: mailboxes lose nothing
                # while both actors live.
                node_id = message.node.node_id
                known = seen.get(node_id)
                dropped = dropped and known is not None and not message.node.has_forgotten(known.moment)
                seen[node_id] = message.node
            if not dropped:
                sender.tell(message)

        queue, reservations = QueueManager(limits), Reservations(sender)
        make_sender = partial(
            Sender,
            ledger=ledger,
            nodes=nodes,
            queue=queue,
            pool=ServicePool(
                limits,
                rng,
                going=queue.going,
                waiting=queue.waiting,
                # No job counts as short, or each.
                short=math.inf if plan.ahead else 0.0,
                short_ends=0 if plan.ahead else 1,
            ),
            services=limits,
            rng=rng,
            hand_over=hand_over(epoch, getter.leave),
            reservations=reservations,
            tick=TICK,
        )
        make_getter = partial(
            Getter,
            ledger=ledger,
            nodes=nodes,
            addresses=lambda: addresses,
            services=limits,
            rng=rng,
            tell_sender=tell_sender if plan.drop_messages < 1.0 else sender.tell,
            tick=TICK,
            suspect_after=SUSPECT_AFTER,
            lost_after=LOST_AFTER,
            back_within=BACK_WITHIN,
            collect_within=COLLECT_WITHIN,
        )

        def hear(rows: tuple[Job, ...]) -> None:
            sender.tell(Committed(rows))
            getter.tell(Committed(rows))

        epoch.hear, epoch.upload = hear, partial(reservations.store, insert=ledger.insert)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(live, sender, make_sender)
            nursery.start_soon(live, getter, make_getter)

    async def _end(self, world: World) -> None:
        """All over and nothing left, within `PATIENCE` of the last thing that went wrong."""
        plan = self.plan
        last = max((j.at for j in plan.jobs), default=0.0)
        calm = max([f.at + (f.length if f.length < math.inf else 0.0) for f in plan.faults] + [last])
        limit = calm + PATIENCE + (QUEUED * len(plan.jobs) if any(plan.batch) else 0.0)
        await sleep_until(last)
        while trio.current_time() < limit:
            await sleep(2.0)
            if world.checks.all_over() and world.checks.nothing_left() is None:
                return
        raise Violation("unfinished", world.checks.unfinished())
