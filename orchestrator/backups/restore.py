"""Putting a copy back, where nothing is yet."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Final

from actors.store.durable import sync_directory
from orchestrator.backups.backup import DATA, LEDGER, Backup, read_note
from orchestrator.backups.kept_jobs import BackupError, kept_jobs, reading
from orchestrator.backups.trees import copy_file, copy_job, plain_files
from orchestrator.ledger.tables import meta

LAST_ID: Final = "last_id"

SKIPPED_IDS: Final = 10_000
"""Ids that may have been given after the copy was made, and are not given again."""
_SKIPPED_CHANGES: Final = 1 << 32
"""The same for the numbers of changes, by which clients ask for what is new."""


def restore_backup(
    source: Path, ledger: Path, data: Path, tell: Callable[[str], None], *, skip_ids: int = SKIPPED_IDS
) -> Backup:
    """Have `ledger` and `data` as they were when the backup at `source` was made. Both must not be there, or
    be empty. The ledger comes last: a restore that is cut off has none, and is begun again. Blocks. Raises
    BackupError."""
    backup = read_note(source)
    try:
        _require_nothing(ledger, data)
        with reading(source / LEDGER) as db:
            jobs = list(kept_jobs(db))
            ids = meta.read_reserved_ids(db) + skip_ids
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in plain_files(source / DATA):
            copy_file(source / DATA / name, data / name)
        for number, job in enumerate(jobs):
            if number and number % 1000 == 0:
                tell(f"{number} of {len(jobs)} jobs")
            with suppress(FileNotFoundError):  # all of it is in the ledger
                copy_job(source / DATA / job.directory, data / job.directory)
        # From this the start sees that the ledger is an older copy, and goes on behind.
        (data / LAST_ID).write_text(f"{ids}\n")
        sync_directory(data)
        ledger.parent.mkdir(parents=True, exist_ok=True)
        aside = ledger.with_name(f".{ledger.name}.restored")
        copy_file(source / LEDGER, aside)
        with closing(sqlite3.connect(aside, isolation_level=None)) as db:
            meta.store_reserved_seq(db, meta.read_highest_seq(db) + _SKIPPED_CHANGES)
        os.replace(aside, ledger)
        sync_directory(ledger.parent)
    except OSError as error:
        raise BackupError(
            f"{error.filename or data}: {error.strerror}; remove what was restored so far and begin again"
        ) from error
    except sqlite3.Error as error:
        raise BackupError(f"{source / LEDGER} cannot be read: {error}") from error
    return backup


def _require_nothing(ledger: Path, data: Path) -> None:
    """An orchestrator that is there is never written over."""
    for suffix in ("", "-wal", ".newest"):
        if (there := ledger.with_name(ledger.name + suffix)).exists():
            raise BackupError(f"{there} is there already: move it away, or name another place with --db")
    if data.exists() and any(data.iterdir()):
        raise BackupError(f"{data} is not empty: move it away, or name another place with --data")
