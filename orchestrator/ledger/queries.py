"""What people ask of the ledger: lists with filters, names and tags, every change in its order, and sums.

Each list reads about as many rows as it tells: an index ends in the id, so it is in the order of the lists,
and for each pair of filters there is one.
"""

from __future__ import annotations

import heapq
import json
import re
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from operator import itemgetter
from typing import Any, Final

import sqlite_anyio

from actors.domain.changes import JobDetails
from actors.domain.job import HistoryEntry, Job
from actors.domain.status import Status
from actors.store.sqlite_thread import snapshot
from orchestrator.access.audit import AuditFilter, AuditLine
from orchestrator.access.limits import Limits
from orchestrator.ledger.errors import run_on_ledger
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


LOOKED_THROUGH: Final = 5000
"""Jobs that one search looks through."""


@dataclass(frozen=True, slots=True)
class JobFilter:
    """What a list is narrowed to; None: not by this. `node`: jobs that are there now. `search`: a part of the
    name or of a tag, upper and lower case alike, or the number of the job or of its user. `services` and
    `statuses`: any of these; empty: whatever. `since` and `until`: when they came, in wall-clock seconds, the
    latter not included; where the clock was set back, as far as the order of the jobs tells. `ended_since`:
    that have ended then or later. `oldest_first`: the other way round than else."""

    user: int | None = None
    service: str | None = None
    services: frozenset[str] = frozenset()
    statuses: frozenset[Status] = frozenset()
    name: str | None = None
    tag: str | None = None
    node: str | None = None
    search: str | None = None
    since: float | None = None
    until: float | None = None
    ended_since: float | None = None
    oldest_first: bool = False


@dataclass(frozen=True, slots=True)
class JobPage:
    """Some jobs of a list. The next page goes on beyond the id `beyond`: below it, or above it where the
    oldest come first; None if there is none."""

    jobs: Sequence[Job]
    beyond: int | None


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
        return await run_on_ledger(self._reader, lambda db: _read_page(db, wanted, beyond, limit))

    async def details(self, job_ids: Sequence[int]) -> Mapping[int, JobDetails]:
        """What these jobs have besides; those that are unknown are left out."""
        known = {job_id: self._details.get(job_id) for job_id in job_ids}
        found = {job_id: one for job_id, one in known.items() if one is not None}
        missing = [job_id for job_id in known if job_id not in found]
        if missing:
            read = await run_on_ledger(self._reader, lambda db: jobs.read_details(db, missing))
            for job_id, one in read.items():
                if are_small(one):
                    self._details.put(job_id, one)
            found.update(read)
        return found

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


def _read_page(db: sqlite3.Connection, wanted: JobFilter, beyond: int | None, limit: int) -> JobPage:
    between = _Between(
        0 if wanted.since is None else _first_since(db, wanted.since),
        _ABOVE_ALL if wanted.until is None else _first_since(db, wanted.until),
    )
    left = between if beyond is None else between.narrowed(beyond, oldest_first=wanted.oldest_first)
    if wanted.search is not None:
        exactly = between if beyond is None else None
        return _search(db, wanted, left, exactly, limit)
    found = _read(db, wanted, left, limit + 1)
    return JobPage(found[:limit], found[limit - 1].id if len(found) > limit else None)


_ABOVE_ALL: Final = 1 << 62


@dataclass(frozen=True, slots=True)
class _Between:
    """Ids from `first` on, below `end`."""

    first: int
    end: int

    def narrowed(self, beyond: int, *, oldest_first: bool) -> _Between:
        if oldest_first:
            return _Between(max(self.first, beyond + 1), self.end)
        return _Between(self.first, min(self.end, beyond))


def _first_since(db: sqlite3.Connection, at: float) -> int:
    """The id from which on jobs came at this time or later. Ids grow with time, so a few of them are looked
    at, however many there are."""
    (low, newest) = db.execute("SELECT min(id), max(id) FROM jobs").fetchone()
    if low is None:
        return 0
    end = newest + 1
    while low < end:
        middle = (low + end) // 2
        job_id, created_at = db.execute(
            "SELECT id, created_at FROM jobs WHERE id >= ? ORDER BY id LIMIT 1", (middle,)
        ).fetchone()
        if created_at >= at:
            end = middle
        else:
            low = job_id + 1
    return int(low)


