"""Group commit on a disk that is full or fails; what it does besides is tested with its two users."""

from __future__ import annotations

import errno
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Final, NoReturn

import pytest
import sqlite_anyio
import trio
import trio.testing
from support.data.ledgers import SetClock, one_commit

from actors.store.group_commit import Batch, GroupCommit, NeedsHardCommit, Stopped
from actors.store.reserve import Reserve
from actors.store.sqlite_thread import run_on_connection

SQLITE_IOERR_FSYNC: Final = 1034


@pytest.fixture
def reserve(tmp_path: Path) -> Reserve:
    reserve = Reserve(tmp_path / "reserve")
    assert reserve.hold()
    return reserve


async def connect() -> sqlite_anyio.Connection:
    connection = await sqlite_anyio.connect(":memory:")

    def prepare(db: Any) -> None:
        db.isolation_level = None

    await run_on_connection(connection, prepare)
    return connection


@pytest.fixture
async def commits(reserve: Reserve) -> AsyncIterator[GroupCommit[Batch[str]]]:
    connection = await connect()
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
    done: list[str] = []
    undone: list[str] = []

    def needs_room(batch: Batch[str]) -> str:
        done.append("done")
        batch.undo.append(lambda: undone.append("done"))
        if (tmp_path / "reserve").exists():
            raise OSError(errno.ENOSPC, "No space left on device")
        return "written"

    with pytest.raises(OSError, match="No space left"):
        await commits.write(needs_room)
    assert undone == done
    assert await commits.write(needs_room, urgent=True) == "written"
    await commits.write(lambda batch: None)
    assert (tmp_path / "reserve").exists()


async def test_an_item_that_fails_takes_back_what_it_did_and_nothing_of_the_others(
    commits: GroupCommit[Batch[str]],
) -> None:
    said: list[str] = []
    await commits.write(lambda batch: batch.db.execute("CREATE TABLE lines (number)") and None)
    await commits.write(lambda batch: batch.db.set_trace_callback(said.append))

    async def write(number: int) -> None:
        def work(batch: Batch[str]) -> None:
            batch.db.execute("INSERT INTO lines VALUES (?)", (number,))
            batch.seq += 1
            batch.changed.append(str(number))
            if number == 1:
                raise OSError(errno.EIO, "Input/output error")

        with pytest.raises(OSError, match="Input") if number == 1 else nullcontext():
            await commits.write(work)

    async def write_at_once(*numbers: int) -> list[str]:
        async with one_commit(commits) as nursery:
            said.clear()
            for number in numbers:
                nursery.start_soon(write, number)
        assert said.pop(0) == "COMMIT", "of the one before"
        return [one.split()[0] for one in said]

    assert await write_at_once(0, 2) == ["BEGIN", "INSERT", "INSERT", "COMMIT"]
    assert "SAVEPOINT" in await write_at_once(0, 1, 2)
    kept = await commits.write(lambda batch: batch.db.execute("SELECT number FROM lines").fetchall())
    assert sorted(kept) == [(0,), (0,), (2,), (2,)]


