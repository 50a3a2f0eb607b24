"""What a client of nodes needs of the storage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

from orchestrator.storage import result_sink
from orchestrator.storage.result_sink import DiskResultSink
from orchestrator.storage.upload import StoredInput

LOGS: Final = {name: stream for stream, name in result_sink.LOGS.items()}
"""Under which names a zip holds the streams, unless the job has files of these names."""


class JobFiles(Protocol):
    """What is needed of the storage."""

    async def input_files(self, storage_key: str, size: int | None = None) -> Sequence[StoredInput]:
        """The job's input. Raises StorageError when any of it cannot be read, and when it is not the `size`
        bytes that were uploaded; LedgerError when that is not known now."""
        ...

    def receive_result(self, storage_key: str, attempt_key: str) -> DiskResultSink:
        """Raises StorageError."""
        ...
