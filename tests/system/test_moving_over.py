"""A server started on what job-orchestrator 2.x has left, beside a node that still runs one of its jobs."""

from __future__ import annotations

import signal
from pathlib import Path

import httpx
from support.data.rust_program import RustProgram
from support.peers.portals import portal
from support.processes.processes import PATIENCE, Place
from system.test_contract_peers import MARK, foreign_node, routes


async def test_jobs_of_2x_go_on(here: Place) -> None:
    node = foreign_node(here)
    old = RustProgram(here.directory / "server")
    script = MARK.encode() + b"while [ ! -e go ]; do sleep 0.1; done; echo ran > out\n"
    async with httpx.AsyncClient(base_url=node.url, trust_env=False, timeout=PATIENCE) as http:
        answer = await http.post("/submit", files=[("run.sh", ("run.sh", script))])
        number, place = int(answer.json()["id"]), Path(answer.json()["loc"])
    done = old.add("completed", {"run.sh": b"true"}, output={"out": b"of old"})
    running = old.add("running", {"run.sh": script}, node_number=number)
    queued = old.add("queued", {"run.sh": MARK.encode() + b"echo late > out\n"})
    before = old.state()
    server = here.server(**routes(node))
    async with portal(server.url) as user:
        assert await user.contents(f"/download/{done}") == {"out": b"of old"}
        assert (await user.ended(queued))["status"] == "Completed"
        assert (await user.contents(queued))["out"] == b"late\n"
        assert (await user.job(running))["status"] in ("Submitted", "Prepared", "Running")
        (place / "go").touch()
        assert (await user.ended(running))["status"] == "Completed"
        assert (await user.contents(running))["out"] == b"ran\n"
        new = await user.upload(MARK + "true\n")
        assert new == queued + 1
        assert (await user.ended(new))["status"] == "Completed"
    await server.end(signal.SIGTERM)
    assert old.state() == before
    server = here.server(**routes(node))
    async with portal(server.url) as user:
        assert await user.statuses() == ["Completed"] * 4