async def test_a_batch_that_cannot_be_finished_fails_all_of_it_and_is_taken_back(
    commits: GroupCommit[Batch[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    undone: list[int] = []
    answers: list[object] = []

    def broken(batch: Batch[str]) -> None:
        if batch.undo:
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
        async with one_commit(commits) as nursery:
            for number in range(3):
                nursery.start_soon(write, number)
    assert sorted(undone) == [0, 1, 2] and answers == [errno.EIO] * 3


async def test_who_was_just_answered_writes_into_the_commit_of_what_has_come_meanwhile(
    commits: GroupCommit[Batch[str]],
) -> None:
    batches: dict[str, Batch[str]] = {}

    go_on = threading.Event()

    async def write(name: str) -> None:
        await commits.write(lambda batch: batches.update({name: batch}) or go_on.wait())

    async def write_twice() -> None:
        await write("first")
        await write("second")

    # Tasks of one turn run in any order, so once may be luck.
    for _ in range(10):
        go_on.clear()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(write_twice)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(write, "meanwhile")
            await trio.testing.wait_all_tasks_blocked()
            go_on.set()
        assert batches["second"] is batches["meanwhile"] is not batches["first"]


async def test_soft_writes_are_synced_by_the_next_hard_one_or_a_second_later(
    reserve: Reserve, mock_clock: trio.testing.MockClock
) -> None:
    said: list[object] = []

    class Told(Batch[str]):
        def finish(self) -> None:
            said.append(("hard" if self.hard else "soft", self.hardens))
            if len(said) == 9:
                token.run_sync_soon(synced.set)

    synced, token = trio.Event(), trio.lowlevel.current_trio_token()
    connection = await connect()
    made: GroupCommit[Batch[str]] = GroupCommit(
        connection,
        lambda db, now: Told(db, now, 0),
        clock=SetClock(),
        reserve=reserve,
        committed=lambda batch: None,
        most=10,
        harden=lambda db, hard: said.append(hard),
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(made.run)
        await made.write(lambda batch: None, soft=True)
        await made.write(lambda batch: None, soft=True)
        assert said == [False, ("soft", False), ("soft", False)]
        await made.write(lambda batch: None)
        assert said[3:] == [True, ("hard", True)]
        mock_clock.jump(10.0)
        await trio.testing.wait_all_tasks_blocked()
        await made.write(lambda batch: None, soft=True)
        mock_clock.jump(0.9)
        await trio.testing.wait_all_tasks_blocked()
        assert said[5:] == [False, ("soft", False)]
        mock_clock.jump(0.1)
        await synced.wait()
        assert said[7:] == [True, ("hard", True)]
        nursery.cancel_scope.cancel()
    await connection.close()


class Listed(Batch[str]):
    """Notes each commit in `said`, and rings."""

    said: list[tuple[str, bool]]
    bell: trio.Event
    token: trio.lowlevel.TrioToken

    def committed(self) -> None:
        self.said.append(("hard" if self.hard else "soft", self.hardens))
        self.token.run_sync_soon(self.bell.set)


@pytest.fixture
async def listed(reserve: Reserve) -> AsyncIterator[GroupCommit[Listed]]:
    Listed.said, Listed.bell, Listed.token = [], trio.Event(), trio.lowlevel.current_trio_token()
    connection = await connect()
    made: GroupCommit[Listed] = GroupCommit(
        connection,
        lambda db, now: Listed(db, now, 0),
        clock=SetClock(),
        reserve=reserve,
        committed=lambda batch: None,
        most=10,
        harden=lambda db, hard: None,
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(made.run)
        yield made
        nursery.cancel_scope.cancel()
    await connection.close()


async def test_a_soft_write_has_its_own_second_though_an_earlier_one_was_synced_meanwhile(
    mock_clock: trio.testing.MockClock, listed: GroupCommit[Listed]
) -> None:
    await listed.write(lambda batch: None, soft=True)
    mock_clock.jump(0.5)
    await listed.write(lambda batch: None)
    await listed.write(lambda batch: None, soft=True)
    Listed.bell = trio.Event()
    mock_clock.jump(0.75)
    await trio.testing.wait_all_tasks_blocked()
    assert Listed.said == [("soft", False), ("hard", True), ("soft", False)]
    mock_clock.jump(0.25)
    await Listed.bell.wait()
    assert Listed.said[3:] == [("hard", True)]


async def _write_until_due(
    mock_clock: trio.testing.MockClock, listed: GroupCommit[Listed], *, goes_on: bool
) -> None:
    """Write softly, and amid the next soft write have what was written become due; `goes_on`: another one
    waits by then."""
    await listed.write(lambda batch: None, soft=True)
    go_on = threading.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(listed.write, lambda batch: go_on.wait(), soft=True))
        await trio.testing.wait_all_tasks_blocked()
        if goes_on:
            nursery.start_soon(partial(listed.write, lambda batch: None, soft=True))
        mock_clock.jump(1.0)
        await trio.testing.wait_all_tasks_blocked()
        go_on.set()


async def test_what_is_due_while_a_batch_is_under_way_is_synced_after_it(
    mock_clock: trio.testing.MockClock, listed: GroupCommit[Listed]
) -> None:
    await _write_until_due(mock_clock, listed, goes_on=False)
    Listed.bell = trio.Event()
    while len(Listed.said) < 3:
        await Listed.bell.wait()
        Listed.bell = trio.Event()
    assert Listed.said == [("soft", False), ("soft", False), ("hard", True)]


async def test_what_is_due_is_synced_with_soft_writes_that_go_on_coming(
    mock_clock: trio.testing.MockClock, listed: GroupCommit[Listed]
) -> None:
    """Or it would have to wait until none is left."""
    await _write_until_due(mock_clock, listed, goes_on=True)
    assert Listed.said == [("soft", False), ("soft", False), ("hard", True)]


async def test_a_batch_under_way_is_answered_though_the_task_is_cancelled(reserve: Reserve) -> None:
    connection = await connect()
    made: GroupCommit[Batch[str]] = GroupCommit(
        connection,
        lambda db, now: Batch(db, now, 0),
        clock=SetClock(),
        reserve=reserve,
        committed=lambda batch: None,
        most=10,
    )
    go_on, answers = threading.Event(), list[object]()

    async def write(work: Callable[[Batch[str]], object]) -> None:
        try:
            answers.append(await made.write(work))
        except Stopped:
            answers.append("stopped")

    async with trio.open_nursery() as writers, trio.open_nursery() as nursery:
        await nursery.start(made.run)
        writers.start_soon(write, lambda batch: go_on.wait() and "written")
        await trio.testing.wait_all_tasks_blocked()
        writers.start_soon(write, lambda batch: "too late")
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            await trio.testing.wait_all_tasks_blocked()
        assert answers == []
        go_on.set()
    assert sorted(map(str, answers)) == ["stopped", "written"]
    await connection.close()


async def test_one_that_has_to_be_hard_makes_the_whole_batch_hard(reserve: Reserve) -> None:
    said: list[bool] = []

    class Told(Batch[str]):
        def finish(self) -> None:
            if not self.hard and needed:
                raise NeedsHardCommit

    connection = await connect()
    needed = False
    undone: list[int] = []
    made: GroupCommit[Batch[str]] = GroupCommit(
        connection,
        lambda db, now: Told(db, now, 0),
        clock=SetClock(),
        reserve=reserve,
        committed=lambda batch: said.append(batch.hard),
        most=10,
        harden=lambda db, hard: None,
    )

    def work(batch: Batch[str]) -> str:
        batch.undo.append(lambda: undone.append(1))
        return "written"

    async with trio.open_nursery() as nursery:
        await nursery.start(made.run)
        async with one_commit(made) as writers:
            writers.start_soon(partial(made.write, work, soft=True))
            writers.start_soon(partial(made.write, work))
        assert said == [True, True]
        needed = True
        assert await made.write(work, soft=True) == "written"
        assert said == [True, True, True] and undone == [1], "once taken back, and done again"
        nursery.cancel_scope.cancel()
    await connection.close()


async def test_a_sync_that_failed_ends_the_process(reserve: Reserve) -> None:
    class Ended(BaseException):
        """In place of the end of the process."""

    class Failing(Batch[str]):
        def finish(self) -> None:
            failed = sqlite3.OperationalError("disk I/O error")
            failed.sqlite_errorcode = SQLITE_IOERR_FSYNC
            raise failed

    def end(error: Exception) -> NoReturn:
        raise Ended

    connection = await connect()
    answers: list[object] = []
    made: GroupCommit[Batch[str]] = GroupCommit(
        connection,
        lambda db, now: Failing(db, now, 0),
        clock=SetClock(),
        reserve=reserve,
        committed=lambda batch: answers.append("committed"),
        most=10,
        sync_failed=end,
    )

    async def write() -> None:
        try:
            answers.append(await made.write(lambda batch: None))
        except sqlite3.OperationalError:
            answers.append("failed")

    with pytest.raises(BaseExceptionGroup) as found:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            nursery.start_soon(made.run)
    assert found.group_contains(Ended) and answers == ["failed"]
    await connection.close()
