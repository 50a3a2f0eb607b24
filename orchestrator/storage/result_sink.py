"""Results of an attempt on their way to the disk."""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from actors.wire.files.listing import Entry
from actors.wire.files.zip_reader import check_zip
from orchestrator.storage.disk import Disk, StorageGone
from orchestrator.storage.upload import IncomingFile


class DiskResultSink:
    """What an attempt left, as it arrives. Made by `Storage.receive_result`; ends with `commit` or
    `abort`."""

    def __init__(self, disk: Disk, place: Path, job: Path, trash: Path) -> None:
        self._disk = disk
        self._place = place
        self._job = job
        self._trash = trash
        self._zip = self._file("result.zip")
        self._logs = {"stdout": self._file("stdout.log"), "stderr": self._file("stderr.log")}

    async def write_zip(self, data: bytes) -> None:
        await self._zip.write(data)

    async def write_log(self, stream: str, data: bytes) -> None:
        """`stream` is "stdout" or "stderr"."""
        await self._logs[stream].write(data)

    async def commit(self, manifest: dict[str, Any], expected_entries: Sequence[Entry] | None) -> None:
        """Check the zip against what the node froze, then put all of it in place of an older result.

        Durable on return. Raises BadArchive for a zip that is damaged or is not what its manifest says, and
        StorageError; `abort` is still to be called then.
        """
        for file in (self._zip, *self._logs.values()):
            await file.close()
        older = self._trash / f"{self._job.name}-{secrets.token_hex(4)}"
        await self._disk.thread(
            lambda: self._commit(manifest, expected_entries, older),
            what=f"storing results in {self._job.name}",
        )
        await self._disk.discard(older)

    async def abort(self) -> None:
        """Delete all that came. May be called at any time, also after `commit`, of which it undoes
        nothing."""
        try:
            for file in (self._zip, *self._logs.values()):
                await file.drop()
        finally:
            await self._disk.discard(self._place)

    def _file(self, name: str) -> IncomingFile:
        return IncomingFile(self._disk, self._place / name, name)

    def _commit(self, manifest: dict[str, Any], expected: Sequence[Entry] | None, older: Path) -> None:
        if not self._job.is_dir():
            raise StorageGone(f"job directory {self._job.name} is not there any more")
        check_zip(self._place / "result.zip", expected)
        self._disk.write_file(self._place / "manifest.json", json.dumps(manifest).encode())
        self._disk.sync_directory(self._place)
        target = self._job / "result"
        # A directory cannot be renamed over a full one. Between the two renames there is no result, which no
        # crash can turn into a loss: the node is told to let go only after this has returned.
        with suppress(FileNotFoundError):
            self._disk.rename(target, older)
        self._disk.rename(self._place, target)
        self._disk.sync_directory(self._job)
