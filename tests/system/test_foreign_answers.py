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
# The node calls a job's directory by the number it goes by there: jobs of odd numbers fail.
SCRIPT = """trap 'echo "$?" > .orchestrator.exit' EXIT
{wait}
echo 42 > result.txt
number=${{PWD##*/}}
exit $((${{number%-*}} % 2 * 3))
"""


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
    # Each to a job that completes and to one that fails, while it runs; all of them at once.
    coming = {f"GET /retrieve/{number + 1}": NONSENSE[number // 2] for number in range(2 * len(NONSENSE))}
    jobs = len(coming)
    running, over = trio.Event(), trio.Event()
    asked_again = set()

    def rule(line: str) -> Rule:
        if not running.is_set():
            return None
        if line in coming:
            return coming.pop(line)
        if line.startswith("GET /retrieve/"):
            asked_again.add(line)
        if len(asked_again) == jobs:
            over.set()
        return None

    with gate(here.directory / "gate") as shut:
        async with wire(node.url, rule) as faulty:
            server = here.server(
                SERVICE_EXAMPLE_UPLOAD_URL=f"{faulty.url}/submit",
                SERVICE_EXAMPLE_RUNS_PER_USER=str(jobs),
                SERVICE_EXAMPLE_MAX_RUNS=str(jobs),
            )
            async with portal(server.url) as user:
                script = SCRIPT.format(wait=shut.wait)
                uploaded = [await user.upload(script) for _ in range(jobs)]
                before = [await user.until(job, "Running") for job in uploaded]
                running.set()
                with trio.fail_after(PATIENCE):
                    await over.wait()
                assert [await user.job(job["id"]) for job in before] == before
                shut.open()
                ends = [await user.ended(job["id"]) for job in before]
                for end in ends:
                    status = "Failed" if end["exit_code"] else "Completed"
                    assert (end["status"], end["attempt"]) == (status, 1)
                    assert (await user.contents(end["id"]))["result.txt"] == b"42\n"
                    steps = [step["to"] for step in await user.history(end["id"])]
                    assert list(dict.fromkeys(steps)) == [
                        "Queued",
                        "Processing",
                        "Submitted",
                        "Running",
                        status,
                    ]
                    assert [steps.count(step) for step in ("Queued", "Processing", status)] == [1, 1, 1]
                assert sorted(end["exit_code"] for end in ends) == [0] * (jobs // 2) + [3] * (jobs // 2)
            assert faulty.requests.count("POST /submit") == jobs
            # What was completed is its own answer; of what failed the files are asked for, once.
            assert sorted(line for line in faulty.requests if "/retrieve_partial/" in line) == sorted(
                f"GET /retrieve_partial/{number}" for number in range(1, jobs, 2)
            )
