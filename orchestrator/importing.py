"""Taking over a database and the files of job-orchestrator 2.x, at the first start that finds them.

What 2.x wrote is read and stays as it is: going back is starting the old program again. The ledger that is
made of it stands beside it, `db.sqlite.v3`; files get second names in our own directories, or are copied
where there can be none.

What becomes of a job of 2.x, by its status there:

    queued                          Queued: it is sent when its turn comes
    submitted, prepared, running,   Submitted: the node is asked for it by the number that it gave; Failed
    locked                          where no number or no node is known
    processing                      Failed: nobody knows whether its node got it, and it must not run twice
    completed                       Completed, with its zip; Cleaned where that is gone
    failed, invalid, killed         the same
    cleaned                         Cleaned
    anything else                   Failed

Ids stay, and go on behind them. All of it is one transaction of the new ledger, which gets its name last: an
import that is cut off is begun anew.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import sqlite3
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from actors.domain.changes import JobDetails, NewJob
from actors.domain.ids import MAX_ID
from actors.domain.job import Attempt, HistoryEntry
from actors.domain.status import ENDED, OVER, Status
from orchestrator.config.settings import Settings
from orchestrator.errors import StartError
from orchestrator.ledger.schema import COLUMNS_OF_2X, prepare_writer
from orchestrator.ledger.tables import attempts, history, jobs, meta
from orchestrator.nodes.addresses import contract_only_ref
from orchestrator.storage.disk import Disk
from orchestrator.storage.result_sink import LOGS, MANIFEST, RESULT

log: Final = logging.getLogger("orchestrator.importing")

BESIDE: Final = ".v3"
"""Behind the name of the database of 2.x: the ledger that was made of it."""
OUTPUT: Final = "output.zip"
"""What 2.x stored of a Completed job."""

_UPTO: Final = "imported_upto"
_ON_NODE: Final = ("submitted", "prepared", "running", "locked")


@dataclass(frozen=True, slots=True)
class OldJob:
    """A row of 2.x. `node_number`: the id that its node gave."""

    id: int
    user_id: int
    service: str
    status: str
    place: Path
    node_number: int | None
    created_at: float


def ledger_of(db_path: Path) -> Path:
    """Where the ledger is that the setting names: beside it if it is a database of 2.x."""
    return _beside(db_path) if is_of_2x(db_path) else db_path


def _beside(db_path: Path) -> Path:
    return db_path.with_name(db_path.name + BESIDE)


def is_of_2x(path: Path) -> bool:
    """Whether a database of 2.x is there. Blocks."""
    try:
        if not path.is_file():
            return False
        with _opened(path) as db:
            columns = {row[1] for row in db.execute("PRAGMA table_info(jobs)")}
    except (OSError, sqlite3.Error):
        return False  # whoever opens it as a ledger says what is wrong
    return columns >= COLUMNS_OF_2X and "storage_key" not in columns


def is_needed(db_path: Path) -> bool:
    """Whether a start has to import. Blocks. Raises StartError if 2.x went on after an earlier import."""
    if not is_of_2x(db_path):
        return False
    target = _beside(db_path)
    if not target.exists():
        return True
    with _read(target) as db:
        row = db.execute("SELECT value FROM meta WHERE key = ?", (_UPTO,)).fetchone()
    with _opened(db_path) as old:
        (last,) = old.execute("SELECT coalesce(max(id), 0) FROM jobs").fetchone()
    if row is not None and last > int(row[0]):
        raise StartError(
            f"job-orchestrator 2.x has taken jobs since its database was imported (up to {row[0]}, and it "
            f"has come to {last}), whose ids may have been given here too: move {target.name} away to import "
            "it anew and lose what was sent here, or the database of 2.x to go on with what is here"
        )
    return False


def import_2x(settings: Settings) -> None:
    """Make the ledger beside the database of 2.x. Blocks. Raises StartError, and then nothing is there."""
    source, target = settings.db_path, _beside(settings.db_path)
    fresh = target.with_name(f"{target.name}.importing")
    log.warning("%s is of job-orchestrator 2.x: its jobs are taken over into %s", source, target)
    try:
        for suffix in ("", "-wal", "-shm"):
            fresh.with_name(fresh.name + suffix).unlink(missing_ok=True)
        os.close(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        with _copied(source) as old, closing(sqlite3.connect(fresh)) as db:
            prepare_writer(db)
            counts = _import_all(old, db, settings)
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        # The files, before the ledger that speaks of them.
        os.sync()
        os.replace(fresh, target)
        os.sync()
    except OSError as error:
        raise StartError(f"importing {source}: {error.filename or fresh}: {error.strerror}") from error
    except sqlite3.Error as error:
        raise StartError(f"importing {source}: {error}") from error
    told = ", ".join(f"{count} {before} -> {now}" for (before, now), count in sorted(counts.items()))
    log.warning(
        "%s: imported (%s). It and the directories of 2.x in %s are as they were; when you will not go back, "
        "delete them",
        source,
        told or "no jobs",
        settings.data_path,
    )


async def answer_probes(scope: Any, receive: Any, send: Any) -> None:
    """The app while it goes on: 2.x's probes, which end what does not answer them, are told that all is well,
    and everybody else to come again."""
    if scope["type"] == "lifespan":
        for _ in range(2):
            message = await receive()
            await send({"type": f"{message['type']}.complete"})
        return
    status, body = 503, {"message": "the jobs of job-orchestrator 2.x are being taken over; try again soon"}
    if scope["path"] == "/":
        status, body = 200, {"message": "pong"}
    elif scope["path"] == "/health":
        status, body = 200, {"status": "ok", "database": "ok"}
    headers = [(b"content-type", b"application/json"), (b"retry-after", b"5")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(body).encode()})


def _read(path: Path) -> closing[sqlite3.Connection]:
    return closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True))


@contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    """The database, for a look; a copy of it where 2.x was killed: then its journal has to be played back,
    which writes. Ours has a log in place of a journal."""
    left = path.with_name(f"{path.name}-journal")
    with _copied(path) if left.is_file() and left.stat().st_size else _read(path) as db:
        yield db


@contextmanager
def _copied(path: Path) -> Iterator[sqlite3.Connection]:
    """A copy of the database, which goes with the block."""
    copy = path.with_name(f"{path.name}{BESIDE}.copy")
    suffixes = ("", "-journal", "-wal")
    try:
        for suffix in suffixes:
            there = path.with_name(path.name + suffix)
            if there.is_file():
                shutil.copyfile(there, copy.with_name(copy.name + suffix))
        with closing(sqlite3.connect(copy)) as db:
            yield db
    finally:
        for suffix in (*suffixes, "-shm"):
            copy.with_name(copy.name + suffix).unlink(missing_ok=True)


def _import_all(
    old: sqlite3.Connection, db: sqlite3.Connection, settings: Settings
) -> Counter[tuple[str, str]]:
    """How many jobs there are of each status there and here."""
    disk = Disk(settings.data_path)
    counts = Counter[tuple[str, str]]()
    seq = last = 0
    db.execute("BEGIN IMMEDIATE")
    columns = "id, user_id, service, lower(status), loc, dest_id, created_at"
    for row in old.execute(f"SELECT {columns} FROM jobs ORDER BY id"):
        job = _old_job(row, settings.data_path)
        if job is None:
            log.error("row %s of the database of 2.x is damaged, and left out", row[0])
            continue
        status, seq = _import_job(job, db, disk, settings, seq)
        counts[job.status, status.value] += 1
        last = job.id
    (given,) = old.execute("SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'jobs'").fetchone()
    jobs.store_last_id(db, max(last, given))
    meta.store_seq(db, seq)
    db.execute("INSERT INTO meta (key, value) VALUES (?, ?)", (_UPTO, last))
    db.execute("COMMIT")
    return counts


def _old_job(row: tuple[object, ...], data: Path) -> OldJob | None:
    number, user_id, service, status, loc, node_number, created = row
    if not (isinstance(number, int) and 0 < number <= MAX_ID and isinstance(user_id, int)):
        return None
    if not (isinstance(service, str) and isinstance(status, str) and isinstance(loc, str)):
        return None
    place = Path(loc)
    if not place.is_dir():
        place = data / place.name  # it may have been started elsewhere, or have been moved
    try:
        at = datetime.fromisoformat(str(created)).replace(tzinfo=UTC).timestamp()
    except ValueError:
        at = 0.0
    # Before a node has answered, 2.x has 0 or nothing.
    known = node_number if isinstance(node_number, int) and node_number > 0 else None
    return OldJob(number, user_id, service, status, place, known, at)


def _import_job(
    job: OldJob, db: sqlite3.Connection, disk: Disk, settings: Settings, seq: int
) -> tuple[Status, int]:
    """Its status here, and the number of the last change that it took."""
    status, reason, node_id = _outcome(job, settings)
    try:
        key = uuid.UUID(job.place.name).hex
    except ValueError:
        key = uuid.uuid5(uuid.NAMESPACE_URL, f"{job.place}/{job.id}").hex
    size = 0
    if status is not Status.CLEANED:
        taken = _take_files(job, disk, key, with_result=status is Status.COMPLETED)
        if taken is None:
            status = Status.CLEANED if status in OVER else Status.FAILED
            reason, node_id = "its files were gone when it was taken over from 2.x", None
        else:
            size, has_result = taken
            if status is Status.COMPLETED and not has_result:
                status, reason = Status.CLEANED, "its results were gone when it was taken over from 2.x"
    jobs.store_last_id(db, job.id - 1)
    new = NewJob(job.user_id, job.service, key, size, details=JobDetails())
    seq += 1
    number = jobs.insert_job(db, new, message="", seq=seq, now=job.created_at)
    assert number == job.id
    queued = HistoryEntry(job.id, job.created_at, None, Status.QUEUED, "taken over from 2.x", None, None)
    history.insert_lines(db, [(queued, seq)])
    if status is Status.QUEUED:
        return status, seq
    seq += 1
    row = jobs.read_job(db, job.id)
    assert row is not None
    attempt = None
    if node_id is not None:
        attempt = Attempt(uuid.uuid4().hex, job.id, 1, node_id, foreign_id=job.node_number)
        stored = attempts.insert_attempt(db, attempt, job.created_at)
        assert stored
    moved = replace(
        row,
        status=status,
        message=reason,
        change_seq=seq,
        ended_at=_last_written(job) if status in OVER else None,
        attempt=attempt,
        attempts_used=0 if attempt is None else 1,
    )
    jobs.update_job(db, moved)
    entry = HistoryEntry(
        job.id, job.created_at, Status.QUEUED, status, reason, node_id, 1 if attempt is not None else None
    )
    history.insert_lines(db, [(entry, seq)])
    return status, seq


def _last_written(job: OldJob) -> float:
    """From when on 2.x, which does not know when a job has ended, counts its age."""
    try:
        return job.place.stat().st_mtime
    except OSError:
        return job.created_at


def _outcome(job: OldJob, settings: Settings) -> tuple[Status, str, str | None]:
    """Its status here, why, and the node that is asked for it."""
    if job.status == "queued":
        return Status.QUEUED, "", None
    found = next((one for one in ENDED | {Status.CLEANED} if one.value.lower() == job.status), None)
    if found is not None:
        return found, f"{job.status} under 2.x", None
    lost = "; run it again"
    if job.status == "processing":
        why = "it was being sent when 2.x stopped, and nobody knows whether its node got it"
        return Status.FAILED, why + lost, None
    if job.status not in _ON_NODE:
        return Status.FAILED, f"2.x calls it {job.status}, and nothing is known of it" + lost, None
    service = settings.services.get(job.service)
    if job.node_number is None or service is None or not service.addresses:
        return Status.FAILED, "it was on a node of 2.x that is not known here" + lost, None
    node = contract_only_ref(service.addresses[0])
    return Status.SUBMITTED, f"it is on its node, which calls it {job.node_number}", node.node_id


def _take_files(job: OldJob, disk: Disk, key: str, *, with_result: bool) -> tuple[int, bool] | None:
    """Second names of its files where we look for them. The bytes of its input, and whether there is
    a result; None if all of it is gone."""
    target = disk.root / "jobs" / key[:2] / key
    if target.exists():
        disk.remove_tree(target)  # of an import that was cut off
    if not job.place.is_dir():
        return None
    size = 0
    (target / "input").mkdir(parents=True, mode=0o700)
    output = job.place / OUTPUT
    for directory, _, names in os.walk(job.place):
        for name in names:
            source = Path(directory, name)
            if source == output or source.is_symlink() or not source.is_file():
                continue
            place = target / "input" / source.relative_to(job.place)
            place.parent.mkdir(parents=True, exist_ok=True)
            disk.link(source, place)
            size += place.stat().st_size
    about = {"storage_key": key, "user_id": job.user_id, "service": job.service, "size": size}
    (target / "job.json").write_text(json.dumps(about | {"created_at": job.created_at}))
    (target / "job_id").write_text(f"{job.id}\n")
    if not with_result or not output.is_file():
        return size, False
    (target / "result").mkdir(mode=0o700)
    disk.link(output, target / "result" / RESULT)
    (target / "result" / MANIFEST).write_text(json.dumps({"entries": [], "left_out": []}))
    for name in LOGS.values():
        (target / "result" / name).touch()
    return size, True
