"""The health command: real processes, whatever they do."""

from __future__ import annotations

import os
from pathlib import Path

import trio

from node.host.health import HealthCheck


def check(directory: Path, command: str, **how: float) -> HealthCheck:
    return HealthCheck(command, directory, lambda why: None, **how)


async def test_it_tells_the_status_and_the_last_line(tmp_path: Path) -> None:
    assert await check(tmp_path, "exit 0").look() == ""
    why = await check(tmp_path, "echo first; echo the GPU is gone >&2; exit 3").look()
    assert why == "the health command ended with status 3: the GPU is gone"
    assert await check(tmp_path, "pwd; test -d .").look() == ""


async def test_one_that_hangs_is_killed_with_what_it_started(tmp_path: Path) -> None:
    command = f"sleep 1000 & echo $! > {tmp_path}/child; sleep 1000"
    with trio.fail_after(60):
        why = await check(tmp_path, command, deadline=0.5).look()
        assert "longer than 0.5 s" in why
        child = int((tmp_path / "child").read_text())
        try:
            fd = os.pidfd_open(child)
        except ProcessLookupError:
            return
        await trio.lowlevel.wait_readable(fd)
        os.close(fd)


async def test_a_child_that_holds_the_output_is_not_waited_for(tmp_path: Path) -> None:
    with trio.fail_after(60):
        why = await check(tmp_path, f"sleep 25 & echo $! > {tmp_path}/child; echo bad; exit 1").look()
    assert why.endswith("status 1: bad")
    os.kill(int((tmp_path / "child").read_text()), 9)


async def test_it_is_looked_at_once_and_again(tmp_path: Path) -> None:
    put, told = trio.open_memory_channel[str](10)
    command = "test -e well || { echo still cold; exit 1; }"
    health = HealthCheck(command, tmp_path, put.send_nowait, every=0.05)
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(health.run)
            assert (await told.receive()).endswith("still cold")
            (tmp_path / "well").touch()
            while await told.receive():
                pass
            nursery.cancel_scope.cancel()
