"""The ledger's write-ahead log while somebody reads an old state: told once, and short again afterwards."""

from __future__ import annotations

import logging
import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final

import pytest
import trio
from support.data.ledgers import new_job, open_ledger

from orchestrator.ledger import schema, wal
from orchestrator.ledger.errors import run_on_ledger
from orchestrator.ledger.ledger import SqliteLedger
from orchestrator.ledger.wal import WalWatch

SQLITE_IOERR_FSYNC: Final = 1034


def watch_of(ledger: SqliteLedger, path: Path) -> WalWatch:
    async def cut() -> bool:
        return await run_on_ledger(ledger._connection, wal.cut)

    return WalWatch(str(path), cut)


def size(path: Path) -> int:
    return os.stat(f"{path}-wal").st_size


async def grow(ledger: SqliteLedger, path: Path, to: int) -> None:
    while size(path) < to:
        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(ledger.insert, new_job())


def test_what_is_not_synced_yet_is_not_moved_out_of_the_log(tmp_path: Path) -> None:
    """It would be synced for that, and SQLite tells nobody of one that fails there."""
    path = tmp_path / "db"
    with closing(sqlite3.connect(path)) as db:
        schema.prepare_writer(db)
        db.execute("CREATE TABLE much (data)")
        for hard in (False, True):
            before = path.stat().st_size
            schema.set_hard(db, hard)
            db.execute("INSERT INTO much VALUES (zeroblob(?))", (2 * wal.MOVED_FROM * 4096,))
            assert (path.stat().st_size > before) is hard


async def test_a_log_that_cannot_be_synced_to_be_cut_ends_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Ended(Exception):
        pass

    def end(error: Exception) -> None:
        raise Ended

    def fail(db: sqlite3.Connection) -> bool:
        failed = sqlite3.OperationalError("disk I/O error")
        failed.sqlite_errorcode = SQLITE_IOERR_FSYNC
        raise failed

    async with open_ledger(tmp_path / "db") as ledger:
        monkeypatch.setattr("orchestrator.ledger.ledger._end_at_once", end)
        monkeypatch.setattr(wal, "cut", fail)
        monkeypatch.setattr(wal, "USUAL", 0)
        monkeypatch.setattr(wal, "LOOK_EVERY", 0.01)
        await ledger.insert(new_job())
        with trio.fail_after(60), pytest.raises(Ended):
            await ledger.watch_log()


async def test_a_reader_that_holds_a_transaction_is_told_once_and_the_log_is_cut_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(wal, "USUAL", 256 << 10)
    monkeypatch.setattr(wal, "MOST", 1 << 20)
    path = tmp_path / "db"
    async with open_ledger(path) as ledger:
        watch = watch_of(ledger, path)
        await ledger.insert(new_job())
        with closing(sqlite3.connect(path, isolation_level=None)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM jobs").fetchone()
            for most in (1 << 20, 3 << 19):
                await grow(ledger, path, most + 1)
                await watch.look()
            said = [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING]
            assert len(said) == 1 and "held a transaction open" in said[0] and str(path) in said[0]
            # Nobody waits for the one who reads.
            with trio.fail_after(60):
                await ledger.insert(new_job())
        await watch.look()
        assert size(path) <= 256 << 10
        await watch.look()
        assert await ledger.get(1) is not None


async def test_a_log_that_was_long_is_short_in_the_next_life_without_a_look(tmp_path: Path) -> None:
    """As after a burst: SQLite itself cuts it when it begins it anew."""
    async with open_ledger(tmp_path / "db") as ledger:
        (limit,) = await run_on_ledger(
            ledger._connection, lambda db: db.execute("PRAGMA journal_size_limit").fetchone()
        )
    assert limit == wal.USUAL
