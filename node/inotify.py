"""Waiting for changes of files by the kernel's inotify, which Python has no functions for."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import trio

_MODIFY: Final = 0x00000002
_CREATE: Final = 0x00000100
_MOVED_TO: Final = 0x00000080
_ONLYDIR: Final = 0x01000000
_FLAGS: Final = os.O_NONBLOCK | os.O_CLOEXEC  # IN_NONBLOCK and IN_CLOEXEC are the same numbers

_libc = ctypes.CDLL(None, use_errno=True)


class Watched:
    """Changes of the files right in one directory, since it was opened or last waited for."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    async def changed(self) -> None:
        """Return when a file in the directory has been written to or come into it; which one is not told."""
        await trio.lowlevel.wait_readable(self._descriptor)
        try:
            # All of it at once: many writes are one change.
            os.read(self._descriptor, 64 * 1024)
        except BlockingIOError:
            return


@contextmanager
def watching(directory: Path) -> Iterator[Watched | None]:
    """Watch a directory; None where the kernel refuses to (the number of watches is limited)."""
    descriptor = _libc.inotify_init1(_FLAGS)
    if descriptor < 0:
        yield None
        return
    try:
        mask = ctypes.c_uint32(_MODIFY | _CREATE | _MOVED_TO | _ONLYDIR)
        added = _libc.inotify_add_watch(descriptor, os.fsencode(directory), mask)
        yield None if added < 0 else Watched(descriptor)
    finally:
        os.close(descriptor)
