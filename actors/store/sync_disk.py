"""Writing through all that a file system holds back, of whomever it is: one call for many files."""

from __future__ import annotations

import ctypes
import os
from typing import Final

_LIBC: Final = ctypes.CDLL(None, use_errno=True)


def sync_file_system(fd: int) -> None:
    """Return when all that was written to the file system of an open file is on its disk. Blocks, without the
    interpreter's lock. Raises `OSError` where any of what was written since it was opened is not, of this
    process or another: that is said once, and no later call says it again."""
    if _LIBC.syncfs(fd) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
