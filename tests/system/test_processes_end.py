"""How processes end: told to, killed, with work under way; and what of it is found again."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import trio
import trio.testing
from support.peers.node_clients import NodeClient
from support.peers.portals import Portal, portal
from support.processes.processes import Place, Started, gone, promised

STUBBORN = "trap '' TERM INT HUP; echo $$ > {}; sleep 600"


async def _written(fifo: Path) -> str:
    """What a script writes into a FIFO, once it does."""
    with trio.fail_after(60):
        return await trio.to_thread.run_sync(fifo.read_text, abandon_on_cancel=True)


def _fifo(here: Place, name: str) -> Path:
    path = here.directory / name
    os.mkfifo(path)
    return path


async def _running(here: Place, user: Portal, script: str, **how: Any) -> int:
    """A job whose script has begun; `{}` in it is where it says so."""
    fifo = _fifo(here, f"begun-{len(list(here.directory.glob('begun-*')))}")
    job = await user.upload(script.format(fifo), **how)
    await _written(fifo)
    await user.until(job, "Running")
    return job


def _below(up: Started, command: str) -> list[int]:
    """The processes of a command that `up` has started."""
    return [one.pid for one in psutil.Process(up.pid).children() if command in one.cmdline()]


async def _answers(url: str) -> None:
    """Wait until somebody listens there again, who has ended or is about to begin."""
    with trio.fail_after(60):
        async with portal(url) as user:
            while True:
                with suppress(httpx.TransportError):
                    await user.get("/health")
                    return
                await trio.sleep(0.05)


@asynccontextmanager
async def _under_way(server: Started, *paths: str) -> AsyncIterator[list[Any]]:
    """Requests that wait for something, from when the server has them; their answers, when it has ended."""
    answers: list[Any] = []

    async def ask(path: str) -> None:
        try:
            answers.append((await http.get(path)).status_code)
        except httpx.TransportError as error:
            answers.append(error)

    async with (
        httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=60) as http,
        trio.open_nursery() as nursery,
    ):
        for path in paths:
            nursery.start_soon(ask, path)
        # What is asked when they are sent is answered when they are inside.
        await trio.testing.wait_all_tasks_blocked()
        async with portal(server.url) as other:
            await other.get("/health")
        yield answers


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_up_ends_with_everything_it_started(here: Place, number: int) -> None:
    running = here.up("--nodes", "2", "--slots", "2")
    async with portal(running.url) as user:
        stubborn = await _running(here, user, STUBBORN)
        await _running(here, user, "echo > {}; sleep 600")
        async with _under_way(running, f"/v1/jobs/{stubborn}?wait=60&until=ended") as answers:
            assert await running.end(number) == 0
    assert here.left() == []
    assert answers == [200]
    assert "Traceback" not in running.errors()


async def test_up_that_is_killed_takes_nodes_and_payloads_along(here: Place) -> None:
    running = here.up("--nodes", "2", "--slots", "2")
    async with portal(running.url) as user:
        await _running(here, user, STUBBORN)
    others = [process.pid for process in here.left() if process.pid != running.pid]
    assert len(others) > 3
    await running.end(signal.SIGKILL)
    await gone(others, within=promised(20))
    assert here.left() == []


async def test_a_server_of_up_that_ends_is_started_again_and_costs_no_job_an_attempt(here: Place) -> None:
    running = here.up("--nodes", "1", "--slots", "1", "--autoscale", "1:1")
    nodes = _below(running, "node")
    go = [_fifo(here, f"go-{number}") for number in range(2)]
    async with portal(running.url) as user:
        # One of them on the node that is made with the load.
        jobs = [await _running(here, user, f"echo > {{}}; cat {one}") for one in go]
        for number, whom in ((signal.SIGKILL, None), (signal.SIGTERM, None), (signal.SIGHUP, running.pid)):
            (server,) = _below(running, "server-of-up")
            os.kill(whom or server, number)
            await gone([server])
            await _answers(running.url)
            assert _below(running, "node") == nodes
        for one in go:
            with trio.fail_after(60):
                await trio.to_thread.run_sync(one.write_text, "on\n", abandon_on_cancel=True)
        for job in jobs:
            ended = await user.ended(job)
            assert (ended["status"], ended["attempt"]) == ("Completed", 1)
    assert await running.end(signal.SIGTERM) == 0
    assert here.left() == []


async def test_up_started_again_goes_on_with_its_data(here: Place) -> None:
    running = here.up("--nodes", "1", "--slots", "1")
    async with portal(running.url) as user:
        done = await user.run("echo kept > kept")
        script = '[ "$ORCHESTRATOR_ATTEMPT" = 2 ] && exit 0; echo > {}; sleep 600'
        cut_off = await _running(here, user, script)
        waiting = await user.upload("echo later > later")
    assert await running.end(signal.SIGTERM) == 0
    running = here.up("--nodes", "1", "--slots", "1")
    async with portal(running.url) as user:
        assert (await user.contents(done["id"]))["kept"] == b"kept\n"
        assert (await user.ended(waiting))["status"] == "Completed"
        again = await user.ended(cut_off)
        assert (again["status"], again["attempt"]) == ("Completed", 2)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_server_ends_in_time_though_clients_wait(here: Place, number: int) -> None:
    node = here.node("node", "--slots", "1")
    server = here.server(nodes=[node.url])
    async with portal(server.url) as user:
        job = await _running(here, user, "echo > {}; sleep 600")
        waits = (
            f"/v1/jobs/{job}?wait=60&until=ended",
            f"/v1/jobs/{job}/logs?follow=1",
            f"/v1/jobs/{job}?wait=60",
        )
        async with _under_way(server, *waits) as answers:
            assert await server.end(number) == 0
    assert len(answers) == 3 and answers.count(200) >= 2
    assert "Traceback" not in server.errors()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_node_ends_in_time_though_its_events_are_followed(here: Place, number: int) -> None:
    node = here.node("node", "--slots", "1")
    async with httpx.AsyncClient(base_url=node.url, trust_env=False, timeout=60) as http:
        follower = NodeClient(node.url, http)
        async with follower.events() as events:
            await events.next_of("picture")
            script = b"trap '' TERM; sleep 600"
            await http.post("/submit", files=[("file", ("run.sh", script))])
            assert await node.end(number) == 0
            with trio.fail_after(promised()), pytest.raises(EOFError):
                while True:
                    await events.next()
    assert here.left() == []
    assert "Traceback" not in node.errors()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_a_node_started_again_finds_its_jobs(here: Place, number: int) -> None:
    go_on, ready = _fifo(here, "go-on"), _fifo(here, "ready")
    node = here.node("node", "--slots", "2", on_stop="leave")
    server = here.server(nodes=[node.url])
    async with portal(server.url) as user:
        script = (
            f"echo up > {ready}; read x < {go_on}; echo $x > result.txt; echo once >> {here.directory}/ran"
        )
        job = await user.upload(script)
        await _written(ready)
        await user.until(job, "Running")
        await node.end(number)
        await trio.to_thread.run_sync(go_on.write_text, "went on\n")
        here.node("node", "--slots", "2", port=node.port, on_stop="leave")
        end = await user.ended(job)
        assert (end["status"], end["attempt"], end["attempts_used"]) == ("Completed", 1, 1)
        assert (await user.contents(job))["result.txt"] == b"went on\n"
    assert (here.directory / "ran").read_text() == "once\n"


@pytest.mark.parametrize("ends", ["before", "after"])
async def test_a_server_killed_amid_a_run_collects_the_job_later(here: Place, ends: str) -> None:
    go_on, ready = _fifo(here, "go-on"), _fifo(here, "ready")
    node = here.node("node", "--slots", "1")
    server = here.server(nodes=[node.url])
    async with portal(server.url) as user:
        job = await user.upload(f"echo up > {ready}; read x < {go_on}; echo $x > result.txt; exit 3")
        await _written(ready)
        await user.until(job, "Running")
        waiting = await user.upload("echo later")
    await server.end(signal.SIGKILL)
    if ends == "before":
        await trio.to_thread.run_sync(go_on.write_text, "done\n")
    server = here.server(nodes=[node.url])
    if ends == "after":
        await trio.to_thread.run_sync(go_on.write_text, "done\n")
    async with portal(server.url) as user:
        end = await user.ended(job)
        assert (end["status"], end["message"], end["attempt"]) == ("Failed", "exit code 3", 1)
        assert (await user.contents(job))["result.txt"] == b"done\n"
        assert (await user.ended(waiting))["status"] == "Completed"
