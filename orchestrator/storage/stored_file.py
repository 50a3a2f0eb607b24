"""A file of a job, wherever it is kept, open for reading from any place."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import trio


class StoredFile(Protocol):
    """`at` is when it was written, in nanoseconds since the epoch (wall). Never written to again."""

    @property
    def size(self) -> int: ...

    @property
    def at(self) -> int: ...

    async def read(self, size: int, offset: int) -> bytes:
        """At most `size` bytes from `offset` on; none behind the end. Raises OSError."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class FileOnDisk:
    """See `StoredFile`."""

    fd: int
    size: int
    at: int

    async def read(self, size: int, offset: int) -> bytes:
        return await trio.to_thread.run_sync(os.pread, self.fd, size, offset)

    def close(self) -> None:
        os.close(self.fd)


@dataclass(frozen=True, slots=True)
class FileInMemory:
    """See `StoredFile`."""

    data: bytes
    at: int

    @property
    def size(self) -> int:
        return len(self.data)

    async def read(self, size: int, offset: int) -> bytes:
        return self.data[offset : offset + size]

    def close(self) -> None:
        """There is nothing to let go of."""


def open_on_disk(path: Path) -> FileOnDisk | None:
    """In a thread. None if something else than a file is there. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    found = os.fstat(fd)
    if stat.S_ISREG(found.st_mode):
        return FileOnDisk(fd, found.st_size, found.st_mtime_ns)
    os.close(fd)
    return None
