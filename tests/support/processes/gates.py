"""Something that any number of scripts wait at, until the test lets them all on."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Gate:
    """`wait` is the shell command that returns once the gate is open."""

    def __init__(self, path: Path) -> None:
        self.wait = f"flock -s {path} true"
        self._fd: int | None = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
        fcntl.flock(self._fd, fcntl.LOCK_EX)

    def open(self) -> None:
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)


@contextmanager
def gate(path: Path) -> Iterator[Gate]:
    shut = Gate(path)
    try:
        yield shut
    finally:
        shut.open()
