"""Kill a real orchestrator and real nodes again and again while many jobs run, and check what became of them.

Processes are killed with SIGKILL and started again, stopped and continued; while one is down, a file that it
wrote is torn; inodes and descriptors run out; the network between orchestrator and nodes is cut, hangs and
loses answers; and users upload, terminate and download all the while. It ends all that it started. The exit
status is 0 if everything held, 1 if something did not: then the evidence is shown, and its directory is kept.
"""

from __future__ import annotations

import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import click
import trio
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from testbed.chaos import namespaces, wires
from testbed.chaos.disks import Disks
from testbed.chaos.faults import SERVER, draw
from testbed.chaos.jobs import plan
from testbed.chaos.judging import Seen, judge
from testbed.chaos.network import Network
from testbed.chaos.run import Run, Setting, Watch
from testbed.cluster import ClusterFailed, Limits
from testbed.verdicts import Verdict

SHOWN = 8
"""How many culprits of one kind, and how many of their histories, are shown; the report has all."""
TAIL = 30
"""Lines of each log that are shown."""

SERVER_INODES = 2000
INODES_PER_JOB = 24
"""At the orchestrator, which keeps them all."""
NODE_INODES = 3000


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--jobs", type=click.IntRange(1, 5000), default=100, help="Jobs to submit.")
@click.option("--kills", type=click.IntRange(0, 5000), default=20, help="SIGKILLs of orchestrator and nodes.")
@click.option("--nodes", type=click.IntRange(1, 20), default=2, help="Nodes to start.")
@click.option("--slots", type=click.IntRange(1, 100), default=4, help="Jobs a node runs at once.")
@click.option("--users", type=click.IntRange(1, 1000), default=8, help="Users that submit them in turn.")
@click.option("--seed", type=int, default=1, help="The same seed gives the same jobs and faults.")
@click.option(
    "--seconds", type=click.FloatRange(1), default=None, help="Faults go on for so long. [2 a kill]"
)
@click.option("--longest", type=click.FloatRange(0.1), default=4.0, help="Longest job, in seconds.")
@click.option("--longest-outage", type=click.FloatRange(0.1), default=3.0, help="Longest one, in seconds.")
@click.option(
    "--node-lost-after", type=click.FloatRange(1), default=60.0, help="Seconds, of the orchestrator."
)
@click.option("--runs-per-user", type=click.IntRange(1), default=3, help="Quota of each user.")
@click.option("--patience", type=click.FloatRange(1), default=180.0, help="Seconds for the jobs at the end.")
@click.option(
    "--netns", is_flag=True, help="A network namespace for each node, in place of proxies. Needs root."
)
@click.option("--keep", is_flag=True, help="Keep the directory even if all is well.")
def main(
    *,
    jobs: int,
    kills: int,
    nodes: int,
    slots: int,
    users: int,
    seed: int,
    seconds: float | None,
    longest: float,
    longest_outage: float,
    node_lost_after: float,
    runs_per_user: int,
    patience: float,
    netns: bool,
    keep: bool,
) -> None:
    """Kill a real orchestrator and real nodes while many jobs run, and check what became of each job."""
    if netns and (why := namespaces.available()):
        raise click.UsageError(f"--netns: {why}")
    with_disks = namespaces.enter(network=netns)
    network: Network = namespaces.Bridge(nodes) if netns else wires.Wires(nodes)
    seconds = max(5.0, 2.0 * kills) if seconds is None else seconds
    directory = Path(tempfile.mkdtemp(prefix="orchestrator-chaos-")).resolve()
    setting = Setting(
        directory=directory,
        nodes=nodes,
        slots=slots,
        # One less than there are slots: else the quota of the service would never be what holds a job back.
        limits=Limits(runs_per_user=runs_per_user, max_runs=max(1, nodes * slots - 1)),
        node_lost_after=node_lost_after,
        seed=seed,
        patience=patience,
    )
    planned = list(plan(jobs=jobs, users=users, seed=seed, seconds=seconds, longest=longest))
    faults = draw(
        seed=seed,
        kills=kills,
        nodes=nodes,
        seconds=seconds,
        longest=longest_outage,
        modes=network.modes,
        disks=with_disks,
    )
    disks = _disks(setting, jobs) if with_disks else None
    holds = False
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
    ) as progress:
        ended = progress.add_task("jobs ended", total=jobs)
        struck = progress.add_task("faults", total=len(faults))
        watch = Watch(
            ended=lambda: progress.advance(ended),
            struck=lambda: progress.advance(struck),
            says=lambda text: progress.update(ended, description=text),
        )
        began = time.monotonic()
        seen: Seen | None = None
        try:
            seen = trio.run(_until_told_to_end, Run(setting, network, planned, faults, watch, disks=disks))
        except* ClusterFailed as group:
            print(f"chaos: {group.exceptions}", file=sys.stderr)
        took = time.monotonic() - began
    if seen is None:
        if disks is not None:
            disks.take_down(keep=True)
        print(f"chaos: ended early; what there is lies in {directory}", file=sys.stderr)
        sys.exit(1)
    verdicts = judge(seen)
    holds = all(verdict.holds for verdict in verdicts)
    _show(verdicts, seen, took, f"seed {seed}, {jobs} jobs, {kills} kills among {len(faults)} faults")
    if disks is not None:
        disks.take_down(keep=keep or not holds)
    else:
        print("inodes were not used up: no file system can be mounted here")
    if holds and not keep:
        shutil.rmtree(directory)
    else:
        print(f"all of it lies in {directory}")
    sys.exit(0 if holds else 1)