def _search(
    db: sqlite3.Connection, wanted: JobFilter, left: _Between, exactly: _Between | None, limit: int
) -> JobPage:
    """`exactly`: where the job may be whose number is searched for; None where it was told before."""
    text = (wanted.search or "").casefold()
    number = _number(text)
    exact = None if number is None else _exactly(db, wanted, number, left if exactly is None else exactly)
    found = [exact] if exact is not None and exactly is not None else []
    looked, last = 0, None
    for job_id, user_id, name, tags in _select(db, _SEARCHED, wanted, left, LOOKED_THROUGH):
        if len(found) == limit:
            return JobPage(found, job_id - 1 if wanted.oldest_first else job_id + 1)
        looked, last = looked + 1, job_id
        is_exact = exact is not None and job_id == exact.id
        if not is_exact and (user_id == number or _has(text, name, tags)):
            job = jobs.read_job(db, job_id)
            assert job is not None
            found.append(job)
    return JobPage(found, last if looked == LOOKED_THROUGH else None)


_SEARCHED: Final = "j.id, j.user_id, j.name, j.tags"


def _has(text: str, name: str | None, tags: str) -> bool:
    if name is not None and text in name.casefold():
        return True
    return len(tags) > len("[]") and any(text in tag.casefold() for tag in json.loads(tags))


def _read(db: sqlite3.Connection, wanted: JobFilter, left: _Between, limit: int) -> list[Job]:
    return [jobs.job_from_row(row) for row in _select(db, jobs.JOB_COLUMNS, wanted, left, limit)]


def _select(
    db: sqlite3.Connection, columns: str, wanted: JobFilter, left: _Between, limit: int
) -> Iterator[tuple[Any, ...]]:
    """What fits but for the search, in the order of the list; `columns` begin with the id."""
    # One walk of an index for each state, merged: together they would have to be sorted.
    each = [replace(wanted, statuses=frozenset({one})) for one in wanted.statuses] or [wanted]
    walks = [_walk(db, columns, one, left, limit) for one in each]
    return islice(heapq.merge(*walks, key=itemgetter(0), reverse=not wanted.oldest_first), limit)


def _walk(
    db: sqlite3.Connection, columns: str, wanted: JobFilter, left: _Between, limit: int
) -> sqlite3.Cursor:
    """What fits, of one state at most."""
    status = next(iter(wanted.statuses), None)
    # What has ended lately is little: no other index is to be walked for it.
    own = "j." if wanted.ended_since is None else "+j."
    conditions: dict[str, Any] = {
        f"{own}user_id = ?": wanted.user,
        f"{own}service = ?": wanted.service,
        f"{own}status = ?": status.value if status is not None else None,
        f"{own}name = ?": wanted.name,
        jobs.HAS_ENDED_SINCE: wanted.ended_since,
    }
    if wanted.node is not None:
        source, number = jobs.FROM_NODE, "o.job_id"
        conditions |= {"o.state = 'open' AND o.node_id = ?": wanted.node}
        conditions["EXISTS (SELECT 1 FROM job_tags WHERE tag = ? AND job_id = j.id)"] = wanted.tag
    elif wanted.tag is not None:
        source, number = jobs.FROM_TAGGED, "t.job_id"
        conditions["t.tag = ?"] = wanted.tag
    else:
        source, number = jobs.FROM_JOBS, "j.id"
    conditions[f"{number} >= ?"] = left.first or None
    conditions[f"{number} < ?"] = left.end if left.end < _ABOVE_ALL else None
    given = {condition: value for condition, value in conditions.items() if value is not None}
    if wanted.services:
        given["j.service IN (SELECT value FROM json_each(?))"] = json.dumps(sorted(wanted.services))
    where = f"WHERE {' AND '.join(given)}" if given else ""
    order = "ASC" if wanted.oldest_first else "DESC"
    statement = f"SELECT {columns} {source} {where} ORDER BY {number} {order} LIMIT ?"
    return db.execute(statement, (*given.values(), limit))


def _number(text: str) -> int | None:
    return int(text) if re.fullmatch(r"-?[0-9]{1,18}", text, re.ASCII) else None


def _exactly(db: sqlite3.Connection, wanted: JobFilter, number: int, within: _Between) -> Job | None:
    """The job of this number, if it fits but for the search."""
    if not within.first <= number < within.end:
        return None
    found = _read(db, wanted, _Between(number, number + 1), 1)
    return found[0] if found else None


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
