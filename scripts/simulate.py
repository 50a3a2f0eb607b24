"""Run many jobs of many users through a real orchestrator and real nodes on this machine, and check them all.

It starts the processes itself, on free ports and in a temporary directory, and ends all of them. The exit
status is 0 if everything held, 1 if something did not.
"""

from __future__ import annotations

import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from pathlib import Path
from types import FrameType
from typing import NoReturn

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from testbed.cluster import Cluster, ClusterFailed, Limits, running_cluster
from testbed.figures import milliseconds, percentile
from testbed.occupancy import read_history
from testbed.portal import Late, Portal, Refused
from testbed.verdicts import Seen, Verdict, check_results, judge
from testbed.workload import PlannedJob, plan

UPLOADERS = 8
"""How many uploads are under way at once."""

Told = Callable[[Seen | str], None]


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--nodes", type=click.IntRange(1, 50), default=2, help="Nodes to start.")
@click.option("--slots", type=click.IntRange(1, 1000), default=4, help="Jobs a node runs at once.")
@click.option("--jobs", type=click.IntRange(1, 2000), default=200, help="Jobs to submit.")
@click.option("--users", type=click.IntRange(1, 1000), default=10, help="Users that submit them in turn.")
@click.option("--seed", type=int, default=1, help="The same seed gives the same jobs.")
@click.option("--runs-per-user", type=click.IntRange(1), default=3, help="Quota of each user.")
@click.option("--max-runs", type=click.IntRange(1), default=None, help="Quota of the service. [all slots]")
@click.option("--longest", type=click.FloatRange(0, 60), default=2.0, help="Longest job, in seconds.")
@click.option("--deadline", type=click.FloatRange(1), default=600.0, help="Seconds in which all has to end.")
@click.option("--largest", type=click.IntRange(0, 64 << 20), default=4 << 20, help="Largest input, in bytes.")
def main(
    *,
    nodes: int,
    slots: int,
    jobs: int,
    users: int,
    seed: int,
    runs_per_user: int,
    max_runs: int | None,
    longest: float,
    deadline: float,
    largest: int,
) -> None:
    """Submit jobs of mixed length and size, some of which fail, to an orchestrator with real nodes on this
    machine; check that each ended as it should, ran once, within the quotas and with the right results."""
    signal.signal(signal.SIGTERM, _leave)
    limits = Limits(runs_per_user=runs_per_user, max_runs=max_runs or nodes * slots)
    planned = list(plan(jobs=jobs, users=users, seed=seed, longest=longest, largest=largest))
    try:
        with tempfile.TemporaryDirectory(prefix="orchestrator-simulation-") as name:
            directory = Path(name).resolve()
            with running_cluster(directory, nodes=nodes, slots=slots, limits=limits) as cluster:
                holds = _simulate(cluster, planned, limits, directory / "marks", deadline)
    except ClusterFailed as error:
        print(f"simulate: {error}", file=sys.stderr)
        sys.exit(1)
    sys.exit(0 if holds else 1)


def _simulate(
    cluster: Cluster, planned: Sequence[PlannedJob], limits: Limits, marks: Path, patience: float
) -> bool:
    marks.touch()
    seen: list[Seen] = []
    failures: list[str] = []
    began = time.monotonic()
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
    ) as progress:
        bar = progress.add_task("jobs ended", total=len(planned))

        def told(one: Seen | str) -> None:
            if isinstance(one, str):
                failures.append(one)
            else:
                seen.append(one)
            progress.advance(bar)

        _run_all(cluster, planned, marks, began + patience, told)
    took = time.monotonic() - began
    cluster.check()
    verdicts = judge(
        planned=planned,
        seen=seen,
        failures=failures,
        marks=marks.read_text().splitlines(),
        history=read_history(cluster.db_path),
        limits=limits,
    )
    _show(verdicts, seen, planned, limits, took)
    return all(verdict.holds for verdict in verdicts)


def _run_all(
    cluster: Cluster, planned: Sequence[PlannedJob], marks: Path, deadline: float, told: Told
) -> None:
    """Each job by a thread of its own, so that all of them wait for their end at once."""
    uploading = threading.Semaphore(UPLOADERS)
    stopped = threading.Event()

    def one(job: PlannedJob) -> Seen | str:
        try:
            with Portal(cluster.url) as portal:
                with uploading:
                    if stopped.is_set():
                        return f"number {job.serial} of the plan was not sent"
                    files = job.files(marks)
                    began = time.monotonic()
                    number = portal.upload(files, job.user)
                ended = portal.wait_ended(number, deadline)
                seconds = time.monotonic() - began
                with uploading:
                    content = portal.results(number, completed=ended["status"] == "Completed")
                return Seen(job, number, ended, check_results(job, content), seconds)
        except (Refused, Late, OSError, HTTPException, ValueError, KeyError) as error:
            return f"number {job.serial} of the plan: {type(error).__name__}: {error}"

    with ThreadPoolExecutor(max_workers=len(planned)) as pool:
        try:
            # In order of submission here; of what is shown, only the progress bar minds.
            for result in pool.map(one, planned):
                told(result)
        except BaseException:
            stopped.set()
            cluster.server.terminate()  # its end ends the waiting of all the threads
            raise


def _show(
    verdicts: Sequence[Verdict],
    seen: Sequence[Seen],
    planned: Sequence[PlannedJob],
    limits: Limits,
    took: float,
) -> None:
    for verdict in verdicts:
        print(f"{'holds' if verdict.holds else 'FAILS'}  {verdict.question:44}  {verdict.answer}")
        for wrong in verdict.wrong:
            print(f"         {wrong}")
    if seen:
        times = [one.seconds for one in seen]
        shown = ", ".join(
            f"{name} {milliseconds(value)}"
            for name, value in (
                ("p50", percentile(times, 0.5)),
                ("p95", percentile(times, 0.95)),
                ("p99", percentile(times, 0.99)),
                ("most", max(times)),
            )
        )
        print(f"\nupload to ended, waiting for a place included: {shown}")
    ideal = sum(job.seconds for job in planned if job.runs) / limits.max_runs
    print(
        f"{len(seen)} jobs in {took:.2f} s, {len(seen) / took:.1f} a second; their sleeping alone, "
        f"{limits.max_runs} at once, is {ideal:.2f} s"
    )


def _leave(number: int, _frame: FrameType | None) -> NoReturn:
    sys.exit(128 + number)


if __name__ == "__main__":
    main()
