"""Staying with a job until it has ended, and with what status to end then."""

from __future__ import annotations

import os
import sys
from contextlib import aclosing
from functools import partial
from typing import Final

import trio

from orchestrator.client import AsyncClient, ClientError, Job
from orchestrator.commands.connecting import Connection
from orchestrator.commands.output import tell
from orchestrator.commands.terminal import Filter
from orchestrator.commands.watching import first

NO_STATUS: Final = 125
"""The exit status when the job has none of its own: the orchestrator failed, or the job never ran."""


def exit_status(job: Job) -> int:
    """That of an ended job: its exit code, 128 + n for signal n, NO_STATUS when neither tells how it went."""
    if job.signal is not None:
        return 128 + job.signal
    if job.exit_code:
        return job.exit_code
    return 0 if job.succeeded else NO_STATUS


def stay(connection: Connection, number: int, *, logs: bool, quiet: bool) -> Job:
    """The job once it has ended. Meanwhile changes are told on standard error; with `logs` its standard
    output and error come on ours. Raises ClientError, KeyboardInterrupt."""
    try:
        return trio.run(partial(_stay, connection, number, logs=logs, quiet=quiet))
    except* ClientError as group:
        raise first(group) from None
    except* KeyboardInterrupt:
        raise KeyboardInterrupt from None
    raise AssertionError("unreachable")


async def _stay(connection: Connection, number: int, *, logs: bool, quiet: bool) -> Job:
    async with connection.async_client() as client:
        async with trio.open_nursery() as nursery:
            if logs:
                nursery.start_soon(_pump, client, number, "stdout", sys.stdout.fileno())
                nursery.start_soon(_pump, client, number, "stderr", sys.stderr.fileno())
            if not quiet:
                nursery.start_soon(_tell_changes, client, number)
            job = await client.wait(number)
        return job  # noqa: RET504  # the nursery may not be left by a return, says mypy: it can swallow


async def _pump(client: AsyncClient, number: int, stream: str, target: int) -> None:
    shown = Filter(tty=os.isatty(target))
    async with aclosing(client.logs(number, stream, follow=True)) as pieces:
        async for piece in pieces:
            await _write(target, shown.feed(piece))
    await _write(target, shown.end())


async def _write(target: int, data: bytes) -> None:
    # In a thread: a pipe that nobody reads may not stop Ctrl-C.
    await trio.to_thread.run_sync(write_all, target, data, abandon_on_cancel=True)


def write_all(target: int, data: bytes) -> None:
    """All of it to a descriptor."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(target, rest) :]


async def _tell_changes(client: AsyncClient, number: int) -> None:
    said = ""
    async with aclosing(client.iter_events(number)) as events:
        async for _ in events:
            job = await client.job(number)
            if (line := f"job {job.id}: {job.status}: {job.message}") != said:
                said = line
                tell(line)
            if job.over:
                return
