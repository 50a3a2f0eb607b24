"""Copies of an orchestrator: one moment's, whole whenever making one is cut off, and what a check finds."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from support.data.houses import SMALL, House, house
from support.data.power_cuts import PowerCut, power_for

from actors.cleaner import clean_now
from actors.domain.job import Job
from actors.domain.status import Status
from orchestrator.backups import backup as module
from orchestrator.backups.backup import Backup, make_backup
from orchestrator.backups.check import Finding, check, repair
from orchestrator.backups.commands import restore_command
from orchestrator.backups.kept_jobs import BackupError
from orchestrator.backups.restore import restore_backup
from orchestrator.errors import StartError
from orchestrator.exclusive_use import locked
from orchestrator.startup import go_on_from

BIG = 3 * SMALL


def say(line: str) -> None:
    """What is told of progress is for people."""


def made(of: House, target: Path) -> Backup:
    return make_backup(of.db, of.data, target, say)


def found(db: Path, data: Path, *, contents: bool = True) -> list[Finding]:
    return list(check(db, data, say, contents=contents))


def tree(top: Path) -> dict[str, tuple[int, bytes]]:
    """Files below it, when they were written, and what is in them."""
    return {
        str(path.relative_to(top)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in top.rglob("*")
        if path.is_file()
    }


def rows(db: Path, table: str) -> list[Any]:
    with closing(sqlite3.connect(f"{db.absolute().as_uri()}?mode=ro", uri=True)) as connection:
        return connection.execute(f"SELECT * FROM {table} ORDER BY 1").fetchall()


@pytest.fixture
async def one(tmp_path: Path) -> AsyncIterator[House]:
    """Jobs with small and large inputs and results, and one whose data is gone."""
    async with house(tmp_path / "one") as made:
        for size in (10, BIG):
            await made.queue(size)
            for result in (10, BIG):
                await made.complete(await made.queue(size), result)
        cleaned = await made.complete(await made.queue(BIG), BIG)
        await clean_now(made.ledger, made.storage, cleaned)
        (made.data / "callback.secret").write_text("a secret")
        (made.data / "callback.secret").chmod(0o600)
        await made.storage.note_last_id(100)
        yield made


async def job_of(one: House, status: Status) -> Job:
    """One whose data is all on disk."""
    ids = [row[0] for row in rows(one.db, "jobs") if row[3] == status and row[10] == BIG]
    job = await one.ledger.get(ids[-1])
    assert job is not None
    return job


async def test_what_is_restored_is_what_was_there(one: House, tmp_path: Path) -> None:
    backup = made(one, tmp_path / "copy")
    assert (backup.jobs, backup.lost, backup.owner) == (6, [], one.ledger.owner)
    db, data = tmp_path / "two/db.sqlite", tmp_path / "two/data"
    restore_backup(tmp_path / "copy", db, data, say)
    assert found(db, data) == []
    before, after = tree(one.data), tree(data)
    assert before.pop("last_id") != after.pop("last_id")
    assert after == before
    assert (data / "callback.secret").stat().st_mode & 0o777 == 0o600
    assert db.stat().st_mode & 0o077 == 0
    for table in ("jobs", "attempts", "history", "small_inputs", "small_results"):
        assert rows(db, table) == rows(one.db, table) != []


async def test_ids_and_numbers_of_changes_that_may_have_been_given_since_are_not_given_again(
    one: House, tmp_path: Path
) -> None:
    made(one, tmp_path / "copy")
    later = await one.queue(10)
    restore_backup(tmp_path / "copy", tmp_path / "two/db.sqlite", tmp_path / "two/data", say)
    async with house(tmp_path / "two") as two:
        await go_on_from(two.ledger, two.storage)
        job = await two.queue(10)
        assert job.id > later.id and job.change_seq > later.change_seq


async def test_only_what_is_new_is_copied_and_what_was_deleted_goes(one: House, tmp_path: Path) -> None:
    target = tmp_path / "copy"
    first = made(one, target)
    keys = sum(path.stat().st_size for path in one.data.iterdir() if path.is_file())
    assert first.copied > 4 * BIG and made(one, target).copied == keys
    gone = await job_of(one, Status.COMPLETED)
    await clean_now(one.ledger, one.storage, gone)
    new = await one.complete(await one.queue(BIG), 10)
    second = made(one, target)
    assert second.jobs == first.jobs and BIG < second.copied - keys < BIG + 1000
    stored = {path.name for path in (target / "data/jobs").glob("??/*")}
    assert new.storage_key in stored and gone.storage_key not in stored
    assert found(target / "ledger.sqlite", target / "data") == []


async def test_results_that_are_replaced_are_copied_anew(one: House, tmp_path: Path) -> None:
    made(one, tmp_path / "copy")
    job = await job_of(one, Status.COMPLETED)
    sink = one.storage.receive_result(job.storage_key, "a" * 32)
    await sink.write_zip((one.storage.job(job.storage_key) / "result/result.zip").read_bytes())
    await sink.write_log("stdout", b"more")
    await sink.commit({"entries": []}, None)
    made(one, tmp_path / "copy")
    of_job = f"jobs/{job.storage_key[:2]}/{job.storage_key}"
    assert tree(tmp_path / "copy/data" / of_job) == tree(one.data / of_job)


async def test_what_is_cleaned_while_it_is_copied_is_no_loss(
    one: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server goes on: between the copy of its ledger and that of the files a job is cleaned."""
    gone = await job_of(one, Status.COMPLETED)
    copies = []

    def copy_ledger(source: Path, target: Path) -> None:
        plainly(source, target)
        copies.append(target)
        if len(copies) == 1:
            with closing(sqlite3.connect(one.db)) as db, db:
                db.execute("UPDATE jobs SET status = 'Cleaned' WHERE id = ?", (gone.id,))
            shutil.rmtree(one.storage.job(gone.storage_key))

    plainly = module.copy_ledger
    monkeypatch.setattr(module, "copy_ledger", copy_ledger)
    backup = made(one, tmp_path / "copy")
    assert (backup.lost, backup.jobs, len(copies)) == ([], 5, 2)
    assert found(tmp_path / "copy/ledger.sqlite", tmp_path / "copy/data") == []


