"""What a client of nodes needs of the storage."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Protocol

from actors.wire.files.listing import Entry

LOGS: Final = {"stdout.log": "stdout", "stderr.log": "stderr"}
"""Under which names a zip holds the streams, unless the job has files of these names."""


class ResultSink(Protocol):
    """Where one attempt's results are written. Raises StorageError."""

    async def write_zip(self, data: bytes) -> None: ...
    async def write_log(self, stream: str, data: bytes) -> None: ...
    async def commit(self, manifest: dict[str, Any], expected_entries: Sequence[Entry] | None) -> None:
        """All of it becomes the job's result, durable on return. Raises BadArchive for a zip that is not what
        its manifest says."""
        ...

    async def abort(self) -> None:
        """Nothing of it remains. Harmless after a commit."""
        ...


class JobFiles(Protocol):
    """What is needed of the storage."""

    async def input_files(self, storage_key: str) -> Sequence[tuple[str, Path, int]]:
        """The job's input: relative path, where it is, bytes. Raises StorageError when any of it cannot be
        read."""
        ...

    def receive_result(self, storage_key: str, attempt_key: str) -> ResultSink:
        """Raises StorageError."""
        ...
