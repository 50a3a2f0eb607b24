"""Measure the orchestrator on this machine: latency, capacity, uploads, polls, queues, large files, idle use.

Each benchmark starts the processes itself, on free ports and in a temporary directory, and ends all of them.
Beside each figure stands what the machine needs for the same without an orchestrator, from the same run.
"""

from __future__ import annotations

import dataclasses
import json
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.client import HTTPException
from pathlib import Path
from types import FrameType
from typing import NoReturn

import click
from testbed.bench.backlog import backlog as measure_backlog
from testbed.bench.follow import follow as measure_follow
from testbed.bench.idle import idle as measure_idle
from testbed.bench.latency import latency as measure_latency
from testbed.bench.polls import polls as measure_polls
from testbed.bench.queue import queue as measure_queue
from testbed.bench.rows import Row, Wrong
from testbed.bench.syncs import syncs as measure_syncs
from testbed.bench.target import Target, running_already, started
from testbed.bench.throughput import throughput as measure_throughput
from testbed.bench.tiers import tiers as measure_tiers
from testbed.bench.transfer import transfer as measure_transfer
from testbed.bench.uploads import uploads as measure_uploads
from testbed.cluster import SERVICE, ClusterFailed
from testbed.figures import machine
from testbed.portal import Refused

BEGIN = "<!-- figures, written by scripts/bench.py -->"
SLOTS = 4
"""Of each node, where a benchmark has no option for it."""
END = "<!-- end of the figures -->"


