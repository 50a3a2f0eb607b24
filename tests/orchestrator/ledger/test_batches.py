"""Batches: whatever comes in whatever order, one callback is written, with the last end."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from support.data.ledgers import SetClock, by_owner, new_batch, new_job, open_ledger, walk

from actors.domain.job import Job
from actors.domain.status import Status
from actors.ports.callbacks import Subject
from orchestrator.ledger import schema
from orchestrator.ledger.batch_orders import order_batch
from orchestrator.ledger.errors import CrowdedJob, IdempotencyConflict, UnknownJobs
from orchestrator.ledger.ledger import SqliteLedger
from orchestrator.ledger.tables.batches import MOST_NAMED, MOST_OF_A_JOB, BatchView

S = Status
RUNNING = (S.PROCESSING, S.SUBMITTED, S.RUNNING)
ENDS = (S.COMPLETED, S.FAILED, S.INVALID, S.KILLED)


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[SqliteLedger]:
    async with open_ledger(tmp_path / "db.sqlite") as opened:
        yield opened


async def told(ledger: SqliteLedger) -> list[Subject]:
    return [one.subject for one in await ledger.pending_callbacks(0)]


async def state(ledger: SqliteLedger, batch_id: str) -> BatchView:
    found = await ledger.queries.batch(batch_id)
    assert found is not None
    return found


async def running(ledger: SqliteLedger, number: int, **more: Any) -> list[Job]:
    return [await walk(ledger, await ledger.insert(new_job(**more)), *RUNNING) for _ in range(number)]


async def test_the_last_end_is_told_and_no_other(ledger: SqliteLedger) -> None:
    jobs = await running(ledger, 4)
    batch = await ledger.order_batch(new_batch(*(job.id for job in jobs)))
    assert (batch.jobs, batch.left, batch.ended_at, batch.callback.tries) == (4, 4, None, 0)
    for job, end in zip(jobs[:3], ENDS, strict=False):
        await walk(ledger, job, end)
        assert await told(ledger) == [] and (await state(ledger, batch.id)).ended_at is None
    await walk(ledger, jobs[3], S.KILLED)
    (pending,) = await ledger.pending_callbacks(0)
    assert (pending.subject, pending.url) == (Subject("batch", batch.id), batch.callback.url)
    shown = await state(ledger, batch.id)
    assert (shown.left, shown.completed, shown.failed, shown.invalid, shown.killed) == (0, 1, 1, 1, 1)
    assert shown.not_completed == tuple(job.id for job in jobs[1:])
    assert shown.ended_at == pending.since
    await walk(ledger, await ledger.insert(new_job()), S.FAILED)  # one of no batch
    assert await told(ledger) == [Subject("batch", batch.id)]


async def test_one_whose_jobs_had_all_ended_is_told_at_once(tmp_path: Path) -> None:
    clock = SetClock()
    async with open_ledger(tmp_path / "db.sqlite", clock) as ledger:
        one, other = await running(ledger, 2)
        await walk(ledger, one, S.FAILED, S.CLEANED)
        await walk(ledger, other, S.COMPLETED)
        clock.time += 100 * 86_400
        batch = await ledger.order_batch(new_batch(other.id, one.id))
        assert (batch.left, batch.completed, batch.failed, batch.not_completed) == (0, 1, 1, (one.id,))
        (pending,) = await ledger.pending_callbacks(0)
        assert pending.since == batch.ended_at == clock.time, "it has all of its day for tries"


async def test_an_end_by_verdict_a_requeue_and_a_cleaning_count_once(ledger: SqliteLedger) -> None:
    (job,) = await running(ledger, 1)
    batch = await ledger.order_batch(new_batch(job.id))
    job = await walk(ledger, job, S.QUEUED, *RUNNING)
    assert (await state(ledger, batch.id)).left == 1
    job = await walk(ledger, job, S.COMPLETED, S.CLEANED)
    shown = await state(ledger, batch.id)
    assert (shown.left, shown.completed) == (0, 1) and len(await told(ledger)) == 1


async def test_a_job_of_several_batches_counts_for_each(ledger: SqliteLedger) -> None:
    first, last = await running(ledger, 2)
    both = await ledger.order_batch(new_batch(first.id, last.id))
    alone = await ledger.order_batch(new_batch(first.id))
    again = await ledger.order_batch(new_batch(first.id))
    await walk(ledger, first, S.COMPLETED)
    assert set(await told(ledger)) == {Subject("batch", alone.id), Subject("batch", again.id)}
    await walk(ledger, last, S.COMPLETED)
    assert len(await told(ledger)) == 3 and (await state(ledger, both.id)).completed == 2


async def test_an_order_is_whole_or_not_at_all(ledger: SqliteLedger, tmp_path: Path) -> None:
    mine, (others,) = await running(ledger, 2), await running(ledger, 1, user=8, service="other")

    def may_see(user: int | None, services: Sequence[str]) -> bool:
        return user == 7 and "other" not in services

    def rows() -> list[str]:
        with closing(sqlite3.connect(tmp_path / "db.sqlite")) as db:
            lines = [line for line in db.iterdump() if line.startswith("INSERT")]
        return [line for line in lines if '"meta"' not in line]

    before = rows()
    asked = new_batch(mine[0].id, 98, others.id, *range(200, 300), may_see=may_see)
    with pytest.raises(UnknownJobs, match=r"there are no jobs 3, 98, 200, .*, 217 and 82 more$") as unknown:
        await ledger.order_batch(asked)
    assert unknown.value.ids == [others.id, 98, *range(200, 300)]
    with pytest.raises(UnknownJobs, match=r"there is no job 3$"):
        await ledger.order_batch(new_batch(mine[0].id, others.id, may_see=may_see))
    assert rows() == before
    assert (await ledger.order_batch(new_batch(*(job.id for job in mine), may_see=may_see))).user_id == 7
    batch = await ledger.order_batch(new_batch(mine[0].id, others.id))
    assert (batch.user_id, batch.services) == (None, ("example", "other"))


async def test_a_job_is_in_no_more_batches_than_its_end_can_count_for(ledger: SqliteLedger) -> None:
    job, other = await running(ledger, 2)
    for _ in range(MOST_OF_A_JOB):
        await ledger.order_batch(new_batch(job.id))
    with pytest.raises(CrowdedJob, match=f"job {job.id} is in {MOST_OF_A_JOB} batches"):
        await ledger.order_batch(new_batch(other.id, job.id))
    await walk(ledger, job, S.COMPLETED)
    assert len(await told(ledger)) == MOST_OF_A_JOB
    assert (await ledger.order_batch(new_batch(other.id, job.id))).left == 1


async def test_an_idempotency_key_names_one_batch_of_the_same_jobs(ledger: SqliteLedger) -> None:
    job, other = await running(ledger, 2)
    (foreign,) = await running(ledger, 1, user=8)
    first = await ledger.order_batch(new_batch(job.id, idempotency_key="k"))
    await walk(ledger, job, S.COMPLETED)
    again = await ledger.order_batch(new_batch(job.id, idempotency_key="k"))
    assert (again.id, again.left) == (first.id, 0) and len(await told(ledger)) == 1
    with pytest.raises(IdempotencyConflict, match=f"batch {first.id}"):
        await ledger.order_batch(new_batch(other.id, idempotency_key="k"))
    with pytest.raises(UnknownJobs):  # what was ordered is shown to nobody else
        await ledger.order_batch(new_batch(job.id, idempotency_key="k", may_see=lambda user, services: False))
    assert (await ledger.order_batch(new_batch(foreign.id, idempotency_key="k"))).id != first.id
    assert (await ledger.order_batch(new_batch(job.id, idempotency_key="j"))).id != first.id


@pytest.mark.parametrize("users", [(7, 7), (7, 8)], ids=["of one user", "of several"])
async def test_a_key_of_a_batch_that_they_may_not_see_is_theirs_all_the_same(
    ledger: SqliteLedger, users: tuple[int, int]
) -> None:
    def may_see(user_id: int | None, services: Sequence[str]) -> bool:
        return "docking" not in services

    docked, folded = [
        [(await ledger.insert(new_job(user, service))).id for user in users]
        for service in ("docking", "folding")
    ]
    hidden = await ledger.order_batch(new_batch(*docked, idempotency_key="k"))
    batch = await ledger.order_batch(new_batch(*folded, idempotency_key="k", may_see=may_see))
    again = await ledger.order_batch(new_batch(*folded, idempotency_key="k", may_see=may_see))
    assert batch.id == again.id != hidden.id
    with pytest.raises(IdempotencyConflict, match=f"batch {batch.id}"):
        others = [(await ledger.insert(new_job(user, "folding"))).id for user in users]
        await ledger.order_batch(new_batch(*others, idempotency_key="k", may_see=may_see))


async def test_only_the_first_that_did_not_complete_are_named(ledger: SqliteLedger) -> None:
    jobs = [await ledger.insert(new_job()) for _ in range(2 * MOST_NAMED)]
    for job in jobs[: MOST_NAMED // 2]:
        await walk(ledger, job, S.KILLED)
    batch = await ledger.order_batch(new_batch(*(job.id for job in jobs)))
    queued = [by_owner(job.id, S.QUEUED, S.FAILED, "x") for job in jobs[MOST_NAMED // 2 :]]
    await ledger.record(queued)
    shown = await state(ledger, batch.id)
    assert shown.not_completed == tuple(job.id for job in jobs[:MOST_NAMED])
    assert (shown.killed, shown.failed, shown.left) == (MOST_NAMED // 2, 3 * MOST_NAMED // 2, 0)


@settings(max_examples=60)
@given(data=st.data())
def test_any_order_of_orders_and_ends_writes_each_callback_once_with_the_last_end(
    data: st.DataObject,
) -> None:
    """Steps of single transactions, each of which may be taken back, as by a crash, and done again."""
    number = data.draw(st.integers(1, 6))
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
        for statement in schema.TABLES:
            db.execute(statement)
        for job in range(1, number + 1):
            db.execute(
                "INSERT INTO jobs (id, user_id, service, status, message, change_seq, created_at, "
                "updated_at, storage_key, size, max_runtime) "
                "VALUES (?, 7, 'example', 'Running', '', ?, 0, 0, ?, 1, 0)",
                (job, job, f"{job}"),
            )
        batches = data.draw(st.lists(st.sets(st.integers(1, number), min_size=1), min_size=1, max_size=4))
        steps: list[tuple[str, int]] = data.draw(
            st.permutations(
                [("end", job) for job in range(1, number + 1)] + [("order", n) for n in range(len(batches))]
            )
        )
        ended: dict[int, Status] = {}
        ordered: dict[str, set[int]] = {}
        for kind, which in steps:
            how = data.draw(st.sampled_from(ENDS))
            order = new_batch(*batches[which]) if kind == "order" else None
            for outcome in data.draw(st.sampled_from([("COMMIT",), ("ROLLBACK", "COMMIT")])):
                db.execute("BEGIN")
                if order is not None:
                    order_batch(db, order, 5.0)
                else:
                    db.execute("UPDATE jobs SET status = ?, ended_at = 1.0 WHERE id = ?", (how, which))
                db.execute(outcome)
            if order is not None:
                ordered[order.id] = batches[which]
            else:
                ended[which] = how
            over = {number for number, jobs in ordered.items() if jobs <= set(ended)}
            found = db.execute("SELECT batch_id FROM callbacks").fetchall()
            assert sorted(found) == sorted((number,) for number in over)
            for number_of, jobs in ordered.items():
                row = db.execute(
                    "SELECT left, completed, failed, invalid, killed FROM batches WHERE id = ?", (number_of,)
                ).fetchone()
                ends = [ended[job] for job in jobs if job in ended]
                assert row == (len(jobs) - len(ends), *(ends.count(end) for end in ENDS))
        assert db.execute("SELECT count(*) FROM batch_jobs").fetchone() == (0,)


async def test_orders_and_ends_at_the_same_time_lose_none(ledger: SqliteLedger) -> None:
    jobs = await running(ledger, 30)
    rng = random.Random(1)
    orders = [new_batch(*sorted(rng.sample([job.id for job in jobs], 3))) for _ in range(30)]
    async with trio.open_nursery() as nursery:
        for job, order in zip(jobs, orders, strict=True):
            nursery.start_soon(walk, ledger, job, S.COMPLETED)
            nursery.start_soon(ledger.order_batch, order)
    found = await told(ledger)
    assert sorted(one.id for one in found) == sorted(order.id for order in orders)
    assert {(await state(ledger, order.id)).completed for order in orders} == {3}


async def test_what_was_not_delivered_is_there_when_the_ledger_is_opened_again(tmp_path: Path) -> None:
    path = tmp_path / "db.sqlite"
    async with open_ledger(path) as ledger:
        first, last = await running(ledger, 2)
        batch = await ledger.order_batch(new_batch(first.id, last.id))
        await walk(ledger, first, S.COMPLETED)
    async with open_ledger(path) as ledger:
        assert await told(ledger) == []
        await walk(ledger, last, S.COMPLETED)
    async with open_ledger(path) as ledger:
        assert await told(ledger) == [Subject("batch", batch.id)]


async def test_nothing_is_walked_through_to_end_a_job_or_to_order_and_show_a_batch(tmp_path: Path) -> None:
    """By what SQLite says of its plans: each statement that runs is asked for its own."""
    statements: set[str] = set()
    async with open_ledger(tmp_path / "db.sqlite") as ledger:
        one, other = await running(ledger, 2)
        connections = (ledger._connection._real_connection, ledger._reader._real_connection)
        for connection in connections:
            connection.set_trace_callback(statements.add)
        batch = await ledger.order_batch(new_batch(one.id, other.id, idempotency_key="k"))
        await walk(ledger, one, S.FAILED)
        await walk(ledger, other, S.COMPLETED)
        await state(ledger, batch.id)
        await ledger.purge(0.0, 10)
        for connection in connections:
            connection.set_trace_callback(None)
    with closing(sqlite3.connect(tmp_path / "db.sqlite")) as db:
        shapes = ("SELECT", "UPDATE", "DELETE")
        asked = [
            one for one in statements if ("batch" in one or "json_each" in one) and one.startswith(shapes)
        ]
        assert len(asked) >= 6
        for statement in asked:
            plan = [row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {statement}")]
            assert not [step for step in plan if step.startswith("SCAN") and "json_each" not in step], (
                statement,
                plan,
            )
