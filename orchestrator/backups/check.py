"""A ledger and the disk, held against each other."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio

from actors.cleaner import clean_now
from actors.domain.status import OVER
from actors.kernel.clock import WallClock
from actors.ports.storage import Part, StorageError
from actors.wire.errors import BadArchive
from actors.wire.files.zip_reader import check_zip
from orchestrator.backups.kept_jobs import KeptJob, kept_jobs, reading
from orchestrator.backups.trees import list_tree
from orchestrator.exclusive_use import locked
from orchestrator.ledger.ledger import SqliteLedger
from orchestrator.ledger.tables.small_files import read_files
from orchestrator.storage.bundle import unpack
from orchestrator.storage.result_sink import RESULT
from orchestrator.storage.storage import DiskStorage

_EVERY: Final = 1000


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as it should be. `job`: whose data is not what it was."""

    text: str
    job: KeptJob | None = None


def check(ledger: Path, data: Path, tell: Callable[[str], None], *, contents: bool) -> Iterator[Finding]:
    """What is wrong. `contents`: results are read through, and not only looked at. Blocks. Raises
    BackupError."""
    with reading(ledger) as db:
        for (line,) in db.execute("PRAGMA integrity_check(20)"):
            if line != "ok":
                yield Finding(f"ledger: {line}")
        for row in db.execute("PRAGMA foreign_key_check"):
            yield Finding(f"ledger: a row of {row[0]} belongs to nothing in {row[2]}")
        known = set()
        for number, job in enumerate(kept_jobs(db)):
            if number and number % _EVERY == 0:
                tell(f"{number} jobs checked")
            known.add(job.storage_key)
            for text in _wrong(db, job, data, contents):
                yield Finding(f"job {job.id} ({job.status}): {text}", job)
        for directory in sorted((data / "jobs").glob("??/*")):
            if directory.name not in known and (directory / "job_id").is_file():
                yield Finding(
                    f"{directory} belongs to no job: the server takes it away, or keeps it if it was a job's"
                )


def _wrong(db: sqlite3.Connection, job: KeptJob, data: Path, contents: bool) -> Iterator[str]:
    directory = data / job.directory
    try:
        size = sum(size for _, size, _ in list_tree(directory / "input")) if job.input_on_disk else None
        if size is None:
            size = sum(map(len, _small(db, job, "input").values()))
        if size != job.size:
            yield f"{size} bytes of its input are there, and {job.size} were uploaded"
    except FileNotFoundError:
        yield "its input is gone"
    except (OSError, StorageError) as error:
        yield f"its input cannot be read: {_text(error)}"
    try:
        if job.result_on_disk is False:
            source = _small(db, job, "result").get(RESULT)
            if source is None:
                yield "its results are gone"
            elif contents:
                check_zip(source, None)
            return
        archive = directory / "result" / RESULT
        if archive.is_file() and contents:
            check_zip(archive, None)
        elif job.result_on_disk and not archive.is_file():
            yield "its results are gone"
    except (OSError, StorageError, BadArchive) as error:
        yield f"its results are damaged: {_text(error)}"


def _text(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _small(db: sqlite3.Connection, job: KeptJob, part: Part) -> dict[str, bytes]:
    return dict(unpack(read_files(db, job.storage_key, part) or b"").files)


async def repair(found: Sequence[Finding], ledger_path: Path, data: Path) -> int:
    """Have the ledger no longer promise the data of ended jobs that is lost; of how many. Of others it is
    told when their turn comes. Raises StartError while a server runs there; LedgerError, StorageError."""
    lost = {one.job.id: one.text for one in found if one.job is not None and one.job.status in OVER}
    clock = WallClock()
    with (
        locked(data / "orchestrator.lock", f"data directory {data}", "DATA_PATH"),
        locked(ledger_path.with_name(f"{ledger_path.name}.lock"), f"ledger {ledger_path}", "DB_PATH"),
    ):
        storage = DiskStorage(data, clock)
        await storage.open()
        ledger = await SqliteLedger.open(str(ledger_path), clock=clock, may_begin=False)
        repaired = 0
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(ledger.run)
                for job_id, text in lost.items():
                    job = await ledger.get(job_id)
                    if job is not None and await clean_now(ledger, storage, job, text) is not None:
                        repaired += 1
                nursery.cancel_scope.cancel()
        finally:
            await ledger.aclose()
        return repaired
