"""The few operations on disk that job directories are made of, each reporting what it did, and the threads
that they are done in.

The order of syncs and renames is what durability rests on, so a `Trace` can watch it.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

import trio

from actors.kernel.complaint import Complaint
from actors.kernel.courtesy import Courtesy
from actors.ports.storage import StorageError
from actors.process.kept_threads import KeptThreads
from actors.store import durable
from actors.store.durable import is_full, is_passing

log: Final = logging.getLogger("orchestrator.storage")

Trace = Callable[[str, str], None]
"""Told of each step: what ("fsync", "rename") and the path below the data directory; for a rename the new
one."""

T = TypeVar("T")

THREADS: Final = 16
DELETE_AGAIN: Final = 2.0
"""Seconds after which deleting is tried again."""

_NO_LINKS: Final = frozenset({errno.EPERM, errno.EMLINK, errno.EXDEV, errno.ENOTSUP, errno.ENOSYS})


class StorageFull(StorageError):
    """There is no room. Free some, then try again."""


class StorageBusy(StorageError):
    """There are too few descriptors or threads, or too little memory, for it now. Nothing is wrong with what
    is on the disk."""


class StorageGone(StorageError):
    """What was asked for is not there (any more)."""


class NameRefused(StorageError):
    """The file system does not take this file's name."""


@contextmanager
def _speaking_of(what: str) -> Iterator[None]:
    """Turn the system's errors into ours."""
    try:
        yield
    except (OSError, RuntimeError, MemoryError) as error:
        reason = (error.strerror if isinstance(error, OSError) else "") or str(error) or "too little memory"
        if is_passing(error):
            raise StorageBusy(f"{what}: {reason}") from error
        if not isinstance(error, OSError):
            raise
        if is_full(error):
            raise StorageFull(f"{what}: no space left on the data directory's disk") from error
        if error.errno == errno.ENOENT:
            raise StorageGone(f"{what}: {reason}") from error
        if error.errno in (errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL):
            raise NameRefused(f"{what}: {reason}") from error
        raise StorageError(f"{what}: {reason}") from error


class Disk:
    """Syncs and renames below `root`. All but `thread` blocks and belongs into one of its threads."""

    def __init__(self, root: Path, trace: Trace | None = None, courtesy: Courtesy | None = None) -> None:
        self.root = root
        self.courtesy: Final = courtesy or Courtesy()
        self._trace = trace
        self._threads = KeptThreads("storage", THREADS)
        self._undeleted: set[Path] = set()
        self._some_undeleted = trio.Event()
        self._complaint = Complaint(log)

    async def thread(self, work: Callable[[], T], *, what: str) -> T:
        """Run `work` in a thread. Raises StorageError that begins with `what`."""
        with _speaking_of(what):
            return await self._threads.run(work)

    def create(self, path: Path) -> int:
        return durable.create(path, 0o644)

    def write(self, fd: int, data: bytes) -> None:
        durable.write_all(fd, data)

    def sync(self, fd: int, path: Path) -> None:
        os.fsync(fd)
        self._tell("fsync", path)

    def sync_directory(self, path: Path) -> None:
        durable.sync_directory(path)
        self._tell("fsync", path)

    def write_file(self, path: Path, data: bytes, *, durable: bool = True) -> None:
        fd = self.create(path)
        try:
            self.write(fd, data)
            if durable:
                self.sync(fd, path)
        finally:
            os.close(fd)

    def make_directory(self, path: Path) -> None:
        """Have it there, durably."""
        with suppress(FileExistsError):
            path.mkdir()
            self.sync_directory(path.parent)

    def link(self, source: Path, target: Path) -> None:
        """A second name for a file that is on disk; where there can be none, a synced copy."""
        try:
            os.link(source, target, follow_symlinks=False)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            with source.open("rb") as original:
                fd = self.create(target)
                try:
                    while piece := original.read(1 << 20):
                        self.write(fd, piece)
                    self.sync(fd, target)
                finally:
                    os.close(fd)

    def rename(self, source: Path, target: Path) -> None:
        os.rename(source, target)
        self._tell("rename", target)

    def remove_tree(self, path: Path) -> None:
        """Delete what is there, if it is. A directory that its owner cannot enter is made passable first."""

        def make_passable(function: Callable[..., object], name: str, info: object) -> None:
            os.chmod(os.path.dirname(name), 0o700)
            if os.path.isdir(name) and not os.path.islink(name):
                os.chmod(name, 0o700)
                shutil.rmtree(name)
            else:
                os.unlink(name)

        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, onerror=make_passable)
        else:
            path.unlink(missing_ok=True)

    async def discard(self, path: Path) -> None:
        """Delete what is there, if it is, and that nobody looks for any more, along with what could not be
        deleted before. What cannot be now is tried again by `discard_left`."""
        todo, self._undeleted = [*self._undeleted, path], set()
        failed: list[Path] = []
        try:
            while todo:
                one = todo[-1]
                try:
                    await self.thread(partial(self.remove_tree, one), what=f"deleting {one.name}")
                    todo.pop()
                except StorageError as error:
                    self._complaint.say("%s; it is tried again", error)
                    failed.append(todo.pop())
                    if isinstance(error, StorageBusy):
                        break
        finally:
            self._undeleted.update(todo, failed)
            if self._undeleted:
                self._some_undeleted.set()

    async def discard_left(self) -> None:
        """Delete what could not be deleted at once, until cancelled."""
        while True:
            await self._some_undeleted.wait()
            await trio.sleep(DELETE_AGAIN)
            self._some_undeleted = trio.Event()
            if self._undeleted:
                await self.discard(self._undeleted.pop())

    def _tell(self, what: str, path: Path) -> None:
        if self._trace is not None:
            self._trace(what, os.path.relpath(path, self.root))
