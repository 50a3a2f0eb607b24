"""An AutoScaler with a pool, a provider and records around it, under the mock clock."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import trio
from support.memory.fake_pool import FakePool
from support.memory.fake_provider import FakeProvider
from support.memory.machine_records import MemoryMachines

from actors.autoscaler.autoscaler import AutoScaler
from actors.domain.scaling import MachineRecord, MachineState, ScalingLimits, ServiceScaling
from actors.kernel.actor import Mailbox, live
from actors.messages import ScalingStatus
from orchestrator.scaling.policy import decide

LIMITS = ScalingLimits(
    "dock",
    max_nodes=4,
    target_wait=5.0,
    idle_timeout=60.0,
    cooldown=30.0,
    boot_timeout=120.0,
    max_booting=4,
    boot_backoff=20.0,
    boot_backoff_most=200.0,
)
START = 1_700_000_000.0


class TrioWall:
    """A wall clock that goes with the mock clock, and may be told to jump."""

    def __init__(self) -> None:
        self.jump = 0.0

    def now(self) -> float:
        return START + trio.current_time() + self.jump


@dataclass
class House:
    nursery: trio.Nursery
    pool: FakePool
    provider: FakeProvider
    records: MemoryMachines
    wall: TrioWall
    rng: random.Random
    limits: ScalingLimits
    scaler: Mailbox | None = None
    scope: trio.CancelScope | None = None

    async def start(self, **more: Any) -> Mailbox:
        """A life of the AutoScaler begins; one that is there is killed."""
        if self.scope is not None:
            self.scope.cancel()
        make = partial(
            AutoScaler,
            pool=self.pool,
            ledger=self.records,
            providers={self.limits.service: self.provider},
            limits=[self.limits],
            decide=decide,
            clock=self.wall,
            rng=self.rng,
            **more,
        )
        scope = self.scope = trio.CancelScope()

        async def life(task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
            with scope:
                await live(mailbox, make, task_status=task_status)

        mailbox = self.scaler = Mailbox("autoscaler")
        await self.nursery.start(life)
        return mailbox

    async def status(self) -> ServiceScaling:
        assert self.scaler is not None
        (status,) = await self.scaler.ask(ScalingStatus(), deadline=60.0)
        return status

    def decided(self, action: str) -> list[str]:
        return [one.subject for one in self.records.noted if one.action == action]

    def states(self) -> list[MachineState]:
        return [row.state for row in self.records.rows.values()]

    def record(self, token: str, state: MachineState, *, age: float = 0.0, **more: Any) -> MachineRecord:
        """A record that an earlier life has left."""
        row = MachineRecord(token, "dock", state, self.wall.now() - age)
        row = self.records.rows[token] = replace(row, **more)
        return row


@asynccontextmanager
async def house(*, seed: int = 0, slots: int = 1, **limits: Any) -> AsyncIterator[House]:
    async with trio.open_nursery() as nursery:
        pool = FakePool(nursery, slots=slots)
        provider = FakeProvider(nursery, boot=lambda token: boot(pool, token), ended=pool.down)
        chosen = replace(LIMITS, slots_per_node=slots, **limits)
        made = House(nursery, pool, provider, MemoryMachines(), TrioWall(), random.Random(seed), chosen)
        yield made
        nursery.cancel_scope.cancel()


def boot(pool: FakePool, token: str) -> None:
    pool.up(token)
