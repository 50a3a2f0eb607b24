"""What a client of nodes needs of the storage."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final, Protocol

from orchestrator.storage.result_sink import DiskResultSink

LOGS: Final = {"stdout.log": "stdout", "stderr.log": "stderr"}
"""Under which names a zip holds the streams, unless the job has files of these names."""


class JobFiles(Protocol):
    """What is needed of the storage."""

    async def input_files(self, storage_key: str, size: int | None = None) -> Sequence[tuple[str, Path, int]]:
        """The job's input: relative path, where it is, bytes. Raises StorageError when any of it cannot be
        read, and when it is not the `size` bytes that were uploaded."""
        ...

    def receive_result(self, storage_key: str, attempt_key: str) -> DiskResultSink:
        """Raises StorageError."""
        ...
