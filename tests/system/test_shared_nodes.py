"""What is not an orchestrator's own, or not any more in its ledger, is left alone."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from support.data.directories import all_files, until
from support.peers.portals import portal
from support.processes.gates import Gate, gate
from support.processes.processes import PATIENCE, Place, Started


@pytest.fixture
def shut(here: Place) -> Iterator[Gate]:
    with gate(here.directory / "gate") as found:
        yield found


async def test_two_orchestrators_share_the_slots_of_a_node_and_leave_each_other_alone(
    here: Place, shut: Gate
) -> None:
    node = here.node("node", "--slots", "2", "--orchestrators", "2")
    one, two = (here.server(nodes=[node.url], name=name) for name in ("one", "two"))
    script = f"{shut.wait}; echo mine > result.txt"
    async with portal(one.url) as first, portal(two.url) as second:
        ours = await first.upload(script)
        theirs = await second.upload(script)
        for user, job in ((first, ours), (second, theirs)):
            await user.until(job, "Running")
        # Both slots are taken, one of them by somebody else: what comes now waits.
        more = await first.upload("echo later > result.txt")
        ended = await first.upload("sleep 600", user=2)
        assert (await first.http.post(f"/terminate/{ended}")).json()["status"] == "Killed"
        assert (await second.job(theirs))["status"] == "Running"
        assert (await first.job(more))["status"] not in ("Running", "Completed")
    # One dies and starts again; one ends in peace. Neither harms what the other has on the node.
    await one.end(signal.SIGKILL)
    one = here.server(nodes=[node.url], name="one")
    async with portal(one.url) as first, portal(two.url) as second:
        assert (await first.http.post(f"/terminate/{ours}")).json()["status"] in ("Killed", "Locked")
        assert (await first.ended(ours))["status"] == "Killed"
        # Its slot is free for the other job of the same orchestrator, and for it alone.
        assert (await first.ended(more))["status"] == "Completed"
        assert (await second.job(theirs))["status"] == "Running"
    payloads = here.directory / "node" / "payloads"
    await until(lambda: len(list(payloads.iterdir())) == 1, payloads.parent)
    assert await one.end(signal.SIGTERM) == 0
    async with portal(two.url) as second:
        shut.open()
        end = await second.ended(theirs)
        assert (end["status"], end["attempt"]) == ("Completed", 1)
        assert (await second.contents(theirs))["result.txt"] == b"mine\n"
    await until(lambda: not all_files(payloads), payloads.parent)


async def test_a_ledger_restored_from_an_older_copy_destroys_nothing_and_repeats_no_id(
    here: Place, shut: Gate
) -> None:
    data, done = here.directory / "server", here.directory / "done"
    payloads = here.directory / "node" / "payloads"
    os.mkfifo(done)
    node = here.node("node", "--slots", "3")
    server = here.server(nodes=[node.url], config="small_files = 0")
    async with portal(server.url) as user:
        old = await user.run("echo old > result.txt")
    await _stop(server)
    copies = [
        path
        for path in data.iterdir()
        if path.name.startswith("db.sqlite") and path.is_file() and path.suffix != ".lock"
    ]
    for path in copies:
        shutil.copy2(path, here.directory / f"copy of {path.name}")

    server = here.server(nodes=[node.url], config="small_files = 0")
    async with portal(server.url) as user:
        newer = [await user.run("echo newer > result.txt") for _ in range(3)]
        running = await user.upload(f"{shut.wait}; echo $ORCHESTRATOR_JOB_ID > {done}")
        await user.until(running, "Running")
        await until(lambda: len(list(payloads.iterdir())) == 1, payloads.parent)
        kept = list(payloads.iterdir())
    await _stop(server)
    directories = _job_directories(data)
    assert len(directories) == 5
    for path in data.glob("db.sqlite*"):
        if path.is_file() and path.suffix != ".lock":
            path.unlink()
    for path in copies:
        shutil.copy2(here.directory / f"copy of {path.name}", path)

    server = here.server(nodes=[node.url], config="small_files = 0")
    async with portal(server.url) as user:
        assert (await user.contents(old["id"]))["result.txt"] == b"old\n"
        after = await user.run("echo after > result.txt")
        assert after["status"] == "Completed"
        assert after["id"] > max(running, *(job["id"] for job in newer))
        for job in newer:
            assert (await user.http.get(f"/v1/jobs/{job['id']}")).status_code == 404
        assert "older copy" in server.errors()
        assert directories < _job_directories(data)
        # What runs for a job that it does not know might be somebody else's, and goes on.
        shut.open()
        with trio.fail_after(PATIENCE):
            told = await trio.to_thread.run_sync(done.read_text, abandon_on_cancel=True)
        assert int(told) == running
        again = await user.run("true")
        assert again["id"] > after["id"]
    await until(lambda: list(payloads.iterdir()) == kept, payloads.parent)
    assert (kept[0] / "record.json").exists()


async def _stop(server: Started) -> None:
    assert await server.end(signal.SIGTERM) == 0


def _job_directories(data: Path) -> set[str]:
    return {path.name for path in (data / "data" / "jobs").glob("*/*")}
