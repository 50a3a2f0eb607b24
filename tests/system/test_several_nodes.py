"""More than one node, not all of them there: jobs wait or go elsewhere, and say why."""

from __future__ import annotations

import signal

import trio
from support.peers.portals import PATIENCE, Portal, portal
from support.processes.processes import Place, Started

from orchestrator.scheduling.service_pool import SHORT_ENDS


async def steps_of(user: Portal, job: int) -> list[tuple[str, str]]:
    return [(entry["from"], entry["to"]) for entry in await user.history(job)]


async def absent_node(here: Place, name: str) -> Started:
    """A node that has ended: nobody listens at its address, where it can be started again."""
    node = here.node(name)
    assert await node.end(signal.SIGTERM) == 0
    return node


async def test_with_one_node_down_at_the_start_the_other_gets_the_jobs(here: Place) -> None:
    down = await absent_node(here, "down")
    up = here.node("up", "--slots", "2")
    server = here.server(nodes=[down.url, up.url])
    async with portal(server.url) as user:
        jobs = [await user.upload("echo here > where") for _ in range(4)]
        ends = [await user.ended(job) for job in jobs]
        assert {end["status"] for end in ends} == {"Completed"}
        assert {end["attempts_used"] for end in ends} == {1}
        assert len({end["node"] for end in ends}) == 1
        nodes = {node["url"]: node for node in (await user.json("/v1/nodes"))["items"]}
        assert nodes[up.url]["status"] == "ready"
        assert down.url not in nodes or nodes[down.url]["status"] != "ready"


async def test_with_no_node_a_job_waits_says_so_and_starts_when_one_appears(here: Place) -> None:
    first, second = await absent_node(here, "first"), await absent_node(here, "second")
    server = here.server(nodes=[first.url, second.url])
    async with portal(server.url) as user:
        job = await user.upload("echo at last > result.txt")
        waiting = await user.until(job, "Queued", saying="node")
        assert waiting["attempts_used"] == 0 and waiting["waiting_for"] == "no_node", waiting
        # The contract's route says the same.
        told = await user.json(f"/download/{job}")
        assert (told["status"], told["message"]) == ("Queued", waiting["message"])
        here.node("second", port=second.port)
        end = await user.ended(job)
        assert (end["status"], end["attempts_used"]) == ("Completed", 1)
        assert (await user.contents(job))["result.txt"] == b"at last\n"


async def test_a_short_job_waits_on_a_node_only_until_another_might_have_a_slot(here: Place) -> None:
    """Sent ahead of a slot, as all jobs before it were short, behind one that is not."""
    other = await absent_node(here, "other")
    node = here.node("node", "--slots", "1")
    server = here.server(nodes=[node.url, other.url])
    fifo = here.directory / "fifo"
    here.run("mkfifo", str(fifo))
    async with portal(server.url) as user:
        for _ in range(SHORT_ENDS):
            assert (await user.ended(await user.upload("true")))["status"] == "Completed"
        long = await user.upload(f"read word < {fifo}")
        await user.until(long, "Running")
        job = await user.upload("echo here > where", user=2)
        with trio.fail_after(PATIENCE):
            row = await user.job(job)
            while ("Submitted", "Queued") not in await steps_of(user, job):
                row = await user.job(job, f"?wait=1&after={row['version']}")
        row = await user.job(job)
        assert (row["attempts_used"], row["waiting_for"]) == (0, "slot"), row
        here.node("other", "--slots", "1", port=other.port)
        end = await user.ended(job)
        assert (end["status"], end["attempts_used"]) == ("Completed", 1)
        assert end["node"] != (await user.job(long))["node"]
        here.run("sh", "-c", f"echo on > {fifo}")
        assert (await user.ended(long))["status"] == "Completed"


async def test_two_nodes_share_what_one_could_not_run_at_once(here: Place) -> None:
    nodes = [here.node(name, "--slots", "1") for name in ("first", "second")]
    server = here.server(nodes=[node.url for node in nodes])
    fifo = here.directory / "fifo"
    here.run("mkfifo", str(fifo))
    async with portal(server.url) as user:
        # Each waits for the other at the FIFO's two ends: neither ends unless both run.
        writer = await user.upload(f"echo met > {fifo}")
        reader = await user.upload(f"cat {fifo} > result.txt")
        ends = [await user.ended(job) for job in (writer, reader)]
        assert [end["status"] for end in ends] == ["Completed", "Completed"]
        assert ends[0]["node"] != ends[1]["node"]
        assert (await user.contents(reader))["result.txt"] == b"met\n"
