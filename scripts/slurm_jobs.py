"""Run many jobs through a real Slurm of this machine, whose controller and whose node are killed amid them.

Server, node and cluster are made for it, in a directory of their own, and end with it. Each job is judged by
its status, its exit code or signal, and by how often its script was begun. The exit status is 0 if all are
right, else it is 1.
"""

from __future__ import annotations

import contextlib
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import click
import trio

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from support.peers.portals import Portal, portal
from support.processes.processes import Place, Started, own_place
from support.processes.slurm_cluster import MISSING, SlurmCluster, slurm_cluster

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


async def run(here: Place, cluster: SlurmCluster, jobs: int, seconds: float, kill: bool) -> list[str]:
    marks = here.directory / "marks"
    node = start_node(here, cluster)
    server = here.server(config=CONFIG.format(node=node.url, jobs=jobs))
    wrong: list[str] = []
    async with portal(server.url) as user, trio.open_nursery() as nursery:
        if not kill:
            await measure(user, cluster, here.directory)
        nursery.start_soon(keep_resuming, cluster)
        begun = time.monotonic()
        expected: dict[int, tuple[str, int | None, int | None]] = {}
        for number in range(jobs):
            ends = (
                ("exit 0", "Completed", 0, None),
                ("exit 3", "Failed", 3, None),
                ("kill -9 $$", "Failed", None, 9),
            )
            script, status, code, killed_by = ends[number % 3]
            text = f"echo {number} >> {marks}; sleep {seconds:g}; {script}"
            expected[await user.upload(text)] = (status, code, killed_by)
        if kill:
            await trio.sleep(seconds + 3)
            await node.end(signal.SIGKILL)
            node = start_node(here, cluster, port=node.port)
            await trio.sleep(6)  # It writes down what it knows every few seconds.
            cluster.stop_controller(signal.SIGKILL)
            await trio.sleep(OUTAGE)
            cluster.begin_controller()
        for job, (status, code, killed_by) in expected.items():
            row = await user.ended(job, within=600)
            if (row["status"], row["exit_code"], row["signal"]) != (status, code, killed_by):
                wrong.append(
                    f"job {job}: {row['status']} {row['exit_code']} {row['signal']} {row['message']}"
                )
        took = time.monotonic() - begun
        nursery.cancel_scope.cancel()
    counts = Counter(marks.read_text().split())
    wrong += [f"script {n} was begun {count} times" for n, count in counts.items() if count != 1]
    wrong += [f"script {n} was never begun" for n in range(jobs) if str(n) not in counts]
    click.echo(f"{jobs} jobs in {took:.1f} s, {len(wrong)} wrong")
    return wrong


async def measure(user: Portal, cluster: SlurmCluster, place: Path) -> None:
    """What a job takes through us, beside `sbatch` alone until its script has made a file, one at a time."""
    bare, ours = [], []
    for number in range(30):
        made = place / f"made-{number}"
        begun = time.monotonic()
        submit = ("sbatch", "--output=/dev/null", f"--wrap=touch {made}")
        await trio.to_thread.run_sync(cluster.run, *submit)
        while not made.exists():  # noqa: ASYNC110  # nothing that Slurm has tells as soon
            await trio.sleep(0.005)
        bare.append(time.monotonic() - begun)
        begun = time.monotonic()
        await user.run("exit 0")
        ours.append(time.monotonic() - begun)
    click.echo(
        f"sbatch alone: {statistics.median(bare):.3f} s; a job: {statistics.median(ours):.3f} s (medians)"
    )


def start_node(here: Place, cluster: SlurmCluster, port: str = "0") -> Started:
    settings = {"SERVERS": "127.0.0.1", "EXECUTOR": "slurm", **cluster.environment}
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
