"""Staying with a job until it has ended, and with what status to end then."""

from __future__ import annotations

import os
import sys
from contextlib import aclosing, suppress
from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from orchestrator.client import AsyncClient, ClientError, Job
from orchestrator.commands.connection import Connection, run_tasks
from orchestrator.commands.console.job_row import progress
from orchestrator.commands.console.output import clean, tell
from orchestrator.commands.console.terminal_filter import Filter

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

NO_STATUS: Final = 125
"""The exit status when the job has none of its own: the orchestrator failed, or the job never ran."""


_LAST_LINES: Final = 5
"""Among which the last that is not blank is looked for."""
_LAST_BYTES: Final = 1000


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
    with _Teller(quiet=quiet, logs=logs) as teller:
        return run_tasks(partial(_follow_job, connection, number, teller, logs=logs))


async def _follow_job(connection: Connection, number: int, teller: _Teller, *, logs: bool) -> Job:
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
        if job.failure is not None and not logs:
            teller.tell_last(job, await _read_last_line(client, number))
        return job


async def _read_last_line(client: AsyncClient, number: int) -> str:
    """What the job said last on standard error; "" if that cannot be had, as its end is known without."""
    said = b""
    with suppress(ClientError):
        async with aclosing(client.logs(number, "stderr", tail=_LAST_LINES)) as pieces:
            async for piece in pieces:
                said = (said + piece)[-_LAST_BYTES:]
    lines = [line for line in said.decode(errors="replace").splitlines() if line.strip()]
    return lines[-1].strip() if lines else ""


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
    """Says on standard error how the job stands, each thing once. On a terminal, also how far it says it has
    come: as a bar, or as lines where the bar would stand among those of its log. Use it as a context."""

    def __init__(self, *, quiet: bool, logs: bool) -> None:
        self._quiet = quiet
        self._said = ""
        self._progress = ""
        self._terminal = sys.stderr.isatty()
        self._bar = None if logs else _Bar()

    def __enter__(self) -> _Teller:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def tell(self, job: Job) -> None:
        """This is how it stands."""
        if self._quiet:
            return
        if job.over and self._bar is not None:
            self._bar.close()
        line = f"job {job.id}: {job.status}" + (f": {job.message}" if job.message else "")
        if line != self._said:
            self._said = line
            tell(line)
        text = progress(job)
        if not self._terminal or job.over or text == self._progress:
            return
        self._progress = text
        if self._bar is not None:
            self._bar.show(job)
        elif text:
            tell(f"job {job.id}: {text}")

    def tell_last(self, job: Job, line: str) -> None:
        """This is what it said last on standard error; "" is nothing."""
        if line and not self._quiet:
            tell(f"job {job.id}: last of stderr: {line}")

    async def follow(self, client: AsyncClient, number: int, scope: trio.CancelScope) -> None:
        """Whenever something happens to the job, until it has ended or `scope` is cancelled."""
        with scope, suppress(ClientError):  # who waits for the job tells what is wrong, where it matters
            async with aclosing(client.iter_events(number)) as events:
                async for _ in events:
                    self.tell(await client.job(number))


class _Bar:
    """How far a job has come, as the last line of the terminal; what else is told appears above it."""

    def __init__(self) -> None:
        self._shown: Progress | None = None
        self._task: TaskID | None = None

    def show(self, job: Job) -> None:
        if self._shown is None:
            from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
            from rich.table import Column

            from orchestrator.commands.console.output import console

            message = TextColumn(
                "{task.fields[message]}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis")
            )
            columns = (
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                TaskProgressColumn(),
                message,
            )
            self._shown = Progress(*columns, console=console(err=True), transient=True, auto_refresh=False)
            self._shown.start()
            self._task = self._shown.add_task(f"job {job.id}", total=None, message="")
        assert self._task is not None
        # Without a fraction there is no end to measure by.
        known = job.progress is not None
        self._shown.update(
            self._task,
            total=1.0 if known else None,
            completed=job.progress or 0.0,
            message=clean(job.progress_message or ""),
            refresh=True,
        )

    def close(self) -> None:
        """Take it away. Idempotent."""
        if self._shown is not None:
            self._shown.stop()
            self._shown = None
