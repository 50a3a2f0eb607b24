"""What people ask of the ledger: lists with filters, names and tags, every change in its order, and sums."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import sqlite_anyio

from actors.domain.changes import JobDetails
from actors.domain.job import HistoryEntry, Job
from actors.domain.status import Status
from actors.store.sqlite_thread import snapshot
from orchestrator.access.audit import AuditFilter, AuditLine
from orchestrator.access.limits import Limits
from orchestrator.ledger.errors import run_on_ledger
from orchestrator.ledger.grouped_lists import Grouping, GroupPage, GroupPlace, read_group_page
from orchestrator.ledger.job_lists import JobFilter, JobPage, read_page
from orchestrator.ledger.recent import Recent
from orchestrator.ledger.recent_jobs import MOST_DETAILS, are_small
from orchestrator.ledger.room import require_room
from orchestrator.ledger.tables import audit, history, jobs, meta
from orchestrator.ledger.tables.activity import Minute, read_minutes
from orchestrator.ledger.tables.batches import BatchView, read_batch
from orchestrator.ledger.tables.callbacks import CallbackView, read_callback, read_callback_counts
from orchestrator.ledger.tables.queue_counts import QueueShare, read_queue_shares
from orchestrator.ledger.tables.usage import Usage, UsageFilter, UsageKey, read_usage

WINDOW: Final = 1000
"""Changes that one read looks at."""


@dataclass(frozen=True, slots=True)
class JobChange:
    """One change of one job. `entry` is its line of history, None for a change that is no transition. `job`
    and `details` are the job as it is when this is read: `job.change_seq` may be later than `seq`."""

    seq: int
    job: Job
    details: JobDetails
    entry: HistoryEntry | None


class Queries:
    """Reads by a connection of its own, so nothing here waits for a commit. Everything raises LedgerError."""

    def __init__(self, reader: sqlite_anyio.Connection) -> None:
        self._reader = reader
        self._details: Recent[int, JobDetails] = Recent(MOST_DETAILS)

    async def page(self, wanted: JobFilter, beyond: int | None, limit: int) -> JobPage:
        """The first jobs of the list that fit, beyond the page before. A search looks through a bounded
        number of those that fit the rest: its page may have few or none though more follow. The job whose
        number is searched for comes first of all."""
        return await run_on_ledger(self._reader, lambda db: read_page(db, wanted, beyond, limit))

    async def group_page(
        self, wanted: JobFilter, grouping: Grouping, beyond: GroupPlace | None, limit: int
    ) -> GroupPage:
        """The same with the jobs of one user, or of one service, together, the newest of each first. What is
        looked through is bounded too, whatever it is narrowed to: its page may have few jobs or none though
        more follow."""
        return await run_on_ledger(
            self._reader, lambda db: read_group_page(db, wanted, grouping, beyond, limit)
        )

    async def details(self, job_ids: Sequence[int]) -> Mapping[int, JobDetails]:
        """What these jobs have besides; those that are unknown are left out."""
        known = {job_id: self._details.get(job_id) for job_id in job_ids}
        found = {job_id: one for job_id, one in known.items() if one is not None}
        missing = [job_id for job_id in known if job_id not in found]
        if missing:
            read = await run_on_ledger(self._reader, lambda db: jobs.read_details(db, missing))
            for job_id, one in read.items():
                self.note_details(job_id, one)
            found.update(read)
        return found

    def note_details(self, job_id: int, details: JobDetails) -> None:
        """What a job that was just stored has besides: who has sent it mostly asks for it next."""
        if are_small(details):
            self._details.put(job_id, details)

    async def callback(self, job_id: int) -> CallbackView | None:
        """None for a job that asked for none, or that is unknown."""
        return await run_on_ledger(self._reader, lambda db: read_callback(db, job_id))

    async def batch(self, batch_id: str) -> BatchView | None:
        return await run_on_ledger(self._reader, lambda db: read_batch(db, batch_id))

    async def newest_change(self) -> int:
        """The number of the newest change."""
        return await run_on_ledger(self._reader, meta.read_seq)

    async def changes_after(self, place: int) -> tuple[list[JobChange], int]:
        """The changes that follow `place`, in order, and how far that is: all if it is the newest change.
        Each transition is there once, and so is each job's newest change of another kind."""
        return await run_on_ledger(self._reader, lambda db: _read_changes(db, place))

    async def job_changes_after(self, job_id: int, place: int) -> tuple[list[JobChange], int]:
        """The same of one job, all of them: what other jobs did in the meantime is not looked at."""
        return await run_on_ledger(self._reader, lambda db: _read_job_changes(db, job_id, place))

    async def job_counts(self) -> Mapping[tuple[str, Status], int]:
        """How many jobs there are by (service, status); what there is none of is left out."""
        return await run_on_ledger(self._reader, jobs.read_job_counts)

    async def oldest_queued(self) -> Sequence[Job]:
        """Of each service with jobs that wait, the one that was uploaded first."""
        return await run_on_ledger(self._reader, jobs.read_oldest_queued)

    async def callback_counts(self) -> Mapping[str, int]:
        """How many callbacks there are, by status."""
        return await run_on_ledger(self._reader, read_callback_counts)

    async def queue_counts(self, service: str | None, limit: int, skip: int = 0) -> Sequence[QueueShare]:
        """Who has jobs that wait or are under way, those with most waiting first, after `skip` of them."""
        return await run_on_ledger(self._reader, lambda db: read_queue_shares(db, service, limit, skip))

    async def audit(self, wanted: AuditFilter, before: int | None, limit: int) -> Sequence[AuditLine]:
        """The newest lines that fit, with ids below `before`."""
        return await run_on_ledger(self._reader, lambda db: audit.read_lines(db, wanted, before, limit))

    async def require_room(
        self, limits: Limits, *, user: int, service: str | None, size: int, key: str | None
    ) -> None:
        """Raise LimitReached for a job that would be one too many, as far as it is known; not if it is there
        already, by its idempotency key."""

        def require(db: sqlite3.Connection) -> None:
            if key is None or jobs.read_idempotent(db, user, key) is None:
                require_room(db, limits, user=user, service=service, size=size)

        await run_on_ledger(self._reader, require)

    async def activity(self, since: float, until: float, service: str | None = None) -> Sequence[Minute]:
        """Minutes in which anything happened, from the one that `since` is in to the one that `until` is in,
        oldest first."""
        return await run_on_ledger(self._reader, lambda db: read_minutes(db, since, until, service))

    async def latest_runs(self, service: str, limit: int) -> Sequence[tuple[int, float]]:
        """Whose jobs ran for how many seconds of late, the newest end first."""
        return await run_on_ledger(self._reader, lambda db: jobs.read_latest_runs(db, service, limit))

    async def usage(
        self, wanted: UsageFilter, after: UsageKey | None = None, limit: int = -1
    ) -> Sequence[Usage]:
        """Rows by month, user and service, in the order of these, that follow `after`."""
        return await run_on_ledger(self._reader, lambda db: read_usage(db, wanted, after, limit))


