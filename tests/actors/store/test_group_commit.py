"""Group commit on a disk that is full or fails; what it does besides is tested with its two users."""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import sqlite_anyio
import trio
import trio.testing
from support.data.ledgers import SetClock

from actors.store.group_commit import Batch, GroupCommit, Stopped
from actors.store.reserve import Reserve
from actors.store.sqlite_thread import run_on_connection


@pytest.fixture
def reserve(tmp_path: Path) -> Reserve:
    reserve = Reserve(tmp_path / "reserve")
    assert reserve.hold()
    return reserve


@pytest.fixture
async def commits(reserve: Reserve) -> AsyncIterator[GroupCommit[Batch[str]]]:
    connection = await sqlite_anyio.connect(":memory:")

    def prepare(db: Any) -> None:
        db.isolation_level = None

    await run_on_connection(connection, prepare)
    made: GroupCommit[Batch[str]] = GroupCommit(
        connection,
        lambda db, now: Batch(db, now, 0),
        clock=SetClock(),
        reserve=reserve,
        committed=lambda batch: None,
        most=10,
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(made.run)
        yield made
        nursery.cancel_scope.cancel()
    with pytest.raises(Stopped):
        await made.write(lambda batch: None)
    await connection.close()


async def test_what_is_urgent_gets_the_reserve_and_it_is_held_again(
    commits: GroupCommit[Batch[str]], tmp_path: Path
) -> None:
    undone: list[str] = []

    def needs_room(batch: Batch[str]) -> str:
        batch.undo.append(lambda: undone.append("undone"))
        if (tmp_path / "reserve").exists():
            raise OSError(errno.ENOSPC, "No space left on device")
        return "written"

    with pytest.raises(OSError, match="No space left"):
        await commits.write(needs_room)
    assert undone == ["undone"]
    assert await commits.write(needs_room, urgent=True) == "written"
    await commits.write(lambda batch: None)
    assert (tmp_path / "reserve").exists()


async def test_a_batch_that_cannot_be_finished_fails_all_of_it_and_is_taken_back(
    commits: GroupCommit[Batch[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    undone: list[int] = []
    answers: list[object] = []

    def broken(batch: Batch[str]) -> None:
        raise OSError(errno.EIO, "Input/output error")

    async def write(number: int) -> None:
        def work(batch: Batch[str]) -> None:
            batch.undo.append(lambda: undone.append(number))

        try:
            await commits.write(work)
        except OSError as error:
            answers.append(error.errno)

    with monkeypatch.context() as patch:
        patch.setattr(Batch, "finish", broken)
        async with trio.open_nursery() as nursery, commits.committing:
            for number in range(3):
                nursery.start_soon(write, number)
            await trio.testing.wait_all_tasks_blocked()
    assert sorted(undone) == [0, 1, 2] and answers == [errno.EIO] * 3