@click.group(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
def main() -> None:
    """Measure the orchestrator on this machine, each figure beside its baseline from the same run."""
    signal.signal(signal.SIGTERM, _leave)


as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
Command = Callable[..., None]


def of_any_server(command: Command) -> Command:
    """Options to measure a server that runs already."""
    for option in (
        click.option("--pid", "pids", type=int, multiple=True, help="With --url: whose CPU to tell."),
        click.option("--service", default=SERVICE, help="With --url: which service takes the jobs."),
        click.option("--url", help="Measure this server of the contract instead of one that is started."),
    ):
        command = option(command)
    return command


@contextmanager
def _target(url: str | None, service: str, pids: tuple[int, ...], *, nodes: int) -> Iterator[Target]:
    if url is not None:
        yield running_already(url, service, pids)
        return
    with started(nodes=nodes, slots=SLOTS) as target:
        yield target


@main.command()
@click.option("--jobs", type=click.IntRange(1, 10_000), default=100, help="Jobs, one after the other.")
@as_json
def latency(*, jobs: int, as_json: bool) -> None:
    """A trivial run.sh on an idle system, from upload to result; beside it `bash run.sh` alone."""
    _report("latency", as_json, lambda: measure_latency(jobs))


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
    _report("throughput", as_json, lambda: measure_throughput(jobs, users, clients, slots))


@main.command()
@click.option(
    "--megabytes", type=click.IntRange(1, 100_000), default=400, help="Size of the file, 10^6 bytes each."
)
@as_json
def transfer(*, megabytes: int, as_json: bool) -> None:
    """A large file through upload, dispatch, run and download; beside it a plain copy of the file."""
    _report("transfer", as_json, lambda: measure_transfer(megabytes))


@main.command()
@click.option("--lines", type=click.IntRange(1, 100_000), default=50, help="Lines that the job writes.")
@click.option("--pause", type=click.FloatRange(0, 60), default=0.2, help="Seconds between two lines.")
@as_json
def follow(*, lines: int, pause: float, as_json: bool) -> None:
    """A line from when a job writes it until `orchestrator logs -f` prints it; beside it a pipe alone."""
    _report("follow", as_json, lambda: measure_follow(lines, pause))


@main.command()
@click.option(
    "--seconds", type=click.FloatRange(1, 3600), default=10.0, help="How long each of two measurements takes."
)
@click.option("--running", type=click.IntRange(1, 1000), default=100, help="Jobs that run in the second one.")
@as_json
def idle(*, seconds: float, running: int, as_json: bool) -> None:
    """CPU that the processes use with nothing to do, and with many jobs that run and do nothing."""
    _report("idle", as_json, lambda: measure_idle(seconds, running))


@main.command()
@click.option("--jobs", type=click.IntRange(1, 1_000_000), default=1500, help="Jobs in all.")
@click.option("--users", type=click.IntRange(1, 100_000), default=50, help="Users that own them.")
@click.option("--clients", type=click.IntRange(1, 256), default=8, help="Connections that submit at once.")
@click.option("--syncs", is_flag=True, help="Count them too, by strace in a run of a tenth of the jobs.")
@of_any_server
@as_json
def backlog(
    *,
    jobs: int,
    users: int,
    clients: int,
    syncs: bool,
    url: str | None,
    service: str,
    pids: tuple[int, ...],
    as_json: bool,
) -> None:
    """Capacity without polls: trivial jobs on two nodes with 4 slots; beside it as many `bash run.sh`."""
    if syncs and url is not None:
        raise click.UsageError("--syncs counts those of processes that it starts: not with --url")

    def measure() -> list[Row]:
        with _target(url, service, pids, nodes=2) as target:
            rows = measure_backlog(target, jobs, users, clients)
        if syncs:
            rows += measure_syncs(-(-jobs // 10), users, clients, nodes=2, slots=SLOTS)
        return rows

    _report("backlog", as_json, measure)


@main.command()
@click.option("--jobs", type=click.IntRange(1, 100_000), default=300, help="Of each tier in each round.")
@click.option("--rounds", type=click.IntRange(1, 100), default=2, help="How often each tier has its turn.")
@as_json
def tiers(*, jobs: int, rounds: int, as_json: bool) -> None:
    """CPU of a node, its shepherds and scripts for a trivial job, in each tier that scripts may run in."""
    _report("tiers", as_json, lambda: measure_tiers(jobs, rounds, SLOTS))


@main.command()
@click.option("--jobs", type=click.IntRange(1, 1_000_000), default=2000, help="Uploads in all.")
@click.option("--clients", type=click.IntRange(1, 256), default=16, help="Connections that upload at once.")
@of_any_server
@as_json
def uploads(
    *, jobs: int, clients: int, url: str | None, service: str, pids: tuple[int, ...], as_json: bool
) -> None:
    """Durable uploads without nodes; beside it as many files that are written to the disk."""

    def measure() -> list[Row]:
        with _target(url, service, pids, nodes=0) as target:
            return measure_uploads(target, jobs, clients)

    _report("uploads", as_json, measure)


@main.command()
@click.option("--times", type=click.IntRange(1, 1_000_000), default=500, help="Polls of each kind.")
@click.option(
    "--pollers",
    type=click.IntRange(0, 256),
    default=0,
    help="So many clients of 2.x beside a backlog, in place of polls on an idle server.",
)
@click.option(
    "--every", type=click.FloatRange(0, 60), default=0.03, help="Seconds between two polls of each."
)
@click.option("--jobs", type=click.IntRange(1, 1_000_000), default=1000, help="Jobs of that backlog.")
@of_any_server
@as_json
def polls(
    *,
    times: int,
    pollers: int,
    every: float,
    jobs: int,
    url: str | None,
    service: str,
    pids: tuple[int, ...],
    as_json: bool,
) -> None:
    """CPU of a status poll, by route, on new and kept connections; or what pollers leave of the capacity."""

    def measure() -> list[Row]:
        with _target(url, service, pids, nodes=2 if pollers else 0) as target:
            if pollers:
                return measure_backlog(target, jobs, 50, 8, pollers=pollers, every=every)
            return measure_polls(target, times)

    _report("polls", as_json, measure)


def _sizes(_context: click.Context, _parameter: click.Parameter, value: str) -> list[int]:
    try:
        sizes = sorted({int(size) for size in value.split(",")})
    except ValueError:
        raise click.BadParameter("expected numbers with commas between, such as 100,20000") from None
    if not 100 <= sizes[0] <= sizes[-1] <= 10_000_000:
        raise click.BadParameter("expected sizes from 100 to 10000000")
    return sizes


@main.command()
@click.option("--sizes", callback=_sizes, default="100,20000", help="Jobs that wait behind those that run.")
@click.option(
    "--dispatched", type=click.IntRange(1, 10_000), default=1000, help="Jobs whose rate is measured."
)
@click.option("--seconds", type=click.FloatRange(1, 3600), default=5.0, help="How long nothing is free.")
@click.option("--rounds", type=click.IntRange(1, 100), default=4, help="How often; medians are told.")
@as_json
def queue(*, sizes: list[int], dispatched: int, seconds: float, rounds: int, as_json: bool) -> None:
    """Start-up, memory and dispatch with a long queue; beside each the same with the shortest."""
    _report("queue", as_json, lambda: measure_queue(sizes, dispatched, seconds, rounds))


@main.command("all")
@click.option(
    "--write",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Put the figures into this document, between its marks, as docs/measure_md has them.",
)
def all_of_them(*, write: Path | None) -> None:
    """All benchmarks with their default values, one after the other, as Markdown."""
    began = machine()
    sections = [f"Measured on {datetime.now(UTC):%Y-%m-%d}: {began}."]
    for name, measure in (
        ("latency", lambda: measure_latency(100)),
        ("throughput", lambda: measure_throughput(500, 20, 8, 4)),
        ("backlog", lambda: _started(2, lambda target: measure_backlog(target, 1500, 50, 8))),
        (
            "polls --pollers 16",
            lambda: _started(2, lambda target: measure_backlog(target, 1000, 50, 8, pollers=16)),
        ),
        ("uploads", lambda: _started(0, lambda target: measure_uploads(target, 2000, 16))),
        ("polls", lambda: _started(0, lambda target: measure_polls(target, 500))),
        ("queue", lambda: measure_queue([100, 20_000], 1000, 5.0, 4)),
        ("transfer", lambda: measure_transfer(400)),
        ("tiers", lambda: measure_tiers(300, 2, SLOTS)),
        ("idle", lambda: measure_idle(10.0, 100)),
        ("follow", lambda: measure_follow(50, 0.2)),
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


def _started(nodes: int, measure: Callable[[Target], list[Row]]) -> list[Row]:
    with started(nodes=nodes, slots=SLOTS) as target:
        return measure(target)


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
        beside = "" if row.ratio is None else f"{row.ratio:8,.3f} x {row.baseline:10,.2f}  {row.baseline_is}"
        print(f"{row.figure:{width}}  {row.value:10,.2f} {row.unit:11}  {beside}".rstrip())


def _measured(name: str, measure: Callable[[], list[Row]]) -> list[Row]:
    try:
        return measure()
    except (ClusterFailed, Wrong, Refused, OSError, HTTPException) as error:
        print(f"bench {name}: {type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(1)


def _markdown(rows: list[Row]) -> str:
    lines = ["| figure | | ratio | baseline | which is |", "| --- | --- | --- | --- | --- |"]
    for row in rows:
        beside = " |" if row.ratio is None else f"{row.ratio:,.3f} | {row.baseline:,.2f} {row.unit}"
        lines.append(f"| {row.figure} | {row.value:,.2f} {row.unit} | {beside} | {row.baseline_is} |")
    return "\n".join(lines)


def _leave(number: int, _frame: FrameType | None) -> NoReturn:
    sys.exit(128 + number)


if __name__ == "__main__":
    main()
