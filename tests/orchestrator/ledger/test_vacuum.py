"""Room that deleted files leave goes back to the disk, a little at a time, and holds nobody up."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import trio
from support.data.ledgers import new_job, open_ledger, walk

from actors.domain.job import Job
from actors.domain.status import Status
from orchestrator.ledger import vacuum, wal
from orchestrator.ledger.errors import run_on_ledger
from orchestrator.ledger.ledger import SqliteLedger

S = Status
FILES = 32 << 10


async def fill_and_clean(ledger: SqliteLedger, jobs: int) -> Job:
    """Many jobs with files that are deleted, and one in their midst that is kept."""
    made = [await ledger.insert(new_job(files=os.urandom(FILES))) for _ in range(jobs)]
    kept = made.pop(jobs // 2)
    for job in made:
        await walk(ledger, job, S.PROCESSING, S.SUBMITTED, S.COMPLETED, S.CLEANED)
    return kept


async def spare(ledger: SqliteLedger) -> int:
    return await ledger._read(vacuum.spare)


async def test_room_goes_back_in_steps_while_somebody_reads_and_others_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vacuum, "KEPT", 16)
    monkeypatch.setattr(vacuum, "STEP", 40)
    monkeypatch.setattr(vacuum, "EVERY", 0.0)
    monkeypatch.setattr(vacuum, "PAUSE", 0.0)
    path, looks = tmp_path / "db", list[int]()
    async with open_ledger(path, trace=lambda _: looks.append(os.stat(path).st_size)) as ledger:
        kept = await fill_and_clean(ledger, 60)
        files = await ledger.small_files(kept.storage_key, "input")
        await run_on_ledger(ledger._connection, wal.cut)
        before, free = os.stat(path).st_size, await spare(ledger)
        assert free * 4096 > before // 2
        looks.clear()
        with closing(sqlite3.connect(path, isolation_level=None)) as reader:
            reader.execute("BEGIN")
            (seen,) = reader.execute("SELECT sum(length(data)) FROM small_inputs").fetchone()
            with trio.fail_after(60):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(ledger.watch_room)
                    while await spare(ledger):
                        await ledger.insert(new_job())
                    nursery.cancel_scope.cancel()
            assert len(looks) >= free // vacuum.STEP, "not all at once"
            assert reader.execute("SELECT sum(length(data)) FROM small_inputs").fetchone() == (seen,)
        await run_on_ledger(ledger._connection, wal.cut)
        assert os.stat(path).st_size < before // 2
    async with open_ledger(path) as ledger:
        assert await ledger.small_files(kept.storage_key, "input") == files
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert db.execute("PRAGMA freelist_count").fetchone()[0] <= 16


async def test_nothing_is_moved_while_the_log_is_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody may hold it, and each step would make it longer."""
    monkeypatch.setattr(vacuum, "KEPT", 16)
    monkeypatch.setattr(vacuum, "EVERY", 0.0)
    monkeypatch.setattr(wal, "USUAL", 0)
    async with open_ledger(tmp_path / "db") as ledger:
        await fill_and_clean(ledger, 5)
        free = await spare(ledger)
        assert free > 0
        with trio.move_on_after(0.3):
            await ledger.watch_room()
        assert await spare(ledger) == free


async def test_of_a_file_that_was_made_otherwise_nothing_is_asked(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "db", isolation_level=None)) as db:
        db.execute("CREATE TABLE t (x)")
        db.execute("INSERT INTO t VALUES (zeroblob(8000000))")
        db.execute("DELETE FROM t")
        assert vacuum.spare(db) == 0