async def test_what_is_lost_already_is_told_and_the_rest_is_copied(one: House, tmp_path: Path) -> None:
    job = await job_of(one, Status.COMPLETED)
    shutil.rmtree(one.storage.job(job.storage_key) / "result")
    backup = made(one, tmp_path / "copy")
    assert backup.lost == [f"job {job.id}: result"] and backup.jobs == 6
    (told,) = found(tmp_path / "copy/ledger.sqlite", tmp_path / "copy/data")
    assert told.text == f"job {job.id} (Completed): its results are gone"


async def test_an_earlier_copy_keeps_what_the_server_has_lost_since(one: House, tmp_path: Path) -> None:
    made(one, tmp_path / "copy")
    job = await job_of(one, Status.COMPLETED)
    shutil.rmtree(one.storage.job(job.storage_key))
    assert made(one, tmp_path / "copy").lost == []
    assert found(tmp_path / "copy/ledger.sqlite", tmp_path / "copy/data") == []


STEPS = ("fsync", "replace", "rename", "unlink")


@pytest.mark.parametrize("first", [True, False])
async def test_a_copy_that_is_cut_off_leaves_the_one_before_it_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: bool
) -> None:
    """At each of its steps."""
    async with house(tmp_path / "one") as one:
        gone = await one.complete(await one.queue(BIG), BIG)
        await one.queue(BIG)
        if not first:
            made(one, tmp_path / "earlier")
            await clean_now(one.ledger, one.storage, gone)
            await one.complete(await one.queue(BIG), BIG)
        # Nothing here depends on what a disk does.
        monkeypatch.setattr(os, "fsync", lambda fd: None)
        await cut_off(one, tmp_path, monkeypatch, first=first)


async def cut_off(one: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, first: bool) -> None:
    cut = 0
    while True:
        target = tmp_path / f"copy-{cut}"
        if not first:
            shutil.copytree(tmp_path / "earlier", target)
        try:
            with power_for(cut, STEPS, monkeypatch):
                made(one, target)
            break
        except PowerCut:
            pass
        if first and not (target / "ledger.sqlite").exists():
            with pytest.raises(BackupError, match="no finished backup"):
                restore_backup(target, tmp_path / "x.sqlite", tmp_path / "x", say)
        else:
            # What the next one will speak of is there besides.
            told = found(target / "ledger.sqlite", target / "data")
            assert [one.text for one in told if one.job is not None] == []
        cut += 1
        made(one, target)  # the next one goes on from there
        assert found(target / "ledger.sqlite", target / "data") == []
        shutil.rmtree(target)
    assert cut > 20


