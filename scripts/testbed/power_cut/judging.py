"""Whether a server that begins on a disk after a cut keeps what it has told before."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import AsyncIterator, Collection, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import trio

from actors.domain.changes import NewJob
from actors.domain.status import ENDED, Status
from actors.kernel.clock import WallClock
from actors.ports.ledger import LedgerError
from actors.ports.storage import StorageError
from orchestrator.config.settings import Settings
from orchestrator.ledger.ledger import SqliteLedger
from orchestrator.startup import go_on_from
from orchestrator.storage.bundle import Bundle
from orchestrator.storage.storage import DiskStorage
from testbed.cluster import SERVICE, ClusterFailed, Limits, server_toml, start, stop, wait_until_listening
from testbed.power_cut.recording import sums, unzipped
from testbed.power_cut.told import Accepted, Begun, Changed, Ordered, Taken, Told

_ENDED: Final = frozenset(status.value for status in ENDED)


@dataclass(slots=True)
class _Known:
    """All that was told before a cut, by what it is."""

    accepted: dict[int, Accepted] = field(default_factory=dict)
    changes: dict[int, Changed] = field(default_factory=dict)
    ended: dict[int, str] = field(default_factory=dict)
    ordered: set[int] = field(default_factory=set)
    taken: dict[int, Taken] = field(default_factory=dict)
    begun: set[int] = field(default_factory=set)


async def judge(server: Path, told: Sequence[Told]) -> list[str]:
    """What is wrong on the disk of `server`, which was cut off after all of this was told. It is gone on with
    as by a start."""
    known = _Known()
    wrong = list(_sort(told, known))
    try:
        async with _opened(server) as (storage, ledger):
            wrong += [line async for line in _compare(storage, ledger, known)]
    except* (LedgerError, StorageError) as group:
        wrong += [f"the start is refused: {error}" for error in group.exceptions]
    return wrong


def judge_process(directory: Path, told: Sequence[Told]) -> list[str]:
    """The same of a real process, on what is below `directory`/server, as far as its answers tell."""
    known = _Known()
    wrong = list(_sort(told, known))
    config = directory / "server.toml"
    config.write_text(server_toml(Limits(), ["http://127.0.0.1:9"]))  # where nobody listens
    data = directory / "server"
    environment = {"PORT": "0", "DB_PATH": str(data / "db.sqlite"), "DATA_PATH": str(data / "data")}
    member = start("server", ["server", "--config", str(config)], environment, directory)
    try:
        wait_until_listening(member)
        for job in known.accepted:
            with urllib.request.urlopen(f"{member.url}/v1/jobs/{job}", timeout=30) as answer:
                found = json.load(answer)
            if known.ended.get(job, found["status"]) != found["status"]:
                wrong.append(
                    f"job {job} was {known.ended[job]}, and a server says that it is {found['status']}"
                )
        for job, taken in known.taken.items():
            with urllib.request.urlopen(f"{member.url}/download/{job}", timeout=30) as answer:
                if sums(unzipped(answer.read())) != taken.files:
                    wrong.append(f"the results of job {job} are served as others")
    except (ClusterFailed, OSError) as error:
        wrong.append(f"a server on it: {error}")
    finally:
        try:
            stop(member)
        except ClusterFailed as error:
            wrong.append(f"a server on it: {error}")
    return wrong


def _sort(told: Sequence[Told], known: _Known) -> Iterator[str]:
    for one in told:
        match one:
            case Accepted(job=job):
                if job in known.accepted:
                    yield f"id {job} was given twice"
                known.accepted[job] = one
            case Changed(job=job, number=number, status=status):
                before = known.changes.setdefault(number, one)
                if (before.job, before.status) != (job, status):
                    yield f"change {number} was told twice: {before}, {one}"
                if status in _ENDED:
                    known.ended[job] = status
            case Ordered(job=job):
                known.ordered.add(job)
            case Taken(job=job):
                known.taken[job] = one
            case Begun(job=job):
                known.begun.add(job)


@asynccontextmanager
async def _opened(server: Path) -> AsyncIterator[tuple[DiskStorage, SqliteLedger]]:
    clock = WallClock()
    storage = DiskStorage(server / "data", clock, small=Settings.small_files)
    await storage.open()
    may_begin = not await storage.has_jobs()
    ledger = await SqliteLedger.open(str(server / "db.sqlite"), clock=clock, may_begin=may_begin)
    try:
        storage.keep_small_in(ledger)
        async with trio.open_nursery() as nursery:
            await nursery.start(ledger.run)
            await go_on_from(ledger, storage)
            yield storage, ledger
            nursery.cancel_scope.cancel()
    finally:
        await ledger.aclose()


async def _compare(storage: DiskStorage, ledger: SqliteLedger, known: _Known) -> AsyncIterator[str]:
    for job, accepted in known.accepted.items():
        row = await ledger.get(job)
        if row is None:
            yield f"job {job} was accepted, and is not there"
            continue
        if job in known.ended and row.status != known.ended[job]:
            yield f"job {job} was {known.ended[job]}, and is {row.status}"
        if job in known.ordered and not (row.terminate_requested or row.status is Status.KILLED):
            yield f"job {job} was to be terminated, and is {row.status} without that order"
        if job in known.begun and not await ledger.attempts(job):
            yield f"job {job} has begun on its node, and has no attempt: it would begin again"
        try:
            files = await _contents(storage, row.storage_key, row.size)
        except StorageError as error:
            yield f"the files of job {job} are not there: {error}"
        else:
            if sums(files) != accepted.files:
                yield f"the files of job {job} are others"
    for job, taken in known.taken.items():
        row = await ledger.get(job)
        if row is not None:
            try:
                if sums(await _results(storage, row.storage_key)) != taken.files:
                    yield f"the results of job {job} are others"
            except (StorageError, OSError) as error:
                yield f"the results of job {job} are not there: {error}"
    async for line in _goes_on(ledger, known):
        yield line


async def _goes_on(ledger: SqliteLedger, known: _Known) -> AsyncIterator[str]:
    """Ids and numbers of changes that were told are given to nothing else."""
    newest = max(known.changes, default=0)
    if ledger.begun_after < newest:
        yield f"a start goes on after change {ledger.begun_after}, and {newest} was told before"
    place, there = 0, 1
    while there:
        changes, place = await ledger.queries.changes_after(place)
        there = len(changes)
        for change in changes:
            told = known.changes.get(change.seq)
            status = change.entry.target.value if change.entry is not None else None
            if told is not None and (told.job != change.job.id or status not in (None, told.status)):
                yield f"change {change.seq} was told as {told}, and is job {change.job.id}, {status}"
    new = await ledger.insert(NewJob(user_id=1, service=SERVICE, storage_key="0" * 32, size=0, files=b""))
    if new.id <= max(known.accepted, default=0):
        yield f"id {new.id} is given to a new job, and {max(known.accepted)} was given before"
    if new.change_seq <= newest:
        yield f"change {new.change_seq} is a new one, and {newest} was told before"


async def _contents(storage: DiskStorage, key: str, size: int) -> dict[str, bytes]:
    return {
        name: content if isinstance(content, bytes) else content.read_bytes()
        for name, content, _ in await storage.input_files(key, size)
    }


async def _results(storage: DiskStorage, key: str) -> dict[str, bytes]:
    found = await storage.result(key)
    names: Collection[str] = ("stdout.log", "stderr.log", "result.zip")
    files = {
        name: found.files[name] if isinstance(found, Bundle) else (found / name).read_bytes()
        for name in names
    }
    return unzipped(files.pop("result.zip")) | files
