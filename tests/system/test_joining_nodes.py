"""Nodes that join by themselves, real processes: they share the work, drain, leave, are lost, come back."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import trio
from support.peers.portals import Portal, portal
from support.processes.processes import Place, Started, promised, soon_lost

CONFIG = "[services.example]\nruns_per_user = 8\n"


def losing(seconds: float) -> str:
    return f"node_lost_after = {seconds}\n{CONFIG}"


def joining(here: Place, name: str, server: Started, *flags: str) -> Started:
    return here.node(name, "--slots", "1", "--join", server.url, "--join-services", "example", *flags)


def gate(here: Place, name: str) -> Path:
    path = here.directory / name
    here.run("mkfifo", str(path))
    return path


async def nodes(user: Portal) -> dict[str, dict[str, Any]]:
    return {node["url"]: node for node in (await user.json("/v1/nodes"))["items"]}


async def running_on(user: Portal, here: Place, *found: Started) -> dict[str, tuple[int, Path]]:
    """A job that waits at its gate on each of these nodes, by the node's URL."""
    gates = [gate(here, f"gate-{number}") for number in range(len(found))]
    # A second attempt is not held up: the first may still stand at the gate.
    script = "if [ $ORCHESTRATOR_ATTEMPT = 1 ]; then cat {} > result.txt; fi"
    jobs = [await user.upload(script.format(path)) for path in gates]
    rows = [await user.until(job, "Running") for job in jobs]
    urls = {node["id"]: url for url, node in (await nodes(user)).items()}
    placed = {urls[row["node"]]: (row["id"], path) for row, path in zip(rows, gates, strict=True)}
    assert set(placed) == {node.url for node in found}
    return placed


def open_gate(here: Place, path: Path) -> None:
    here.run("sh", "-c", f"echo through > {path}")


async def test_nodes_join_drain_are_lost_and_are_found_after_a_restart(here: Place) -> None:
    static = here.node("static", "--slots", "1")
    config = losing(soon_lost(2))
    server = here.server(nodes=[static.url], config=config)
    first = joining(here, "first", server, "--labels", "gpu=a100")
    second = joining(here, "second", server)
    async with portal(server.url) as user:
        placed = await running_on(user, here, static, first, second)
        seen = await nodes(user)
        assert {seen[one.url]["source"] for one in (first, second)} == {"joined"}
        assert (seen[static.url]["source"], seen[first.url]["labels"]) == ("static", {"gpu": "a100"})

        # What drains ends what it has, and gets nothing.
        name = seen[first.url]["id"]
        answer = await user.http.post(f"/v1/nodes/{name}/drain", json={"reason": "new kernel"})
        assert (answer.status_code, answer.json()["status"]) == (200, "draining")
        for url in (first.url, static.url):
            open_gate(here, placed[url][1])
            end = await user.ended(placed[url][0])
            assert (end["status"], end["attempts_used"]) == ("Completed", 1)
        later = [await user.ended(await user.upload("true")) for _ in range(2)]
        assert {end["node"] for end in later} == {seen[static.url]["id"]}

    # The server dies and comes back: who joined is known, and so is what drains.
    await server.end(signal.SIGKILL)
    server = here.server(nodes=[static.url], config=config, port=server.port)
    async with portal(server.url) as user:
        end = await user.ended(await user.upload("true"))
        assert end["node"] == seen[static.url]["id"]
        again = (await nodes(user))[first.url]
        assert (again["draining"], again["source"]) == ("new kernel", "joined")

        # A node that is killed is lost, and its job goes elsewhere.
        assert (await user.http.post(f"/v1/nodes/{name}/undrain")).status_code == 200
        stuck, _ = placed[second.url]
        second.send(signal.SIGKILL)
        await second.ended()
        end = await user.ended(stuck)
        assert (end["status"], end["attempts_used"]) == ("Completed", 2)
        assert end["node"] != seen[second.url]["id"]

        # One that ends in order has left.
        assert await first.end(signal.SIGTERM) == 0
        assert first.url not in await nodes(user)
        delete = await user.http.delete(f"/v1/nodes/{seen[static.url]['id']}")
        assert (delete.status_code, delete.json()["code"]) == (409, "static_node")


