"""What goes away on a node, and what does not. The clock is mocked; time passes only where a test lets it."""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from actors.domain.job import End
from actors.domain.payload import PayloadMove
from actors.domain.status import Status
from node.payloads.cleaner import PayloadCleaner
from node.payloads.operations import Arrival
from node.payloads.records import Records
from node.payloads.table import PayloadTable, open_table
from node.runs import workspace
from node.runs.workspace import Workspace

KEYED, BARE = "a" * 32, "b" * 32


class SetClock:
    def __init__(self) -> None:
        self.at = 1_000_000.0

    def now(self) -> float:
        return self.at


class World:
    def __init__(self, table: PayloadTable, workspace: Workspace, clock: SetClock) -> None:
        self.table = table
        self.workspace = workspace
        self.clock = clock

    async def ended(self, key: str, owner: str) -> None:
        incoming = self.workspace.receive()
        incoming.add(key)
        await self.table.accept([Arrival(key, incoming.directory(key), owner=owner)], incoming.write_out)
        incoming.hand_over(key)
        await incoming.close()
        end = End(Status.KILLED, "terminated", ended_at=self.clock.at)
        await self.table.record([PayloadMove(key, Status.PREPARED, Status.KILLED, end=end)])

    def there(self) -> set[str]:
        return {path.name for path in self.workspace.payloads.iterdir()}


@asynccontextmanager
async def opened(data: Path, clock: SetClock) -> AsyncIterator[World]:
    records = Records(data, boot="boot")
    workspace = Workspace(data)
    workspace.prepare()
    async with open_table(records, clock) as table:
        yield World(table, workspace, clock)
    records.close()


async def pass_of(world: World, mock: MockClock, cleaning: PayloadCleaner, seconds: float) -> None:
    """Let the time pass on both clocks, and one whole pass of the cleaning at the end."""
    world.clock.at += seconds
    mock.jump(seconds)
    await cleaning.clean()


def cleaning_of(world: World, max_age: float = 100.0) -> PayloadCleaner:
    return PayloadCleaner(
        world.table,
        world.workspace,
        world.clock,
        max_age=max_age,
        keep_uncollected=10_000.0,
        keep_tombstones=500.0,
    )


