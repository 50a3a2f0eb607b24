"""A list of jobs that goes on: looked at again whenever something happens, and now and then in any case."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextlib import aclosing
from functools import partial
from typing import Any, Final

import trio

from orchestrator.client import AsyncClient, Job, Node, NotFound, Refused, Retries, Unreachable
from orchestrator.client.retries import AGAIN
from orchestrator.commands.connection import Connection, run_tasks
from orchestrator.commands.console.job_row import COLUMNS, row
from orchestrator.commands.console.output import console, emit_one, tell
from orchestrator.commands.console.tables import make_table

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
    bell = _Bell()
    async with connection.async_client() as client, trio.open_nursery() as nursery:
        found = await _jobs(client, wanted)
        nursery.start_soon(_listen, client, bell)
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


class _Bell:
    def __init__(self) -> None:
        self._event = trio.Event()

    def ring(self) -> None:
        self._event.set()

    async def rung(self) -> None:
        await trio.sleep(OFTEN)
        with trio.move_on_after(SELDOM):
            await self._event.wait()
        self._event = trio.Event()


def watch_node(connection: Connection, node: Node, until: Callable[[Node], bool]) -> Node:
    """The node as soon as it is `until` that, looked at as lists are. Raises ClientError: also when it has
    left."""
    return run_tasks(partial(_watch_node, connection, node, until))


async def _watch_node(connection: Connection, node: Node, until: Callable[[Node], bool]) -> Node:
    bell = _Bell()
    async with connection.async_client() as client, trio.open_nursery() as nursery:
        nursery.start_soon(_listen, client, bell)
        while not until(node):
            await bell.rung()
            node = await client.node(node.id)
        nursery.cancel_scope.cancel()
    return node


async def _listen(client: AsyncClient, bell: _Bell) -> None:
    try:
        async with aclosing(client.iter_events()) as events:
            async for _ in events:
                bell.ring()
    except NotFound:
        return  # an orchestrator without that route: looking now and then has to do


async def _jobs(client: AsyncClient, wanted: Mapping[str, Any]) -> list[Job]:
    async with aclosing(client.jobs(**wanted)) as jobs:
        return [job async for job in jobs]


async def _jobs_again(client: AsyncClient, wanted: Mapping[str, Any]) -> list[Job]:
    """The same, for a list that was there before: it goes on once the orchestrator answers again."""
    since: float | None = None
    while True:
        try:
            return await _jobs(client, wanted)
        except (Unreachable, Refused) as error:
            if isinstance(error, Refused) and error.status not in AGAIN:
                raise
            if since is None:
                since = trio.current_time()
                tell(f"{error}; the list goes on as soon as it answers")
            elif trio.current_time() - since > PATIENCE:
                raise
            await trio.sleep(OFTEN)


def _tell(job: Job, *, json_wanted: bool) -> None:
    text = "  ".join(str(cell) for cell in row(job) if cell not in (None, ""))
    emit_one(job, text, json_wanted=json_wanted)
