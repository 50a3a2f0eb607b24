"""A node that knows only the contract cannot be asked for a while: that is not an end."""

from __future__ import annotations

import sys
from pathlib import Path

import trio
from support.peers.portals import portal
from support.peers.wires import Instead, Rule, wire
from support.processes.gates import gate
from support.processes.processes import PATIENCE, Place

PROGRAM = Path(__file__).parents[1] / "support" / "peers" / "foreign_node_program.py"
MARK = "trap 'echo \"$?\" > .orchestrator.exit' EXIT\n"


def said(status: str, body: bytes, kind: str = "application/json", length: int | None = None) -> Instead:
    size = len(body) if length is None else length
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {size}\r\n"
    return Instead(head.encode() + b"Connection: close\r\n\r\n" + body)


NONSENSE = (
    said("500 Internal Server Error", b"oops", "text/plain"),
    said("502 Bad Gateway", b"<html>bad gateway</html>", "text/html"),
    said("200 OK", b"{}"),
    said("200 OK", b'{"id": 1, "input": {', length=400),
    said("200 OK", b"PK\x03\x04", "application/zip", length=4000),
    said("404 Not Found", b'{"id":0,"status":"Unknown","message":"not found"}'),
    Instead(b""),
)


async def test_no_answer_that_makes_no_sense_ends_a_job_or_fetches_it_twice(here: Place) -> None:
    command = (sys.executable, str(PROGRAM))
    node = here.start("0", str(here.directory / "foreign"), name="foreign", command=command)
    # To each of two jobs while it runs, and a right answer after each: else it is asked less and less often.
    coming = {
        f"GET /retrieve/{number}": [a for answer in NONSENSE for a in (answer, None)] for number in (1, 2)
    }
    running, over = trio.Event(), trio.Event()

    def rule(line: str) -> Rule:
        if line not in coming or not running.is_set():
            return None
        if not any(coming.values()):
            over.set()
        return coming[line].pop(0) if coming[line] else None

    with gate(here.directory / "gate") as shut:
        async with wire(node.url, rule) as faulty:
            server = here.server(SERVICE_EXAMPLE_UPLOAD_URL=f"{faulty.url}/submit")
            async with portal(server.url) as user:
                script = MARK + shut.wait + "; echo 42 > result.txt; exit {}\n"
                jobs = {await user.upload(script.format(code)): code for code in (0, 3)}
                before = [await user.until(job, "Running") for job in jobs]
                running.set()
                with trio.fail_after(PATIENCE):
                    await over.wait()
                assert [await user.job(job) for job in jobs] == before
                shut.open()
                for job, code in jobs.items():
                    end = await user.ended(job)
                    status = "Failed" if code else "Completed"
                    assert (end["status"], end["attempt"], end["exit_code"]) == (status, 1, code)
                    assert (await user.contents(job))["result.txt"] == b"42\n"
                    steps = [step["to"] for step in await user.history(job)]
                    assert list(dict.fromkeys(steps)) == [
                        "Queued",
                        "Processing",
                        "Submitted",
                        "Running",
                        status,
                    ]
                    assert [steps.count(step) for step in ("Queued", "Processing", status)] == [1, 1, 1]
            assert faulty.requests.count("POST /submit") == 2
            # One was completed and is its own answer; of the other the files are asked for, once.
            assert sum("/retrieve_partial/" in line for line in faulty.requests) == 1
