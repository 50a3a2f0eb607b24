"""Cut the power of a real orchestrator, hundreds of times, and check that all it told before is there.

A server runs once, with a node and users, while strace writes down all that it writes, renames and syncs.
Then each cut makes a disk of that: what was synced is there, of the rest any part; and a server begins on it.
What was told before the cut was written down by those who were told. The exit status is 0 if everything held,
1 if something did not: then the disk of the first such cut is kept.
"""

from __future__ import annotations

import logging
import shutil
import sys
import tempfile
import time
from pathlib import Path

import click
from rich.console import Console
from rich.progress import track
from testbed.cluster import ClusterFailed
from testbed.power_cut.controls import CONTROLS, OF_NODES, OF_STARTS
from testbed.power_cut.node_recording import record_node
from testbed.power_cut.recording import NotRecorded, record
from testbed.power_cut.run import cuts, node_cuts
from testbed.power_cut.trace import NotUnderstood

BROKEN = [*CONTROLS, *OF_NODES, *OF_STARTS]
SHOWN = 5
"""Cuts of which it is told what is wrong."""
MEMORY = Path("/dev/shm")
"""Where syncs take no time, which nobody needs on a disk that was made up."""


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--jobs", type=click.IntRange(6, 1000), default=40, help="Jobs of the recorded run.")
@click.option("--cuts", "count", type=click.IntRange(1), default=600, help="Power cuts.")
@click.option("--processes", type=click.IntRange(0), default=10, help="Of them with a real server after it.")
@click.option("--seed", type=int, default=1, help="Of the jobs and the cuts. Runs differ all the same.")
@click.option("--control", type=click.Choice(BROKEN), help="Break it in this way before.")
@click.option("--node", is_flag=True, help="Of a node: cut its power, and go on in another boot.")
def main(*, jobs: int, count: int, processes: int, seed: int, control: str | None, node: bool) -> None:
    """Cut the power of a real orchestrator, or of a node, and check that all it told before is there."""
    if control is not None and (control in CONTROLS) == node:
        raise click.UsageError(f"{control} is no way to break a {'node' if node else 'server'}")
    if shutil.which("strace") is None:
        raise click.UsageError("this needs strace; type: apt-get install strace")
    logging.disable(logging.CRITICAL)  # what servers say of cut disks
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="orchestrator-cut-") as scratch:
        try:
            make = record_node if node else record
            before = control if control not in OF_STARTS else None
            recording = make(Path(scratch).resolve(), jobs=jobs, seed=seed, control=before)
        except (NotRecorded, NotUnderstood, ClusterFailed) as error:
            raise click.ClickException(f"nothing was recorded: {error}") from error
    place = Path(tempfile.mkdtemp(prefix="orchestrator-cut-", dir=MEMORY if MEMORY.is_dir() else None))
    failed, first = 0, None
    after = control if control in OF_STARTS else None
    if node:
        made = node_cuts(recording, place, count=count, seed=seed, control=after)
    else:
        made = cuts(recording, place, count=count, seed=seed, processes=processes)
    for cut in track(made, "cuts", total=count, console=Console(stderr=True), transient=True):
        if not cut.wrong:
            continue
        failed += 1
        if first is None:
            first = cut.number
            shutil.copytree(cut.place, kept := Path(tempfile.mkdtemp(prefix="orchestrator-cut-")) / "after")
            print(f"the disk of the first cut, as a start left it, lies in {kept}")
        if failed <= SHOWN:
            print(f"cut {cut.number}:", *cut.wrong, sep="\n  ")
    shutil.rmtree(place)
    print(
        f"{count} cuts among {len(recording.steps)} writes, names and syncs of {jobs} jobs, "
        f"{len(recording.told)} things told: {f'{failed} FAIL' if failed else 'all hold'}; "
        f"{time.monotonic() - began:.1f} s"
    )
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
