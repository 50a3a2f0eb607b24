"""Writing through what the kernel holds back: of a whole file system, one call for many files, and of a
large file while it is written."""

from __future__ import annotations

import ctypes
import errno
import os
from typing import Final

STEP: Final = 2 << 20
"""Bytes of a large file after which the disk is given what was written."""

_LIBC: Final = ctypes.CDLL(None, use_errno=True)

_BEGIN: Final = 2
_ALL_OF_IT: Final = 7
"""SYNC_FILE_RANGE_WAIT_BEFORE, _WRITE and _WAIT_AFTER."""
_NOT_HERE: Final = frozenset({errno.ENOSYS, errno.EINVAL, errno.ESPIPE, errno.ENOTSUP, errno.EPERM})
"""What is said where this cannot be done, or may not be: then all of it is left to the sync at the end."""


def sync_file_system(fd: int) -> None:
    """Return when all that was written to the file system of an open file is on its disk. Blocks, without the
    interpreter's lock. Raises `OSError` where any of what was written since it was opened is not, of this
    process or another: that is said once, and no later call says it again."""
    if _LIBC.syncfs(fd) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def write_back(fd: int, waited: int, begun: int, written: int) -> None:
    """Begin to write through what was written to a file from `begun` to `written`, and wait for what was
    begun before, from `waited` on; in bytes. Blocks. Who writes a large file calls it step by step, so that
    the disk never has more than two steps of it to do before a small sync of somebody else's. It makes
    nothing durable. Raises `OSError` for what could not be written: a later sync may not say it again."""
    for start, end, how in ((begun, written, _BEGIN), (waited, begun, _ALL_OF_IT)):
        size = ctypes.c_int64(end - start)
        if start < end and _LIBC.sync_file_range(fd, ctypes.c_int64(start), size, ctypes.c_uint(how)) != 0:
            number = ctypes.get_errno()
            if number not in _NOT_HERE:
                raise OSError(number, os.strerror(number))


class WriteBack:
    """How far a file that is being written, from its begin on, has been given to the disk."""

    def __init__(self) -> None:
        self._waited = self._begun = 0

    def note(self, fd: int, written: int) -> None:
        """So many bytes of it are written now: with each `STEP` as `write_back` does, else nothing."""
        if written - self._begun >= STEP:
            write_back(fd, self._waited, self._begun, written)
            self._waited, self._begun = self._begun, written
