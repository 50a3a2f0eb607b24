"""The directories of jobs, as far as actors touch them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol, TypeAlias

from actors.domain.errors import CoreError

Part: TypeAlias = Literal["input", "result"]
"""Of the files of a job: what was uploaded, what came back."""


class StorageError(CoreError):
    """The disk could not do it; the text says what and why. Nothing half-done is left visible."""


class Storage(Protocol):
    """Job directories, as far as actors touch them. All raise `StorageError`."""

    async def discard(self, storage_key: str) -> bool:
        """Take a job's directory away (rename into the trash, then delete). False while it is being read;
        True also when it is not there."""
        ...

    async def noted_id(self, storage_key: str) -> int | None:
        """The id of the job that the directory was accepted as; None for what never became a job."""
        ...

    async def directories(self) -> Sequence[tuple[str, float]]:
        """Every job directory's storage key and age of its last change in seconds."""
        ...
