"""The CPU of processes and of all that they start, also of what nobody waits for: by a control group.

A parent that ignores the end of its children, as a node's spawner does, is never told what they have used;
the group is.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import psutil

_EMPTY_WITHIN: Final = 5.0


class CpuGroup:
    """`directory` is the group's; without one nothing is counted."""

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory

    def add(self, pids: Sequence[int]) -> bool:
        """These and all that they have started and will start; False if nothing is counted."""
        if self._directory is None:
            return False
        for pid in pids:
            for member in (pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))):
                with suppress(ProcessLookupError):
                    (self._directory / "cgroup.procs").write_text(str(member))
        return True

    def seconds(self) -> float:
        """CPU seconds of all of it so far."""
        assert self._directory is not None
        usage, *_ = (self._directory / "cpu.stat").read_text().splitlines()
        return int(usage.split()[1]) / 1e6


@contextmanager
def cpu_group() -> Iterator[CpuGroup]:
    """A group beside our own, where this user may make one; all in it must have ended when this is left."""
    directory = _own_group()
    if directory is None or not os.access(directory / "cgroup.procs", os.W_OK):
        yield CpuGroup(None)
        return
    directory /= f"bench-{os.getpid()}-{secrets.token_hex(4)}"
    try:
        directory.mkdir()
    except OSError:
        yield CpuGroup(None)
        return
    try:
        yield CpuGroup(directory)
    finally:
        deadline = time.monotonic() + _EMPTY_WITHIN
        while True:
            try:
                directory.rmdir()
                break
            except OSError:  # what has ended is in it for a moment yet
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)


def _own_group() -> Path | None:
    """Where this process is in the hierarchy of version 2, None if there is none."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    roots = [Path(point) for _, point, kind, *_ in mounts if kind == "cgroup2"]
    own = [line[3:] for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::")]
    return Path(f"{roots[0]}{own[0]}") if roots and own else None