async def test_results_go_after_their_age_and_as_long_of_it_again_or_an_hour(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    async with opened(tmp_path, SetClock()) as world:
        await world.ended(BARE, "")
        await world.ended(KEYED, "o")
        cleaning = cleaning_of(world)
        await pass_of(world, mock_clock, cleaning, 101)
        assert world.there() == {BARE, KEYED}
        await pass_of(world, mock_clock, cleaning, 98)
        assert world.there() == {BARE, KEYED}
        await pass_of(world, mock_clock, cleaning, 61)
        assert world.there() == {KEYED}
        await pass_of(world, mock_clock, cleaning, 10_000)
        await pass_of(world, mock_clock, cleaning, 3_500)
        assert world.there() == {KEYED}
        await pass_of(world, mock_clock, cleaning, 101)
        assert world.there() == set()
        assert list((tmp_path / "trash").iterdir()) == []


async def test_a_clock_that_jumps_for_a_while_expires_nothing(tmp_path: Path, mock_clock: MockClock) -> None:
    async with opened(tmp_path, SetClock()) as world:
        await world.ended(BARE, "")
        cleaning = cleaning_of(world, max_age=7_200.0)
        world.clock.at += 1e9
        for _ in range(59):
            await pass_of(world, mock_clock, cleaning, 60)
        world.clock.at = 1_000_000.0
        await pass_of(world, mock_clock, cleaning, 60)
        world.clock.at += 1e9
        await pass_of(world, mock_clock, cleaning, 3_000)
        assert world.there() == {BARE}


async def test_what_is_being_read_is_discarded_when_nobody_reads_it_any_more(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    async with opened(tmp_path, SetClock()) as world:
        await world.ended(KEYED, "o")
        cleaning = cleaning_of(world)
        with world.workspace.reading(KEYED):
            await world.table.release([KEYED])
            await cleaning.clean()
            assert world.there() == {KEYED}
        await cleaning.clean()
        assert world.there() == set() and world.table.releasable() == []


@pytest.mark.parametrize(
    "error", [OSError(errno.EMFILE, "Too many open files"), RuntimeError("can't start new thread")]
)
async def test_what_could_not_be_deleted_goes_soon_and_not_only_a_minute_later(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    empty_trash, tries = Workspace.empty_trash, itertools.count(1)

    async def fail_at_first(workspace: Workspace) -> None:
        if next(tries) <= 2:
            raise error
        await empty_trash(workspace)
        emptied.set()

    monkeypatch.setattr(Workspace, "empty_trash", fail_at_first)
    async with opened(tmp_path, SetClock()) as world:
        await world.ended(KEYED, "o")
        await world.table.release([KEYED])
        emptied, began = trio.Event(), trio.current_time()
        async with trio.open_nursery() as nursery:
            await nursery.start(cleaning_of(world).run)
            await emptied.wait()
            nursery.cancel_scope.cancel()
        assert trio.current_time() - began < 5
        await cleaning_of(world).clean()
        assert list((tmp_path / "trash").iterdir()) == []


async def test_what_was_discarded_and_could_not_be_deleted_goes_soon(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    delete, tries = workspace._delete_all, itertools.count(1)

    def fail_at_first(paths: Iterable[str]) -> None:
        if (paths := list(paths)) and next(tries) == 1:
            raise OSError(errno.EMFILE, "Too many open files")
        delete(paths)

    monkeypatch.setattr(workspace, "_delete_all", fail_at_first)
    async with opened(tmp_path, SetClock()) as world:
        cleaning = cleaning_of(world)
        await cleaning.clean()
        await world.ended(KEYED, "o")
        await world.table.release([KEYED])
        emptied, began = trio.Event(), trio.current_time()
        token = trio.lowlevel.current_trio_token()
        world.workspace.emptied = lambda: token.run_sync_soon(emptied.set)
        async with trio.open_nursery() as nursery:
            await nursery.start(cleaning.run)
            await emptied.wait()
            nursery.cancel_scope.cancel()
        assert trio.current_time() - began < 5 and next(tries) > 2
        assert list((tmp_path / "trash").iterdir()) == []


async def test_what_is_discarded_is_deleted_and_nothing_else_in_the_trash(tmp_path: Path) -> None:
    async with opened(tmp_path, SetClock()) as world:
        await world.ended(KEYED, "o")
        (tmp_path / "trash" / "other").mkdir()
        assert world.workspace.discard(KEYED) and world.workspace.discard(BARE)
        await world.workspace.delete_discarded()
        assert os.listdir(tmp_path / "trash") == ["other"]
        await world.workspace.empty_trash()
        assert os.listdir(tmp_path / "trash") == []


async def test_tombstones_go_after_their_time(tmp_path: Path, mock_clock: MockClock) -> None:
    async with opened(tmp_path, SetClock()) as world:
        await world.table.cancel([KEYED])
        cleaning = cleaning_of(world)
        await pass_of(world, mock_clock, cleaning, 499)
        assert world.table.is_tombstoned(KEYED)
        await pass_of(world, mock_clock, cleaning, 61)
        await pass_of(world, mock_clock, cleaning, 3_601)
        assert not world.table.is_tombstoned(KEYED)


async def test_a_release_rings_and_the_directory_goes_at_once(tmp_path: Path) -> None:
    async with opened(tmp_path, SetClock()) as world:
        await world.ended(KEYED, "o")
        cleaning = cleaning_of(world)
        world.table.subscriptions.add_listener(cleaning.hear)
        async with trio.open_nursery() as nursery:
            await nursery.start(cleaning.run)
            await world.table.release([KEYED])
            with trio.fail_after(30):
                # The table forgets a payload when its directory has gone: then there is nothing to release.
                while world.table.releasable():
                    await trio.lowlevel.checkpoint()
            assert world.there() == set()
            nursery.cancel_scope.cancel()
