"""Measure the orchestrator on this machine: latency, throughput, a large file, idle use, following a log.

Each benchmark starts the processes itself, on free ports and in a temporary directory, and ends all of them.
Beside each figure stands what the machine needs for the same without an orchestrator, from the same run.
"""

from __future__ import annotations

import dataclasses
import json
import signal
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from http.client import HTTPException
from pathlib import Path
from types import FrameType
from typing import NoReturn

import click
from testbed import benchmarks
from testbed.benchmarks import Row, Wrong
from testbed.cluster import ClusterFailed
from testbed.figures import machine
from testbed.portal import Refused

BEGIN = "<!-- figures, written by scripts/bench.py -->"
END = "<!-- end of the figures -->"


@click.group(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
def main() -> None:
    """Measure the orchestrator on this machine, each figure beside its baseline from the same run."""
    signal.signal(signal.SIGTERM, _leave)


as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")


@main.command()
@click.option("--jobs", type=click.IntRange(1, 10_000), default=100, help="Jobs, one after the other.")
@as_json
def latency(*, jobs: int, as_json: bool) -> None:
    """A trivial run.sh on an idle system, from upload to result; beside it `bash run.sh` alone."""
    _report("latency", as_json, lambda: benchmarks.latency(jobs))


@main.command()
@click.option("--jobs", type=click.IntRange(1, 10_000), default=500, help="Jobs in all.")
@click.option("--users", type=click.IntRange(1, 1000), default=20, help="Users that own them.")
@click.option("--clients", type=click.IntRange(1, 64), default=8, help="Connections that submit at once.")
@click.option(
    "--slots", type=click.IntRange(1, 1000), default=4, help="Jobs that each of two nodes runs at once."
)
@as_json
def throughput(*, jobs: int, users: int, clients: int, slots: int, as_json: bool) -> None:
    """Trivial jobs of many users on two nodes; beside it as many `bash run.sh` started directly."""
    _report("throughput", as_json, lambda: benchmarks.throughput(jobs, users, clients, slots))


@main.command()
@click.option(
    "--megabytes", type=click.IntRange(1, 100_000), default=400, help="Size of the file, 10^6 bytes each."
)
@as_json
def transfer(*, megabytes: int, as_json: bool) -> None:
    """A large file through upload, dispatch, run and download; beside it a plain copy of the file."""
    _report("transfer", as_json, lambda: benchmarks.transfer(megabytes))


@main.command()
@click.option("--lines", type=click.IntRange(1, 100_000), default=50, help="Lines that the job writes.")
@click.option("--pause", type=click.FloatRange(0, 60), default=0.2, help="Seconds between two lines.")
@as_json
def follow(*, lines: int, pause: float, as_json: bool) -> None:
    """A line from when a job writes it until `orchestrator logs -f` prints it; beside it a pipe alone."""
    _report("follow", as_json, lambda: benchmarks.follow(lines, pause))


@main.command()
@click.option(
    "--seconds", type=click.FloatRange(1, 3600), default=10.0, help="How long each of two measurements takes."
)
@click.option("--running", type=click.IntRange(1, 1000), default=100, help="Jobs that run in the second one.")
@as_json
def idle(*, seconds: float, running: int, as_json: bool) -> None:
    """CPU that the processes use with nothing to do, and with many jobs that run and do nothing."""
    _report("idle", as_json, lambda: benchmarks.idle(seconds, running))


@main.command("all")
@click.option(
    "--write",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Put the figures into this document, between its marks, as docs/benchmarks.md has them.",
)
def all_of_them(*, write: Path | None) -> None:
    """All five benchmarks with their default values, one after the other, as Markdown."""
    began = machine()
    sections = [f"Measured on {datetime.now(UTC):%Y-%m-%d}: {began}."]
    for name, measure in (
        ("latency", lambda: benchmarks.latency(100)),
        ("throughput", lambda: benchmarks.throughput(500, 20, 8, 4)),
        ("transfer", lambda: benchmarks.transfer(400)),
        ("idle", lambda: benchmarks.idle(10.0, 100)),
        ("follow", lambda: benchmarks.follow(50, 0.2)),
    ):
        sections.append(f"### {name}\n\n{_markdown(_measured(name, measure))}")
    text = "\n\n".join(sections)
    print(text)
    if write is not None:
        before, begin, rest = write.read_text(encoding="utf-8").partition(BEGIN)
        _, end, after = rest.partition(END)
        if not end:
            sys.exit(f"bench all: {write} has no marks {BEGIN} and {END}")
        write.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}", encoding="utf-8")


def _report(name: str, as_json: bool, measure: Callable[[], list[Row]]) -> None:
    measured_on = machine()
    rows = _measured(name, measure)
    if as_json:
        told = {
            "benchmark": name,
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": measured_on,
            "figures": [dataclasses.asdict(row) for row in rows],
        }
        print(json.dumps(told, indent=2))
        return
    print(measured_on)
    width = max(len(row.figure) for row in rows)
    for row in rows:
        beside = "" if row.baseline is None else f"{row.baseline:12,.2f}  {row.baseline_is}"
        print(f"{row.figure:{width}}  {row.value:10,.2f} {row.unit:10}  {beside}".rstrip())


def _measured(name: str, measure: Callable[[], list[Row]]) -> list[Row]:
    try:
        return measure()
    except (ClusterFailed, Wrong, Refused, OSError, HTTPException) as error:
        print(f"bench {name}: {type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(1)


def _markdown(rows: list[Row]) -> str:
    lines = ["| figure | | baseline | which is |", "| --- | --- | --- | --- |"]
    for row in rows:
        beside = "" if row.baseline is None else f"{row.baseline:,.2f} {row.unit}"
        lines.append(f"| {row.figure} | {row.value:,.2f} {row.unit} | {beside} | {row.baseline_is} |")
    return "\n".join(lines)


def _leave(number: int, _frame: FrameType | None) -> NoReturn:
    sys.exit(128 + number)


if __name__ == "__main__":
    main()
