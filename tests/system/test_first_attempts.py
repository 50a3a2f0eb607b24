"""A job that finds an idle system is one commit before its order is sent: what a real server stores, and what
a kill at that commit leaves."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import httpx
import pytest
import trio
from support.peers.portals import PATIENCE, Portal, portal
from support.processes.api_server import form
from support.processes.processes import Place, Started, look_later

PROGRAMS = Path(__file__).parents[1] / "support" / "processes"


def server_program(here: Place, node: Started, program: str, argument: str) -> Started:
    data = here.directory / "server"
    environment = {
        "DB_PATH": str(data / "db.sqlite"),
        "DATA_PATH": str(data / "data"),
        "SERVICE_EXAMPLE_NODES": node.url,
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    command = (sys.executable, str(PROGRAMS / program), argument)
    return here.start("server", "--port", "0", name="server", command=command, environment=environment)


async def node_is_ready(user: Portal) -> None:
    with trio.fail_after(PATIENCE):
        while [one["status"] for one in (await user.json("/v1/nodes"))["items"]] != ["ready"]:
            await look_later()


async def hand_in(user: Portal, script: str) -> httpx.Response:
    """Under an Idempotency-Key, as one who will ask again."""
    file = f'name="file"; filename="run.sh"|{script}'
    body, kind = form(file, 'name="user_id"|1', 'name="service"|example')
    headers = {"Content-Type": kind, "Idempotency-Key": "a-key"}
    return await user.http.post("/upload", content=body, headers=headers)


async def test_the_row_and_the_attempt_are_one_commit_before_201(here: Place) -> None:
    trace = here.directory / "trace"
    server = server_program(here, here.node(), "traced_server_program.py", str(trace))
    async with portal(server.url) as user:
        await node_is_ready(user)
        await user.run("true")  # for the first id of a block, the block is noted before
        began = len(trace.read_text().splitlines())
        job = await user.upload("true", files={"sub/in.pdb": b"ATOM"})
        ended = await user.ended(job)
        assert ended["status"] == "Completed"
        lines = await user.history(job)
    assert [line["to"] for line in lines[:3]] == ["Queued", "Processing", "Submitted"]
    assert lines[0]["reason"] == "Job successfully uploaded"
    assert lines[1]["reason"].startswith("sent to node ")
    steps = trace.read_text().splitlines()[began:]

    def at(step: str) -> int:
        return next(number for number, one in enumerate(steps) if one.startswith(step))

    committed = steps.index("sql COMMIT", at("sql INSERT INTO jobs ("))
    assert at("sql INSERT INTO jobs (") < at("sql INSERT INTO attempts ") < committed
    assert at("sql INSERT INTO small_inputs") < committed < at("sent HTTP/1.1 201")
    assert steps[: at("sent HTTP/1.1 201")].count("sql COMMIT") == 1


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_kill_at_that_commit_leaves_both_or_nothing_and_it_runs_once(
    here: Place, tmp_path: Path, when: str
) -> None:
    marks = tmp_path / "marks"
    script = f"echo $ORCHESTRATOR_JOB_ID >> {marks}"
    node = here.node()
    server = server_program(here, node, "dying_server_program.py", when)
    async with portal(server.url) as user:
        await node_is_ready(user)
        with pytest.raises(httpx.TransportError):
            await hand_in(user, script)
    assert await server.ended() == -signal.SIGKILL
    assert not marks.exists(), "nothing was sent"
    server = here.server(nodes=[node.url])
    async with portal(server.url) as user:
        if when == "before":
            assert await user.statuses() == []
        else:
            assert (await user.ended(1))["status"] == "Completed"
        answer = await hand_in(user, script)
        assert answer.status_code == 201
        job = answer.json()["id"]
        assert (await user.ended(job))["status"] == "Completed"
        assert len(await user.statuses()) == 1
        targets = [line["to"] for line in await user.history(job)]
        assert targets.count("Processing") == 1, "the attempt in doubt was sent under its key"
    assert marks.read_text().split() == [str(job)]
