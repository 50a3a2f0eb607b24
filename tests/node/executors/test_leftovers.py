"""What is left of a payload that nothing holds together any more."""

from __future__ import annotations

import subprocess
import sys
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
        with trio.fail_after(60):
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
        with trio.fail_after(60):
            await end_leftovers(tmp_path, session=-1, since=0, pipes=frozenset())
            assert left.returncode is None
            await end_leftovers(tmp_path, session=-1, since=0, pipes=frozenset({log.pipe}))
            assert await left.wait() == -9
    finally:
        left.kill()
        log.close()


async def test_what_stands_too_deep_to_be_named_belongs_to_it_if_that_is_below_its_directory(
    tmp_path: Path,
) -> None:
    down = "import os, time; [(os.mkdir('d' * 200), os.chdir('d' * 200)) for _ in range(25)]"
    theirs, other = tmp_path / "theirs", tmp_path / "other"
    started = []
    for home in (theirs, other):
        (home / "work").mkdir(parents=True)
        started.append(
            await trio.lowlevel.open_process(
                [sys.executable, "-c", f"{down}; print(flush=True); time.sleep(60)"],
                cwd=home / "work",
                start_new_session=True,
                stdout=subprocess.PIPE,
            )
        )
    try:
        with trio.fail_after(60):
            for process in started:
                assert process.stdout is not None
                await process.stdout.receive_some()
            await end_leftovers(theirs, session=-1, since=0)
            assert await started[0].wait() == -9
            assert started[1].returncode is None
    finally:
        for process in started:
            process.kill()
            assert process.stdout is not None
            await process.stdout.aclose()
            await process.wait()
