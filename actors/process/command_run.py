"""A command of somebody else's, run within a time."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, Final

import trio

OUTPUT_MOST: Final = 4 << 20
"""Bytes of output that are kept of a command; one more tells that there was more."""
_ERRORS_KEPT: Final = 4096
_DRAIN_SECONDS: Final = 2.0
"""How long its output may stay open after a command has ended: something that it started has kept it."""


@dataclass(frozen=True, slots=True)
class CommandEnd:
    """`status` as `subprocess` has it, None if it had not ended in time and was killed. Of too much output
    the beginning is kept, of errors the end."""

    status: int | None
    output: bytes
    errors: str

    def last_words(self) -> str:
        """The last line of its errors, after a colon; empty if there is none."""
        lines = [line.strip() for line in self.errors.splitlines() if line.strip()]
        return f": {lines[-1][:500]}" if lines else ""


async def run_command(
    words: Sequence[str], environment: Mapping[str, str], deadline: float, given: bytes = b""
) -> CommandEnd:
    """Run a command that reads `given`; whatever stops this before its end kills it and its whole group.
    `deadline` in seconds. Raises `OSError` or `ValueError` when it cannot be run, or not be followed."""
    process = subprocess.Popen(  # noqa: ASYNC220  # a group of its own, told from others by its pidfd
        words,
        stdin=subprocess.PIPE if given else subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        start_new_session=True,
    )
    output, errors = bytearray(), bytearray()
    with process:
        ended = await _finish(process, given, output, errors, deadline)
    status = process.returncode if ended else None
    return CommandEnd(status, bytes(output), errors.decode(errors="replace"))


async def _finish(
    process: subprocess.Popen[bytes], given: bytes, output: bytearray, errors: bytearray, deadline: float
) -> bool:
    """Read what it says until it ends; False if it does not in time."""
    assert process.stdout is not None and process.stderr is not None
    try:
        pidfd = os.pidfd_open(process.pid)
    except OSError:  # no descriptor: it cannot be watched, and must not be waited for
        os.killpg(process.pid, signal.SIGKILL)
        raise
    try:
        with trio.move_on_after(deadline):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_read, process.stdout, output, 0)
                nursery.start_soon(_read, process.stderr, errors, _ERRORS_KEPT)
                if process.stdin is not None:
                    nursery.start_soon(_write, process.stdin, given)
                await trio.lowlevel.wait_readable(pidfd)
                # It may have started something that lives on, a machine even, and keeps its output open.
                nursery.cancel_scope.deadline = trio.current_time() + _DRAIN_SECONDS
            return True
        return False
    finally:
        os.close(pidfd)
        # Asked and not reaped before: its id is its own, and so is the group's.
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


async def _write(pipe: IO[bytes], given: bytes) -> None:
    try:
        async with trio.lowlevel.FdStream(os.dup(pipe.fileno())) as stream:
            pipe.close()
            # It may end without having read all.
            with suppress(trio.BrokenResourceError):
                await stream.send_all(given)
    finally:
        pipe.close()


async def _read(pipe: IO[bytes], into: bytearray, newest: int) -> None:
    """Read all of it. Of too much the beginning is kept, or the `newest` bytes."""
    async with trio.lowlevel.FdStream(os.dup(pipe.fileno())) as stream:
        async for piece in stream:
            if newest:
                into += piece
                del into[:-newest]
            elif len(into) <= OUTPUT_MOST:
                into += piece
