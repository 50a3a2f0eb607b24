"""One process of this machine, known again later: a pid alone may name another one by now."""

from __future__ import annotations

import errno
import os
import select
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import trio

from actors.process import procfs

STOP_SECONDS: Final = 4.0
"""Seconds after which a node that was told to end is killed: its jobs' grace and as much again."""


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """`started` is the kernel's start time in clock ticks since `boot`, the kernel's name for this run of the
    machine."""

    pid: int
    started: int
    boot: str

    @contextmanager
    def open(self) -> Iterator[int | None]:
        """A pidfd, or None when it is no more."""
        pidfd: int | None = None
        try:
            if self.boot == procfs.boot_id():
                # Opened first, compared then: what is open cannot become another process any more.
                pidfd = os.pidfd_open(self.pid)
                if procfs.start_time(self.pid) != self.started:
                    os.close(pidfd)
                    pidfd = None
        except OSError as error:
            # EINVAL and ENOENT: the number is a thread of somebody else's now.
            if error.errno not in (errno.ESRCH, errno.EINVAL, errno.ENOENT):
                raise
        try:
            yield pidfd
        finally:
            if pidfd is not None:
                os.close(pidfd)

    def lives(self) -> bool:
        with self.open() as pidfd:
            if pidfd is None:
                return False
            poll = select.poll()
            poll.register(pidfd, select.POLLIN)
            return not poll.poll(0)  # Readable: a zombie that some init is slow to collect.

    async def wait(self) -> None:
        """Return when it has ended, a zombie or not."""
        with self.open() as pidfd:
            if pidfd is not None:
                await trio.lowlevel.wait_readable(pidfd)

    def send(self, number: signal.Signals) -> None:
        with self.open() as pidfd:
            if pidfd is not None:
                _send(pidfd, number)

    async def end(self, patience: float = STOP_SECONDS) -> bool:
        """Ask it to end, wait, kill it: it has ended on return. True if it did not have to be killed; what is
        gone already has ended by itself."""
        with self.open() as pidfd:
            return pidfd is None or await _end(pidfd, patience)


def identify(pid: int) -> ProcessIdentity | None:
    """None for a process that is gone or only waits to be reaped."""
    started = procfs.start_time(pid)
    if started is None or procfs.is_zombie(pid):
        return None
    return ProcessIdentity(pid, started, procfs.boot_id())


async def end_child(process: subprocess.Popen[bytes], patience: float = STOP_SECONDS) -> None:
    """End a process that this one started. It is reaped on return."""
    if process.poll() is not None:
        return
    # Not reaped, so the id is its own.
    pidfd = os.pidfd_open(process.pid)
    try:
        await _end(pidfd, patience)
    finally:
        os.close(pidfd)
    process.wait()


async def _end(pidfd: int, patience: float) -> bool:
    _send(pidfd, signal.SIGTERM)
    with trio.move_on_after(patience):
        await trio.lowlevel.wait_readable(pidfd)
        return True
    _send(pidfd, signal.SIGKILL)
    await trio.lowlevel.wait_readable(pidfd)
    return False


def _send(pidfd: int, number: signal.Signals) -> None:
    try:
        signal.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        return  # Ended by itself just now.
