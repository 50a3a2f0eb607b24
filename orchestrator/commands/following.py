"""Staying with a job until it has ended, and with what status to end then."""

from __future__ import annotations

import os
import sys
from contextlib import aclosing, suppress
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
    teller = _Teller(quiet=quiet)
    async with connection.async_client() as client:
        async with trio.open_nursery() as nursery:
            if logs:
                nursery.start_soon(_pump, client, number, "stdout", sys.stdout.fileno())
                nursery.start_soon(_pump, client, number, "stderr", sys.stderr.fileno())
            telling = trio.CancelScope()
            nursery.start_soon(teller.follow, client, number, telling)
            job = await client.wait(number)
            telling.cancel()
        teller.tell(job)
        return job


async def _pump(client: AsyncClient, number: int, stream: str, target: int) -> None:
    shown = Filter(tty=os.isatty(target))
    async with aclosing(client.logs(number, stream, follow=True)) as pieces:
        async for piece in pieces:
            await _write(target, shown.feed(piece))
    await _write(target, shown.end())


async def _write(target: int, data: bytes) -> None:
    # In a thread: a pipe that nobody reads may not stop Ctrl-C.
    await trio.to_thread.run_sync(_write_all, target, data, abandon_on_cancel=True)


def _write_all(target: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(target, rest) :]


class _Teller:
    """Says on standard error how the job stands, each thing once."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._said = ""

    def tell(self, job: Job) -> None:
        """This is how it stands."""
        line = f"job {job.id}: {job.status}" + (f": {job.message}" if job.message else "")
        if line != self._said and not self._quiet:
            self._said = line
            tell(line)

    async def follow(self, client: AsyncClient, number: int, scope: trio.CancelScope) -> None:
        """Whenever something happens to the job, until it has ended or `scope` is cancelled."""
        with scope, suppress(ClientError):  # who waits for the job tells what is wrong, where it matters
            async with aclosing(client.iter_events(number)) as events:
                async for _ in events:
                    self.tell(await client.job(number))
