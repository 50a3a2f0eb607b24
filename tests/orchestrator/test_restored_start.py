"""A start with a ledger that was restored from an older copy: what it does not know is kept."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest
import trio
from support.data.ledgers import SetClock, new_job, open_ledger
from support.data.node_jobs import new_storage

from actors.cleaner import Cleaner
from actors.kernel.actor import Mailbox
from orchestrator.startup import go_on_from
from orchestrator.storage.storage import DiskStorage


async def stored(storage: DiskStorage) -> str:
    async with storage.receive() as upload:
        await upload.commit(7, "example")
        return upload.key


async def test_directories_without_an_id_are_kept_where_the_ledger_was_restored(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    storage = await new_storage(tmp_path / "data")
    known, lost, cut, noted = [await stored(storage) for _ in range(4)]
    async with open_ledger(tmp_path / "older") as ledger:
        await ledger.insert(new_job(storage_key=known))
    shutil.copy(tmp_path / "older", tmp_path / "copy")
    async with open_ledger(tmp_path / "older") as ledger:
        for key in (lost, cut, noted):
            job = await ledger.insert(new_job(storage_key=key))
    # Accepted, and then a crash: of these two the id did not get to the disk, or only the file's name did.
    (storage.job(cut) / "job_id").touch()
    await storage.note_id(noted, job.id)
    await storage.note_last_id(job.id)

    async with open_ledger(tmp_path / "copy") as restored:
        with caplog.at_level(logging.CRITICAL, "orchestrator.server"):
            await go_on_from(restored, storage)
        assert await restored.max_id() >= job.id
        assert [await storage.noted_id(key) for key in (known, lost, cut, noted)] == [None, 0, 0, job.id]

        refused = await stored(storage)  # as where the ledger could not be written
        await go_on_from(restored, storage)
        assert await storage.noted_id(refused) is None
        async with trio.open_nursery() as nursery:
            cleaner = Cleaner(
                Mailbox("cleaner"),
                nursery,
                ledger=restored,
                storage=storage,
                clock=SetClock(),
                max_age=1e6,
                orphan_grace=0.0,
            )
            await cleaner.turn()
        assert {key for key, _ in await storage.directories()} == {known, lost, cut, noted}
