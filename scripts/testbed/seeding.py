"""A ledger full of jobs, written as the server does: most have ended in the last hour, the newest wait."""

from __future__ import annotations

import random
import sqlite3
import time
from pathlib import Path
from typing import Any, Final

import trio

from actors.domain.changes import JobDetails, NewJob, Transition
from actors.domain.job import Attempt, AttemptState, End, Job
from actors.domain.status import OWNER, Status
from orchestrator.ledger.ledger import SqliteLedger

SPAN: Final = 3500.0
"""Seconds over which the jobs were handed in."""
BATCHES: Final = 60
"""In so many the jobs were handed in, about one a minute."""
USERS: Final = 40
NAMES: Final = ("1acb with eglin", "2sni refinement", "barnase and barstar", "screen 14")

_S: Final = Status
_ENDS: Final = (_S.COMPLETED,) * 17 + (_S.FAILED, _S.FAILED, _S.KILLED)


class Past:
    """A clock that is set; the jobs were handed in when it says."""

    def __init__(self) -> None:
        self.at = time.time()

    def now(self) -> float:
        return self.at


def seed(path: Path, service: str, jobs: int, nodes: int) -> None:
    """Write the ledger at `path`: jobs of the last hour that have ended on so many nodes."""
    trio.run(_seed, path, service, jobs, jobs, nodes)


def seed_with_queue(path: Path, service: str, jobs: int, waiting: int, nodes: int) -> None:
    """The same, and the newest `waiting` of them wait. The service is paused, so they go on waiting."""
    trio.run(_seed, path, service, jobs, jobs - waiting, nodes)
    with sqlite3.connect(path) as db:
        db.execute("INSERT INTO pauses VALUES (?, 'seeded', ?)", (service, time.time()))
    db.close()


async def _seed(path: Path, service: str, jobs: int, ended: int, nodes: int) -> None:
    clock, rng = Past(), random.Random(1)
    began = clock.at - SPAN
    ledger = await SqliteLedger.open(str(path), clock=clock)
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(ledger.run)
            batch = max(1, jobs // BATCHES)
            for first in range(0, jobs, batch):
                clock.at = began + SPAN * first / jobs
                made = await _inserted(ledger, service, range(first, min(first + batch, jobs)), rng)
                await _ended(ledger, clock, [job for job in made if job.id <= ended], nodes, rng)
            nursery.cancel_scope.cancel()
    finally:
        await ledger.aclose()


async def _inserted(ledger: SqliteLedger, service: str, numbers: range, rng: random.Random) -> list[Job]:
    made: list[Job] = []

    async def insert(new: NewJob) -> None:
        made.append(await ledger.insert(new))

    async with trio.open_nursery() as nursery:
        for number in numbers:
            tags = (f"project:{rng.randrange(20)}",)
            details = JobDetails(name=rng.choice(NAMES), tags=tags)
            new = NewJob(rng.randrange(USERS), service, f"{number:032x}", 1 << 14, details=details)
            nursery.start_soon(insert, new)
    return made


async def _ended(ledger: SqliteLedger, clock: Past, jobs: list[Job], nodes: int, rng: random.Random) -> None:
    """Take these through their lives, a step of all of them at a time."""
    attempts = {
        job.id: Attempt(f"{rng.getrandbits(128):032x}", job.id, 1, f"{rng.randrange(nodes) + 1:032x}")
        for job in jobs
    }
    clock.at += rng.uniform(1, 20)
    await ledger.record(
        [_move(job, _S.QUEUED, _S.PROCESSING, "sent", attempt=attempts[job.id]) for job in jobs]
    )
    await ledger.record(
        [
            _move(job, _S.PROCESSING, _S.SUBMITTED, "the node has it", key=attempts[job.id].key, spent=True)
            for job in jobs
        ]
    )
    await ledger.record(
        [_move(job, _S.SUBMITTED, _S.RUNNING, "runs", key=attempts[job.id].key) for job in jobs]
    )
    started = clock.at
    clock.at += rng.uniform(1, 60)
    await ledger.record([_end(job, attempts[job.id].key, started, clock.at, rng) for job in jobs])


def _end(job: Job, key: str, started: float, at: float, rng: random.Random) -> Transition:
    status = rng.choice(_ENDS)
    code = {_S.COMPLETED: 0, _S.FAILED: 3}.get(status)
    message = "" if code == 0 else "exit code 3" if code else "job terminated"
    end = End(
        status,
        message,
        exit_code=code,
        signal=None if code is not None else 15,
        started_at=started,
        ended_at=at,
        wall_seconds=at - started,
        cpu_seconds=(at - started) / 2,
        peak_bytes=rng.randrange(1 << 30),
        size=rng.randrange(1 << 24),
    )
    return _move(job, _S.RUNNING, status, message, key=key, attempt_state=AttemptState.RELEASED, end=end)


def _move(job: Job, source: Status, target: Status, reason: str, **more: Any) -> Transition:
    return Transition(job.id, source, target, reason, by=OWNER[source], **more)
