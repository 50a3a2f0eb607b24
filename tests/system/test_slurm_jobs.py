"""Jobs as batch jobs of a real Slurm, through a server and a node, which are killed amid them."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from support.peers.event_streams import events
from support.peers.portals import Portal, portal
from support.processes.processes import Place, Started
from support.processes.slurm_cluster import (
    MISSING,
    MISSING_ACCOUNTS,
    CountedCommands,
    SlurmCluster,
    slurm_cluster,
)

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
    server = start_server(here, node)
    async with portal(server.url) as user:
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
        with trio.fail_after(60):  # Slurm may say so before the script has printed anything.
            async with events(server.url, f"/v1/jobs/{runs}/logs?format=events") as lines:
                line = await lines.next()
                assert line is not None and line.data["text"] == "begun\n"
        await user.http.post(f"/terminate/{runs}")
        assert (await user.ended(runs))["status"] == "Killed"

        others = await user.upload("sleep 600")
        await until_it_says(user, others, "runs in Slurm")
        cluster.run("scancel", *queued(cluster))
        row = await user.ended(others)
        assert (row["status"], row["message"][:20]) == ("Failed", "Slurm says CANCELLED"), row
        assert row["batch"]["state"] == "CANCELLED"


async def test_what_keeps_it_waiting_is_told(here: Place, cluster: SlurmCluster) -> None:
    node = start_node(here, cluster)
    async with portal(start_server(here, node).url) as user:
        cluster.run("scontrol", "update", "PartitionName=main", "State=DOWN")
        orders = {
            "JobHeldUser": ("uhold",),
            "JobHeldAdmin": ("hold",),
            "BeginTime": ("update", "StartTime=now+1hour"),
            "Dependency": ("update", "Dependency=afterok:3"),
        }
        jobs = []
        for reason, (verb, *what) in orders.items():
            jobs.append(await user.upload("exit 0"))
            await until_it_says(user, jobs[-1], "waits in Slurm")
            number = (await user.job(jobs[-1]))["batch"]["id"]
            cluster.run("scontrol", verb, *((what and [f"JobId={number}", *what]) or [number]))
            await until_it_says(user, jobs[-1], f"waits in Slurm: {reason} (job {number}, PENDING)")
        # Each of them goes on when nothing keeps it any more.
        cluster.run("scontrol", "update", "PartitionName=main", "State=UP")
        for job in jobs[:2]:
            cluster.run("scontrol", "release", (await user.job(job))["batch"]["id"])
            assert (await user.ended(job))["status"] == "Completed"
        for job in jobs[2:]:
            await user.http.post(f"/terminate/{job}")
            assert (await user.ended(job))["status"] == "Killed"
        assert queued(cluster) == []


async def test_what_ends_it_from_outside_is_told(here: Place, cluster: SlurmCluster) -> None:
    node = start_node(here, cluster)
    async with portal(start_server(here, node).url) as user:
        late, again, fallen = [await user.upload("sleep 600") for _ in range(3)]
        for job in (late, again, fallen):
            await until_it_says(user, job, "runs in Slurm")
        numbers = {job: (await user.job(job))["batch"]["id"] for job in (late, again, fallen)}

        # As with a limit of time that is over; Slurm looks every half minute.
        cluster.run("scontrol", "update", f"JobId={numbers[late]}", "EndTime=now")
        row = await user.ended(late)
        assert (row["status"], row["message"]) == (
            "Failed",
            f"Slurm says TIMEOUT: TimeLimit (job {numbers[late]})",
        )
        assert row["batch"] == {
            "system": "slurm",
            "id": numbers[late],
            "state": "TIMEOUT",
            "reason": "TimeLimit",
        }

        # It is submitted so that Slurm does not; who runs the cluster may have it otherwise.
        cluster.run("scontrol", "update", f"JobId={numbers[again]}", "Requeue=1")
        cluster.run("scontrol", "requeue", numbers[again])
        await until_attempt(user, again, 2)
        (lost,) = [one for one in await user.history(again) if one["to"] == "Queued" and one["from"]]
        assert f"Slurm has put job {numbers[again]} in again" in lost["reason"]

        cluster.run("scontrol", "update", "NodeName=ALL", "State=DOWN", "Reason=test")
        await until_attempt(user, fallen, 2)
        (lost,) = [one for one in await user.history(fallen) if one["to"] == "Queued" and one["from"]]
        assert f"Slurm says NODE_FAIL: NodeDown (job {numbers[fallen]})" in lost["reason"]
        for job in (again, fallen):
            await user.http.post(f"/terminate/{job}")
            assert (await user.ended(job))["status"] == "Killed"


async def test_what_an_upload_asks_for_is_asked_of_slurm_and_what_it_takes_the_place_of_is_told(
    here: Place, cluster: SlurmCluster
) -> None:
    """Who asks for the partition that goes first takes the place of those of the other one."""
    node = start_node(here, cluster)
    config = CONFIG.format(node=node.url) + 'partitions = ["main", "first"]\nmax_cpus = 4\n'
    first = {"partition": "first", "cpus": "4"}
    async with portal(here.server(config=config).url) as user:
        for mode, grace, message in (
            ("CANCEL", 0, "Slurm says PREEMPTED (job {})"),
            ("CANCEL", 5, "Slurm says PREEMPTED (job {})"),
            ("REQUEUE", 0, "Slurm has put job {} in again"),
        ):
            how = (f"PreemptMode={mode}", f"GraceTime={grace}")
            cluster.run("scontrol", "update", "PartitionName=main", *how)
            victim = await user.upload("sleep 600", fields={"cpus": "3"})
            await until_it_says(user, victim, "runs in Slurm")
            number = (await user.job(victim))["batch"]["id"]
            shown = cluster.run("scontrol", "show", "job", number)
            assert "Partition=main" in shown and "NumCPUs=3" in shown
            if mode == "REQUEUE":
                # It is submitted so that Slurm does not; who runs the cluster may have it otherwise.
                cluster.run("scontrol", "update", f"JobId={number}", "Requeue=1")
            winner = await user.upload("exit 4", fields=first)
            assert (await user.ended(winner))["exit_code"] == 4
            assert (await user.job(winner))["batch_request"]["partition"] == "first"
            await until_attempt(user, victim, 2)
            (lost,) = [one for one in await user.history(victim) if one["to"] == "Queued" and one["from"]]
            assert message.format(number) in lost["reason"]
            await user.http.post(f"/terminate/{victim}")
            assert (await user.ended(victim))["status"] == "Killed"


@pytest.mark.skipif(
    not os.access("/sys/fs/cgroup/memory/tasks", os.W_OK), reason="no cgroups of version 1 to make groups in"
)
async def test_that_its_memory_was_not_enough_is_told(here: Place) -> None:
    kept = {"TaskPlugin": "task/cgroup", "SelectTypeParameters": "CR_Core_Memory"}
    with slurm_cluster(here.directory / "slurm", settings=kept) as cluster:
        node = start_node(here, cluster)
        server = here.server(config=CONFIG.format(node=node.url) + 'memory = "32M"\n')
        async with portal(server.url) as user:
            row = await user.run("exec python3 -c 'bytearray(300 << 20)'")
            assert row["status"] == "Failed" and row["message"].startswith("Slurm says OUT_OF_MEMORY"), row
            assert row["batch"]["state"] == "OUT_OF_MEMORY"


@pytest.mark.skipif(bool(MISSING_ACCOUNTS), reason=f"missing: {', '.join(MISSING_ACCOUNTS)}")
async def test_what_the_controller_has_forgotten_the_accounts_tell(here: Place) -> None:
    with slurm_cluster(here.directory / "slurm", accounts=True) as cluster:
        counted = CountedCommands(here.directory / "counted")
        node = start_node(here, cluster, counted)
        async with portal(start_server(here, node).url) as user:
            cluster.run("scontrol", "update", "PartitionName=main", "State=DOWN")
            job = await user.upload("echo never")
            await until_it_says(user, job, "waits in Slurm")
            (number,) = queued(cluster)

            async def until_accounted(word: str) -> None:
                asked = ("--noheader", "--parsable2", f"--jobs={number}", "--format=JobName,State")
                with trio.fail_after(60):
                    while word not in cluster.run("sacct", *asked):  # noqa: ASYNC110
                        await trio.sleep(0.1)

            # One that ends before the accounts have heard of it has no name there, and is nobody's.
            await until_accounted("orchestrator-job-")
            await node.end(signal.SIGKILL)
            cluster.run("scancel", number)
            await until_accounted("CANCELLED")
            cluster.stop_controller()
            cluster.begin_controller("-c")
            start_node(here, cluster, counted, port=node.port)
            row = await user.ended(job)
            assert row["status"] == "Failed", await user.history(job)
            assert row["message"] == f"Slurm says CANCELLED by {os.getuid()} (job {number})", row
            assert row["batch"]["id"] == number
            assert counted["sacct"] == 1


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


async def until_attempt(user: Portal, number: int, attempt: int) -> None:
    with trio.fail_after(60):
        row = await user.job(number)
        while row["attempt"] != attempt:
            assert not row["ended_at"], row
            row = await user.job(number, f"?wait=1&after={row['version']}")


async def until_marked(marks: Path, count: int) -> None:
    with trio.fail_after(60):
        while not marks.exists() or len(marks.read_text().split()) < count:  # noqa: ASYNC110, ASYNC240  # a script says so
            await trio.sleep(0.05)
