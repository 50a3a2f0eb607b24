"""Run many jobs through a real Slurm of this machine, whose controller and whose node are killed amid them.

Server, node and cluster are made for it, in a directory of their own, and end with it. Most jobs end by
themselves, some are terminated while they run, while they wait in Slurm, and while nobody answers there. Each
is judged by its status, its exit code or signal, and by how often its script was begun. What the node asks of
Slurm is counted. The exit status is 0 if all are right, else it is 1.
"""

from __future__ import annotations

import contextlib
import re
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

import click
import trio

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from support.peers.portals import Portal, portal
from support.processes.processes import Place, Started, own_place
from support.processes.slurm_cluster import MISSING, CountedCommands, SlurmCluster, slurm_cluster

from node.executors.slurm.slurm_executor import FASTEST

CONFIG = '[services.example]\nnodes = ["{node}"]\nruns_per_user = {jobs}\nmax_runs = {jobs}\n'
OUTAGE = 20.0


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--jobs", default=100, help="How many.")
@click.option("--seconds", default=2.0, help="How long each of them runs.")
@click.option("--kill/--no-kill", default=True, help="Kill the node and, for 20 s, the controller.")
def main(*, jobs: int, seconds: float, kill: bool) -> None:
    """Run jobs through a real Slurm, and judge each."""
    if MISSING:
        raise click.ClickException(f"missing: {', '.join(MISSING)}; scripts/setup --dev installs it")
    with own_place("slurm") as here, slurm_cluster(here.directory / "slurm", cpus=8) as cluster:
        wrong = trio.run(run, here, cluster, jobs, seconds, kill)
    for line in wrong:
        click.echo(line)
    sys.exit(1 if wrong else 0)


@dataclass(frozen=True, slots=True)
class Expected:
    """How a job has to end, and how often its script begins at least and at most."""

    status: str
    exit_code: int | None = None
    signal: int | None = None
    begun: tuple[int, int] = (1, 1)


BY_THEMSELVES: Final = (
    ("exit 0", Expected("Completed", exit_code=0)),
    ("exit 3", Expected("Failed", exit_code=3)),
    ("kill -9 $$", Expected("Failed", signal=9)),
)
RUNNING: Final = Expected("Killed")
WAITING: Final = Expected("Killed", begun=(0, 0))
IN_OUTAGE: Final = Expected("Killed", begun=(0, 1))


def expect(number: int, jobs: int) -> tuple[str, Expected]:
    """The script of a job, and how it has to end: of ten, one is terminated while it runs; of the last, which
    wait long, some while they wait, and some while the controller is dead."""
    if number % 10 == 5:
        return "sleep 600", RUNNING
    if number >= jobs * 9 // 10:
        return "exit 0", (WAITING, IN_OUTAGE)[number % 2]
    return BY_THEMSELVES[number % 3]


