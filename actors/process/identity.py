"""A process by pid, start time and boot: a pid alone may name another one by now."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio

from actors.process import procfs


@dataclass(frozen=True, slots=True)
class Identity:
    """One process of one boot: a pid alone would soon name another."""

    pid: int
    since: int
    boot: str

    @contextmanager
    def opened(self) -> Iterator[int | None]:
        """A pidfd, or None when it is no more."""
        descriptor: int | None = None
        try:
            if self.boot == procfs.boot_id():
                # Opened first, compared then: what is open cannot become another process any more.
                descriptor = os.pidfd_open(self.pid)
                if procfs.start_time(self.pid) != self.since:
                    os.close(descriptor)
                    descriptor = None
        except OSError as error:
            # EINVAL and ENOENT: the number is a thread of somebody else's now.
            if error.errno not in (errno.ESRCH, errno.EINVAL, errno.ENOENT):
                raise
        try:
            yield descriptor
        finally:
            if descriptor is not None:
                os.close(descriptor)

    async def gone(self) -> None:
        """Return when it has ended, a zombie or not."""
        with self.opened() as descriptor:
            if descriptor is not None:
                await trio.lowlevel.wait_readable(descriptor)

    def send(self, number: int) -> None:
        with self.opened() as descriptor:
            if descriptor is not None:
                try:
                    signal.pidfd_send_signal(descriptor, number)
                except ProcessLookupError:
                    return


STOP_SECONDS: Final = 4.0
"""Seconds after which a node that was told to end is killed: its jobs' grace and as much again."""


@dataclass(frozen=True, slots=True)
class ProcessName:
    """`started` is the kernel's start time in clock ticks since `boot`, the kernel's name for this run of the
    machine."""

    pid: int
    started: int
    boot: str


def name_of(pid: int) -> ProcessName | None:
    """The name of a process that runs; None for one that is gone or only waits to be reaped."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The command's name, in brackets, may have anything in it.
    fields = stat[stat.rindex(b")") + 2 :].split()
    if fields[0] in (b"Z", b"X"):
        return None
    return ProcessName(pid, int(fields[19]), Path("/proc/sys/kernel/random/boot_id").read_text().strip())


def lives(name: ProcessName) -> bool:
    return name_of(name.pid) == name


async def end(name: ProcessName, patience: float = STOP_SECONDS) -> bool:
    """Ask that very process to end, wait, kill it: it has ended on return. True if it did not have to be
    killed; what is gone already has ended by itself."""
    try:
        pidfd = os.pidfd_open(name.pid)
    except ProcessLookupError:
        return True
    try:
        # The descriptor stands for one process whatever becomes of its id: asked after it was opened, so that
        # what is told to end is what was meant.
        if not lives(name):
            return True
        return await _end(pidfd, patience)
    finally:
        os.close(pidfd)


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
        return  # Ended by itself just now, which is what was wanted.


async def end_child(process: subprocess.Popen[bytes], patience: float = STOP_SECONDS) -> None:
    """The same for a process that this one started. It is reaped on return."""
    if process.poll() is not None:
        return
    # Not reaped, so the id is its own.
    pidfd = os.pidfd_open(process.pid)
    try:
        await _end(pidfd, patience)
    finally:
        os.close(pidfd)
    process.wait()
