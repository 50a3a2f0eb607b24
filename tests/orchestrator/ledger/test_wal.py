"""The ledger's write-ahead log while somebody reads an old state: told once, and short again afterwards."""

from __future__ import annotations

import logging
import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import trio
from support.data.ledgers import new_job, open_ledger

from orchestrator.ledger import wal
from orchestrator.ledger.errors import run_on_ledger
from orchestrator.ledger.ledger import SqliteLedger
from orchestrator.ledger.wal import WalWatch


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
            with trio.fail_after(30):
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