async def run(here: Place, cluster: SlurmCluster, jobs: int, seconds: float, kill: bool) -> list[str]:
    marks = here.directory / "marks"
    marks.touch()
    counted = CountedCommands(here.directory / "counted")
    node = start_node(here, cluster, counted)
    server = here.server(config=CONFIG.format(node=node.url, jobs=jobs))
    wrong: list[str] = []
    async with portal(server.url) as user, trio.open_nursery() as nursery:
        if not kill:
            await measure(user, cluster, here.directory)
        nursery.start_soon(keep_resuming, cluster)
        begun, earlier = time.monotonic(), counted["squeue"]
        expected: dict[int, tuple[int, Expected]] = {}
        for number in range(jobs):
            script, end = expect(number, jobs)
            text = f"echo {number} >> {marks}; sleep {seconds:g}; {script}"
            job = await user.upload(text)
            expected[job] = number, end
            if end is RUNNING:
                nursery.start_soon(terminate_begun, user, job, number, marks)
        await terminate(user, expected, WAITING)
        if kill:
            await until(marks, lambda begun: len(begun) >= jobs // 10)
            await node.end(signal.SIGKILL)
            node = start_node(here, cluster, counted, port=node.port)
            await trio.sleep(6)  # It writes down what it knows every few seconds.
            cluster.stop_controller(signal.SIGKILL)
            await terminate(user, expected, IN_OUTAGE)
            await trio.sleep(OUTAGE)
            cluster.begin_controller()
        else:
            await terminate(user, expected, IN_OUTAGE)
        for job, (_, end) in expected.items():
            row = await user.ended(job, within=600)
            told = row["status"], row["exit_code"], row["signal"]
            if told[0] != end.status or (end.status != "Killed" and told[1:] != (end.exit_code, end.signal)):
                wrong.append(f"job {job}: {told} {row['message']}")
        took = time.monotonic() - begun
        nursery.cancel_scope.cancel()
    counts = Counter(marks.read_text().split())
    for number, end in expected.values():
        if not end.begun[0] <= counts[str(number)] <= end.begun[1]:
            wrong.append(f"script {number} was begun {counts[str(number)]} times")
    if counted["squeue"] - earlier > (took / FASTEST) + 2:
        wrong.append(f"squeue was run {counted['squeue'] - earlier} times")
    click.echo(f"{jobs} jobs in {took:.1f} s, {len(wrong)} wrong")
    click.echo(f"asked: {', '.join(f'{name} {counted[name]}' for name in counted.names)}")
    return wrong


async def terminate(user: Portal, expected: Mapping[int, tuple[int, Expected]], which: Expected) -> None:
    for job, (_, end) in expected.items():
        if end is which:
            await user.http.post(f"/terminate/{job}")


async def terminate_begun(user: Portal, job: int, number: int, marks: Path) -> None:
    await until(marks, lambda begun: str(number) in begun)
    await user.http.post(f"/terminate/{job}")


async def until(marks: Path, condition: Callable[[list[str]], bool]) -> None:
    """`condition` is asked about the scripts that have begun."""
    while not condition(marks.read_text().split()):  # noqa: ASYNC110, ASYNC240  # scripts say so
        await trio.sleep(0.1)


async def measure(user: Portal, cluster: SlurmCluster, place: Path) -> None:
    """What a job takes through us, beside `sbatch` alone until its script has made a file, and beside
    `sbatch --wait`; one at a time, in turns. For how long Slurm itself had them wait, up to a second, is in
    its log, and taken off."""
    bare, waited, ours = {}, {}, {}
    for number in range(30):
        made = place / f"made-{number}"
        begun = time.monotonic()
        submit = ("sbatch", "--parsable", "--output=/dev/null", f"--wrap=touch {made}")
        said = await trio.to_thread.run_sync(cluster.run, *submit)
        while not made.exists():  # noqa: ASYNC110  # nothing that Slurm has tells as soon
            await trio.sleep(0.005)
        bare[said.strip()] = time.monotonic() - begun
        begun = time.monotonic()
        said = await trio.to_thread.run_sync(cluster.run, *submit, "--wait")
        waited[said.strip()] = time.monotonic() - begun
        begun = time.monotonic()
        row = await user.run("exit 0")
        ours[row["batch"]["id"]] = time.monotonic() - begun
    waits = read_waits(cluster)
    medians = [
        statistics.median(took - waits[job] for job, took in jobs.items()) for jobs in (bare, waited, ours)
    ]
    click.echo(
        f"beside the wait in Slurm (medians): sbatch until its script has begun {medians[0]:.3f} s, "
        f"sbatch --wait {medians[1]:.3f} s, a job {medians[2]:.3f} s"
    )


def read_waits(cluster: SlurmCluster) -> dict[str, float]:
    """For how many seconds each job has waited in Slurm, by its id."""
    told = (cluster.here / "slurmctld.log").read_text()
    line = re.compile(
        r"^\[(\S+)\] (?:(_slurm_rpc_submit_batch_job): |sched.*: (?:Started|Allocate) )JobId=(\d+)",
        re.MULTILINE,
    )
    at: dict[str, float] = {}
    for stamp, submitted, job in line.findall(told):
        moment = datetime.fromisoformat(stamp).timestamp()
        at[job] = moment if submitted else moment - at[job]
    return at


def start_node(here: Place, cluster: SlurmCluster, counted: CountedCommands, port: str = "0") -> Started:
    settings = {"SERVERS": "127.0.0.1", "EXECUTOR": "slurm", **cluster.environment, **counted.environment}
    arguments = ["node", "--port", port, "--data", str(here.directory / "node"), "--grace", "1"]
    return here.start(*arguments, name="node", environment=settings)


async def keep_resuming(cluster: SlurmCluster) -> None:
    """What a controller has begun since its last word on disk it begins anew, and sets the machine aside."""
    while True:
        with contextlib.suppress(AssertionError, subprocess.TimeoutExpired):
            if "drain" in await trio.to_thread.run_sync(cluster.run, "sinfo", "--noheader", "--format=%T"):
                await trio.to_thread.run_sync(
                    cluster.run, "scontrol", "update", "NodeName=ALL", "State=RESUME"
                )
        await trio.sleep(0.5)


if __name__ == "__main__":
    main()
