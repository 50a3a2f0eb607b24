"""Connections between orchestrator and node that break in the middle of a request: nothing is lost, and
nothing is done twice."""

from __future__ import annotations

import collections
import random

import pytest
from support.peers.portals import portal
from support.peers.wires import LINK, Fault, Instead, Rule, wire
from support.processes.processes import Place

JOBS = 60
NO_LINK = Instead(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")


@pytest.mark.parametrize("submit", ["link submit", "POST /v1/attempts"])
async def test_a_tenth_of_all_requests_break_off_and_each_job_runs_once(here: Place, submit: str) -> None:
    marks = here.directory / "marks"
    node = here.node("node", "--slots", "8")
    rng = random.Random(6)
    broken: collections.Counter[tuple[str, Fault]] = collections.Counter()
    kinds = tuple(Fault)
    each = ""
    """What meets a fault each time until it has met every kind; other requests do so once in ten."""

    def lacks_some(line: str) -> bool:
        """Whether there is a kind that such requests have not met yet."""
        return len([met for met, _ in broken if met == line]) < len(kinds)

    def rule(line: str) -> Rule:
        if line == LINK and not submit.startswith("link"):
            return NO_LINK
        if line == "link hello" or not line.startswith(("POST ", "link ")):
            return None
        if not (line == each and lacks_some(line)) and rng.random() >= 0.1:
            return None
        # In turn, so that each route meets every kind as early as can be.
        fault = kinds[sum(times for (met, _), times in broken.items() if met == line) % len(kinds)]
        broken[line, fault] += 1
        return fault

    async with wire(node.url, rule) as faulty:
        quotas = {"SERVICE_EXAMPLE_RUNS_PER_USER": "8", "SERVICE_EXAMPLE_MAX_RUNS": "8"}
        server = here.server(nodes=[faulty.url], **quotas)
        async with portal(server.url) as user:
            script = f"echo $ORCHESTRATOR_JOB_ID >> {marks}; echo $ORCHESTRATOR_JOB_ID > result.txt"
            # In bursts of three: so there are many requests, and connections that were idle.
            jobs: list[int] = []
            while len(jobs) < JOBS:
                burst = [await user.upload(script, user=number) for number in range(3)]
                await user.ended(burst[0])
                jobs += burst
            # What met only some kinds so far meets the rest.
            each = submit
            while lacks_some(submit):
                jobs.append(await user.upload(script))
                await user.ended(jobs[-1])
            ends = [await user.ended(job) for job in jobs]
            assert {(end["status"], end["attempt"], end["attempts_used"]) for end in ends} == {
                ("Completed", 1, 1)
            }
            for job in jobs:
                assert (await user.contents(job))["result.txt"] == f"{job}\n".encode()
    assert collections.Counter(marks.read_text().split()) == collections.Counter(map(str, jobs))
