"""A list of jobs that goes on: looked at again whenever something happens, and now and then in any case."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from functools import partial
from typing import Any, Final, TypeVar

import trio

from orchestrator.client import AsyncClient, Job, Node, NotFound, Refused, Retries, Unreachable
from orchestrator.client.retries import AGAIN
from orchestrator.commands.connection import Connection, run_tasks
from orchestrator.commands.console.job_row import COLUMNS, row
from orchestrator.commands.console.output import console, emit_one, tell
from orchestrator.commands.console.tables import make_table

T = TypeVar("T")

OFTEN: Final = 0.2
"""Seconds at least between two looks, however much happens."""
SELDOM: Final = 2.0
"""Seconds at most, should no event tell of a change."""
PATIENCE: Final = Retries().patience
"""Seconds without an answer after which it is given up."""


def watch_jobs(connection: Connection, wanted: Mapping[str, Any], *, json_wanted: bool) -> None:
    """Until Ctrl-C. On a terminal one table that changes; else a line for each change of a job. Raises
    ClientError, KeyboardInterrupt."""
    run_tasks(partial(_watch, connection, wanted, json_wanted))


async def _watch(connection: Connection, wanted: Mapping[str, Any], json_wanted: bool) -> None:
    bell = Bell()
    async with connection.async_client() as client, trio.open_nursery() as nursery:
        found = await _jobs(client, wanted)
        nursery.start_soon(listen, client, bell)
        if sys.stdout.isatty() and not json_wanted:
            from rich.live import Live

            with Live(console=console(), auto_refresh=False) as live:
                while True:
                    table = make_table(COLUMNS, [row(job) for job in found], live.console.width)
                    live.update(table, refresh=True)
                    await bell.rung()
                    found = await _jobs_again(client, wanted)
        versions: dict[int, int] = {}
        while True:
            for job in reversed(found):
                if versions.get(job.id, -1) < job.version:
                    versions[job.id] = job.version
                    _tell(job, json_wanted=json_wanted)
            sys.stdout.flush()
            await bell.rung()
            found = await _jobs_again(client, wanted)


class Bell:
    """Says when to look again: after an event, not more than once in `often` seconds, and after `seldom` in
    any case."""

    def __init__(self, often: float = OFTEN, seldom: float = SELDOM) -> None:
        self._often = often
        self._seldom = seldom
        self._event = trio.Event()

    def ring(self) -> None:
        self._event.set()

    async def rung(self) -> None:
        await trio.sleep(self._often)
        with trio.move_on_after(self._seldom):
            await self._event.wait()
        self._event = trio.Event()


def watch_node(connection: Connection, node: Node, until: Callable[[Node], bool]) -> Node:
    """The node as soon as it is `until` that, looked at as lists are. Raises ClientError: also when it has
    left."""
    return run_tasks(partial(_watch_node, connection, node, until))


async def _watch_node(connection: Connection, node: Node, until: Callable[[Node], bool]) -> Node:
    bell = Bell()
    async with connection.async_client() as client, trio.open_nursery() as nursery:
        nursery.start_soon(listen, client, bell)
        while not until(node):
            await bell.rung()
            node = await client.node(node.id)
        nursery.cancel_scope.cancel()
    return node


async def listen(client: AsyncClient, bell: Bell) -> None:
    """Ring it at each event, until cancelled."""
    try:
        async with aclosing(client.iter_events()) as events:
            async for _ in events:
                bell.ring()
    except NotFound:
        return  # an orchestrator without that route: looking now and then has to do
    except Refused as error:
        if error.status != 403:  # a role that may only look
            raise


async def _jobs(client: AsyncClient, wanted: Mapping[str, Any]) -> list[Job]:
    async with aclosing(client.jobs(**wanted)) as jobs:
        return [job async for job in jobs]


async def _jobs_again(client: AsyncClient, wanted: Mapping[str, Any]) -> list[Job]:
    return await look_again(partial(_jobs, client, wanted))


async def look_again(look: Callable[[], Awaitable[T]]) -> T:
    """What it finds, as it did before: it goes on once the orchestrator answers again."""
    since: float | None = None
    while True:
        try:
            return await look()
        except (Unreachable, Refused) as error:
            if isinstance(error, Refused) and error.status not in AGAIN:
                raise
            if since is None:
                since = trio.current_time()
                tell(f"{error}; it goes on as soon as it answers")
            elif trio.current_time() - since > PATIENCE:
                raise
            await trio.sleep(OFTEN)


def _tell(job: Job, *, json_wanted: bool) -> None:
    text = "  ".join(str(cell) for cell in row(job) if cell not in (None, ""))
    emit_one(job, text, json_wanted=json_wanted)
