"""Writing files so that they outlast the death of the process and of the machine, and reading them again,
whatever became of them. All of it blocks."""

from __future__ import annotations

import errno
import os
import sqlite3
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final


def is_full(error: Exception) -> bool:
    """Whether a file or a database could not be written for want of room."""
    if isinstance(error, sqlite3.Error):
        return getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


_SYNC_FAILED: Final = (1034, 1290)
"""SQLITE_IOERR_FSYNC, SQLITE_IOERR_DIR_FSYNC; Python names neither."""


def is_failed_sync(error: Exception) -> bool:
    """Whether a database could not be synced: what was written before may be on the disk or not, and no later
    sync would say which."""
    return getattr(error, "sqlite_errorcode", 0) in _SYNC_FAILED


SCARCE: Final = (
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOMEM,
    errno.ENOBUFS,
    errno.EAGAIN,
    errno.ETOOMANYREFS,  # descriptors that this account has sent and nobody has received yet
)
"""What says that there is too little of something on this machine."""

PASSING: Final = (*SCARCE, errno.ETIMEDOUT, errno.ESTALE)
"""What a busy machine, or a file system that is elsewhere, says of files that are there."""


def is_passing(error: BaseException) -> bool:
    """Whether something went wrong for want of descriptors, processes, threads or memory alone: it may be
    tried again, and says nothing of what it was done to."""
    if isinstance(error, BaseExceptionGroup):
        return all(map(is_passing, error.exceptions))
    if isinstance(error, OSError):
        return error.errno in PASSING
    if isinstance(error, MemoryError):
        return True
    # Python has no error of its own for it.
    return isinstance(error, RuntimeError) and str(error) == "can't start new thread"


def create(path: Path | str, mode: int = 0o600) -> int:
    """A descriptor of a new file, which must not exist; links are not followed. The umask may take from
    `mode`."""
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)


def write_all(fd: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(fd, view) :]


def create_durably(path: Path | str, content: bytes) -> None:
    """Make a file with this content, synced; whether its name is, is left to the caller."""
    _create(path, content, synced=True)


def create_plainly(path: Path | str, content: bytes) -> None:
    """Make a file with this content, which nobody needs once the machine has gone down."""
    _create(path, content, synced=False)


def _create(path: Path | str, content: bytes, *, synced: bool) -> None:
    fd = create(path)
    try:
        write_all(fd, content)
        if synced:
            os.fsync(fd)
    except BaseException:
        with suppress(OSError):
            os.unlink(path)
        raise
    finally:
        os.close(fd)


def write_plainly(path: Path | str, content: bytes) -> None:
    """Write a file that nobody needs once the machine has gone down. What else has its name goes, unless it
    is a directory."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        fd = os.open(path, flags, 0o600)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENXIO):
            raise
        os.unlink(path)
        fd = os.open(path, flags, 0o600)
    try:
        write_all(fd, content)
    finally:
        os.close(fd)


def write_durably(path: Path | str, content: bytes, *, synced: bool = True, replace: bool = True) -> None:
    """Write a file, so that after a crash there is the old content or the new, never a part. Which of them is
    certain only once its directory is synced too: not `synced` leaves that to the caller. Without `replace`
    a file that is there stays, and FileExistsError is raised."""
    _write_beside(path, content, synced=True, replace=replace)
    if synced:
        sync_directory(os.path.dirname(path) or ".")


def replace_plainly(path: Path | str, content: bytes) -> None:
    """Write a file, so that after the death of this process there is the old content or the new; after that
    of the machine there may be neither."""
    _write_beside(path, content, synced=False, replace=True)


def _write_beside(path: Path | str, content: bytes, *, synced: bool, replace: bool) -> None:
    directory, name = os.path.split(path)
    beside = os.path.join(directory, f".{name}.{os.urandom(4).hex()}")
    _create(beside, content, synced=synced)
    try:
        if replace:
            os.replace(beside, path)
        else:
            os.link(beside, path)
            os.unlink(beside)
    except BaseException:
        with suppress(OSError):
            os.unlink(beside)
        raise


def sync_directory(path: Path | str) -> None:
    """Make what was renamed or created in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def read_small(path: Path | str, most: int) -> bytes | None:
    """What is in a file of at most `most` bytes; None where there is no such file: something else has its
    name, or it has become longer than it can be. Raises OSError if the disk fails."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO):
            return None
        raise
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_size > most:
            return None
        # Not by a file object, which asks the kernel five things before it reads a byte.
        content = b""
        while len(content) < found.st_size and (piece := os.read(fd, found.st_size)):
            content += piece
        return content
    finally:
        os.close(fd)


def overwrite(path: Path | str, content: bytes, *, synced: bool = True) -> None:
    """Put other content into a file that is there: on a disk that takes no more files. After a crash it may
    be torn; who does this has another way to tell what it said. Raises `OSError`."""
    fd = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
            raise OSError(errno.EINVAL, "it is no file of ours", str(path))
        write_all(fd, content)
        if found.st_size > len(content):
            os.ftruncate(fd, len(content))
        if synced:
            os.fsync(fd)
    finally:
        os.close(fd)


BYTES_FOR_A_FILE: Final = 256 << 10
"""What an inode counts for where there are few of them."""


def free_space(path: Path | str) -> int:
    """Bytes that a disk still takes; less where it takes few files more. Raises `OSError`."""
    found = os.statvfs(path)
    free = found.f_bavail * found.f_frsize
    # Without a number of its own a file system makes inodes as it needs them.
    return min(free, found.f_favail * BYTES_FOR_A_FILE) if found.f_files else free
