"""Opening ledgers for tests, and the rows to put into them."""

from __future__ import annotations

import itertools
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import trio
import trio.testing

from actors.domain.changes import ChangeResult, NewJob, Transition
from actors.domain.job import Attempt, Job
from actors.domain.status import OWNER, Owner, Status
from actors.ports.ledger import Ledger
from actors.store.group_commit import GroupCommit
from orchestrator.ledger.job_lists import JobFilter
from orchestrator.ledger.ledger import SqliteLedger
from orchestrator.ledger.tables.batches import NewBatch

_numbers = itertools.count(1)


class SetClock:
    """A wall clock that stands where it is put."""

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self.time = now

    def now(self) -> float:
        return self.time


@asynccontextmanager
async def open_ledger(
    path: object,
    clock: SetClock | None = None,
    trace: Callable[[str], None] | None = None,
    committed: Callable[[Sequence[Job]], None] = lambda jobs: None,
) -> AsyncIterator[SqliteLedger]:
    """A ledger with its writer running, closed afterwards."""
    ledger = await SqliteLedger.open(str(path), clock=clock or SetClock(), committed=committed, trace=trace)
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(ledger.run)
            yield ledger
            nursery.cancel_scope.cancel()
    finally:
        await ledger.aclose()


@asynccontextmanager
async def one_commit(writer: GroupCommit[Any]) -> AsyncIterator[trio.Nursery]:
    """What the tasks of this nursery write goes into one commit: until they all wait, the writer is busy with
    an empty one."""
    begun, go_on = trio.Event(), threading.Event()
    token = trio.lowlevel.current_trio_token()

    def be_busy(_: object) -> None:
        token.run_sync_soon(begun.set)
        go_on.wait()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(writer.write, be_busy)
        try:
            await begun.wait()
            yield nursery
            await trio.testing.wait_all_tasks_blocked()
        finally:
            go_on.set()


def new_job(user: int = 7, service: str = "example", **more: object) -> NewJob:
    values: dict[str, object] = {"storage_key": f"key-{next(_numbers)}", "size": 10} | more
    return NewJob(user_id=user, service=service, **values)  # type: ignore[arg-type]  # keywords of any kind


def new_batch(*jobs: int, callback_url: str = "https://portal.example/batch", **more: Any) -> NewBatch:
    """An order by who may see all jobs."""
    number = f"{next(_numbers):016x}"
    values = {"id": number, "may_see": lambda user, services: True, "fingerprint": f"{jobs}{callback_url}"}
    return NewBatch(jobs=jobs, callback_url=callback_url, **values | more)


def new_attempt(job: Job, node_id: str = "node-a", n: int | None = None) -> Attempt:
    return Attempt(f"{next(_numbers):032x}", job.id, n if n is not None else job.attempts_used + 1, node_id)


def by_owner(
    job_id: int, source: Status, target: Status, reason: str, key: str | None = None, **more: Any
) -> Transition:
    """A transition by the actor that owns `source`."""
    by = OWNER.get(source, Owner.CLEANER)  # nobody leaves Cleaned
    return Transition(job_id, source, target, reason, key, by=by, **more)


async def walk(ledger: Ledger, job: Job, *targets: Status) -> Job:
    """Take a job through these states, as its owners would."""
    for target in targets:
        attempt = new_attempt(job) if target is Status.PROCESSING else None
        move = by_owner(job.id, job.status, target, f"to {target}", attempt=attempt)
        (answer,) = await ledger.record([move])
        assert answer.outcome is ChangeResult.DONE, (job.status, target)
        assert answer.job is not None
        job = answer.job
    return job


async def list_jobs(
    ledger: SqliteLedger, before_id: int | None = None, limit: int = 50, **narrowed: object
) -> list[Job]:
    """A page of jobs, newest first."""
    if (status := narrowed.pop("status", None)) is not None:
        narrowed["statuses"] = frozenset({status})
    wanted = JobFilter(**narrowed)  # type: ignore[arg-type]  # keywords of any kind
    return list((await ledger.queries.page(wanted, before_id, limit)).jobs)
