"""Run hostile jobs beside ordinary ones on a real orchestrator and node, and check what they have reached.

Each job tries one thing that no job should be able to do, and leaves what it got. What it reached is judged
from outside where it can be: by what it brought home, by what listens, by what was changed. All of it happens
on this machine. The exit status is 0 if every promise of the tier held, the ordinary jobs were not touched
and nothing was left behind; else it is 1.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from testbed.cluster import ClusterFailed
from testbed.hostile.promises import ABIS, BASH, LANDLOCK, TIERS, TRIALS, Setup
from testbed.hostile.run import Seen, run
from testbed.hostile.table import TIERS_MARK, VERSIONS_MARK, broken, to_markdown, verdict, write_into

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "security.md"


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option(
    "--tier", "tiers", type=click.Choice(TIERS), multiple=True, default=TIERS, help="Once for each."
)
@click.option("--uids/--no-uids", "uids", default=None, help="Each job a uid of its own. [both]")
@click.option(
    "--abi",
    "abis",
    type=click.Choice([str(abi) for abi in ABIS]),
    multiple=True,
    default=[str(abi) for abi in ABIS],
    help="Landlock once more as each of these versions has it, and without namespaces.",
)
@click.option("--only", type=click.Choice(list(TRIALS)), multiple=True, help="These attacks alone.")
@click.option("--write", is_flag=True, help="Write the table into docs/security.md.")
@click.option("--keep", is_flag=True, help="Keep the directories even if all is well.")
def main(
    *,
    tiers: tuple[str, ...],
    uids: bool | None,
    abis: tuple[str, ...],
    only: tuple[str, ...],
    write: bool,
    keep: bool,
) -> None:
    """Run hostile jobs beside ordinary ones, and check what they have reached."""
    names = only or tuple(name for name, trial in TRIALS.items() if not trial.alone)
    runs = [_attack(setup, names, keep) for setup in _setups(tiers, uids, map(int, abis))]
    _show(runs)
    if write:
        of_tiers, versions = _apart(runs)
        write_into(DOCUMENT, TIERS_MARK, to_markdown(of_tiers))
        write_into(DOCUMENT, VERSIONS_MARK, to_markdown(versions, only_differing=True))
    sys.exit(1 if any(map(broken, runs)) else 0)


def _setups(tiers: tuple[str, ...], uids: bool | None, abis: Iterable[int]) -> list[Setup]:
    """Under bash a uid of its own is none of what the tier is."""
    both = (True, False) if uids is None else (uids,)
    setups = [Setup(tier, own) for tier in tiers for own in ((False,) if tier == BASH else both)]
    if LANDLOCK in tiers:
        setups += [Setup(LANDLOCK, own, abi) for abi in abis for own in both]
    return setups


def _attack(setup: Setup, names: tuple[str, ...], keep: bool) -> Seen:
    directory = Path(tempfile.mkdtemp(prefix="orchestrator-hostile-")).resolve()
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        ended = progress.add_task(setup.name, total=len(names))
        try:
            seen = run(directory, setup, names, lambda: progress.advance(ended))
        except ClusterFailed as error:
            seen = Seen(setup, wrong=[str(error)])
    if broken(seen) or keep:
        print(f"{setup.name}: all of it lies in {directory}")
    else:
        shutil.rmtree(directory)
    return seen


def _apart(runs: list[Seen]) -> tuple[list[Seen], list[Seen]]:
    """Those of the tiers, and those of versions of Landlock: each is a table."""
    return [seen for seen in runs if seen.setup.abi is None], [
        seen for seen in runs if seen.setup.abi is not None
    ]


def _show(runs: list[Seen]) -> None:
    console = Console(width=max(120, Console().width))
    for shown in filter(None, _apart(runs)):
        table = Table("a job tries to", *(seen.setup.name for seen in shown), box=None, pad_edge=False)
        for name, trial in TRIALS.items():
            if any(name in seen.outcomes for seen in shown):
                verdicts = (verdict(seen, name).strip("*") for seen in shown)
                table.add_row(trial.what.replace("`", ""), *verdicts)
        console.print(table)
    for seen in runs:
        counted = sum(outcome.reached is not None for outcome in seen.outcomes.values())
        print(f"{seen.setup.name}: {counted} hostile and {seen.ordinary} ordinary jobs, {seen.seconds:.1f} s")
        for name, (begun, peak) in seen.memory.items():
            print(f"  {name}: {begun >> 20} MiB of memory when it began, {peak >> 20} at most")
        for line in broken(seen):
            print(f"  FAILS {line}")


if __name__ == "__main__":
    main()
