"""Each row once and in order, whatever comes late, twice or never as a message."""

from __future__ import annotations

import logging
import random
from functools import partial

import pytest
import trio
from support.data.ledgers import SetClock, new_job, walk
from support.memory.memory_ledger import MemoryLedger
from trio.testing import MockClock

from actors.domain.job import Job
from actors.domain.status import Status
from actors.ledger_cursor import LedgerBackoff, LedgerCursor
from actors.ports.ledger import LedgerError

TICK = 0.5
WAY = (Status.PROCESSING, Status.QUEUED, Status.PROCESSING, Status.SUBMITTED, Status.RUNNING, Status.KILLED)


@pytest.mark.parametrize("seed", range(30))
async def test_each_row_is_taken_in_once_and_none_after_a_newer(autojump_clock: MockClock, seed: int) -> None:
    rng, ledger = random.Random(seed), MemoryLedger(clock=SetClock())
    rows: list[Job] = []  # every one that was ever committed
    for _ in range(rng.randrange(4)):
        rows.append(await ledger.insert(new_job()))
    cursor, taken = LedgerCursor(ledger, TICK), dict[int, int]()
    live = await cursor.begin(queued=True)
    for job in (*live.jobs, *[job for job in rows if any(job.order in one.orders for one in live.queued)]):
        taken[job.id] = job.change_seq

    def take(job: Job) -> None:
        if cursor.is_new(job):
            assert job.change_seq > taken.get(job.id, 0)
            taken[job.id] = job.change_seq

    for _ in range(150):
        match rng.randrange(5):
            case 0:
                rows.append(await ledger.insert(new_job()))
            case 1 if rows:
                job = await ledger.get(rng.choice(rows).id)
                assert job is not None
                done = sum(entry.source is not None for entry in await ledger.history(job.id))
                if done < len(WAY):
                    rows.append(await walk(ledger, job, WAY[done]))
            case 2:
                await trio.sleep(TICK)
                assert await cursor.catch_up(take, trio.current_time())
                assert taken == {job.id: job.change_seq for job in await ledger.changes(0)}
            case _ if rows:
                take(rng.choice(rows[-10:] if rng.random() < 0.8 else rows))
    await trio.sleep(TICK)
    await cursor.catch_up(take, trio.current_time())
    assert not cursor._seen, "nothing is kept of what was read"


async def test_it_keeps_no_more_than_what_came_since_the_last_reading(autojump_clock: MockClock) -> None:
    ledger = MemoryLedger(clock=SetClock())
    cursor = LedgerCursor(ledger, TICK)
    await cursor.begin()
    rows = [await ledger.insert(new_job()) for _ in range(700)]
    assert all(map(cursor.is_new, rows))
    assert not await cursor.catch_up(partial(pytest.fail), trio.current_time())
    await trio.sleep(TICK)
    late = await ledger.insert(new_job())
    assert cursor.is_new(late) and not cursor.is_new(rows[0])
    assert await cursor.catch_up(lambda job: None, trio.current_time())
    assert not cursor._seen and not any(map(cursor.is_new, [*rows, late]))


async def test_a_pause_grows_and_is_not_ended_by_who_asks_the_ledger_for_nothing(
    autojump_clock: MockClock,
) -> None:
    backoff = LedgerBackoff(random.Random(1), logging.getLogger("test"))
    for _ in range(8):
        await trio.sleep(5.0)
        with backoff:
            raise LedgerError("it is down")
        with backoff:
            pass  # a turn in which there was nothing to ask
    await trio.sleep(1.0)
    assert backoff.lasts
    await trio.sleep(4.0)
    assert not backoff.lasts
    with backoff:
        pass
    with backoff:
        raise LedgerError("it is down again")
    await trio.sleep(0.2)
    assert not backoff.lasts, "it begins anew after what went well"
