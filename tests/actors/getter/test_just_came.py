"""The Getter is not woken for jobs that just came, of which it has nothing to do. Mock clock."""

from __future__ import annotations

from dataclasses import replace

import trio
from support.data.ledgers import SetClock, new_job
from support.memory.memory_ledger import MemoryLedger
from trio.testing import MockClock

from actors.domain.job import Job
from actors.domain.status import Status
from actors.getter.getter import JUST_CAME, tell_committed
from actors.kernel.actor import Mailbox
from actors.messages import Committed

TICK = 3.0


async def waits(getter: Mailbox) -> float:
    began = trio.current_time()
    await getter.wait(TICK, lambda question: None)
    return trio.current_time() - began


async def make_job() -> Job:
    return await MemoryLedger(clock=SetClock()).insert(new_job())


async def test_it_hears_of_jobs_that_just_came_with_what_comes_next(autojump_clock: MockClock) -> None:
    getter, job, heard = Mailbox("getter"), await make_job(), list[object]()
    tell_committed(getter, Committed((job, job)))
    assert await waits(getter) == TICK
    tell_committed(getter, Committed((replace(job, status=Status.PROCESSING),)))
    assert await waits(getter) == 0
    getter.take(heard.append, lambda question: None)
    assert len(heard) == 2


async def test_it_is_woken_for_any_other_job(autojump_clock: MockClock) -> None:
    getter, job = Mailbox("getter"), await make_job()
    for other in (replace(job, status=Status.LOCKED), replace(job, updated_at=job.created_at + 1)):
        tell_committed(getter, Committed((job, other)))
        assert await waits(getter) == 0


async def test_it_is_woken_when_many_have_come(autojump_clock: MockClock) -> None:
    getter, job = Mailbox("getter"), await make_job()
    for _ in range(JUST_CAME):
        tell_committed(getter, Committed((job,)))
    assert await waits(getter) == TICK
    tell_committed(getter, Committed((job,)))
    assert await waits(getter) == 0