async def test_a_node_that_is_stopped_with_a_job_on_it_is_expected_back(here: Place) -> None:
    lost_after = soon_lost(2)
    server = here.server(config=losing(lost_after))
    node = here.node("node", "--join", server.url, "--join-services", "example", on_stop="leave")
    async with portal(server.url) as user:
        (job, path) = (await running_on(user, here, node))[node.url]
        assert await node.end(signal.SIGTERM) == 0
        with trio.fail_after(promised()):
            while (seen := (await nodes(user))[node.url])["status"] != "suspect":
                await trio.lowlevel.checkpoint()
        assert seen["message"] == "it was stopped with 1 job on it, and is to be back"
        # Well beyond `node_lost_after`, over a restart of the server too.
        other = joining(here, "other", server)
        assert (await user.run(f"sleep {1.5 * lost_after}"))["status"] == "Completed"
        await server.end(signal.SIGTERM)
    server = here.server(config=losing(lost_after), port=server.port)
    async with portal(server.url) as user:
        assert (await user.run(f"sleep {1.5 * lost_after}"))["status"] == "Completed"
        assert (await user.json(f"/v1/jobs/{job}"))["status"] == "Running"
        here.node("node", "--join", server.url, "--join-services", "example", port=node.port, on_stop="leave")
        open_gate(here, path)
        end = await user.ended(job)
        assert (end["status"], end["attempts_used"]) == ("Completed", 1)
        assert await other.end(signal.SIGTERM) == 0
    assert "is lost" not in server.errors()


async def test_a_node_that_drains_before_it_goes_loses_nothing_and_nobody_warns(here: Place) -> None:
    lost_after = soon_lost(2)
    server = here.server(config=losing(lost_after))
    node = joining(here, "node", server, "--drain", "600")
    async with portal(server.url) as user:
        (job, path) = (await running_on(user, here, node))[node.url]
        node.send(signal.SIGTERM)
        with trio.fail_after(promised()):
            while (seen := (await nodes(user))[node.url])["status"] != "draining":
                await trio.lowlevel.checkpoint()
        assert "it was told to stop" in seen["message"]
        later = await user.upload("true")
        await user.until(later, "Queued", saying="is draining")
        open_gate(here, path)
        assert await node.ended() == 0
        end = await user.ended(job)
        assert (end["status"], end["attempts_used"]) == ("Completed", 1)
        assert await nodes(user) == {}
        joining(here, "other", server)
        assert (await user.run(f"sleep {2 * lost_after}"))["status"] == "Completed"
        assert (await user.ended(later))["status"] == "Completed"
    said = [line for line in server.errors().splitlines() if "no node runs example" not in line]
    assert not any("WARNING" in line or "ERROR" in line for line in said)


async def test_a_second_signal_ends_the_drain_and_leaves_the_job(here: Place) -> None:
    server = here.server(config=CONFIG)
    flags = ("--join", server.url, "--join-services", "example", "--drain", "600")
    node = here.node("node", *flags, on_stop="leave")
    async with portal(server.url) as user:
        (job, path) = (await running_on(user, here, node))[node.url]
        node.send(signal.SIGINT)
        with trio.fail_after(promised()):
            while (await nodes(user))[node.url]["status"] != "draining":
                await trio.lowlevel.checkpoint()
        assert await node.end(signal.SIGINT) == 0
        here.node("node", *flags, port=node.port, on_stop="leave")
        open_gate(here, path)
        end = await user.ended(job)
        assert (end["status"], end["attempts_used"]) == ("Completed", 1)


async def test_a_node_whose_health_command_fails_gets_no_jobs_and_says_why(here: Place) -> None:
    server = here.server(config=CONFIG)
    joining(here, "sick", server, "--health-command", "echo the GPU is gone; exit 1")
    well = joining(here, "well", server)
    async with portal(server.url) as user:
        ends = [await user.ended(await user.upload("true")) for _ in range(4)]
        seen = {node["id"]: node for node in (await user.json("/v1/nodes"))["items"]}
        sick = next(node for node in seen.values() if node["url"] != well.url)
        assert {end["node"] for end in ends} == {
            node["id"] for node in seen.values() if node["url"] == well.url
        }
        assert (sick["status"], sick["message"]) == (
            "set_aside",
            "the health command ended with status 1: the GPU is gone",
        )


async def test_a_job_goes_to_a_node_that_has_what_it_requires_and_says_so_while_there_is_none(
    here: Place,
) -> None:
    server = here.server(config=CONFIG)
    plain = joining(here, "plain", server)
    async with portal(server.url) as user:
        wanting = await user.upload("echo found > result.txt", requires="gpu=a100")
        await user.until(wanting, "Queued", saying="waits for a node of service example that has gpu=a100")
        # It holds up none that came after it, of the same user.
        others = [await user.run("true") for _ in range(3)]
        assert {end["status"] for end in others} == {"Completed"}
        fitting = joining(here, "fitting", server, "--labels", "gpu=a100,ssd")
        end = await user.ended(wanting)
        seen = await nodes(user)
        assert (end["status"], end["node"]) == ("Completed", seen[fitting.url]["id"])
        assert {end["node"] for end in others} == {seen[plain.url]["id"]}


async def test_an_address_in_the_settings_where_nobody_answers_is_told(here: Place) -> None:
    server = here.server(nodes=["http://127.0.0.1:9"])
    async with portal(server.url) as user:
        with trio.fail_after(promised()):
            while not (found := await nodes(user)):
                await trio.lowlevel.checkpoint()
        (node,) = found.values()
        assert (node["status"], node["services"]) == ("lost", ["example"])
        assert "not answered" in node["message"] and "no connection" in node["message"]
