"""The real table of callbacks and the one of the tests keep the same promises; and the real one is quick."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.data.ledgers import SetClock, new_batch, new_job, open_ledger, walk
from support.memory.memory_callbacks import MemoryCallbacks

from actors.domain.changes import JobDetails
from actors.domain.status import Status
from actors.ports.callbacks import CallbackLedger, CallbackStatus, DeliveryOutcome, Subject, subject_of
from actors.store.sqlite_thread import run_on_connection

URL = "https://portal.example.org/done"
NOW = 1_700_000_000.0


@dataclass
class Kept:
    """`end` ends one more job, or batch, that is to be told of."""

    callbacks: CallbackLedger
    end: Callable[[], Awaitable[Subject]]


@asynccontextmanager
async def real(path: Path) -> AsyncIterator[Kept]:
    async with open_ledger(path / "db.sqlite", SetClock(NOW)) as ledger:

        async def end() -> Subject:
            await ledger.insert(new_job())  # one that asked for nothing
            job = await ledger.insert(new_job(details=JobDetails(callback_url=URL)))
            return subject_of((await walk(ledger, job, Status.FAILED)).id)

        yield Kept(ledger, end)


@asynccontextmanager
async def of_batches(path: Path) -> AsyncIterator[Kept]:
    async with open_ledger(path / "db.sqlite", SetClock(NOW)) as ledger:

        async def end() -> Subject:
            job, other = await ledger.insert(new_job()), await ledger.insert(new_job())
            batch = await ledger.order_batch(new_batch(job.id, other.id, callback_url=URL))
            await walk(ledger, job, Status.FAILED)
            await walk(ledger, other, Status.KILLED)
            return Subject("batch", batch.id)

        yield Kept(ledger, end)


@asynccontextmanager
async def fake(path: Path) -> AsyncIterator[Kept]:
    callbacks = MemoryCallbacks()

    async def end() -> Subject:
        subject = subject_of(len(callbacks.rows) + 1)
        callbacks.end(subject, URL, NOW)
        return subject

    yield Kept(callbacks, end)


@pytest.mark.parametrize("kind", [real, of_batches, fake])
async def test_what_is_pending_is_told_in_order_from_anywhere(tmp_path: Path, kind: type) -> None:
    async with kind(tmp_path) as kept:
        ids = [await kept.end() for _ in range(5)]
        all_of_them = await kept.callbacks.pending_callbacks(0)
        assert [one.subject for one in all_of_them] == ids
        assert [one.seq for one in all_of_them] == sorted({one.seq for one in all_of_them})
        for one in all_of_them:
            assert (one.url, one.since, one.next_at, one.tries) == (URL, NOW, NOW, 0)
        assert await kept.callbacks.pending_callbacks(0, 2) == all_of_them[:2]
        assert await kept.callbacks.pending_callbacks(all_of_them[1].seq, 2) == all_of_them[2:4]
        assert await kept.callbacks.pending_callbacks(all_of_them[-1].seq) == []


@pytest.mark.parametrize("kind", [real, of_batches, fake])
async def test_a_failed_try_is_kept_and_what_is_settled_is_settled(tmp_path: Path, kind: type) -> None:
    async with kind(tmp_path) as kept:
        first, second, third = [await kept.end() for _ in range(3)]
        note = kept.callbacks.record_delivery
        await note(DeliveryOutcome(first, CallbackStatus.PENDING, 1, "HTTP 500", NOW + 5))
        await note(DeliveryOutcome(second, CallbackStatus.DELIVERED, 1))
        await note(DeliveryOutcome(third, CallbackStatus.GIVEN_UP, 1, "HTTP 410"))
        await note(DeliveryOutcome(third, CallbackStatus.PENDING, 2, "late", NOW + 5))
        (left,) = await kept.callbacks.pending_callbacks(0)
        assert (left.subject, left.tries, left.next_at, left.since) == (first, 1, NOW + 5, NOW)
        await note(DeliveryOutcome(subject_of(99), CallbackStatus.DELIVERED, 1))  # of a job that nobody knows


async def test_they_are_counted_as_they_come_and_settle(tmp_path: Path) -> None:
    async with open_ledger(tmp_path / "db.sqlite") as ledger:
        assert await ledger.queries.callback_counts() == {"pending": 0, "delivered": 0, "given_up": 0}
        jobs = [await ledger.insert(new_job(details=JobDetails(callback_url=URL))) for _ in range(3)]
        ended = [await walk(ledger, job, Status.FAILED) for job in jobs]
        await walk(ledger, ended[0], Status.CLEANED)
        await ledger.record_delivery(
            DeliveryOutcome(subject_of(jobs[0].id), CallbackStatus.PENDING, 1, "x", 1.0)
        )
        await ledger.record_delivery(DeliveryOutcome(subject_of(jobs[0].id), CallbackStatus.DELIVERED, 2))
        await ledger.record_delivery(DeliveryOutcome(subject_of(jobs[1].id), CallbackStatus.GIVEN_UP, 2, "x"))
        assert await ledger.queries.callback_counts() == {"pending": 1, "delivered": 1, "given_up": 1}


async def test_no_query_reads_all_callbacks(tmp_path: Path) -> None:
    statements: list[str] = []
    async with open_ledger(tmp_path / "db.sqlite") as ledger:
        for connection in (ledger._connection, ledger._reader):
            connection._real_connection.set_trace_callback(statements.append)
        job = await ledger.insert(new_job(details=JobDetails(callback_url=URL)))
        await walk(ledger, job, Status.FAILED)
        await ledger.pending_callbacks(0)
        await ledger.record_delivery(DeliveryOutcome(subject_of(job.id), CallbackStatus.PENDING, 1, "x", 1.0))
        await ledger.queries.callback(job.id)

        def plans(db: sqlite3.Connection) -> dict[str, str]:
            asked = [
                one for one in statements if " callbacks" in one and one.startswith(("SELECT", "UPDATE"))
            ]
            return {
                one: " | ".join(row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {one}")) for one in asked
            }

        for connection in (ledger._connection, ledger._reader):
            connection._real_connection.set_trace_callback(None)
        found = await run_on_connection(ledger._reader, plans)
        assert len(found) == 3
        for statement, plan in found.items():
            assert "SCAN" not in plan and "TEMP B-TREE" not in plan, (statement, plan)
