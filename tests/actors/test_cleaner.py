"""The Cleaner: what is old goes, row first; a clock that jumps cleans nothing. Under the mock clock."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial

import trio
from support.data.ledgers import SetClock, new_job, walk
from support.memory.memory_ledger import MemoryLedger
from trio.testing import MockClock

from actors.cleaner import Cleaner
from actors.domain.changes import MoveAttempt
from actors.domain.job import AttemptState, Job
from actors.domain.status import Status
from actors.kernel.actor import Mailbox, live
from actors.messages import KeepingChanged
from actors.ports.storage import StorageError

ENDED = (Status.PROCESSING, Status.SUBMITTED, Status.COMPLETED)


class FakeStorage:
    """Directories with an age; some are being read."""

    def __init__(self) -> None:
        self.ages: dict[str, float] = {}
        self.read: set[str] = set()
        self.noted: dict[str, int] = {}

    async def discard(self, storage_key: str) -> bool:
        await trio.lowlevel.checkpoint()
        if storage_key == "stuck":
            raise StorageError("stuck: input/output error")
        if storage_key in self.read:
            return False
        self.ages.pop(storage_key, None)
        return True

    async def noted_id(self, storage_key: str) -> int | None:
        await trio.lowlevel.checkpoint()
        return self.noted.get(storage_key)

    async def directories(self) -> Sequence[tuple[str, float]]:
        await trio.lowlevel.checkpoint()
        return list(self.ages.items())


class House:
    def __init__(self) -> None:
        self.clock = SetClock()
        self.ledger = MemoryLedger(clock=self.clock)
        self.storage = FakeStorage()
        self.cleaner = Mailbox("cleaner")

    async def job(self, *path: Status) -> Job:
        job = await walk(self.ledger, await self.ledger.insert(new_job()), *path)
        self.storage.ages[job.storage_key] = 0.0
        return job

    async def status(self, job: Job) -> Status:
        row = await self.ledger.get(job.id)
        assert row is not None
        return row.status


@asynccontextmanager
async def cleaned(max_age: float = 1000.0, keep_rows: float = 0.0) -> AsyncIterator[House]:
    house = House()
    make = partial(
        Cleaner,
        ledger=house.ledger,
        storage=house.storage,
        clock=house.clock,
        max_age=max_age,
        keep_rows=keep_rows,
        patience=600.0,
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(live, house.cleaner, make)
        yield house
        nursery.cancel_scope.cancel()


async def test_another_age_holds_from_when_it_was_told(autojump_clock: MockClock) -> None:
    async with cleaned() as house:
        old = await house.job(*ENDED)
        house.clock.time += 501
        await trio.sleep(800)
        assert await house.status(old) is Status.COMPLETED
        house.cleaner.tell(KeepingChanged(max_age=500.0, keep_rows=0.0, audit_keep=0.0))
        await trio.sleep(400)
        assert await house.status(old) is Status.COMPLETED, "the clock is believed as long as ever"
        await trio.sleep(200)
        assert await house.status(old) is Status.CLEANED


async def test_what_ended_long_ago_goes_and_its_row_stays(autojump_clock: MockClock) -> None:
    async with cleaned() as house:
        old = await house.job(*ENDED)
        house.clock.time += 500
        young = await house.job(*ENDED)
        running = await house.job(Status.PROCESSING, Status.SUBMITTED, Status.RUNNING)
        house.clock.time += 501
        await trio.sleep(800)
        assert await house.status(old) is Status.CLEANED
        assert await house.status(young) is Status.COMPLETED
        assert await house.status(running) is Status.RUNNING
        assert set(house.storage.ages) == {young.storage_key, running.storage_key}


async def test_a_clock_that_jumps_for_a_moment_cleans_nothing(autojump_clock: MockClock) -> None:
    async with cleaned() as house:
        job = await house.job(*ENDED)
        await trio.sleep(100)
        house.clock.time += 10_000_000
        await trio.sleep(500)
        house.clock.time -= 10_000_000
        await trio.sleep(200)
        house.clock.time += 10_000_000
        await trio.sleep(500)
        assert await house.status(job) is Status.COMPLETED


async def test_rows_go_where_they_are_not_kept_and_a_clock_that_jumps_takes_none(
    autojump_clock: MockClock,
) -> None:
    async with cleaned(keep_rows=5000.0) as house:
        jobs = [await house.job(*ENDED) for _ in range(450)]
        for job in jobs:
            assert job.attempt is not None
            await house.ledger.record([MoveAttempt(job.attempt.key, AttemptState.RELEASED)])
        house.clock.time += 2000
        await trio.sleep(800)
        assert {await house.status(job) for job in jobs} == {Status.CLEANED}
        house.clock.time += 10_000_000
        await trio.sleep(500)
        house.clock.time -= 10_000_000
        await trio.sleep(800)
        assert {await house.status(job) for job in jobs} == {Status.CLEANED}
        house.clock.time += 3100
        await trio.sleep(800)
        assert {await house.ledger.get(job.id) for job in jobs} == {None}


async def test_more_than_a_page_is_cleaned_in_one_go(autojump_clock: MockClock) -> None:
    async with cleaned() as house:
        jobs = [await house.job(*ENDED) for _ in range(450)]
        house.clock.time += 2000
        await trio.sleep(800)
        assert {await house.status(job) for job in jobs} == {Status.CLEANED}
        assert house.storage.ages == {}


async def test_what_is_being_read_is_skipped_and_comes_again(autojump_clock: MockClock) -> None:
    async with cleaned() as house:
        job = await house.job(*ENDED)
        house.storage.read.add(job.storage_key)
        house.clock.time += 2000
        await trio.sleep(800)
        assert job.storage_key in house.storage.ages
        house.storage.read.clear()
        house.storage.ages[job.storage_key] = 4000.0
        await trio.sleep(800)
        assert house.storage.ages == {}


async def test_a_directory_without_a_job_goes_after_a_grace(autojump_clock: MockClock) -> None:
    async with cleaned() as house:
        job = await house.job()
        house.storage.ages |= {"orphan": 7200.0, "just-made": 10.0, job.storage_key: 7200.0}
        await trio.sleep(700)
        assert set(house.storage.ages) == {"just-made", job.storage_key}


async def test_a_directory_that_cannot_be_deleted_keeps_no_other_from_it(autojump_clock: MockClock) -> None:
    async with cleaned() as house:
        house.storage.ages |= {"stuck": 7200.0, "orphan": 7200.0}
        await trio.sleep(700)
        assert set(house.storage.ages) == {"stuck"}


async def test_a_job_that_a_restored_ledger_does_not_know_is_nobodys_to_delete(
    autojump_clock: MockClock,
) -> None:
    async with cleaned() as house:
        job = await house.job()
        house.storage.ages |= {"newer": 7200.0, "reused": 7200.0, "never-a-job": 7200.0}
        house.storage.noted |= {"newer": 77, "reused": job.id}
        await trio.sleep(700)
        assert set(house.storage.ages) == {"newer", "reused", job.storage_key}
