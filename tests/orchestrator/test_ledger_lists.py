"""Lists, changes and usage as the routes ask the ledger for them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from fakes.ledgers import SetClock, new_attempt, new_job, open_ledger, walk

from actors.ledger_port import JobDetails, Move, RecordEnd
from actors.lifecycle import Status
from actors.model import End
from orchestrator import ledger_lists
from orchestrator.ledger import SqliteLedger
from orchestrator.ledger_lists import read_changes, read_seq
from orchestrator.ledger_usage import read_usage

S = Status


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
async def ledger(tmp_path: Path, clock: SetClock) -> AsyncIterator[SqliteLedger]:
    async with open_ledger(tmp_path / "db.sqlite", clock) as opened:
        yield opened


async def test_names_and_tags_narrow_a_list(ledger: SqliteLedger) -> None:
    plain = await ledger.insert(new_job())
    one = await ledger.insert(new_job(details=JobDetails("dock", ("a", "b"))))
    two = await ledger.insert(new_job(user=8, details=JobDetails("dock", ("b",))))
    assert await ledger.list_jobs(name="dock") == [two, one]
    assert await ledger.list_jobs(tag="b") == [two, one]
    assert await ledger.list_jobs(tag="b", before_id=two.id) == [one]
    assert await ledger.list_jobs(tag="a", user=8) == []
    assert await ledger.list_jobs(tag="b", user=8, name="dock", status=S.QUEUED) == [two]
    assert plain not in await ledger.list_jobs(name="dock")


async def test_every_transition_is_told_once_and_in_order(
    ledger: SqliteLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await ledger.insert(new_job())
    other = await ledger.insert(new_job())
    await walk(ledger, job, S.PROCESSING, S.SUBMITTED, S.RUNNING)
    await ledger.request_terminate(other.id)
    told, upto = await ledger.read(lambda db: read_changes(db, 0))
    assert upto == await ledger.read(read_seq)
    assert [(one.job.id, one.entry.target if one.entry else None) for one in told] == [
        (job.id, S.QUEUED),
        (other.id, S.QUEUED),
        (job.id, S.PROCESSING),
        (job.id, S.SUBMITTED),
        (job.id, S.RUNNING),
        (other.id, None),
    ]
    assert {one.job.status for one in told if one.job.id == job.id} == {S.RUNNING}
    monkeypatch.setattr(ledger_lists, "WINDOW", 2)
    again, after = [], 0
    while after < upto:
        some, after = await ledger.read(lambda db, after=after: read_changes(db, after))  # type: ignore[misc]
        again += some
    assert again == told


async def test_use_is_summed_by_hour_and_outlives_the_data(ledger: SqliteLedger, clock: SetClock) -> None:
    clock.time = 7200.0
    for cpu in (1.5, 2.5):
        job = await ledger.insert(new_job(user=3))
        job = await walk(ledger, job, S.PROCESSING, S.SUBMITTED)
        assert job.attempt is not None
        end = End(S.COMPLETED, "", 0, cpu_seconds=cpu, wall_seconds=10.0)
        await ledger.record([RecordEnd(job.id, job.attempt.key, end)])
        await walk(ledger, job, S.COMPLETED, S.CLEANED)
    clock.time = 3 * 7200.0
    await walk(ledger, await ledger.insert(new_job(user=3)), S.KILLED)
    used, since = await ledger.read(lambda db: read_usage(db, 7201.0, None, None))
    assert since == 7200.0
    assert [(u.user_id, u.status, u.jobs, u.cpu_seconds, u.wall_seconds) for u in used] == [
        (3, S.COMPLETED, 2, 4.0, 20.0),
        (3, S.KILLED, 1, 0.0, 0.0),
    ]
    used, _ = await ledger.read(lambda db: read_usage(db, 10800.0, None, None))
    assert [u.status for u in used] == [S.KILLED]
    assert await ledger.read(lambda db: read_usage(db, 0.0, 4, None)) == ([], 0.0)


async def test_an_older_ledger_is_taken_over_with_what_it_has(tmp_path: Path) -> None:
    import sqlite3

    from orchestrator import ledger_schema

    path = tmp_path / "old.sqlite"
    kept = ledger_schema.MIGRATIONS
    async with open_ledger(path) as ledger:
        job = await ledger.insert(new_job())
        move = Move(job.id, S.QUEUED, S.PROCESSING, "goes", attempt=new_attempt(job))
        await ledger.record([move])
    db = sqlite3.connect(path)
    try:
        for statement in (
            "DROP TRIGGER jobs_used",
            "DROP TABLE usage",
            "DROP TABLE pauses",
            "DROP TABLE job_tags",
            "DROP INDEX history_change",
            "ALTER TABLE history DROP COLUMN change_seq",
            "DROP INDEX jobs_name",
            "DROP INDEX jobs_user_status",
            "DROP INDEX jobs_user_service",
            "DROP INDEX jobs_service_status",
            "UPDATE jobs SET tags = '{}'",
            "PRAGMA user_version = 3",
        ):
            db.execute(statement)
        db.commit()
    finally:
        db.close()
    assert len(kept) >= 4
    async with open_ledger(path) as ledger:
        assert await ledger.details(job.id) == JobDetails()
        told, _ = await ledger.read(lambda db: read_changes(db, 0))
        assert [one.job.status for one in told] == [S.PROCESSING]
