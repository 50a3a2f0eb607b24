"""What is there when all is over: in the ledger, in the orchestrator's directories and on the nodes."""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Collection, Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import psutil

from testbed.cluster import belonging


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
    those of each job's attempts."""

    rows: dict[int, Row]
    changes: dict[int, list[Change]]
    owed: list[str]
    keys: dict[int, list[str]]


def read_ledger(path: Path) -> Ledger:
    """Read-only; it may be in use."""
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as db:
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
    return Ledger(rows, changes, owed, keys)


def serial_of(data: Path, storage_key: str) -> int | None:
    """Which of the planned jobs a job directory holds."""
    try:
        return int((directory_of(data, storage_key) / "input" / "serial").read_text())
    except (OSError, ValueError):
        return None


def directory_of(data: Path, storage_key: str) -> Path:
    return data / "jobs" / storage_key[:2] / storage_key


def job_directories(data: Path) -> set[str]:
    """The storage keys of all job directories."""
    return {path.name for path in (data / "jobs").glob("*/*")}


def checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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


def processes_left(directory: Path, wanted: Collection[int]) -> list[str]:
    """What still runs of any payload: everything that was started here but the `wanted`."""
    found = []
    for process in belonging(directory):
        if process.pid in wanted:
            continue
        try:
            found.append(f"{process.pid}, child of {process.ppid()}: {' '.join(process.cmdline())[:160]}")
        except psutil.Error:
            continue
    return found
