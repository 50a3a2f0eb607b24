"""Space that is held on a disk for when something else has filled it: without that nothing could be recorded
any more, not even the order that would make room."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeVar

from actors.store.durable import create, is_full

T = TypeVar("T")

HELD: Final = 1 << 20
"""Bytes."""


class Reserve:
    """A file that holds the space, until it is needed. All of this blocks."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def hold(self) -> bool:
        """Hold it (again), if there is room. Whether it is held."""
        if self._path.exists():
            return True
        try:
            fd = create(self._path)
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
            if not is_full(error) or not self.let_go():
                raise
        return work()

    def let_go(self) -> bool:
        """Give the space to whoever comes first. False if it was not held."""
        try:
            self._path.unlink()
        except OSError:
            return False
        return True
