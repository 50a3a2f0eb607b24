"""Files on their way in: gathered in memory as long as they are small together, else in a directory.

Small ones are handed on as they are, for the ledger to keep. The others are written and synced file by file;
the directory that they are in is its owner's to sync and to put in place.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from isal import isal_zlib

from actors.kernel.courtesy import LargeBody
from actors.ports.storage import StorageError
from actors.store.sync_disk import WriteBack
from orchestrator.storage.disk import Disk, StorageBusy

WRITE: Final = 1 << 20
"""Bytes that are collected before a thread is asked to write them."""

_NO_NAMES: Final = frozenset({"", ".", ".."})
_SINGLY: Final = 32 << 10
"""Bytes of a piece, on average, for which it is worth a call of its own to write it."""
_AT_ONCE: Final = 4
"""Pieces of this size that one thread call copies."""

T = TypeVar("T")
Watch = Callable[[bytes], None]


class InputDiffers(Exception):
    """A stored file is not there with the bytes that it was said to have."""


class IncomingFiles:
    """Files below a directory of `place`, which is made when the first of them is written there: when all
    together have more than `small` bytes, or at once if that is 0."""

    def __init__(self, disk: Disk, place: Callable[[], Path], small: int, *, below: str = "") -> None:
        self.disk = disk
        self._place = place
        self._below = below
        self.small: Final = small
        self._files: dict[str, IncomingFile] = {}
        self.size = 0
        """Bytes of all files."""
        self.on_disk = not small

    def file(self, path: str, watch: Watch | None = None) -> IncomingFile:
        """A file at a safe relative path, which the caller has made sure of. `watch` is told, in a thread, of
        the bytes as they are written to the disk."""
        if path in self._files or not _NO_NAMES.isdisjoint(path.split("/")):
            raise StorageError(f"{path!r} is no path for a file")
        self._files[path] = file = IncomingFile(self, path, watch)
        return file

    def place_of(self, path: str) -> Path:
        return self._place().joinpath(self._below, *path.split("/"))

    @property
    def paths(self) -> Iterable[str]:
        return self._files.keys()

    def contents(self) -> dict[str, bytes]:
        """All of them, while they are small."""
        return {path: file.contents() for path, file in self._files.items()}

    async def spill(self) -> None:
        """Have them all on disk, now and from here on. Raises StorageError."""
        if not self.on_disk:
            self.on_disk = True
            closed = [file for file in self._files.values() if file.closed]
            if closed:
                await self.disk.thread(lambda: finish(closed), what="storing files")

    async def drop(self) -> None:
        """Let go of them as they are, and delete what is on disk."""
        if not self.on_disk:
            return
        try:
            await self.disk.thread(self._let_go, what=f"removing {self._place().name}")
        except StorageBusy:
            self._let_go()  # without a thread: nothing is written any more
        finally:
            await self.disk.discard(self._place())  # noqa: ASYNC102  # who calls it shields it

    def finish_all(self) -> None:
        """In a thread: write and sync what is not yet. Raises OSError."""
        finish(list(self._files.values()))

    def _let_go(self) -> None:
        for file in self._files.values():
            file.let_go()


class IncomingFile:
    """One file being written. `close` syncs it, if it is written to the disk at all."""

    def __init__(self, files: IncomingFiles, path: str, watch: Watch | None) -> None:
        self._files = files
        self._watch = watch
        self._path = path
        self._what = f"file {path!r}"
        self._fd: int | None = None
        self._pending: list[bytes] = []
        self._pending_size = 0
        self._written = 0
        self._write_back = WriteBack()
        self._failed = False
        self._finished = False
        self.closed = False

    async def write(self, data: bytes) -> None:
        files, size = self._files, len(data)
        self._pending.append(data)
        self._pending_size += size
        files.size += size
        if files.size > files.small:
            await files.spill()
        if files.on_disk and self._pending_size >= WRITE:
            await self._in_thread(self._flush)

    async def append(self, source: Path, size: int, crc: int, watch: Watch) -> None:
        """The bytes of a stored file, of which `watch` is told instead. Raises InputDiffers if they are not
        so many, or have another checksum; StorageError."""
        await self._files.spill()
        self._files.size += size
        await self._in_thread(self._flush)
        with ExitStack() as held:
            found = await self._in_thread(lambda: _open(source, held))
            at = summed = 0
            body = LargeBody(self._files.disk.courtesy)
            while at < size:
                some, before = partial(self._append_some, found, (at, summed), size, watch), at
                at, summed = await self._in_thread(some)
                await body.rest(at - before)
        if summed != crc:
            raise InputDiffers(f"{source.name} has the checksum {summed:08x} here, {crc:08x} was received")

    def _append_some(self, source: int, done: tuple[int, int], size: int, watch: Watch) -> tuple[int, int]:
        at, summed = done
        for _ in range(_AT_ONCE):
            try:
                piece = os.pread(source, min(WRITE, size - at), at)
            except OSError as error:
                raise InputDiffers(error.strerror) from error
            if not piece:
                raise InputDiffers(f"it has {at} bytes here, {size} were received")
            self._put(piece)
            watch(piece)
            at, summed = at + len(piece), isal_zlib.crc32(piece, summed)
            if at == size:
                break
        return at, summed

    async def close(self) -> None:
        self.closed = True
        if self._files.on_disk:
            await self._in_thread(self.finish)

    def contents(self) -> bytes:
        """What was written, of one that is not on disk."""
        return b"".join(self._pending)

    def finish(self) -> None:
        """In a thread: write what is left of it, and sync it. Once it has failed it stays so."""
        if self._finished:
            return
        self._finished = True
        try:
            if not self._failed:
                self._flush()
                assert self._fd is not None
                self._files.disk.sync(self._fd, self._files.place_of(self._path))
        finally:
            self._let_go()

    def let_go(self) -> None:
        """In a thread: leave it as it is."""
        self._finished = self._failed = True
        self._let_go()

    async def _in_thread(self, work: Callable[[], T]) -> T:
        try:
            return await self._files.disk.thread(work, what=self._what)
        except BaseException:
            self._failed = True
            raise

    def _flush(self) -> None:
        disk = self._files.disk
        if self._fd is None:
            place = self._files.place_of(self._path)
            place.parent.mkdir(parents=True, exist_ok=True)
            self._fd = disk.create(place)
        pending, size = self._pending, self._pending_size
        self._pending, self._pending_size = [], 0
        # To copy many small pieces together costs less than to write each.
        for data in pending if size > _SINGLY * len(pending) else [b"".join(pending)]:
            self._put(data)
            if self._watch is not None:
                self._watch(data)

    def _put(self, data: bytes) -> None:
        assert self._fd is not None
        self._files.disk.write(self._fd, data)
        self._written += len(data)
        self._write_back.note(self._fd, self._written)

    def _let_go(self) -> None:
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)


def _open(source: Path, held: ExitStack) -> int:
    try:
        fd = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise InputDiffers(error.strerror) from error
    held.callback(os.close, fd)
    return fd


def finish(files: Iterable[IncomingFile]) -> None:
    """In a thread: all of them."""
    for file in files:
        file.finish()
