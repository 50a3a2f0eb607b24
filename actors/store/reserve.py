"""Space that is held on a disk for when something else has filled it: without that nothing could be recorded
any more, not even the order that would make room."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeVar

T = TypeVar("T")

HELD: Final = 1 << 20
"""Bytes."""

_FULL: Final = (errno.ENOSPC, errno.EDQUOT)


class Reserve:
    """A file that holds the space, until it is needed. All of this blocks."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def hold(self) -> bool:
        """Hold it (again), if there is room. Whether it is held."""
        if self._path.exists():
            return True
        try:
            fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(fd, 0, HELD)
            finally:
                os.close(fd)
        except OSError:
            with suppress(OSError):
                self._path.unlink()
            return False
        return True

    def attempt(self, work: Callable[[], T]) -> T:
        """Do it; if the disk is full, once more with what was held let go. Raises what the work raises."""
        try:
            return work()
        except OSError as error:
            if error.errno not in _FULL or not self.let_go():
                raise
        return work()

    def let_go(self) -> bool:
        """Give the space to whoever comes first. False if it was not held."""
        try:
            self._path.unlink()
        except OSError:
            return False
        return True
