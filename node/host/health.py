"""The operator's own look at the node: a command that is run again and again; when it fails, the node says so
in its heartbeats and gets no jobs until it succeeds."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Final

import trio

from actors.store.durable import is_passing

log: Final = logging.getLogger("node.health")

EVERY: Final = 30.0
DEADLINE: Final = 15.0
LAST_WORDS: Final = 0.5
SAID: Final = 4096
"""Bytes of its output of which the last line is told."""


class HealthCheck:
    """`tell` takes why the node wants no jobs, "" if it does. `deadline`: seconds after which the command has
    failed; it is killed then, with all that it started."""

    def __init__(
        self,
        command: str,
        directory: Path,
        tell: Callable[[str], None],
        *,
        every: float = EVERY,
        deadline: float = DEADLINE,
    ) -> None:
        self._command = command
        self._directory = directory
        self._tell = tell
        self._every = every
        self._deadline = deadline
        self._last = ""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Look for ever. Started after the first look: before it, nobody knows whether the node is well."""
        while True:
            try:
                why = await self.look()
            except (OSError, RuntimeError) as error:
                if not is_passing(error):
                    raise
                why = self._last  # that nobody could look says nothing of the machine
            if why != self._last:
                log.warning("%s", why or "the health command succeeds again")
            self._last = why
            self._tell(why)
            task_status.started()
            task_status = trio.TASK_STATUS_IGNORED
            await trio.sleep(self._every)

    async def look(self) -> str:
        """Run the command once; why the node is unhealthy, "" if it is not."""
        try:
            process = await trio.lowlevel.open_process(
                ["/bin/sh", "-c", self._command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                cwd=self._directory,
                start_new_session=True,
            )
        except OSError as error:
            if is_passing(error):
                raise
            return f"the health command cannot be run: {error.strerror}"
        said, told = bytearray(), trio.Event()
        try:
            with trio.move_on_after(self._deadline):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_read, process, said, told)
                    status = await process.wait()
                    # What it said last may be on its way; a child that lives on may hold the output open.
                    with trio.move_on_after(LAST_WORDS):
                        await told.wait()
                    nursery.cancel_scope.cancel()
                return "" if status == 0 else f"the health command ended with status {status}{_last(said)}"
            return f"the health command took longer than {self._deadline:g} s"
        finally:
            with trio.CancelScope(shield=True):
                if process.returncode is None:
                    os.killpg(process.pid, signal.SIGKILL)  # not reaped yet, so the group is its own
                    await process.wait()
                assert process.stdout is not None
                await process.stdout.aclose()


async def _read(process: trio.Process, said: bytearray, told: trio.Event) -> None:
    assert process.stdout is not None
    async for piece in process.stdout:
        said += piece
        del said[:-SAID]
    told.set()


def _last(said: bytearray) -> str:
    lines = [line.strip() for line in bytes(said).decode("utf-8", "replace").splitlines() if line.strip()]
    return f": {lines[-1][:200]}" if lines else ""
