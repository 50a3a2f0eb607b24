"""What is left of a payload that nothing holds together any more."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import trio

from actors.process import procfs
from node.executors.log_pipes import LogPipe
from node.executors.stray_processes import end_leftovers


async def test_leftovers_are_killed_and_looked_for_beside_the_event_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = set()
    all_pids = procfs.all_pids

    def seen() -> list[int]:
        threads.add(threading.get_ident())
        return all_pids()

    monkeypatch.setattr(procfs, "all_pids", seen)
    work = tmp_path / "work"
    work.mkdir()
    left = await trio.lowlevel.open_process(["sleep", "60"], cwd=work)
    try:
        with trio.fail_after(30):
            await end_leftovers(tmp_path, session=-1, since=0)
            assert await left.wait() == -9
    finally:
        left.kill()
    assert threads and threading.get_ident() not in threads


async def test_what_holds_the_pipe_of_a_log_belongs_to_it_wherever_it_is(tmp_path: Path) -> None:
    log = LogPipe(bytes(tmp_path / "stdout.log"), 1 << 20)
    left = await trio.lowlevel.open_process(
        ["sleep", "60"], cwd="/", start_new_session=True, stdout=log.writer
    )
    log.close_writer()
    try:
        with trio.fail_after(30):
            await end_leftovers(tmp_path, session=-1, since=0, pipes=frozenset())
            assert left.returncode is None
            await end_leftovers(tmp_path, session=-1, since=0, pipes=frozenset({log.pipe}))
            assert await left.wait() == -9
    finally:
        left.kill()
        log.close()
