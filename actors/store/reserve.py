"""Space that is held on a disk for when something else has filled it: without that nothing could be recorded
any more, not even the order that would make room. A disk is full, too, when it has room but no inode for one
more file."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeVar

from actors.store.durable import create, is_full

T = TypeVar("T")

HELD: Final = 1 << 20
"""Bytes."""
FILES: Final = 16
"""Inodes, but for one."""
_SPACE: Final = "space"


class Reserve:
    """A directory that holds the space, until it is needed. All of this blocks, and any thread may call it:
    nobody finds the directory half made."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._space = os.fspath(path / _SPACE)
        self._lock = threading.Lock()

    def hold(self) -> bool:
        """Hold it (again), if there is room. Whether it is held."""
        with self._lock:
            return self._is_held() or self._fill()

    def _fill(self) -> bool:
        self._empty()
        try:
            self._path.mkdir(mode=0o700)
            for name in (_SPACE, *map(str, range(1, FILES))):
                fd = create(self._path / name)
                try:
                    if name == _SPACE:
                        os.posix_fallocate(fd, 0, HELD)
                finally:
                    os.close(fd)
        except OSError:
            self._empty()
            return False
        return True

    def _is_held(self) -> bool:
        try:
            return len(os.listdir(self._path)) == FILES and os.stat(self._space).st_size == HELD
        except OSError:
            return False

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
        with self._lock:
            return self._empty()

    def _empty(self) -> bool:
        try:
            shutil.rmtree(self._path)
        except NotADirectoryError:  # of an earlier version, or nothing of ours
            with suppress(OSError):
                self._path.unlink()
        except OSError:
            return False
        return True