# ---------------------------------------------------------------------- what runs in the thread


def _read_changes(db: sqlite3.Connection, after: int) -> tuple[list[JobChange], int]:
    with snapshot(db):
        upto = max(after, min(after + WINDOW, meta.read_seq(db)))
        lines = history.read_lines(db, after, upto)
        return _join_changes(db, lines, jobs.read_changed(db, after, upto)), upto


def _read_job_changes(db: sqlite3.Connection, job_id: int, after: int) -> tuple[list[JobChange], int]:
    with snapshot(db):
        lines = history.read_job_lines(db, job_id, after)
        job = jobs.read_job(db, job_id)
        changed = [job] if job is not None and job.change_seq > after else []
        return _join_changes(db, lines, changed), max(after, meta.read_seq(db))


def _join_changes(
    db: sqlite3.Connection, lines: Mapping[int, HistoryEntry], changed: Sequence[Job]
) -> list[JobChange]:
    known = {job.id: job for job in changed}
    for entry in lines.values():
        if entry.job_id not in known and (job := jobs.read_job(db, entry.job_id)) is not None:
            known[job.id] = job
    details: dict[int, JobDetails] = {}
    ids = list(known)
    for start in range(0, len(ids), 500):
        details |= jobs.read_details(db, ids[start : start + 500])
    changes = {seq: entry.job_id for seq, entry in lines.items()} | {
        job.change_seq: job.id for job in changed
    }
    return [
        JobChange(seq, known[n], details[n], lines.get(seq))
        for seq, n in sorted(changes.items())
        if n in known
    ]
