"""Jobs whose files are in a real storage, as a client of nodes is handed them."""

from __future__ import annotations

import io
import secrets
import zipfile
from collections.abc import Mapping
from pathlib import Path

from support.data.ledgers import SetClock

from actors.domain.job import Attempt, Job
from actors.domain.status import Status
from actors.ports.nodes import Dispatch
from orchestrator.storage.storage import DiskStorage


async def new_storage(root: Path) -> DiskStorage:
    storage = DiskStorage(root, SetClock())
    await storage.open()
    return storage


def result_file(storage: DiskStorage, storage_key: str, name: str = "result.zip") -> Path | None:
    """A file of results on disk, None if it is not there."""
    path = storage.job(storage_key) / "result" / name
    return path if path.is_file() else None


async def new_dispatch(
    storage: DiskStorage, files: Mapping[str, bytes], *, foreign_id: int | None = None, job_id: int = 7
) -> Dispatch:
    async with storage.receive() as upload:
        for path, data in files.items():
            file = upload.file(path)
            await file.write(data)
            await file.close()
        await upload.commit(5, "example")
        storage_key = upload.key
    attempt = Attempt(secrets.token_hex(16), job_id, 1, "node-a", foreign_id=foreign_id)
    size = sum(map(len, files.values()))
    job = Job(job_id, 5, "example", Status.PROCESSING, "", 1, 0.0, 0.0, storage_key, size, attempt=attempt)
    return Dispatch(attempt, job)


def zipped(files: Mapping[str, bytes]) -> bytes:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, data in files.items():
            archive.writestr(path, data)
    return written.getvalue()
