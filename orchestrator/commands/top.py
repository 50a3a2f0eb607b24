"""`top`, and `status` without a job: how all of it stands, what is wrong first."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import click

from orchestrator.commands.connection import HELP, Connection, as_json, pass_connection, run_tasks
from orchestrator.commands.console.arguments import shown_names
from orchestrator.commands.console.job_row import UNDER_WAY, progress
from orchestrator.commands.console.output import age, clean, console, emit_json, pluralize, size
from orchestrator.commands.console.tables import emit_table, make_table

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from orchestrator.client import AsyncClient, Job, Node, Service, Trouble

OFTEN: Final = 1.0
"""Seconds at least between two looks, however much happens."""
SELDOM: Final = 5.0
"""Seconds at most: load and disk change without an event."""
MOST_JOBS: Final = 50

Rows = Sequence[Sequence[object]]
_SERVICES: Final = ("SERVICE", "STATUS", "QUEUED", "UNDER WAY", "MOST", "READY NODES")
_NODES: Final = ("NODE", "STATUS", "JOBS", "SLOTS", "LOAD", "FREE DISK")
_JOBS: Final = ("ID", "USER", "SERVICE", "NAME", "NODE", "RUNS FOR", "PROGRESS")


@dataclass(frozen=True, slots=True)
class Picture:
    """All of it at one time. `jobs` are those that run, the newest first and not all of them."""

    troubles: Sequence[Trouble]
    services: Sequence[Service]
    nodes: Sequence[Node]
    jobs: Sequence[Job]

    @property
    def raw(self) -> dict[str, Any]:
        return {
            "troubles": [one.raw for one in self.troubles],
            "services": [one.raw for one in self.services],
            "nodes": [one.raw for one in self.nodes],
            "jobs": [one.raw for one in self.jobs],
        }

    def tables(self) -> Iterator[tuple[tuple[str, ...], Rows]]:
        """The headings and the rows of each that has any."""
        if self.services:
            yield _SERVICES, [_service_cells(one) for one in self.services]
        if self.nodes:
            names = shown_names(self.nodes)
            yield _NODES, [(name, *_node_cells(one)) for name, one in zip(names, self.nodes, strict=True)]
        if self.jobs:
            yield _JOBS, [_job_cells(one) for one in self.jobs]

    def summary(self) -> str:
        queued, going = (sum(_count(one)[n] for one in self.services) for n in (0, 1))
        ready = [node for node in self.nodes if node.status == "ready"]
        used = sum(node.held + node.others for node in ready)
        slots = [node.slots for node in ready if node.slots is not None]
        # A node without a number runs whatever it is sent, so that there is none of all of them.
        if len(slots) == len(ready):
            there = f"{used} of {pluralize(sum(slots), 'slot')}"
        else:
            there = pluralize(used, "slot")
        return (
            f"{pluralize(queued, 'job')} queued, {going} under way; {len(ready)} of "
            f"{pluralize(len(self.nodes), 'node')} ready, {there} in use"
        )


def _count(service: Service) -> tuple[int, int]:
    return service.jobs.get("Queued", 0), sum(service.jobs.get(status, 0) for status in UNDER_WAY)


def _service_cells(one: Service) -> Sequence[object]:
    nodes = f"{one.nodes.ready} of {one.nodes.known}"
    return (one.name, "paused" if one.paused else "open", *_count(one), one.max_runs, nodes)


def _node_cells(one: Node) -> Sequence[object]:
    slots = "any" if one.slots is None else one.slots
    return (one.status, one.held + one.others, slots, f"{one.load:.0f}%", size(one.free_disk_bytes))


def _job_cells(one: Job) -> Sequence[object]:
    node = one.node_name or one.node
    return (one.id, one.user, one.service, one.name, node, age(one.started_at), progress(one))


@click.command("top", context_settings=HELP)
@click.option("-n", "times", type=click.IntRange(min=1), metavar="TIMES", help="End after so many looks.")
@click.option("--once", is_flag=True, help="The same as -n 1, for scripts.")
@as_json
@pass_connection
def top_command(connection: Connection, *, times: int | None, once: bool, json_wanted: bool) -> None:
    """Show what is wrong, services, nodes and running jobs, and go on as they change, until Ctrl-C."""
    show_all(connection, 1 if once else times, json_wanted=json_wanted)


def show_all(connection: Connection, times: int | None, *, json_wanted: bool) -> None:
    """So many times, or until Ctrl-C. Raises ClientError, KeyboardInterrupt."""
    run_tasks(partial(_show, connection, times, json_wanted))


async def _show(connection: Connection, times: int | None, json_wanted: bool) -> None:
    # Late: they need Trio, and `--help` is to be quick.
    import trio

    from orchestrator.commands.watch import Bell, listen, look_again

    bell, looks = Bell(OFTEN, SELDOM), 1
    async with connection.async_client() as client, trio.open_nursery() as nursery:
        picture = await _look(client)
        with _screen(times, json_wanted=json_wanted) as show:
            show(picture)
            if times != 1:
                nursery.start_soon(listen, client, bell)
            while times is None or looks < times:
                await bell.rung()
                picture, looks = await look_again(partial(_look, client)), looks + 1
                show(picture)
        nursery.cancel_scope.cancel()


@contextmanager
def _screen(times: int | None, *, json_wanted: bool) -> Iterator[Callable[[Picture], None]]:
    """Shows one picture after another: on a terminal in place of the one before."""
    if times == 1 or json_wanted or not sys.stdout.isatty():
        yield partial(_print, json_wanted=json_wanted)
        return
    from rich.live import Live

    with Live(console=console(), auto_refresh=False, screen=times is None) as live:
        yield lambda picture: live.update(draw(picture, live.console), refresh=True)


async def _look(client: AsyncClient) -> Picture:
    troubles, services, nodes = await client.troubles(), await client.services(), await client.nodes()
    async with aclosing(client.jobs(status="Running", limit=MOST_JOBS)) as running:
        return Picture(troubles, services, nodes, [job async for job in running])


def _wrong(picture: Picture) -> list[str]:
    return [clean(one.text) for one in picture.troubles] or ["nothing is wrong"]


def _print(picture: Picture, *, json_wanted: bool) -> None:
    if json_wanted:
        emit_json(picture.raw)
    else:
        for line in (*_wrong(picture), picture.summary()):
            click.echo(line)
        for headings, rows in picture.tables():
            click.echo()
            emit_table(headings, rows)
    sys.stdout.flush()


def draw(picture: Picture, screen: Console) -> RenderableType:
    """For a terminal: what is wrong, and of the tables as much as has room below it."""
    from rich.console import Group
    from rich.text import Text

    style = "bold red" if picture.troubles else "green"
    told = [Text(line, style) for line in _wrong(picture)] + [Text(picture.summary(), "bold")]
    parts: list[RenderableType] = [line for text in told for line in text.wrap(screen, screen.width)]
    left = screen.height - len(parts)
    for headings, rows in picture.tables():
        # An empty line, the headings, and a line for each that has room.
        if left < 3:
            break
        shown = rows[: left - 2]
        parts += [Text(""), make_table(headings, shown, screen.width)]
        left -= 2 + len(shown)
    return Group(*parts)
