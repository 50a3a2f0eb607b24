"""What is there when all is over: in the ledger, in the orchestrator's directories and on the nodes."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Collection, Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from actors.ports.storage import Part, StorageError
from node.executors import mark_files
from orchestrator.ledger.tables.small_files import read_files
from orchestrator.storage.bundle import unpack
from testbed.cluster import belonging

_MOMENT: Final = 10.0
"""Seconds; a deadline, and no wait where all is well."""


@dataclass(frozen=True, slots=True)
class Row:
    """A job in the ledger."""

    number: int
    status: str
    message: str
    storage_key: str
    attempts_used: int


@dataclass(frozen=True, slots=True)
class Change:
    """One transition in the history of a job."""

    job: int
    at: float
    source: str | None
    target: str
    reason: str
    node: str | None
    attempt: int | None


@dataclass(frozen=True, slots=True)
class Ledger:
    """All of the ledger that matters here. `owed` are attempts that their nodes have not let go of, `keys`
    those of each job's attempts, `inputs` the storage keys of the jobs whose input is kept in it."""

    rows: dict[int, Row]
    changes: dict[int, list[Change]]
    owed: list[str]
    keys: dict[int, list[str]]
    inputs: set[str]


def read_ledger(path: Path) -> Ledger:
    """Read-only; it may be in use."""
    with _opened(path) as db:
        db.execute("BEGIN")  # one picture: a job that is inserted meanwhile is in none of it
        jobs = db.execute("SELECT id, status, message, storage_key, attempts_used FROM jobs")
        rows = {row[0]: Row(*row) for row in jobs}
        changes: dict[int, list[Change]] = {number: [] for number in rows}
        statement = (
            "SELECT job_id, at, source, target, reason, node_id, attempt_n FROM history ORDER BY rowid"
        )
        for values in db.execute(statement):
            changes[values[0]].append(Change(*values))
        owed, keys = [], dict[int, list[str]]()
        for key, job, n, node, state in db.execute(
            "SELECT key, job_id, n, node_id, state FROM attempts ORDER BY job_id, n"
        ):
            keys.setdefault(job, []).append(key)
            if state != "released":
                owed.append(f"attempt {n} of job {job} on node {node} is {state}")
        small = db.execute("SELECT storage_key FROM jobs JOIN small_inputs ON job_id = id")
        inputs = {key for (key,) in small}
    return Ledger(rows, changes, owed, keys, inputs)


@dataclass(frozen=True, slots=True)
class Kept:
    """The files of jobs: the small ones are in the ledger, the others in a directory of the job."""

    db_path: Path
    data: Path

    def read(self, storage_key: str, part: Part, name: str) -> bytes | None:
        """None if it is not there, and if what is there is no longer what was stored."""
        with _opened(self.db_path) as db:
            packed = read_files(db, storage_key, part)
        try:
            if packed is not None:
                return unpack(packed).files.get(name)
            return (directory_of(self.data, storage_key) / part / name).read_bytes()
        except (OSError, StorageError):
            return None

    def serial(self, storage_key: str) -> int | None:
        """Which of the planned jobs it is."""
        said = (self.read(storage_key, "input", "serial") or b"").strip()
        return int(said) if said.isdigit() else None


def _opened(path: Path) -> closing[sqlite3.Connection]:
    return closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True))


def directory_of(data: Path, storage_key: str) -> Path:
    return data / "jobs" / storage_key[:2] / storage_key


def job_directories(data: Path) -> set[str]:
    """The storage keys of all job directories."""
    return {path.name for path in (data / "jobs").glob("*/*")}


def left_on_nodes(directories: Iterable[Path]) -> list[str]:
    """Whatever a node still keeps of payloads."""
    return [
        f"{directory.name}: {kind}/{entry}"
        for directory in directories
        for kind in ("payloads", "incoming", "trash")
        for entry in sorted(os.listdir(directory / kind))
    ]


def left_at_server(data: Path) -> list[str]:
    """Whatever was on its way in or out."""
    return [f"{kind}/{entry}" for kind in ("incoming", "trash") for entry in sorted(os.listdir(data / kind))]


def _is_idle(process: psutil.Process) -> bool:
    try:
        return str(process.name()) == mark_files.IDLE
    except psutil.Error:
        return False


def processes_left(directory: Path, wanted: Collection[int]) -> list[str]:
    """What still runs of any payload: everything that was started here but the `wanted`, and, while there are
    any of these, shepherds that wait for a payload; a moment later these have ended, too."""
    idle = [process for process in belonging(directory) if _is_idle(process)]
    if not wanted:
        psutil.wait_procs(idle, timeout=_MOMENT)
        idle = []
    found = []
    for process in belonging(directory):
        if process.pid in wanted or process in idle:
            continue
        try:
            found.append(f"{process.pid}, child of {process.ppid()}: {' '.join(process.cmdline())[:160]}")
        except psutil.Error:
            continue
    return found
