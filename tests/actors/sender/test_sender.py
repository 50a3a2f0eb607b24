"""The Sender with a ledger in memory: how paused services reach it."""

from __future__ import annotations

import random
from collections.abc import Mapping
from functools import partial

import trio
from support.data.ledgers import SetClock, new_job
from support.memory.memory_ledger import MemoryLedger
from trio.testing import MockClock

from actors.domain.service import ServiceLimits, WaitReason
from actors.kernel.actor import Mailbox, live
from actors.messages import Committed, ServicesPaused, WhyWaiting
from actors.sender.sender import Sender
from orchestrator.scheduling.queue_manager import QueueManager
from orchestrator.scheduling.service_pool import ServicePool

LIMITS = {"example": ServiceLimits("example")}


class PausingLedger(MemoryLedger):
    """One with rows of paused services."""

    def __init__(self) -> None:
        super().__init__(clock=SetClock())
        self.paused: dict[str, tuple[str, float]] = {}

    async def pauses(self) -> Mapping[str, tuple[str, float]]:
        await trio.lowlevel.checkpoint()
        return self.paused


async def test_a_pause_reaches_it_as_a_message_and_where_that_is_lost_as_a_row(
    autojump_clock: MockClock,
) -> None:
    ledger, sender = PausingLedger(), Mailbox("sender")
    make = partial(
        Sender,
        ledger=ledger,
        nodes=None,  # type: ignore[arg-type]  # nothing is sent
        services=LIMITS,
        rng=random.Random(1),
        hand_over=lambda message: None,
    )

    async def why() -> WaitReason:
        (waiting,) = await sender.ask(WhyWaiting((job.id,)), deadline=1.0)
        assert waiting is not None
        return waiting.reason

    def fresh(mailbox: Mailbox, nursery: trio.Nursery) -> Sender:
        return make(mailbox, nursery, queue=QueueManager(LIMITS), pool=ServicePool(LIMITS, random.Random(1)))

    ledger.paused = {"example": ("maintenance", 1.0)}
    async with trio.open_nursery() as nursery:
        await nursery.start(live, sender, fresh)
        job = await ledger.insert(new_job())
        sender.tell(Committed((job,)))
        assert await why() is WaitReason.PAUSED, "ordered before this life"
        ledger.paused = {}
        sender.tell(ServicesPaused({}))
        assert await why() is WaitReason.NO_NODE
        ledger.paused = {"example": ("maintenance", 1.0)}
        assert await why() is WaitReason.NO_NODE
        await trio.sleep(1.0)
        assert await why() is WaitReason.PAUSED, "read with the tick"
        nursery.cancel_scope.cancel()
