"""An orchestrator's ledger and files, with jobs of all kinds in them."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from support.data.ledgers import SetClock, by_owner, new_job, open_ledger, walk
from support.data.node_jobs import zipped

from actors.domain.changes import ChangeResult
from actors.domain.job import Job
from actors.domain.status import Status
from orchestrator.ledger.ledger import SqliteLedger
from orchestrator.storage.storage import DiskStorage

SMALL = 2000
"""Bytes that a ledger keeps."""


@dataclass(frozen=True, slots=True)
class House:
    """`data` and `db` are what a server's settings would name."""

    root: Path
    storage: DiskStorage
    ledger: SqliteLedger

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def db(self) -> Path:
        return self.root / "db.sqlite"

    async def queue(self, size: int) -> Job:
        """A Queued job with an input of so many bytes."""
        async with self.storage.receive() as upload:
            file = upload.file("deep/run.sh")
            await file.write(secrets.token_bytes(size))
            await file.close()
            files = await upload.commit(7, "example")
            job = await self.ledger.insert(new_job(storage_key=upload.key, size=size, files=files))
        if files is None:
            await self.storage.note_id(job.storage_key, job.id)
        return job

    async def complete(self, job: Job, size: int) -> Job:
        """The same, Completed with a result of so many bytes."""
        job = await walk(self.ledger, job, Status.PROCESSING, Status.SUBMITTED, Status.RUNNING)
        assert job.attempt is not None
        sink = self.storage.receive_result(job.storage_key, job.attempt.key)
        await sink.write_zip(zipped({"out": secrets.token_bytes(size)}))
        results = await sink.commit({"entries": []}, None)
        move = by_owner(job.id, job.status, Status.COMPLETED, "it is done", job.attempt.key, results=results)
        (answer,) = await self.ledger.record([move])
        assert answer.outcome is ChangeResult.DONE and answer.job is not None
        return answer.job


@asynccontextmanager
async def house(root: Path) -> AsyncIterator[House]:
    storage = DiskStorage(root / "data", SetClock(), small=SMALL)
    await storage.open()
    async with open_ledger(root / "db.sqlite") as ledger:
        storage.keep_small_in(ledger)
        yield House(root, storage, ledger)
