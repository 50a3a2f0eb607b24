"""Nodes that are gone for good, gone for a moment, or only seem to be, under twenty jobs that run."""

from __future__ import annotations

import collections
import contextlib
import itertools
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import trio
from support.peers.portals import Portal, portal
from support.processes.gates import gate
from support.processes.processes import PATIENCE, Place, Started, gone, place, promised, soon_lost

JOBS = 20
RUN = 1.0
"""Seconds that a job may take once it is let on, all of them running at once."""


@pytest.fixture
def machine(here: Place) -> Iterator[Place]:
    """A machine of its own for one of the nodes: what runs there can be told from the rest."""
    directory = here.directory / "machine"
    directory.mkdir()
    with place(directory) as found:
        yield found


def marked(marks: Path) -> dict[int, int]:
    """How often each job went through."""
    return dict(collections.Counter(int(line) for line in marks.read_text().split()))


def cluster(here: Place, *nodes: Started, lost_after: float) -> Started:
    quotas = {"SERVICE_EXAMPLE_RUNS_PER_USER": str(JOBS), "SERVICE_EXAMPLE_MAX_RUNS": str(JOBS)}
    config = f"node_lost_after = {lost_after}"
    return here.server(nodes=[node.url for node in nodes], config=config, **quotas)


async def all_running(user: Portal, script: str) -> list[int]:
    jobs = [await user.upload(script, user=number) for number in range(JOBS)]
    for job in jobs:
        await user.until(job, "Running")
    return jobs


async def end_of_machine(machine: Place, agent: Started) -> None:
    """As when its power fails: the agent first, so that it can say nothing of how the others end."""
    await agent.end(signal.SIGKILL)
    while left := machine.left():
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        await gone([process.pid for process in left])


async def test_when_a_node_is_gone_for_good_its_jobs_run_on_the_other(here: Place, machine: Place) -> None:
    marks = here.directory / "marks"
    doomed, other = machine.node("doomed", "--slots", "10"), here.node("other", "--slots", str(JOBS))
    lost_after = soon_lost(3)
    server = cluster(here, doomed, other, lost_after=lost_after)
    async with portal(server.url) as user:
        with gate(here.directory / "gate") as shut:
            script = f"{shut.wait}; echo $ORCHESTRATOR_JOB_ID >> {marks}; echo done > result.txt"
            jobs = await all_running(user, script)
            began = {job: (await user.job(job))["node"] for job in jobs}
            assert len(set(began.values())) == 2
            await end_of_machine(machine, doomed)
            shut.open()
            lost = trio.current_time()
        ends = [await user.ended(job) for job in jobs]
        assert trio.current_time() - lost < lost_after + promised(RUN + 5)
        assert [end["status"] for end in ends] == ["Completed"] * JOBS
        (survivor,) = {end["node"] for end in ends}
        for end in ends:
            assert end["attempt"] == (1 if began[end["id"]] == survivor else 2), end
        moved = next(end for end in ends if end["attempt"] == 2)
        assert any("is lost" in step["reason"] for step in await user.history(moved["id"]))
        assert (await user.contents(moved["id"]))["result.txt"] == b"done\n"
    assert marked(marks) == dict.fromkeys(jobs, 1)


async def test_a_node_killed_and_started_again_in_time_costs_no_attempt(here: Place) -> None:
    marks = here.directory / "marks"
    nodes = [here.node(name, "--slots", "10", on_stop="leave") for name in ("first", "second")]
    server = cluster(here, *nodes, lost_after=PATIENCE)
    async with portal(server.url) as user:
        with gate(here.directory / "gate") as shut:
            script = f"echo $ORCHESTRATOR_JOB_ID >> {marks}; {shut.wait}; echo done > result.txt"
            jobs = await all_running(user, script)
            await nodes[0].end(signal.SIGKILL)
            here.node("first", "--slots", "10", port=nodes[0].port, on_stop="leave")
        ends = [await user.ended(job) for job in jobs]
        assert {(end["status"], end["attempt"], end["attempts_used"]) for end in ends} == {
            ("Completed", 1, 1)
        }
        assert len({end["node"] for end in ends}) == 2
    assert marked(marks) == dict.fromkeys(jobs, 1)


async def test_an_orchestrator_that_was_stopped_for_long_judges_no_node_by_it(here: Place) -> None:
    marks = here.directory / "marks"
    nodes = [here.node(name, "--slots", "10") for name in ("first", "second")]
    lost_after = soon_lost(3)
    server = cluster(here, *nodes, lost_after=lost_after)
    async with portal(server.url) as user:
        with gate(here.directory / "gate") as shut:
            script = f"echo $ORCHESTRATOR_JOB_ID >> {marks}; {shut.wait}"
            jobs = await all_running(user, script)
            server.send(signal.SIGSTOP)
            await trio.sleep(lost_after + 1)  # what is tried is the passing of time itself
            server.send(signal.SIGCONT)
            # Nodes are judged with every tick, which a second has some of; this is answered when it is over.
            still = await user.job(jobs[0])
            assert await user.job(jobs[0], f"?wait=1&after={still['version']}") == still
            assert await user.statuses() == ["Running"] * JOBS
        ends = [await user.ended(job) for job in jobs]
        assert {(end["status"], end["attempt"]) for end in ends} == {("Completed", 1)}
        steps = itertools.chain.from_iterable([await user.history(job) for job in jobs])
        assert not [step for step in steps if "lost" in step["reason"]]
    assert "is lost" not in server.errors()
    assert marked(marks) == dict.fromkeys(jobs, 1)
