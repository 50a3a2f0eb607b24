"""Ledgers of earlier schemas become ledgers of this one, whole, or are refused as they are."""

from __future__ import annotations

import hashlib
import sqlite3
from contextlib import closing
from pathlib import Path

import keep_release
import pytest
from support.data.ledgers import SetClock, list_jobs, new_batch, new_job, open_ledger, walk

from actors.domain.limits import UNLIMITED
from actors.domain.status import Status
from actors.ports.callbacks import Callback, Subject, subject_of
from actors.ports.ledger import LedgerError
from orchestrator.ledger import schema
from orchestrator.ledger.ledger import SqliteLedger
from orchestrator.ledger.tables.usage import Usage, UsageFilter

S = Status
OLDER = Path(__file__).parent / "older"


def restore(dump: Path, path: Path) -> None:
    """A ledger from what an earlier version wrote: a job that has ended, one that runs, one that waits."""
    with closing(sqlite3.connect(path)) as db:
        db.executescript(dump.read_text())


def used_by_then(dump: Path) -> Usage:
    """What its ended job used, and the one that ends here; only the newest tell of a node's figures."""
    told = dump.stem.startswith("release") or dump.stem in [f"schema_{number}" for number in range(11, 19)]
    wall, cpu, memory, out = (10.0, 4.0, 10_000.0, 7) if told else (0.0, 0.0, 0.0, 0)
    return Usage("2023-11", 7, "example", 2, 2, 0, 0, 0, wall, cpu, memory, 20, out)


def test_the_number_is_raised_with_every_change_of_a_table() -> None:
    made = hashlib.sha256(repr(sorted(schema._wanted().items())).encode()).hexdigest()[:16]
    assert (schema.SCHEMA, made) == (19, "17c72988deab4212"), (
        "raise SCHEMA, add a dump to `older`, and say so here"
    )


def test_the_ledger_of_this_version_is_kept_for_upgrades_from_it(tmp_path: Path) -> None:
    version = keep_release.project_version()
    dump = keep_release.dump_of(version)
    how = f"type: scripts/keep_release.py (if {version} is tagged, first raise it in pyproject.toml)"
    assert dump.exists(), how
    restore(dump, tmp_path / "db.sqlite")
    with closing(sqlite3.connect(tmp_path / "db.sqlite")) as db:
        (made_by,) = db.execute("PRAGMA user_version").fetchone()
        assert made_by == schema.SCHEMA, how
        assert schema.recognise(db) == schema.SCHEMA


@pytest.mark.parametrize("dump", sorted(OLDER.glob("*.sql")), ids=lambda dump: dump.stem)
async def test_an_older_ledger_is_brought_to_this_schema(tmp_path: Path, dump: Path) -> None:
    path = tmp_path / "db.sqlite"
    restore(dump, path)
    async with open_ledger(path) as ledger:
        jobs = await list_jobs(ledger)
        assert [(job.id, job.status) for job in jobs] == [(3, S.QUEUED), (2, S.RUNNING), (1, S.COMPLETED)]
        assert [entry.target for entry in await ledger.history(1)] == [
            *(S.QUEUED, S.PROCESSING, S.SUBMITTED, S.RUNNING, S.COMPLETED),
        ]
        assert await ledger.drains() == {"node-b": "maintenance"}
        assert {job.limits for job in jobs} == {UNLIMITED}
        assert (await ledger.queries.details([1]))[1].tags == ("a", "b")
        assert {attempt.job_id for attempt in await ledger.unreleased()} == {1}
        await walk(ledger, jobs[1], S.COMPLETED)
        await walk(ledger, jobs[0], S.PROCESSING, S.SUBMITTED)
        assert (await ledger.insert(new_job(idempotency_key="k"))).id == 1
        assert (await ledger.insert(new_job(user=9, idempotency_key="k"))).id == 501
        assert await ledger.queries.usage(UsageFilter()) == [used_by_then(dump)]
        await ledger.note_absence("node-b", "back soon")
    async with open_ledger(path) as ledger:
        assert len(await list_jobs(ledger)) == 4
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (schema.SCHEMA,)
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert db.execute("PRAGMA foreign_key_check").fetchall() == []


async def test_a_callback_of_before_goes_on_and_a_batch_takes_the_jobs_of_before(tmp_path: Path) -> None:
    path = tmp_path / "db.sqlite"
    restore(OLDER / "schema_18.sql", path)
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE jobs SET callback_url = 'https://portal.example/done' WHERE id = 1")
        db.execute("INSERT INTO callbacks (seq, job_id, since, next_at, tries) VALUES (7, 1, 5.0, 6.0, 2)")
    async with open_ledger(path) as ledger:
        before = Callback(7, subject_of(1), "https://portal.example/done", 5.0, 6.0, 2)
        assert await ledger.pending_callbacks(0) == [before]
        batch = await ledger.order_batch(new_batch(1, 2))
        assert (batch.left, batch.completed) == (1, 1)
        running = await ledger.get(2)
        assert running is not None
        await walk(ledger, running, S.FAILED)
        assert [one.subject for one in await ledger.pending_callbacks(7)] == [Subject("batch", batch.id)]


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("DROP TABLE callbacks", "schema 1, which is too old"),
        (f"PRAGMA user_version = {schema.SCHEMA}", r"is not made so \(absences, .*, jobs, "),
        ("PRAGMA user_version = 99", "schema 99.*written by a newer version"),
    ],
)
async def test_what_cannot_be_brought_here_is_refused_and_left_alone(
    tmp_path: Path, statement: str, reason: str
) -> None:
    path = tmp_path / "db.sqlite"
    restore(OLDER / "schema_1.sql", path)
    with closing(sqlite3.connect(path)) as db:
        db.execute(statement)
    before = path.read_bytes()
    with pytest.raises(LedgerError, match=reason):
        await SqliteLedger.open(str(path), clock=SetClock())
    assert path.read_bytes() == before


async def test_a_step_that_fails_leaves_the_older_ledger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "db.sqlite"
    restore(OLDER / "schema_1.sql", path)
    with closing(sqlite3.connect(path)) as db:
        before = list(db.iterdump())
    monkeypatch.setattr(schema, "TABLES", (*schema.TABLES, "CREATE TABLE jobs (once_more)"))
    with pytest.raises(LedgerError, match="table jobs already exists"):
        await SqliteLedger.open(str(path), clock=SetClock())
    with closing(sqlite3.connect(path)) as db:
        assert list(db.iterdump()) == before
        assert db.execute("PRAGMA user_version").fetchone() == (1,)
    monkeypatch.undo()
    async with open_ledger(path) as ledger:
        assert len(await list_jobs(ledger)) == 3
