"""One run of a plan: the real Sender and Getter, queue manager and pool, under a mock clock, on a simulated
world. The same plan gives the same run, to the letter of its trace."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from unittest.mock import patch

import trio
from simulation.checks import BACK_WITHIN
from simulation.clock import VirtualClock, sleep, sleep_until
from simulation.plan import SERVICE, Plan
from simulation.violation import Dead, Violation
from simulation.world import COLLECT_WITHIN, BoundLedger, BoundNodes, Epoch, Faulty, World, hand_over
from support.memory.memory_ledger import MemoryLedger

from actors.domain.job import Job
from actors.domain.node import NodeAddress
from actors.domain.service import ServiceLimits
from actors.getter.getter import Getter
from actors.kernel.actor import Mailbox, live
from actors.messages import Committed
from actors.sender.sender import Sender
from orchestrator.nodes.native import results
from orchestrator.scheduling.queue_manager import QueueManager
from orchestrator.scheduling.service_pool import ServicePool

TICK = 5.0
SUSPECT_AFTER = 15.0
LOST_AFTER = 60.0
PATIENCE = 600.0
"""Virtual seconds after the last fault within which everything must have ended."""


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
    with patch.object(results, "UNTOLD", 1000), broken():
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
        self.ended_at = 0.0
        self._down_for = 0.1

    async def main(self) -> None:
        plan = self.plan
        async with trio.open_nursery() as nursery:
            clock = _MockWallClock()
            world = self.world = World(plan, nursery, MemoryLedger(clock=clock), clock, self.faulty)
            for index in range(len(plan.jobs)):
                nursery.start_soon(world.upload, index)
            for fault in plan.faults:
                nursery.start_soon(world.strike, fault, self._kill_orchestrator)
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
        addresses = tuple(NodeAddress(name, services=(SERVICE,)) for name in world.machines)
        limits = {
            SERVICE: ServiceLimits(
                SERVICE, plan.runs_per_user, plan.max_runs, plan.max_attempts, addresses=addresses
            )
        }
        ledger, nodes = BoundLedger(epoch), BoundNodes(epoch)
        sender, getter = Mailbox("sender"), Mailbox("getter")

        def tell_sender(message: object) -> None:
            if not epoch.dropped():
                sender.tell(message)

        make_sender = partial(
            Sender,
            ledger=ledger,
            nodes=nodes,
            queue=QueueManager(limits),
            pool=ServicePool(limits, rng),
            services=limits,
            rng=rng,
            hand_over=hand_over(epoch, getter.tell),
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

        epoch.hear = hear
        async with trio.open_nursery() as nursery:
            nursery.start_soon(live, sender, make_sender)
            nursery.start_soon(live, getter, make_getter)

    async def _end(self, world: World) -> None:
        """All over and nothing left, within `PATIENCE` of the last thing that went wrong."""
        plan = self.plan
        last = max((j.at for j in plan.jobs), default=0.0)
        calm = max([f.at + (f.length if f.length < math.inf else 0.0) for f in plan.faults] + [last])
        limit = calm + PATIENCE
        await sleep_until(last)
        while trio.current_time() < limit:
            await sleep(2.0)
            if world.checks.all_over() and world.checks.nothing_left() is None:
                return
        raise Violation("unfinished", world.checks.unfinished())
