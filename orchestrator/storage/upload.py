"""What is on its way into a job's directory: uploads from clients, results from nodes.

Both are gathered in a directory of their own, synced file by file, and appear by one rename. The order is
what a promise rests on: files, then the directories that name them, then the rename, then the directory that
it went to; only after that may anybody be told.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from actors.ports.storage import StorageError
from actors.ports.world import Clock
from orchestrator.storage.disk import Disk, StorageBusy

WRITE: Final = 1 << 20
"""Bytes that are collected before a thread is asked to write them."""


class IncomingFile:
    """One file being written. `close` syncs it; after a failed write it only lets go of it."""

    def __init__(self, disk: Disk, path: Path, shown: str) -> None:
        self._disk = disk
        self._path = path
        self._what = f"file {shown!r}"
        self._fd: int | None = None
        self._pending: list[bytes] = []
        self._pending_size = 0
        self._failed = False
        self.size = 0

    async def write(self, data: bytes) -> None:
        self._pending.append(data)
        self._pending_size += len(data)
        self.size += len(data)
        if self._pending_size >= WRITE:
            await self._in_thread(self._flush)

    async def close(self) -> None:
        await self._in_thread(self._finish)

    async def drop(self) -> None:
        """Let go of it as it is."""
        self._failed = True
        try:
            await self._in_thread(self._finish)
        except StorageBusy:
            self._finish()  # without a thread: nothing is written any more

    async def _in_thread(self, work: Callable[[], None]) -> None:
        try:
            await self._disk.thread(work, what=self._what)
        except BaseException:
            self._failed = True
            raise

    def _flush(self) -> None:
        if self._fd is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._fd = self._disk.create(self._path)
        pending, self._pending, self._pending_size = self._pending, [], 0
        self._disk.write(self._fd, pending[0] if len(pending) == 1 else b"".join(pending))

    def _finish(self) -> None:
        try:
            if not self._failed:
                self._flush()
                assert self._fd is not None
                self._disk.sync(self._fd, self._path)
        finally:
            fd, self._fd = self._fd, None
            if fd is not None:
                os.close(fd)


class Upload:
    """A job's files as they arrive. Made by `Storage.receive`."""

    def __init__(self, disk: Disk, place: Path, target: Path, clock: Clock) -> None:
        self.key = target.name
        self.committed = False
        self._disk = disk
        self._place = place
        self._target = target
        self._clock = clock
        self._files: dict[str, IncomingFile] = {}
        self._repeated: dict[str, int] = {}

    def file(self, path: str) -> IncomingFile:
        """A file at a safe relative path, which the caller has made sure of."""
        parts = path.split("/")
        if path in self._files or any(part in ("", ".", "..") for part in parts):
            raise StorageError(f"{path!r} is no path for a file of an upload")
        where = self._place.joinpath("input", *parts)
        self._files[path] = file = IncomingFile(self._disk, where, path)
        return file

    async def repeat(self, files: Sequence[tuple[str, Path, int]]) -> None:
        """Take over stored files (relative path, where it is, bytes): as links to what is on disk already,
        for what was uploaded is never written to, or as copies where links cannot be made. Raises
        StorageError."""

        def take() -> None:
            for path, source, _ in files:
                target = self._place.joinpath("input", *path.split("/"))
                target.parent.mkdir(parents=True, exist_ok=True)
                self._disk.link(source, target)

        await self._disk.thread(take, what="repeating an upload")
        self._repeated.update((path, size) for path, _, size in files)

    @property
    def paths(self) -> Sequence[str]:
        return (*self._files, *self._repeated)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self._files.values()) + sum(self._repeated.values())

    async def commit(self, user_id: int, service: str) -> str:
        """Make the upload a job's directory. Durable on return; the storage key is the result.

        Every file must have been closed. Raises StorageError, and then nothing is left.
        """
        about = {
            "storage_key": self.key,
            "user_id": user_id,
            "service": service,
            "created_at": self._clock.now(),
            "size": self.size,
        }
        await self._disk.thread(lambda: self._commit(about), what="storing the upload")
        return self.key

    async def remove(self) -> None:
        """Delete all that came so far."""
        try:
            for file in self._files.values():
                await file.drop()
        finally:
            await self._disk.discard(self._place)

    def _commit(self, about: dict[str, Any]) -> None:
        inputs = self._place / "input"
        inputs.mkdir(parents=True, exist_ok=True)
        directories = {inputs}
        for path in self.paths:
            directory = inputs.joinpath(*path.split("/")[:-1])
            while directory not in directories:
                directories.add(directory)
                directory = directory.parent
        for directory in sorted(directories, reverse=True):
            self._disk.sync_directory(directory)
        self._disk.write_file(self._place / "job.json", json.dumps(about).encode())
        self._disk.sync_directory(self._place)
        self._disk.rename(self._place, self._target)
        try:
            self._disk.sync_directory(self._target.parent)
        except OSError:
            self._disk.rename(self._target, self._place)
            raise
        # Set here and not by the caller, who may be cancelled while this thread works.
        self.committed = True
