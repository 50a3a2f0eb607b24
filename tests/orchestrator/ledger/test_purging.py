"""Forgetting jobs whose time is over: every row of theirs, nothing else, and no sum."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import trio
from support.data.ledgers import SetClock, by_owner, new_batch, new_job, open_ledger, walk
from support.memory.memory_ledger import MemoryLedger

from actors.domain.changes import JobDetails, MoveAttempt
from actors.domain.job import AttemptState, Job
from actors.domain.status import Status
from actors.ports.callbacks import CallbackStatus, DeliveryOutcome, subject_of
from orchestrator.ledger.errors import run_on_ledger
from orchestrator.ledger.ledger import SqliteLedger
from orchestrator.ledger.tables.usage import UsageFilter

ENDED = (Status.PROCESSING, Status.SUBMITTED, Status.COMPLETED)
Ledger = SqliteLedger | MemoryLedger


@pytest.fixture(params=["sqlite", "memory"])
async def ledger(request: pytest.FixtureRequest, clock: SetClock, tmp_path: Path) -> AsyncIterator[Ledger]:
    if request.param == "memory":
        yield MemoryLedger(clock=clock)
        return
    async with open_ledger(tmp_path / "db", clock) as opened:
        yield opened


async def cleaned(ledger: Ledger, *, released: bool = True, **more: Any) -> Job:
    job = await walk(ledger, await ledger.insert(new_job(**more)), *ENDED)
    assert job.attempt is not None
    if released:
        await ledger.record([MoveAttempt(job.attempt.key, AttemptState.RELEASED)])
    (answer,) = await ledger.record([by_owner(job.id, Status.COMPLETED, Status.CLEANED, "old")])
    assert answer.job is not None
    return answer.job


async def test_only_cleaned_jobs_that_ended_before_and_are_owed_nothing_are_forgotten(
    ledger: Ledger, clock: SetClock
) -> None:
    old = await cleaned(ledger)
    owed = await cleaned(ledger, released=False)
    kept = await walk(ledger, await ledger.insert(new_job()), *ENDED)
    clock.time += 100
    young = await cleaned(ledger)
    assert await ledger.purge(clock.time - 50, 10) == 1
    assert await ledger.get(old.id) is None
    assert [await ledger.history(old.id), await ledger.attempts(old.id)] == [[], []]
    for job in (owed, kept, young):
        assert await ledger.get(job.id) is not None
    assert await ledger.purge(clock.time - 50, 10) == 0
    assert (await ledger.insert(new_job())).id == young.id + 1, "no id is given twice"


async def test_no_more_than_the_limit_go_at_once_oldest_first(ledger: Ledger, clock: SetClock) -> None:
    jobs = []
    for _ in range(5):
        jobs.append(await cleaned(ledger))
        clock.time += 1
    assert [await ledger.purge(clock.time, 2) for _ in range(4)] == [2, 2, 1, 0]
    last = await cleaned(ledger)
    assert [await ledger.get(job.id) for job in jobs] == [None] * 5 and await ledger.get(last.id) is not None


async def test_the_last_id_is_not_given_again_though_its_row_is_gone(ledger: Ledger, clock: SetClock) -> None:
    job = await cleaned(ledger, idempotency_key="k", fingerprint="f")
    assert await ledger.purge(clock.time + 1, 10) == 1
    again = await ledger.insert(new_job(idempotency_key="k", fingerprint="other"))
    assert again.id == job.id + 1


async def test_sums_stay_and_counts_and_tables_follow(tmp_path: Path, clock: SetClock) -> None:
    path = tmp_path / "db"
    async with open_ledger(path, clock) as ledger:
        details = JobDetails("name", ("a", "b"), "https://portal.example/told")
        await cleaned(ledger, details=details)
        used = await ledger.queries.usage(UsageFilter())
        assert [one.completed for one in used] == [1]
        assert await ledger.purge(clock.time + 1, 10) == 0, "who is to be told of it is told first"
        with closing(sqlite3.connect(path)) as other, other:
            other.execute("UPDATE callbacks SET status = 'delivered'")
        assert await ledger.purge(clock.time + 1, 10) == 1
        assert await ledger.queries.usage(UsageFilter()) == used
        assert await ledger.queries.job_counts() == {}
        assert set((await ledger.queries.callback_counts()).values()) == {0}
    with closing(sqlite3.connect(path)) as other:
        for table in ("jobs", "attempts", "history", "job_tags", "callbacks"):
            assert other.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,), table
        assert other.execute("PRAGMA foreign_key_check").fetchall() == []


async def test_a_batch_is_forgotten_once_it_was_told_and_counts_jobs_that_were_forgotten_before(
    tmp_path: Path, clock: SetClock
) -> None:
    async with open_ledger(tmp_path / "db", clock) as ledger:
        first, last = [await ledger.insert(new_job()) for _ in range(2)]
        order = new_batch(first.id, last.id)
        await ledger.order_batch(order)
        ended = await walk(ledger, first, Status.FAILED, Status.CLEANED)
        assert ended.ended_at is not None
        clock.time += 100
        assert await ledger.purge(clock.time - 50, 10) == 1 and await ledger.get(first.id) is None
        await walk(ledger, last, *ENDED)
        batch = await ledger.queries.batch(order.id)
        assert batch is not None
        assert (batch.jobs, batch.left, batch.completed, batch.failed) == (2, 0, 1, 1)
        assert batch.not_completed == (first.id,)
        clock.time += 100
        assert await ledger.purge(clock.time - 50, 10) == 0, "it is told first"
        (pending,) = await ledger.pending_callbacks(0)
        await ledger.record_delivery(DeliveryOutcome(pending.subject, CallbackStatus.DELIVERED, 1))
        assert await ledger.purge(clock.time - 150, 10) == 0
        assert await ledger.purge(clock.time - 50, 10) == 1
        assert await ledger.queries.batch(order.id) is None
        assert set((await ledger.queries.callback_counts()).values()) == {0}


async def test_a_callback_that_comes_after_all_others_were_forgotten_is_read(
    tmp_path: Path, clock: SetClock
) -> None:
    async with open_ledger(tmp_path / "db", clock) as ledger:
        details = JobDetails(callback_url="https://portal.example/told")
        await cleaned(ledger, details=details)
        (before,) = await ledger.pending_callbacks(0)
        await ledger.record_delivery(DeliveryOutcome(before.subject, CallbackStatus.DELIVERED, 1))
        assert await ledger.purge(clock.time + 1, 10) == 1
        later = await cleaned(ledger, details=details)
        (found,) = await ledger.pending_callbacks(before.seq)
        assert found.subject == subject_of(later.id)


async def test_nothing_is_walked_through_to_forget_a_job(tmp_path: Path) -> None:
    """By what SQLite counts of its own steps: a walk through 2,000 jobs would show."""

    async def steps(jobs: int) -> int:
        path = tmp_path / f"{jobs}"
        counted = 0

        def count() -> int:
            nonlocal counted
            counted += 1
            return 0

        async with open_ledger(path) as ledger:
            async with trio.open_nursery() as nursery:
                for _ in range(jobs):
                    nursery.start_soon(ledger.insert, new_job(details=JobDetails(None, ("t",))))
            await cleaned(ledger, details=JobDetails(None, ("t",)))
            await run_on_ledger(ledger._connection, lambda db: db.set_progress_handler(count, 10))
            assert await ledger.purge(SetClock().time + 1, 10) == 1
        return counted

    few, many = await steps(20), await steps(2000)
    assert many < 2 * few + 50, (few, many)
