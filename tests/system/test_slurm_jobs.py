"""Jobs as batch jobs of a real Slurm, through a server and a node, which are killed amid them."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from support.peers.portals import Portal, portal
from support.processes.processes import Place, Started
from support.processes.slurm_cluster import MISSING, CountedCommands, SlurmCluster, slurm_cluster

from node.executors.slurm.slurm_executor import FASTEST

pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"missing: {', '.join(MISSING)}")

CONFIG = """
[services.example]
nodes = ["{node}"]
runs_per_user = 50
max_runs = 50
"""


@pytest.fixture
def cluster(here: Place) -> Iterator[SlurmCluster]:
    with slurm_cluster(here.directory / "slurm", cpus=4) as found:
        yield found


def start_node(
    here: Place, cluster: SlurmCluster, counted: CountedCommands | None = None, port: str = "0"
) -> Started:
    arguments = ["node", "--port", port, "--data", str(here.directory / "node"), "--grace", "1"]
    settings = {"SERVERS": "127.0.0.1", "EXECUTOR": "slurm", **cluster.environment}
    settings |= {} if counted is None else counted.environment
    return here.start(*arguments, name="node", environment=settings)


def start_server(here: Place, node: Started) -> Started:
    return here.server(config=CONFIG.format(node=node.url))


def queued(cluster: SlurmCluster) -> list[str]:
    return cluster.run("squeue", "--noheader", "--format=%i", "--states=PENDING,RUNNING").split()


async def until_it_says(user: Portal, number: int, words: str) -> str:
    """What is said of the progress of a job, once these words are in it."""
    with trio.fail_after(60):
        row = await user.job(number)
        while words not in (said := row["progress_message"] or ""):
            assert not row["ended_at"], row
            row = await user.job(number, f"?wait=1&after={row['version']}")
        return said


async def test_what_slurm_says_is_told(here: Place, cluster: SlurmCluster) -> None:
    node = start_node(here, cluster)
    async with portal(start_server(here, node).url) as user:
        failed = await user.run("echo out; echo err >&2; mkdir d; echo $SLURM_JOB_ID > d/id; exit 3")
        assert (failed["status"], failed["exit_code"]) == ("Failed", 3), failed
        # Its own mark tells its end, and Slurm may not have told it yet.
        assert failed["batch"]["system"] == "slurm" and failed["batch"]["state"] in (None, "FAILED"), failed
        killed = await user.run("kill -SEGV $$")
        assert (killed["status"], killed["signal"]) == ("Failed", 11), killed

        cluster.run("scontrol", "update", "PartitionName=main", "State=DOWN")
        waits = await user.upload("echo never")
        said = await until_it_says(user, waits, "waits in Slurm: PartitionDown")
        (number,) = queued(cluster)
        assert f"job {number}, PENDING" in said
        batch = (await user.job(waits))["batch"]
        assert batch == {"system": "slurm", "id": number, "state": "PENDING", "reason": "PartitionDown"}
        await user.http.post(f"/terminate/{waits}")
        assert (await user.ended(waits))["status"] == "Killed"
        assert queued(cluster) == []
        cluster.run("scontrol", "update", "PartitionName=main", "State=UP")

        runs = await user.upload("echo begun; sleep 600")
        await until_it_says(user, runs, "runs in Slurm")
        assert b"begun" in await user.log(runs)
        await user.http.post(f"/terminate/{runs}")
        assert (await user.ended(runs))["status"] == "Killed"

        others = await user.upload("sleep 600")
        await until_it_says(user, others, "runs in Slurm")
        cluster.run("scancel", *queued(cluster))
        row = await user.ended(others)
        assert (row["status"], row["message"][:20]) == ("Failed", "Slurm says CANCELLED"), row
        assert row["batch"]["state"] == "CANCELLED"


async def test_nothing_is_lost_or_run_twice_when_node_and_controller_are_killed(
    here: Place, cluster: SlurmCluster
) -> None:
    marks = here.directory / "marks"
    counted, begun = CountedCommands(here.directory / "counted"), time.monotonic()
    node = start_node(here, cluster, counted)
    async with portal(start_server(here, node).url) as user:
        jobs = {}
        for number in range(12):
            code = number % 4
            script = f"echo {number} >> {marks}; sleep 4; exit {code}"
            jobs[await user.upload(script)] = code
        await until_marked(marks, 4)
        await until_kept(cluster)
        await node.end(signal.SIGKILL)
        cluster.stop_controller(signal.SIGKILL)
        node = start_node(here, cluster, counted, port=node.port)
        late = await user.upload(f"echo late >> {marks}")
        await trio.sleep(3)
        cluster.begin_controller()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(keep_resuming, cluster)
            for job, code in jobs.items():
                row = await user.ended(job)
                assert (row["status"], row["exit_code"]) == ("Failed" if code else "Completed", code), row
            assert (await user.ended(late))["status"] == "Completed"
            nursery.cancel_scope.cancel()
    assert sorted(marks.read_text().split()) == sorted([*map(str, range(12)), "late"])
    # One question a tick for all jobs, of each of the two nodes.
    assert counted["squeue"] <= (time.monotonic() - begun) / FASTEST + 2


async def keep_resuming(cluster: SlurmCluster) -> None:
    """What has begun since its last word on disk a controller starts anew, which the machine takes for a
    mistake and is set aside: so does whoever runs a cluster."""
    while True:
        with contextlib.suppress(AssertionError):
            if "drain" in await trio.to_thread.run_sync(cluster.run, "sinfo", "--noheader", "--format=%T"):
                await trio.to_thread.run_sync(
                    cluster.run, "scontrol", "update", "NodeName=ALL", "State=RESUME"
                )
        await trio.sleep(0.5)


async def until_kept(cluster: SlurmCluster) -> None:
    """The controller writes down what it knows every few seconds: the rest it forgets when it is killed."""
    now = time.time()
    with trio.fail_after(60):
        state = cluster.here / "state" / "job_state"
        while not state.exists() or state.stat().st_mtime <= now:  # noqa: ASYNC110
            await trio.sleep(0.05)


async def until_marked(marks: Path, count: int) -> None:
    with trio.fail_after(60):
        while not marks.exists() or len(marks.read_text().split()) < count:  # noqa: ASYNC110, ASYNC240  # a script says so
            await trio.sleep(0.05)
