"""The ledger as the actors and the api need it: jobs, attempts, and every change to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from actors.domain.changes import Change, ChangeAnswer, NewJob
from actors.domain.errors import CoreError
from actors.domain.job import Attempt, AttemptState, HistoryEntry, Job, LiveJobs
from actors.ports.storage import Part


class LedgerError(CoreError):
    """The ledger could not do it (disk full, database locked or damaged). Nothing of the item was changed;
    it may be tried again."""


class Ledger(Protocol):
    """Jobs and attempts: the truth. Every method is wholly done or not at all, cancelled or not. All raise
    `LedgerError`."""

    async def insert(self, job: NewJob) -> Job:
        """Store a job with the next id: Queued, or with its `first` attempt in Processing, in one commit.
        Durable on return."""
        ...

    async def record(self, changes: Sequence[Change]) -> Sequence[ChangeAnswer]:
        """Apply each change by itself, in order; durable on return."""
        ...

    async def request_terminate(self, job_id: int) -> Job | None:
        """Set the order durably unless the job is over. The row afterwards; None if unknown."""
        ...

    async def changes(self, after: int, limit: int = 500) -> Sequence[Job]:
        """Jobs whose `change_seq` is above `after`, ascending. A job stands at its newest change only."""
        ...

    async def live(self, *, queued: bool = False) -> LiveJobs:
        """All jobs that are not over, at one moment; those that only wait are told in short, and only if
        `queued`."""
        ...

    async def unreleased(self) -> Sequence[Attempt]:
        """Attempts that are given up or over and not yet released."""
        ...

    async def attempt_states(self, keys: Sequence[str]) -> Mapping[str, AttemptState]:
        """How the attempts with these keys are; those that are not known are left out."""
        ...

    async def get(self, job_id: int) -> Job | None: ...

    async def history(self, job_id: int) -> Sequence[HistoryEntry]: ...

    async def attempts(self, job_id: int) -> Sequence[Attempt]: ...

    async def ended_before(
        self, wall: float, limit: int = 100, after: tuple[float, int] | None = None
    ) -> Sequence[Job]:
        """Ended, not Cleaned jobs whose `ended_at` is before `wall`, oldest first; those after the
        (`ended_at`, id) of an earlier page's last."""
        ...

    async def note_absence(self, node_id: str, reason: str | None) -> None:
        """Keep that a node was stopped on purpose and will be back; None: it is, or is not expected any more.
        Durable on return."""
        ...

    async def absences(self) -> Mapping[str, str]:
        """Nodes that were stopped on purpose and will be back: the reason that is told of them."""
        ...

    async def purge(self, before: float, limit: int) -> int:
        """Forget up to `limit` jobs that are Cleaned, ended before `before` (wall-clock) and are owed
        nothing; how many."""
        ...

    async def forget_audit(self, before: float, limit: int) -> int:
        """Forget up to `limit` lines of who did what, from before `before` (wall-clock); how many."""
        ...

    async def pauses(self) -> Mapping[str, tuple[str, float]]:
        """Services of which no job goes: why, and since when (wall-clock)."""
        ...

    async def small_files(self, storage_key: str, part: Part) -> bytes | None:
        """What `NewJob.files`, or `Transition.results`, was; None if there was none, or if it was cleaned."""
        ...

    async def unknown_directories(self, storage_keys: Sequence[str]) -> Sequence[str]:
        """Which of these storage keys belong to no job, or to a Cleaned one."""
        ...
