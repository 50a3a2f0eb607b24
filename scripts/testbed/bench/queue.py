"""What a long queue costs: start-up, memory, and whether the jobs at its head go as fast as in a short one.

The jobs at the head are sent as any others; those behind them are rows that are put into the ledger between
two starts of the server, and whose turn never comes. Each real one waits until a gate is opened, so the first
of them fill every slot while what follows is measured with nothing free.
"""

from __future__ import annotations

import os
import shlex
import sqlite3
import statistics
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Final

from testbed.bench.cpu_group import cpu_group
from testbed.bench.rows import Row, Wrong, scratch
from testbed.bench.target import of_cluster, quotas
from testbed.bench.wire import Wire
from testbed.cluster import SERVICE, Cluster, running_cluster
from testbed.portal import multipart
from testbed.processes import cpu_seconds, memory

USERS: Final = 20
NODES: Final = 2
SLOTS: Final = 4
AHEAD: Final = 3
"""So many jobs more of each user are real than are measured, for turns are not taken in perfect step."""
SETTLE: Final = 2.0
PATIENCE: Final = 300.0


def queue(sizes: Sequence[int], dispatched: int, seconds: float, rounds: int) -> list[Row]:
    """With so many jobs behind those whose dispatch is measured; beside each the same with the fewest.
    Medians of so many rounds, every other one in the opposite order: what slows the machine down for a while
    slows down all."""
    ascending = sorted(sizes)
    found: dict[int, list[dict[str, tuple[float, str]]]] = {size: [] for size in ascending}
    for number in range(rounds):
        for size in reversed(ascending) if number % 2 else ascending:
            found[size].append(_measured(size, dispatched, seconds))
    medians = {size: _median(measured) for size, measured in found.items()}
    least, *larger = ascending
    rows = _rows(least, medians[least], medians[least])
    for size in larger:
        rows += _rows(size, medians[size], medians[least], least)
    return rows


def _median(measured: Sequence[Mapping[str, tuple[float, str]]]) -> dict[str, tuple[float, str]]:
    return {
        name: (statistics.median(one[name][0] for one in measured), unit)
        for name, (_, unit) in measured[0].items()
    }


def _rows(
    size: int, found: Mapping[str, tuple[float, str]], first: Mapping[str, tuple[float, str]], least: int = 0
) -> list[Row]:
    if not least:
        return [Row(f"{size:,} behind: {name}", value, unit) for name, (value, unit) in found.items()]
    beside = f"with {least:,}"
    rows = [
        Row(f"{size:,} behind: {name}", value, unit, first[name][0], beside)
        for name, (value, unit) in found.items()
    ]
    grown = (found["memory"][0] - first["memory"][0]) * 1e6 / (size - least)
    return [*rows, Row(f"{size:,} behind: memory a queued job", grown, "bytes")]


def _measured(size: int, dispatched: int, seconds: float) -> dict[str, tuple[float, str]]:
    slots = NODES * SLOTS
    limits = quotas(slots)
    with scratch() as directory:
        gate = directory / "gate"
        os.mkfifo(gate)
        with running_cluster(directory, nodes=0, slots=SLOTS, limits=limits) as cluster:
            _upload(cluster.url, gate, dispatched + slots + AHEAD * USERS)
            path = cluster.db_path
        lengthen(path, size)
        with (
            cpu_group() as group,
            running_cluster(directory, nodes=NODES, slots=SLOTS, limits=limits) as cluster,
        ):
            listening = cluster.server.listening_after
            cpu = cpu_seconds(cluster.server.pid)
            _until(lambda: count(path, "Running") == slots, cluster)
            until_full = time.monotonic() - cluster.server.began
            threading.Event().wait(SETTLE)
            rss = memory(cluster.server.pid)
            target = of_cluster(cluster, group)
            with target.metering() as idle:
                threading.Event().wait(seconds)
            with target.metering() as cost:
                opened = os.open(gate, os.O_RDWR)
                try:
                    _until(lambda: count(path, "Completed") >= slots + dispatched, cluster)
                finally:
                    os.close(opened)
            rate = _rate(path, slots, dispatched)
    ran = slots + dispatched
    return {
        "start until it listens": (listening, "s"),
        "the same in CPU": (cpu, "s"),
        "start until every slot is taken": (until_full, "s"),
        "memory": (rss / 1e6, "MB"),
        "CPU of server with nothing free": (100 * idle.parts["server"] / seconds, "% of a core"),
        "jobs ended": (rate, "a second"),
        "CPU of server": (1000 * cost.parts["server"] / ran, "ms a job"),
        "CPU of all": (1000 * sum(cost.parts.values()) / ran, "ms a job"),
    }


def _upload(url: str, gate: Path, jobs: int) -> None:
    # A pipe opens for reading once somebody has it open for writing.
    script = f": <{shlex.quote(str(gate))}\necho done >out.txt\n".encode()
    with Wire(url) as wire:
        for serial in range(jobs):
            wire.upload(*multipart({"run.sh": script}, 1 + serial % USERS, SERVICE))


def lengthen(path: Path, size: int) -> None:
    """Put so many queued jobs behind those that are in the ledger, each like one of them and without files.
    No server may have it open."""
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("PRAGMA cache_size = -400000")
        db.execute("PRAGMA synchronous = OFF")
        (last, first) = db.execute("SELECT max(id), min(id) FROM jobs").fetchone()
        (seq,) = db.execute("SELECT value FROM meta WHERE key = 'change_seq'").fetchone()
        number, change = f"{last} + k", f"{seq} + k"
        changed = {"id": number, "change_seq": change, "storage_key": "'seeded-' || k"}
        _copy(db, "jobs", f"old.id = {first} + k % {USERS}", size, changed)
        changed = {"job_id": number, "change_seq": change}
        _copy(db, "history", f"old.job_id = {first} + k % {USERS}", size, changed)
        db.execute("UPDATE meta SET value = ? WHERE key = 'change_seq'", (seq + size,))


def _copy(db: sqlite3.Connection, table: str, which: str, size: int, changed: Mapping[str, str]) -> None:
    columns = [name for _, name, *_ in db.execute(f"PRAGMA table_info({table})")]
    values = ", ".join(changed.get(name, f"old.{name}") for name in columns)
    db.execute(
        f"WITH RECURSIVE number (k) AS (SELECT 1 UNION ALL SELECT k + 1 FROM number WHERE k < {size}) "
        f"INSERT INTO {table} ({', '.join(columns)}) "
        f"SELECT {values} FROM number JOIN {table} AS old ON {which}"
    )


def count(path: Path, status: str) -> int:
    """How many jobs have this status, by the ledger of a server that runs."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
        return int(db.execute("SELECT count(*) FROM jobs WHERE status = ?", (status,)).fetchone()[0])


def _rate(path: Path, slots: int, dispatched: int) -> float:
    """Jobs a second that ended, from the last one of those that had waited for the gate."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
        found = db.execute(
            "SELECT ended_at FROM jobs WHERE status = 'Completed' ORDER BY ended_at"
        ).fetchall()
    ends = [at for (at,) in found]
    return dispatched / (ends[slots + dispatched - 1] - ends[slots - 1])


def _until(holds: Callable[[], bool], cluster: Cluster) -> None:
    deadline = time.monotonic() + PATIENCE
    while not holds():
        cluster.check()
        if time.monotonic() > deadline:
            raise Wrong(f"the queue has not moved on after {PATIENCE:.0f} s")
        threading.Event().wait(0.05)
