"""A job that is stored with its first attempt: one commit, and nobody sees another difference."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from support.data.killed_inserter import insert_until_killed
from support.data.ledgers import SetClock, new_job, open_ledger

from actors.domain.changes import FirstAttempt, NewJob
from actors.domain.job import Attempt, AttemptState, HistoryEntry, Job
from actors.domain.status import Status
from actors.ports.ledger import Ledger, LedgerError
from orchestrator.access.limits import Limits
from orchestrator.ledger.ledger import LimitReached, SqliteLedger

S = Status
KEY = "0123456789abcdef" * 2


@pytest.fixture
def ledger(either_ledger: Any) -> Any:
    return either_ledger


def with_attempt(key: str = KEY, **more: Any) -> NewJob:
    first = FirstAttempt(Attempt(key, 0, 0, "node-a", boot="boot 1 2 3"), "sent to node a")
    return new_job(first=first, **more)


async def test_it_is_as_if_the_sender_had_taken_it_to_processing(ledger: Ledger, clock: SetClock) -> None:
    given = with_attempt()
    assert given.first is not None
    plain = await ledger.insert(replace(given, storage_key="plain", first=None))
    (answer,) = await ledger.record([replace(given.first, attempt=other(given)).begin(plain.id)])
    expected = answer.job
    assert expected is not None and expected.attempt is not None
    stored = await ledger.insert(given)
    attempt = replace(expected.attempt, key=KEY, job_id=stored.id)
    assert (attempt.n, attempt.boot, attempt.state) == (1, "boot 1 2 3", AttemptState.OPEN)
    assert stored == replace(
        expected, id=2, change_seq=expected.change_seq + 2, storage_key=given.storage_key, attempt=attempt
    )
    assert await ledger.get(2) == stored
    assert await ledger.attempts(2) == [attempt]
    assert await ledger.history(2) == [replace(line, job_id=2) for line in await ledger.history(1)]
    assert await ledger.history(2) == [
        HistoryEntry(2, clock.time, None, S.QUEUED, "Job successfully uploaded", None, None),
        HistoryEntry(2, clock.time, S.QUEUED, S.PROCESSING, "sent to node a", "node-a", 1),
    ]
    live = await ledger.live(queued=True)
    assert (list(live.jobs), list(live.queued), live.seq) == ([expected, stored], [], stored.change_seq)


def other(job: NewJob) -> Attempt:
    assert job.first is not None
    return replace(job.first.attempt, key="f" * 32)


async def test_a_key_that_is_there_already_leaves_the_job_queued(ledger: Ledger) -> None:
    first = await ledger.insert(with_attempt())
    second = await ledger.insert(with_attempt())
    assert second.status is S.QUEUED and second.attempt is None
    assert await ledger.get(2) == second
    assert len(await ledger.history(2)) == 1
    assert await ledger.attempts(2) == []
    assert await ledger.attempts(1) == [first.attempt]


async def test_a_job_that_its_user_has_sent_before_gets_no_attempt(ledger: Ledger) -> None:
    before = await ledger.insert(new_job(idempotency_key="k", fingerprint="f"))
    again = await ledger.insert(with_attempt(idempotency_key="k", fingerprint="f"))
    assert again == before
    assert await ledger.attempts(before.id) == []


async def test_both_rows_are_told_after_the_one_commit(tmp_path: Path) -> None:
    order: list[object] = []

    def committed(jobs: Sequence[Job]) -> None:
        order.append([(job.status, job.change_seq) for job in jobs])

    path = tmp_path / "ledger.db"
    async with open_ledger(path, trace=order.append, committed=committed) as ledger:
        await ledger.insert(with_attempt(files=b"small"))
        order.append("inserted")
        found, _ = await ledger.queries.changes_after(0)
        assert [(one.seq, one.job.status) for one in found] == [(1, S.PROCESSING), (2, S.PROCESSING)]
        assert dict(await ledger.queries.job_counts()) == {("example", S.PROCESSING): 1}
    assert order == ["commit", [(S.QUEUED, 1), (S.PROCESSING, 2)], "inserted"]


async def test_nothing_is_left_of_one_that_is_refused_or_fails_in_a_batch_with_others(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    async with open_ledger(path) as ledger:
        with pytest.raises(LimitReached):
            limits = Limits(bytes_per_user=5)
            await ledger.insert(with_attempt(), limits=limits)
        other_writer = sqlite3.connect(path, isolation_level=None)
        other_writer.execute("BEGIN IMMEDIATE")
        answers: dict[str, object] = {}

        async def insert(name: str, job: NewJob) -> None:
            try:
                answers[name] = (await ledger.insert(job)).status
            except LedgerError as error:
                answers[name] = type(error)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ledger.check)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(insert, "good", with_attempt("a" * 32))
            nursery.start_soon(insert, "bad", with_attempt("b" * 32, service="\udcff"))
            nursery.start_soon(insert, "late", with_attempt("c" * 32))
            await trio.testing.wait_all_tasks_blocked()
            other_writer.execute("ROLLBACK")
        other_writer.close()
        assert answers == {"good": S.PROCESSING, "bad": LedgerError, "late": S.PROCESSING}
        live = (await ledger.live()).jobs
        assert sorted(job.attempt.key[0] for job in live if job.attempt is not None) == ["a", "c"]
        for job in live:
            assert await ledger.get(job.id) == job
            assert [line.target for line in await ledger.history(job.id)] == [S.QUEUED, S.PROCESSING]


_INSERTER = """
import sys, trio
from actors.domain.changes import FirstAttempt
from actors.domain.job import Attempt
from support.data.ledgers import new_job, open_ledger
async def main():
    numbers = iter(range(10**9))
    async def insert(ledger):
        while True:
            key = f"{next(numbers):032x}"
            first = FirstAttempt(Attempt(key, 0, 0, "node-a"), "sent")
            job = await ledger.insert(new_job(first=first))
            print(job.id, key, flush=True)
    async with open_ledger(sys.argv[1]) as ledger, trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(insert, ledger)
trio.run(main)
"""


async def test_a_kill_leaves_no_job_without_its_attempt_and_no_attempt_without_its_job(
    tmp_path: Path,
) -> None:
    path = tmp_path / "ledger.db"
    acknowledged = await trio.to_thread.run_sync(insert_until_killed, path, _INSERTER, 200)
    assert len(acknowledged) >= 200
    async with open_ledger(path) as ledger:
        live = {job.id: job for job in (await ledger.live()).jobs}
        assert live.keys() >= acknowledged.keys()
        for job in live.values():
            assert job.status is S.PROCESSING and job.attempt is not None
            assert job.attempt.key == acknowledged.get(job.id, job.attempt.key)
            assert len(await ledger.history(job.id)) == 2
            assert await ledger.attempts(job.id) == [job.attempt]
        assert not (await ledger.live(queued=True)).queued
        assert await all_keys(ledger) == {job.attempt.key for job in live.values() if job.attempt}


async def all_keys(ledger: SqliteLedger) -> set[str]:
    with sqlite3.connect(ledger._path) as db:
        found = {key for (key,) in db.execute("SELECT key FROM attempts")}
    db.close()
    await trio.lowlevel.checkpoint()
    return found
