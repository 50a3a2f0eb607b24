"""A ledger that tells what was committed: who waits for a job is woken, and the actors it concerns are rung.

It stands between the ledger and everybody who writes to it, so nobody who changes a job has to think of those
who wait for the change.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from actors.domain.changes import Change, ChangeAnswer, ChangeResult, NewJob
from actors.domain.job import Attempt, HistoryEntry, Job
from actors.ports.ledger import Ledger

Tell = Callable[[Sequence[Job]], None]
"""Told of rows that are durable now, never of none. Must not wait and must not raise."""


class TellingLedger:
    """Implements `actors.ports.ledger.Ledger` by another one."""

    def __init__(self, ledger: Ledger, tell: Tell) -> None:
        self._ledger = ledger
        self._tell = tell

    async def insert(self, job: NewJob) -> Job:
        row = await self._ledger.insert(job)
        self._tell((row,))
        return row

    async def record(self, changes: Sequence[Change]) -> Sequence[ChangeAnswer]:
        answers = await self._ledger.record(changes)
        done = [
            answer.job for answer in answers if answer.outcome is ChangeResult.DONE and answer.job is not None
        ]
        if done:
            self._tell(done)
        return answers

    async def request_terminate(self, job_id: int) -> Job | None:
        row = await self._ledger.request_terminate(job_id)
        if row is not None:
            self._tell((row,))
        return row

    async def changes(self, after: int, limit: int = 500) -> Sequence[Job]:
        return await self._ledger.changes(after, limit)

    async def live(self) -> tuple[Sequence[Job], int]:
        return await self._ledger.live()

    async def unreleased(self) -> Sequence[Attempt]:
        return await self._ledger.unreleased()

    async def get(self, job_id: int) -> Job | None:
        return await self._ledger.get(job_id)

    async def history(self, job_id: int) -> Sequence[HistoryEntry]:
        return await self._ledger.history(job_id)

    async def attempts(self, job_id: int) -> Sequence[Attempt]:
        return await self._ledger.attempts(job_id)

    async def ended_before(
        self, wall: float, limit: int = 100, after: tuple[float, int] | None = None
    ) -> Sequence[Job]:
        return await self._ledger.ended_before(wall, limit, after)

    async def unknown_directories(self, storage_keys: Sequence[str]) -> Sequence[str]:
        return await self._ledger.unknown_directories(storage_keys)
