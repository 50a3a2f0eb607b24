"""What a ledger says has to be on the disk, and a copy of a ledger that may be in use."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from actors.domain.status import Status
from actors.store.durable import create
from orchestrator.errors import OrchestratorError
from orchestrator.ledger.schema import SCHEMA, recognise


class BackupError(OrchestratorError):
    """It cannot be done; the text says why, and what to do."""


@dataclass(frozen=True, slots=True)
class KeptJob:
    """A job whose data is kept. `size`: bytes of its input. What is small is in the ledger itself, the rest
    has to be in the job's directory: `input_on_disk`; `result_on_disk` None where there may be a result or
    not."""

    id: int
    storage_key: str
    status: Status
    size: int
    input_on_disk: bool
    result_on_disk: bool | None

    @property
    def directory(self) -> str:
        """Below a data directory."""
        return f"jobs/{self.storage_key[:2]}/{self.storage_key}"


_KEPT: Final = f"""
    SELECT id, storage_key, status, size, small_inputs.job_id IS NULL, small_results.job_id IS NULL
    FROM jobs
    LEFT JOIN small_inputs ON small_inputs.job_id = jobs.id
    LEFT JOIN small_results ON small_results.job_id = jobs.id
    WHERE status <> '{Status.CLEANED.value}' ORDER BY id
"""


@contextmanager
def reading(ledger: Path) -> Iterator[sqlite3.Connection]:
    """A connection that changes nothing; the server may be running. Raises BackupError."""
    try:
        # Not there: it would be made.
        if not ledger.is_file():
            raise BackupError(
                f"{ledger} is not there: name the ledger with --db, DB_PATH or db_path in --config"
            )
        with closing(sqlite3.connect(f"{ledger.absolute().as_uri()}?mode=ro", uri=True)) as db:
            if (version := recognise(db)) != SCHEMA:
                raise BackupError(
                    f"{ledger} has schema {version} and this version works with {SCHEMA}: use the command of "
                    "the version that wrote it, or start the server of this one once"
                )
            yield db
    except sqlite3.Error as error:
        raise BackupError(f"{ledger} cannot be read: {error}") from error


def kept_jobs(db: sqlite3.Connection) -> Iterator[KeptJob]:
    """All jobs whose data is kept, oldest first."""
    for job_id, key, status, size, no_input, no_result in db.execute(_KEPT):
        result = None
        if not no_result:
            result = False
        elif status == Status.COMPLETED:
            result = True
        yield KeptJob(job_id, key, Status(status), size, bool(no_input), result)


def copy_ledger(source: Path, target: Path) -> None:
    """All of a ledger as it is at one moment, as one file that is synced. Raises BackupError, OSError."""
    target.unlink(missing_ok=True)
    os.close(create(target))
    with reading(source) as db, closing(sqlite3.connect(target)) as copy:
        db.backup(copy)
        # One file: who moves it need not know of a log beside it.
        copy.execute("PRAGMA journal_mode = DELETE")
    with target.open("rb") as file:
        os.fsync(file.fileno())
