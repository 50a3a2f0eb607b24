"""How often the file is looked at in which a script says how far it has come, and what wakes who looks."""

from __future__ import annotations

import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from actors.domain.progress import Progress
from node.host.inotify import DirectoryWatch, Inotify
from node.runs import progress_file
from node.runs.progress_file import ProgressTail, read


class Followed:
    """A payload's directory that is followed: when it was looked at, and what was told."""

    def __init__(self, directory: Path) -> None:
        self.file = directory / "progress" / "progress"
        self.looks: list[float] = []
        self._directory = directory
        self._send, self._told = trio.open_memory_channel[ProgressTail](100)

    def look(self, directory: Path) -> ProgressTail:
        self.looks.append(trio.current_time())
        return read(directory)

    async def follow(self, inotify: Inotify) -> None:
        await progress_file.follow(self._directory, inotify, self._send.send)

    async def told(self) -> Progress | None:
        return (await self._told.receive()).after(None)


@pytest.fixture
def followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Followed:
    async def here(function: Any, *arguments: Any) -> Any:
        # The clock would not wait for a thread.
        await trio.lowlevel.checkpoint()
        return function(*arguments)

    one = Followed(tmp_path)
    monkeypatch.setattr(trio.to_thread, "run_sync", here)
    monkeypatch.setattr(progress_file, "read", one.look)
    return one


async def test_a_script_that_repeats_itself_is_looked_at_less_and_less(
    followed: Followed, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    followed.file.parent.mkdir()

    def always(inotify: Inotify, directory: Path) -> DirectoryWatch:
        armed = DirectoryWatch(inotify, -1)
        armed.fired.set()
        return armed

    monkeypatch.setattr(Inotify, "arm", always)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(followed.follow, Inotify())
        for fraction in (0.25, 0.5):
            followed.file.write_text(f"{fraction} same\n")
            begun = trio.current_time()
            assert await followed.told() == Progress(fraction, "same")
            assert trio.current_time() - begun <= 1.0
            told = len(followed.looks)
            await trio.sleep(20.0)
            times = followed.looks[told - 1 :]
            rests = [after - before for before, after in pairwise(times)]
            assert rests[:7] == pytest.approx([1.0, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64])
            assert rests[7:] == pytest.approx([1.0] * len(rests[7:])) and len(rests) > 20
        nursery.cancel_scope.cancel()


async def test_a_directory_that_is_not_there_is_not_looked_at_until_it_comes(
    followed: Followed, autojump_clock: MockClock
) -> None:
    log = followed.file.parents[1] / "stdout.log"
    async with trio.open_nursery() as nursery:
        inotify = Inotify()
        nursery.start_soon(inotify.hear)
        nursery.start_soon(followed.follow, inotify)
        await trio.sleep(3600.0)
        log.write_text("made\n")
        for fraction in (0.25, 0.5):
            before = len(followed.looks)
            for n in range(20):
                with log.open("a") as file:
                    file.write(f"line {n}\n")
                await trio.sleep(60.0)
            assert len(followed.looks) - before <= 2
            followed.file.parent.mkdir()
            followed.file.write_text(f"{fraction}\n")
            assert await followed.told() == Progress(fraction)
            shutil.rmtree(followed.file.parent)
            followed.file.parent.symlink_to("/etc")
            await trio.sleep(3600.0)
            followed.file.parent.unlink()
        nursery.cancel_scope.cancel()
    assert len(followed.looks) < 20
    assert not inotify._armed


async def test_who_waits_for_what_comes_takes_nothing_from_who_waits_for_any_change(tmp_path: Path) -> None:
    (tmp_path / "log").touch()
    async with trio.open_nursery() as nursery:
        inotify = Inotify()
        nursery.start_soon(inotify.hear)
        for first, second in ((inotify.arm, inotify.arm_for_new), (inotify.arm_for_new, inotify.arm)):
            for armed in (first(tmp_path), second(tmp_path)):
                assert armed is not None
            (tmp_path / "log").write_text("x")
            await armed.fired.wait()
        new, beside = inotify.arm_for_new(tmp_path), tmp_path / "beside"
        assert new is not None
        (tmp_path / "log").write_text("y")
        await wait_all_tasks_blocked(0.01)
        assert not new.fired.is_set()
        beside.touch()
        await new.fired.wait()
        nursery.cancel_scope.cancel()


async def test_no_watch_is_left_behind(tmp_path: Path) -> None:
    inotify = Inotify()
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(inotify.hear)
            first, second = inotify.arm(tmp_path), inotify.arm(tmp_path)
            assert first is not None and second is not None
            first.disarm()
            first.disarm()
            assert not second.fired.is_set() and inotify._armed
            second.disarm()
            assert not inotify._armed
            assert inotify.arm(tmp_path / "nowhere") is None
            scope.cancel()
    assert inotify.arm(tmp_path) is None
