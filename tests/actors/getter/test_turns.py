"""For which jobs the Getter takes a turn: not for those that just came, or that the Sender sends, of which it
has nothing to do; and one for what it decides. Mock clock."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import trio
from support.data.ledgers import SetClock, new_job
from support.memory.memory_ledger import MemoryLedger
from trio.testing import MockClock, wait_all_tasks_blocked

from actors.domain.changes import Transition
from actors.domain.job import Attempt, Job
from actors.domain.node import NodeAddress
from actors.domain.status import Owner, Status
from actors.getter.getter import Getter
from actors.kernel.actor import Mailbox, live
from actors.messages import Committed
from actors.ports.nodes import Nodes

TICK = 3.0


class CountingGetter(Getter):
    turns = 0

    async def turn(self) -> None:
        self.turns += 1
        await super().turn()


@asynccontextmanager
async def living(ledger: MemoryLedger, box: Mailbox) -> AsyncIterator[CountingGetter]:
    made: list[CountingGetter] = []

    def make(mailbox: Mailbox, nursery: trio.Nursery) -> Getter:
        made.append(
            CountingGetter(
                mailbox,
                nursery,
                ledger=ledger,
                nodes=Nodes,  # type: ignore[arg-type]  # there is none to be asked
                addresses=tuple[NodeAddress, ...],
                services={},
                rng=random.Random(1),
                tell_sender=lambda message: None,
                tick=TICK,
            )
        )
        return made[0]

    async with trio.open_nursery() as nursery:
        nursery.start_soon(live, box, make)
        await wait_all_tasks_blocked()
        yield made[0]
        nursery.cancel_scope.cancel()


async def rows_of(ledger: MemoryLedger) -> tuple[Job, Job, Job]:
    """A job as it comes, as it is sent, and as its node has it."""
    came = await ledger.insert(new_job())
    attempt = Attempt("1" * 32, came.id, 1, "n")
    moves = (
        Transition(came.id, Status.QUEUED, Status.PROCESSING, "", attempt=attempt, by=Owner.SENDER),
        Transition(came.id, Status.PROCESSING, Status.SUBMITTED, "", key=attempt.key, by=Owner.SENDER),
    )
    sent, has = [answer.job for answer in [(await ledger.record([move]))[0] for move in moves]]
    assert sent is not None and has is not None
    return came, sent, has


async def test_it_is_not_woken_for_a_job_that_just_came_or_is_sent(autojump_clock: MockClock) -> None:
    box, ledger = Mailbox("getter"), MemoryLedger(clock=SetClock())
    async with living(ledger, box) as getter:
        came, sent, has = await rows_of(ledger)
        turns = getter.turns
        box.tell(Committed((came, sent)))
        await wait_all_tasks_blocked()
        assert (getter.turns, box.waiting) == (turns, 1)
        box.tell(Committed((has,)))
        await wait_all_tasks_blocked()
        assert (getter.turns, box.waiting) == (turns + 1, 0)


def others(came: Job, sent: Job, has: Job) -> Sequence[Job]:
    back = replace(sent, status=Status.QUEUED)
    changed = replace(came, updated_at=came.created_at + 1)
    return (back, changed, replace(has, status=Status.LOCKED))


@pytest.mark.parametrize("which", range(3))
async def test_it_is_woken_for_any_other_row(autojump_clock: MockClock, which: int) -> None:
    box, ledger = Mailbox("getter"), MemoryLedger(clock=SetClock())
    async with living(ledger, box) as getter:
        came, sent, has = await rows_of(ledger)
        turns = getter.turns
        box.tell(Committed((came, others(came, sent, has)[which])))
        await wait_all_tasks_blocked()
        assert getter.turns > turns and not box.waiting
