"""A job's files on their way in from a client.

Small ones become a bundle, which the ledger keeps with the job. The others are gathered in a directory of
their own, synced file by file, and appear by one rename. The order is what a promise rests on: files, then
the directories that name them, then the rename, then the directory that it went to; only after that may
anybody be told.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from actors.ports.world import Clock
from orchestrator.storage.bundle import Bundle, pack
from orchestrator.storage.disk import Disk
from orchestrator.storage.incoming import IncomingFile, IncomingFiles

StoredInput = tuple[str, "Path | bytes", int]
"""A file of a job's input: its relative path, where it is or what is in it, its bytes."""


class Upload:
    """A job's files as they arrive. Made by `Storage.receive`."""

    def __init__(
        self,
        disk: Disk,
        key: str,
        place: Callable[[], Path],
        target: Callable[[], Path],
        *,
        clock: Clock,
        small: int,
    ) -> None:
        """`place` and `target` name the directories, of which small files need none."""
        self.key = key
        self.committed = False
        self._disk = disk
        self._place = place
        self._target = target
        self._clock = clock
        self._files = IncomingFiles(disk, place, small, below="input")
        self._repeated: dict[str, int] = {}

    def file(self, path: str) -> IncomingFile:
        """A file at a safe relative path, which the caller has made sure of."""
        return self._files.file(path)

    async def repeat(self, files: Sequence[StoredInput]) -> None:
        """Take over stored files: as links to what is on disk already, for what was uploaded is never written
        to, or as copies where links cannot be made. Raises StorageError."""
        on_disk = [(path, source) for path, source, _ in files if isinstance(source, Path)]

        def link() -> None:
            for path, source in on_disk:
                target = self._place().joinpath("input", *path.split("/"))
                target.parent.mkdir(parents=True, exist_ok=True)
                self._disk.link(source, target)

        if on_disk:
            await self._files.spill()
            await self._disk.thread(link, what="repeating an upload")
        for path, source, size in files:
            if isinstance(source, Path):
                self._repeated[path] = size
            else:
                file = self.file(path)
                await file.write(source)
                await file.close()

    @property
    def paths(self) -> Sequence[str]:
        return (*self._files.paths, *self._repeated)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return self._files.size + sum(self._repeated.values())

    async def commit(self, user_id: int, service: str) -> bytes | None:
        """What the ledger has to keep with the job; None when the files are a job's directory, which is
        durable on return.

        Every file must have been closed. Raises StorageError, and then nothing is left.
        """
        if not self._files.on_disk:
            self.committed = True
            return pack(Bundle(int(self._clock.now() * 1e9), self._files.contents()))
        about = {
            "storage_key": self.key,
            "user_id": user_id,
            "service": service,
            "created_at": self._clock.now(),
            "size": self.size,
        }
        await self._disk.thread(lambda: self._commit(about), what="storing the upload")
        return None

    async def remove(self) -> None:
        """Delete all that came so far."""
        await self._files.drop()

    def _commit(self, about: dict[str, Any]) -> None:
        place, target = self._place(), self._target()
        inputs = place / "input"
        inputs.mkdir(parents=True, exist_ok=True)
        directories = {inputs}
        for path in self.paths:
            directory = inputs.joinpath(*path.split("/")[:-1])
            while directory not in directories:
                directories.add(directory)
                directory = directory.parent
        for directory in sorted(directories, reverse=True):
            self._disk.sync_directory(directory)
        self._disk.write_file(place / "job.json", json.dumps(about).encode())
        self._disk.sync_directory(place)
        self._disk.rename(place, target)
        try:
            self._disk.sync_directory(target.parent)
        except OSError:
            self._disk.rename(target, place)
            raise
        # Set here and not by the caller, who may be cancelled while this thread works.
        self.committed = True
