"""Making a copy of an orchestrator that may be running, into a directory that may hold an earlier one.

    DIR/ledger.sqlite       the ledger, as it was at one moment
    DIR/data/               what its jobs have on disk, and keys and tokens, as in the data directory
    DIR/backup.json         when, of whom, how much; written last

The rules that make it one moment's:

1. The server puts files in place before its ledger speaks of them, and takes them away after it has
   stopped to. So whatever a copy of the ledger speaks of was on the disk when it was made.
2. The ledger is copied first, then the files that it speaks of. What was taken away meanwhile is missing:
   then the ledger is copied anew, which says so, and the few files that are new. What two copies in a row
   speak of and is not there has been lost before, which is told; the rest is copied all the same.
3. The ledger gets its name when all files are there, and only then what it no longer speaks of is deleted:
   a copy that is cut off leaves the one before it whole.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from actors.store.durable import sync_directory, write_durably
from orchestrator.backups.kept_jobs import BackupError, KeptJob, copy_ledger, kept_jobs, reading
from orchestrator.backups.trees import copy_file, copy_job, plain_files
from orchestrator.ledger.tables import meta

LEDGER: Final = "ledger.sqlite"
DATA: Final = "data"
ABOUT: Final = "backup.json"
FORMAT: Final = 1

_TRIES: Final = 10
_TELL_EVERY: Final = 2.0
"""Seconds from one line of progress to the next."""
_NOT_COPIED: Final = frozenset({"orchestrator.lock"})


@dataclass(frozen=True, slots=True)
class Backup:
    """`jobs` are those whose data is kept; `copied` the bytes that were not there from an earlier copy;
    `lost` what the ledger speaks of and was not on the disk."""

    made_at: str
    owner: str
    change: int
    jobs: int
    copied: int
    lost: list[str]
    format: int = FORMAT


def make_backup(ledger: Path, data: Path, target: Path, tell: Callable[[str], None]) -> Backup:
    """Blocks. `tell` is given lines of progress. Raises BackupError."""
    try:
        target.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _alone(target):
            return _make(ledger, data, target, tell)
    except OSError as error:
        place = error.filename or target
        before = (
            "the copy that was there before is as it was" if _is_there(target / ABOUT) else "there is no copy"
        )
        raise BackupError(f"{place}: {error.strerror}; {before}") from error


def _is_there(path: Path) -> bool:
    with suppress(OSError):  # it may lie in what is no directory
        return path.is_file()
    return False


def _make(ledger: Path, data: Path, target: Path, tell: Callable[[str], None]) -> Backup:
    fresh = target / f".{LEDGER}.new"
    copied, missing = 0, None
    for _ in range(_TRIES):
        made_at = datetime.now(UTC).isoformat(timespec="seconds")
        copy_ledger(ledger, fresh)
        with reading(fresh) as db:
            jobs = {job.storage_key: job for job in kept_jobs(db)}
            owner, change = meta.read_owner(db), meta.read_seq(db)
        before, (more, missing) = missing, _copy_jobs(jobs, data, target / DATA, tell)
        copied += more
        if not missing or missing == before:
            break
        tell(f"{len(missing)} jobs were cleaned meanwhile: once more, for what is new")
    else:
        raise BackupError("the server deletes faster than can be copied: try again when it has less to do")
    copied += _copy_keys(data, target / DATA)
    os.replace(fresh, target / LEDGER)
    sync_directory(target)
    _prune(target / DATA, jobs)
    lost = [f"job {jobs[key].id}: {what}" for key, what in sorted(missing, key=lambda one: jobs[one[0]].id)]
    backup = Backup(made_at, owner, change, len(jobs), copied, lost)
    _note(target / ABOUT, backup)
    return backup


@contextmanager
def _alone(target: Path) -> Iterator[None]:
    fd = os.open(target / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BackupError(f"another backup into {target} is under way: wait for it") from None
        yield
    finally:
        os.close(fd)


def _copy_jobs(
    jobs: dict[str, KeptJob], data: Path, target: Path, tell: Callable[[str], None]
) -> tuple[int, frozenset[tuple[str, str]]]:
    """The bytes that had to be copied, and what is missing: storage keys, each with what of it."""
    missing: set[tuple[str, str]] = set()
    copied, told = 0, time.monotonic()
    for number, job in enumerate(jobs.values()):
        if time.monotonic() - told >= _TELL_EVERY:
            told = time.monotonic()
            tell(f"{number} of {len(jobs)} jobs, {copied / 1e6:.0f} MB copied")
        source, place = data / job.directory, target / job.directory
        # What is small has none; what went away is missing below, unless an earlier copy has it.
        with suppress(FileNotFoundError):
            copied += copy_job(source, place)
        wanted = {"input": job.input_on_disk, "result": bool(job.result_on_disk)}
        missing |= {
            (job.storage_key, part)
            for part, is_wanted in wanted.items()
            if is_wanted and not (place / part).is_dir()
        }
    return copied, frozenset(missing)


def _copy_keys(data: Path, target: Path) -> int:
    """Keys, tokens and notes: the plain files of a data directory."""
    target.mkdir(mode=0o700, parents=True, exist_ok=True)
    copied = sum(
        copy_file(data / name, target / name) for name in plain_files(data) if name not in _NOT_COPIED
    )
    sync_directory(target)
    return copied


def _prune(target: Path, jobs: dict[str, KeptJob]) -> None:
    for directory in (target / "jobs").glob("??/*"):
        if directory.name not in jobs:
            shutil.rmtree(directory)


def _note(path: Path, backup: Backup) -> None:
    write_durably(path, json.dumps(asdict(backup), indent=1).encode() + b"\n")


def read_note(directory: Path) -> Backup:
    """What `make_backup` noted of a copy. Raises BackupError."""
    try:
        found = json.loads((directory / ABOUT).read_bytes())
        if found["format"] != FORMAT:
            raise BackupError(f"{directory} was written by a newer version: use that one's command")
        return Backup(**found)
    except (OSError, ValueError, TypeError, KeyError):
        raise BackupError(f"{directory} is no finished backup: its {ABOUT} is not there or damaged") from None