async def test_two_at_once_are_refused(one: House, tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()
    with locked(tmp_path / "copy/lock", "it", "it"), pytest.raises(BackupError, match="is under way"):
        made(one, tmp_path / "copy")


@pytest.mark.parametrize("there", ["db.sqlite", "db.sqlite-wal", "db.sqlite.newest", "data/jobs"])
async def test_nothing_is_restored_over_an_orchestrator_that_is_there(
    one: House, tmp_path: Path, there: str
) -> None:
    made(one, tmp_path / "copy")
    two = tmp_path / "two"
    (two / there).parent.mkdir(parents=True)
    (two / there).write_text("kept")
    with pytest.raises(BackupError, match="move it away"):
        restore_backup(tmp_path / "copy", two / "db.sqlite", two / "data", say)
    assert [path for path in two.rglob("*") if path.is_file()] == [two / there]


@pytest.mark.parametrize("named", [(), ("--db",), ("--data",)])
async def test_a_backup_is_restored_where_it_is_told_to_alone(
    one: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: tuple[str, ...]
) -> None:
    made(one, tmp_path / "copy")
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    for name in ("DB_PATH", "DATA_PATH"):
        monkeypatch.delenv(name, raising=False)
    given = [one for flag in named for one in (flag, str(tmp_path / "there"))]
    ran = CliRunner().invoke(restore_command, [str(tmp_path / "copy"), *given])
    assert ran.exit_code == 2
    told = ran.output.splitlines()
    assert len(told) == 2 - len(named) and all("no place is named; expected" in line for line in told)
    assert not [*here.iterdir()]
    (here / "server.toml").write_text('db_path = "two.sqlite"\ndata_path = "two"\n')
    ran = CliRunner().invoke(restore_command, [str(tmp_path / "copy"), "--config", "server.toml"])
    assert ran.exit_code == 0 and (here / "two.sqlite").is_file()


async def test_what_cannot_be_written_tells_whether_there_is_a_copy(
    one: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> Backup:
        raise OSError(errno.ENOSPC, "No space left on device")

    make = module._make
    for before in ("there is no copy", "the copy that was there before is as it was"):
        monkeypatch.setattr(module, "_make", fail)
        with pytest.raises(BackupError, match=f"No space left on device; {before}"):
            made(one, tmp_path / "copy")
        monkeypatch.setattr(module, "_make", make)
        made(one, tmp_path / "copy")


async def test_what_is_no_backup_is_refused(one: House, tmp_path: Path) -> None:
    for content in ("", "{}", "[]", json.dumps({"format": 2})):
        shutil.rmtree(tmp_path / "copy", ignore_errors=True)
        made(one, tmp_path / "copy")
        (tmp_path / "copy/backup.json").write_text(content)
        with pytest.raises(BackupError):
            restore_backup(tmp_path / "copy", tmp_path / "x.sqlite", tmp_path / "x", say)
        assert not (tmp_path / "x").exists()


async def test_a_ledger_that_is_not_there_or_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "text").write_text("no database, this is, and long enough to be read as a header of one" * 9)
    for name in ("missing", "text"):
        with pytest.raises(BackupError, match=name):
            make_backup(tmp_path / name, tmp_path / "data", tmp_path / "copy", say)
        with pytest.raises(BackupError, match=name):
            found(tmp_path / name, tmp_path / "data")


DAMAGE = {
    "input/deep/run.sh": "1 bytes of its input are there, and 6000 were uploaded",
    "result/result.zip": "its results are damaged: ",
}


@pytest.mark.parametrize("name", DAMAGE)
async def test_damage_is_found(one: House, name: str) -> None:
    job = await job_of(one, Status.COMPLETED)
    path = one.storage.job(job.storage_key) / name
    path.write_bytes(b"x")
    (told,) = found(one.db, one.data)
    assert told.text.startswith(f"job {job.id} (Completed): {DAMAGE[name]}") and told.job is not None


async def test_a_flipped_bit_of_a_result_is_found_when_contents_are_read(one: House) -> None:
    job = await job_of(one, Status.COMPLETED)
    path = one.storage.job(job.storage_key) / "result/result.zip"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert found(one.db, one.data, contents=False) == []
    (told,) = found(one.db, one.data)
    assert "its results are damaged" in told.text


async def test_directories_that_belong_to_no_job_are_told(one: House) -> None:
    job = await job_of(one, Status.COMPLETED)
    stray = one.data / "jobs/aa" / ("a" * 32)
    shutil.copytree(one.storage.job(job.storage_key), stray)
    (told,) = found(one.db, one.data)
    assert str(stray) in told.text and told.job is None


async def test_repair_has_ended_jobs_no_longer_promise_what_is_lost(tmp_path: Path) -> None:
    async with house(tmp_path) as one:
        ended, queued = await one.complete(await one.queue(BIG), BIG), await one.queue(BIG)
        for job in (ended, queued):
            shutil.rmtree(one.storage.job(job.storage_key) / "input")
    told = found(one.db, one.data)
    assert len(told) == 2
    with locked(one.data / "orchestrator.lock", "it", "it"), pytest.raises(StartError, match="is used by"):
        await repair(told, one.db, one.data)
    assert await repair(told, one.db, one.data) == 1
    async with house(tmp_path) as one:
        after = [await one.ledger.get(job.id) for job in (ended, queued)]
    assert [job and job.status for job in after] == [Status.CLEANED, Status.QUEUED]
    assert after[0] is not None and "its input is gone" in after[0].message
    assert [one.job and one.job.id for one in found(one.db, one.data)] == [queued.id]
