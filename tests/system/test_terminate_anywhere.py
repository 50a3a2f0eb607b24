"""Terminate in every state that a job passes through, as often as asked."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import trio
from support.data.directories import all_files, until
from support.peers.portals import Portal, portal
from support.peers.wires import Hold, Rule, wire
from support.processes.gates import gate
from support.processes.processes import PATIENCE, Place, promised

GRACE = 1.0
KILLED = {"status": "Killed", "message": "job terminated"}
AT_ONCE = 1.0
"""Seconds, where nothing has to be waited for."""
WAITED = 5.0
"""Seconds that the server waits for the end before it answers."""


async def terminate(user: Portal, job: int) -> dict[str, Any]:
    answer = await user.http.post(f"/terminate/{job}")
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


async def terminated(user: Portal, job: int, within: float = GRACE + 2) -> None:
    """Ask for it three times at once and twice after: it is Killed in time, and said to be."""
    began = trio.current_time()
    answers: list[dict[str, Any]] = []
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(_collect, answers, user, job)
    took = trio.current_time() - began
    assert took < promised(within)
    killed = {"id": job, **KILLED}
    # On a busy machine it may end after they were answered.
    assert all(answer == killed or (took > WAITED and answer["status"] == "Locked") for answer in answers)
    end = await user.ended(job)
    assert end["status"] == "Killed" and end["attempts_used"] <= 1
    assert [await terminate(user, job) for _ in range(2)] == [killed] * 2


async def _collect(answers: list[dict[str, Any]], user: Portal, job: int) -> None:
    answers.append(await terminate(user, job))


def once(line: str, hold: Hold) -> Callable[[str], Rule]:
    """Hold the first request that begins so, and no other."""
    held: list[str] = []

    def rule(request: str) -> Rule:
        if request == line and not held:
            held.append(request)
            return hold
        return None

    return rule


def left_on(data: Path) -> list[str]:
    """What a node has of payloads, or is receiving."""
    return [path.name for name in ("payloads", "incoming", "trash") for path in (data / name).iterdir()]


async def test_a_queued_job_is_killed_at_once_and_its_inputs_can_be_had(here: Place) -> None:
    server = here.server(nodes=["http://127.0.0.1:9"])
    async with portal(server.url) as user:
        job = await user.upload("true", files={"in": b"ATOM"})
        await terminated(user, job, AT_ONCE)
        assert (await user.contents(job))["in"] == b"ATOM"


async def test_a_job_is_killed_amid_the_dispatch_of_its_large_input(here: Place) -> None:
    node = here.node("node", "--slots", "1")
    hold = Hold(up=1 << 20)
    async with wire(node.url, once("POST /v1/attempts", hold)) as slow:
        server = here.server(nodes=[slow.url])
        async with portal(server.url) as user:
            job = await user.upload("echo > ran", files={"big": os.urandom(12 << 20)})
            with trio.fail_after(PATIENCE):
                await hold.reached.wait()
            assert (await user.job(job))["status"] == "Processing"
            await terminated(user, job, AT_ONCE)
            hold.go_on.set()
            # The node is free, and has forgotten it: the next job runs.
            assert (await user.run("true"))["status"] == "Completed"
            data = here.directory / "node"
            await until(lambda: not left_on(data), data)


async def test_a_job_that_waits_on_its_node_for_a_slot_is_killed_and_never_runs(here: Place) -> None:
    node = here.node("node", "--slots", "1")
    hold = Hold(up=0)
    async with wire(node.url, once("link submit", hold)) as slow:
        server = here.server(nodes=[slow.url])
        async with portal(server.url) as user:
            with gate(here.directory / "gate") as shut:
                job = await user.upload(f"echo > {here.directory}/ran")
                with trio.fail_after(PATIENCE):
                    await hold.reached.wait()
                # Somebody else takes the slot that it was sent for.
                async with httpx.AsyncClient(base_url=node.url, trust_env=False, timeout=PATIENCE) as http:
                    file = ("run.sh", shut.wait.encode())
                    assert (await http.post("/submit", files=[("run.sh", file)])).status_code == 200
                # Told with the next heartbeat.
                while not (await user.json("/v1/nodes"))["items"][0]["others"]:
                    await user.job(job, "?wait=0.2&after=9999")
                hold.go_on.set()
                # On a busy machine it has been given back by now.
                await user.until(job, "Submitted", "Queued")
                await terminated(user, job)
            assert (await user.run("true"))["status"] == "Completed"
    assert not (here.directory / "ran").exists()


RESIST = {
    "a child that ignores it": "(trap '' TERM; sleep 600) & {}; wait\n",
    "a pipe": "{}; tail -f /dev/null | cat\n",
    "five that ignore all": 'for i in 1 2 3 4 5; do (trap "" TERM INT; sleep 600) & done; {}; sleep 600\n',
    "a daemon": "(trap '' TERM HUP; setsid nohup sleep 600 >/dev/null 2>&1 &) & wait; {}; sleep 600\n",
}


@pytest.mark.parametrize("kind", RESIST)
async def test_a_running_job_is_killed_in_time_with_all_it_started(here: Place, kind: str) -> None:
    begun = here.directory / "begun"
    os.mkfifo(begun)
    server = here.server(nodes=[here.node("node", grace=str(GRACE)).url])
    async with portal(server.url) as user:
        job = await user.upload("echo part > part; " + RESIST[kind].format(f"echo > {begun}"))
        with trio.fail_after(PATIENCE):
            await trio.to_thread.run_sync(begun.read_text, abandon_on_cancel=True)
        await user.until(job, "Running")
        assert in_the_job(here)
        await terminated(user, job)
        assert in_the_job(here) == []
        assert (await user.contents(job))["part"] == b"part\n"
        assert (await user.contents(f"/download_partial/{job}"))["part"] == b"part\n"


def in_the_job(here: Place) -> list[str]:
    """The programs of jobs that run."""
    names = []
    for process in here.left():
        with contextlib.suppress(psutil.NoSuchProcess):
            names.append(process.name())
    return [name for name in names if name in ("bash", "sleep", "tail", "cat")]


async def test_a_job_whose_results_are_being_fetched_has_ended_and_says_how(here: Place) -> None:
    node = here.node("node")
    hold = Hold(down=1 << 20)
    async with wire(node.url, once("POST /v1/collect", hold)) as slow:
        server = here.server(nodes=[slow.url])
        async with portal(server.url) as user:
            job = await user.upload("head -c 4M /dev/urandom > big; sha256sum big > sum")
            with trio.fail_after(PATIENCE):
                await hold.reached.wait()
            answers: list[httpx.Response] = []

            async def ask() -> None:
                answers.append(await user.http.post(f"/terminate/{job}"))

            # Nothing of it is left to be killed, and that is told at once: the results are still held.
            with trio.fail_after(PATIENCE):
                async with trio.open_nursery() as asking:
                    for _ in range(3):
                        asking.start_soon(ask)
            assert not (await user.job(job))["terminate_requested"]
            hold.go_on.set()
            assert (await user.ended(job))["status"] == "Completed"
            await ask()
            assert {"big", "sum"} <= set(await user.contents(job))
        assert {(answer.status_code, answer.json()["status"]) for answer in answers} == {(409, "Completed")}
        assert len(answers) == 4
        await until(lambda: not all_files(here.directory / "node" / "payloads"), here.directory / "node")