def _disks(setting: Setting, jobs: int) -> Disks:
    inodes = {setting.machine_directory(SERVER): SERVER_INODES + INODES_PER_JOB * jobs}
    return Disks({**inodes, **dict.fromkeys(setting.node_directories, NODE_INODES)})


async def _until_told_to_end(run: Run) -> Seen | None:
    seen: Seen | None = None
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
        async with trio.open_nursery() as nursery:

            async def obey() -> None:
                await anext(signals)
                nursery.cancel_scope.cancel()

            nursery.start_soon(obey)
            seen = await run.chaos()
            nursery.cancel_scope.cancel()
    return seen


def _show(verdicts: Sequence[Verdict], seen: Seen, took: float, what: str) -> None:
    # Wide enough for one line each, also where nobody says how wide it is.
    console = Console(width=max(120, Console().width))
    table = Table(show_header=False, box=None, pad_edge=False)
    for verdict in verdicts:
        table.add_row("holds" if verdict.holds else "[bold red]FAILS[/]", verdict.question, verdict.answer)
    console.print(table)
    print(f"{what}, {took:.1f} s")
    report = _evidence(verdicts, seen, shown=None)
    if report:
        (seen.directory / "report.txt").write_text("\n".join(report) + "\n")
        print("\n".join(_evidence(verdicts, seen, shown=SHOWN)))


def _evidence(verdicts: Sequence[Verdict], seen: Seen, *, shown: int | None) -> list[str]:
    """What is wrong, the histories of the jobs that it names, and what the processes said last."""
    wrong = [line for verdict in verdicts for line in verdict.wrong[:shown]]
    if not wrong:
        return []
    lines = ["", *(f"  {line}" for line in wrong)]
    named = [int(number) for line in wrong for number in re.findall(r"\bjob (\d+)", line)]
    for number in list(dict.fromkeys(named))[:shown]:
        lines.append(f"\nhistory of job {number}:")
        for change in seen.ledger.changes.get(number, []):
            node = seen.node_names.get(change.node or "", change.node or "-")
            lines.append(
                f"  {change.at:.3f} {change.source} -> {change.target} ({node}, attempt {change.attempt}): "
                f"{change.reason}"
            )
    for path in sorted(seen.directory.glob("*.log")):
        tail = path.read_text(errors="replace").splitlines()
        lines += [f"\n{path.name}:", *(f"  {line}" for line in (tail[-TAIL:] if shown else tail))]
    return lines


if __name__ == "__main__":
    main()
