"""A ledger without a disk and without threads, for simulations under the mock clock.

It asks the same rules as the real one and passes the same suite. Each method is one checkpoint and then one
step that nothing interrupts, so a call that raises Cancelled has done nothing. `cut` is a power cut: it takes
back what was committed softly since the last hard commit.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import replace
from typing import Any

import trio

from actors.domain.changes import (
    Change,
    ChangeAnswer,
    ChangeResult,
    MoveAttempt,
    NewJob,
    RecordEnd,
    SetMessage,
    SetProgress,
    Transition,
)
from actors.domain.job import Attempt, AttemptState, HistoryEntry, Job, LiveJobs, QueuedJobs
from actors.domain.status import OVER, Status
from actors.ports.storage import Part
from actors.ports.world import Clock
from actors.store.group_commit import SOFT_FOR
from orchestrator.ledger import transitions as rules
from orchestrator.ledger.ledger import IdempotencyConflict


class MemoryLedger:
    """A `Ledger` (`actors.ports.ledger`). `trace` is told "commit" after each change, as by the real one."""

    def __init__(self, *, clock: Clock, trace: Callable[[str], None] | None = None) -> None:
        self._clock = clock
        self._trace = trace
        self._seq = 0
        self._jobs: dict[int, Job] = {}
        self._last_id = 0
        self._by_change: dict[int, int] = {}
        self._live: dict[int, None] = {}
        self._ended: list[tuple[float, int]] = []
        self._attempts: dict[str, Attempt] = {}
        self._of_job: dict[int, list[str]] = {}
        self._began: dict[str, int] = {}
        self._unreleased: dict[str, None] = {}
        self._history: dict[int, list[HistoryEntry]] = {}
        self._directories: dict[str, int] = {}
        self._absences: dict[str, str] = {}
        self._idempotency: dict[tuple[int, str], tuple[int, str | None]] = {}
        self._files: dict[tuple[str, str], bytes] = {}
        self._soft_since = 0.0
        self._hard: dict[str, Any] | None = None
        """What there was at the last hard commit, where something soft came after it."""

    # ------------------------------------------------------------------ writing

    async def insert(self, job: NewJob) -> Job:
        await trio.lowlevel.checkpoint()
        key = None if job.idempotency_key is None else (job.user_id, job.idempotency_key)
        if key in self._idempotency:
            job_id, fingerprint = self._idempotency[key]
            if fingerprint != job.fingerprint:
                raise IdempotencyConflict(f"job {job_id}")
            return self._jobs[job_id]
        self._last_id += 1
        step = rules.new_job(job, job_id=self._last_id, seq=self._seq + 1, now=self._clock.now())
        row = step.job
        self._directories[row.storage_key] = row.id
        if key is not None:
            self._idempotency[key] = (row.id, job.fingerprint)
        self._of_job[row.id] = []
        self._history[row.id] = []
        if job.files is not None:
            self._files[row.storage_key, "input"] = job.files
        self._store(step)
        if job.first is not None:
            row = self._change(job.first.begin(row.id), self._clock.now()).job or row
        self._hard = None
        self._committed()
        return row

    async def record(self, changes: Sequence[Change]) -> Sequence[ChangeAnswer]:
        await trio.lowlevel.checkpoint()
        now = self._clock.now()
        soft = all(map(rules.is_told_again, changes))
        if soft and (self._hard is None or now >= self._soft_since + SOFT_FOR):
            self._soft_since, self._hard = now, self._state()
        answers = [self._change(change, now) for change in changes]
        if changes and not soft:
            self._hard = None
        if changes:
            self._committed()
        return answers

    async def request_terminate(self, job_id: int) -> Job | None:
        await trio.lowlevel.checkpoint()
        job = self._jobs.get(job_id)
        if job is not None:
            step = rules.request_terminate(job, seq=self._seq + 1, now=self._clock.now())
            if step is not None:
                self._store(step)
        self._hard = None
        self._committed()
        return self._jobs.get(job_id)

    async def forget_audit(self, before: float, limit: int) -> int:
        await trio.lowlevel.checkpoint()
        return 0

    async def purge(self, before: float, limit: int) -> int:
        await trio.lowlevel.checkpoint()
        owed = {self._attempts[key].job_id for key in self._unreleased}
        over = [
            job
            for job in self._jobs.values()
            if job.status is Status.CLEANED and (job.ended_at or before) < before and job.id not in owed
        ]
        over = sorted(over, key=lambda job: job.ended_at or 0.0)[:limit]
        for job in over:
            del self._jobs[job.id], self._by_change[job.change_seq], self._directories[job.storage_key]
            del self._history[job.id]
            for key in self._of_job.pop(job.id):
                del self._attempts[key], self._began[key]
            self._idempotency = {key: one for key, one in self._idempotency.items() if one[0] != job.id}
        return len(over)

    async def note_absence(self, node_id: str, reason: str | None) -> None:
        await trio.lowlevel.checkpoint()
        self._absences.pop(node_id, None)
        if reason is not None:
            self._absences[node_id] = reason
        self._hard = None

    # ------------------------------------------------------------------ reading

    async def small_files(self, storage_key: str, part: Part) -> bytes | None:
        await trio.lowlevel.checkpoint()
        return self._files.get((storage_key, part))

    async def changes(self, after: int, limit: int = 500) -> Sequence[Job]:
        await trio.lowlevel.checkpoint()
        found = []
        for seq in reversed(self._by_change):
            if seq <= after:
                break
            found.append(self._jobs[self._by_change[seq]])
        return found[::-1][:limit]

    async def live(self, *, queued: bool = False) -> LiveJobs:
        await trio.lowlevel.checkpoint()
        lines: dict[tuple[str, str, int], array[int]] = {}
        jobs = []
        for job in (self._jobs[job_id] for job_id in sorted(self._live)):
            if job.status is not Status.QUEUED or job.terminate_requested:
                jobs.append(job)
            elif queued:
                wanted = (job.service, job.requires, job.user_id)
                lines.setdefault(wanted, array("q")).append(job.order)
        found = [QueuedJobs(*wanted, array("q", sorted(orders))) for wanted, orders in lines.items()]
        return LiveJobs(jobs, found if queued else (), self._seq)

    async def unreleased(self) -> Sequence[Attempt]:
        await trio.lowlevel.checkpoint()
        return sorted((self._attempts[key] for key in self._unreleased), key=lambda a: self._began[a.key])

    async def attempt_states(self, keys: Sequence[str]) -> Mapping[str, AttemptState]:
        await trio.lowlevel.checkpoint()
        return {key: self._attempts[key].state for key in keys if key in self._attempts}

    async def get(self, job_id: int) -> Job | None:
        await trio.lowlevel.checkpoint()
        return self._jobs.get(job_id)

    async def history(self, job_id: int) -> Sequence[HistoryEntry]:
        await trio.lowlevel.checkpoint()
        return list(self._history.get(job_id, ()))

    async def attempts(self, job_id: int) -> Sequence[Attempt]:
        await trio.lowlevel.checkpoint()
        return [self._attempts[key] for key in self._of_job.get(job_id, ())]

    async def ended_before(
        self, wall: float, limit: int = 100, after: tuple[float, int] | None = None
    ) -> Sequence[Job]:
        await trio.lowlevel.checkpoint()
        begin = 0 if after is None else bisect_right(self._ended, after)
        first = self._ended[begin : min(begin + limit, bisect_left(self._ended, (wall, 0)))]
        return [self._jobs[job_id] for _, job_id in first]

    async def pauses(self) -> Mapping[str, tuple[str, float]]:
        await trio.lowlevel.checkpoint()
        return {}

    async def absences(self) -> Mapping[str, str]:
        await trio.lowlevel.checkpoint()
        return dict(self._absences)

    async def unknown_directories(self, storage_keys: Sequence[str]) -> Sequence[str]:
        await trio.lowlevel.checkpoint()
        return [key for key in storage_keys if not self._keeps(key)]

    def expected(self) -> Mapping[str, str]:
        """What `absences` would say now."""
        return self._absences

    def cut(self) -> None:
        """The power is cut. The numbers of changes that were told are not given again."""
        told = self._seq
        if self._hard is not None and self._clock.now() < self._soft_since + SOFT_FOR:
            vars(self).update(self._hard)
        self._hard, self._seq = None, told

    def settle(self) -> None:
        """A life begins: what the one before has committed is durable now."""
        self._hard = None

    def kept(self) -> tuple[Mapping[int, Job], Mapping[str, Attempt]]:
        """All jobs and attempts, as they are now."""
        return self._jobs, self._attempts

    def _state(self) -> dict[str, Any]:
        state = {name: copy(value) for name, value in vars(self).items() if name.startswith("_")}
        state["_of_job"] = {key: list(value) for key, value in self._of_job.items()}
        state["_history"] = {key: list(value) for key, value in self._history.items()}
        return state

    def pretend(self, job: Job) -> None:
        """Falsify a row, for tests that break a rule on purpose."""
        self._jobs[job.id] = job

    # ------------------------------------------------------------------ the tables

    def _committed(self) -> None:
        if self._trace is not None:
            self._trace("commit")

    def _keeps(self, storage_key: str) -> bool:
        job_id = self._directories.get(storage_key)
        return job_id is not None and self._jobs[job_id].status is not Status.CLEANED

    def _change(self, change: Change, now: float) -> ChangeAnswer:
        if isinstance(change, MoveAttempt):
            attempt = rules.move_attempt(self._attempts.get(change.key), change)
            if isinstance(attempt, ChangeResult):
                return ChangeAnswer(attempt)
            self._store_attempt(attempt)
            return ChangeAnswer(ChangeResult.DONE)
        job = self._jobs.get(change.job_id)
        step: rules.AppliedChange | ChangeResult
        if isinstance(change, RecordEnd):
            step = rules.record_end(job, change, seq=self._seq + 1, now=now)
        elif isinstance(change, SetMessage):
            step = rules.set_message(job, change, seq=self._seq + 1, now=now)
        elif isinstance(change, SetProgress):
            step = rules.set_progress(job, change, seq=self._seq + 1, now=now)
        else:
            step = rules.move(job, change, seq=self._seq + 1, now=now)
        if isinstance(step, ChangeResult):
            return ChangeAnswer(step, job)
        if step.new_attempt is not None and self._is_blocked(step.new_attempt):
            return ChangeAnswer(ChangeResult.REFUSED, job)
        if isinstance(change, Transition) and change.results is not None:
            self._files[step.job.storage_key, "result"] = change.results
        if step.job.status is Status.CLEANED:
            for part in ("input", "result"):
                self._files.pop((step.job.storage_key, part), None)
        self._store(step)
        return ChangeAnswer(ChangeResult.DONE, step.job)

    def _is_blocked(self, attempt: Attempt) -> bool:
        keys = self._of_job.get(attempt.job_id, ())
        is_open = any(self._attempts[key].state is AttemptState.OPEN for key in keys)
        return is_open or attempt.key in self._attempts

    def _store(self, step: rules.AppliedChange) -> None:
        job, before = step.job, self._jobs.get(step.job.id)
        if step.new_attempt is not None:
            self._of_job[job.id].append(step.new_attempt.key)
            self._attempts[step.new_attempt.key] = step.new_attempt
            self._began[step.new_attempt.key] = len(self._began)
        if step.changed_attempt is not None:
            self._store_attempt(step.changed_attempt)
        if before is not None:
            del self._by_change[before.change_seq]
            if before.ended_at is not None and before.status is not Status.CLEANED:
                self._ended.remove((before.ended_at, job.id))
        if job.ended_at is not None and job.status is not Status.CLEANED:
            insort(self._ended, (job.ended_at, job.id))
        if job.status in OVER:
            self._live.pop(job.id, None)
        else:
            self._live[job.id] = None
        self._jobs[job.id] = job
        self._by_change[job.change_seq] = job.id
        self._seq = job.change_seq
        if step.history is not None:
            self._history[job.id].append(step.history)

    def _store_attempt(self, attempt: Attempt) -> None:
        self._attempts[attempt.key] = attempt
        job = self._jobs[attempt.job_id]
        if job.attempt is not None and job.attempt.key == attempt.key:
            self._jobs[job.id] = replace(job, attempt=attempt)
        if attempt.state in (AttemptState.GIVEN_UP, AttemptState.OVER):
            self._unreleased[attempt.key] = None
        else:
            self._unreleased.pop(attempt.key, None)
