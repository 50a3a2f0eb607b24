"""Lists of jobs with filters, by when they came.

Each list reads about as many rows as it tells: an index ends in the id, so it is in the order of the lists,
and for each pair of filters there is one.
"""

from __future__ import annotations

import heapq
import json
import re
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from operator import itemgetter
from typing import Any, Final

from actors.domain.job import Job
from actors.domain.status import Status
from orchestrator.ledger.tables import jobs

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


def read_page(db: sqlite3.Connection, wanted: JobFilter, beyond: int | None, limit: int) -> JobPage:
    """See `Queries.page`."""
    between = ids_between(db, wanted)
    left = between if beyond is None else between.narrowed(beyond, oldest_first=wanted.oldest_first)
    if wanted.search is not None:
        exactly = between if beyond is None else None
        return _search(db, wanted, left, exactly, limit)
    found = _read(db, wanted, left, limit + 1)
    return JobPage(found[:limit], found[limit - 1].id if len(found) > limit else None)


ABOVE_ALL: Final = 1 << 62
"""Above the id of any job."""


@dataclass(frozen=True, slots=True)
class Between:
    """Ids from `first` on, below `end`."""

    first: int
    end: int

    def narrowed(self, beyond: int, *, oldest_first: bool) -> Between:
        if oldest_first:
            return Between(max(self.first, beyond + 1), self.end)
        return Between(self.first, min(self.end, beyond))


def ids_between(db: sqlite3.Connection, wanted: JobFilter) -> Between:
    """The ids of all that came between the times of a filter."""
    return Between(
        0 if wanted.since is None else _first_since(db, wanted.since),
        ABOVE_ALL if wanted.until is None else _first_since(db, wanted.until),
    )


def _first_since(db: sqlite3.Connection, at: float) -> int:
    """The id from which on jobs came at this time or later. Ids grow with time, so a few of them are looked
    at, however many there are."""
    # Asked for together, SQLite would look at every job.
    (low, newest) = db.execute("SELECT (SELECT min(id) FROM jobs), (SELECT max(id) FROM jobs)").fetchone()
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
    db: sqlite3.Connection, wanted: JobFilter, left: Between, exactly: Between | None, limit: int
) -> JobPage:
    """`exactly`: where the job may be whose number is searched for; None where it was told before."""
    text = (wanted.search or "").casefold()
    number = number_in(text)
    exact = None if number is None else read_exactly(db, wanted, number, left if exactly is None else exactly)
    found = [exact] if exact is not None and exactly is not None else []
    looked, last = 0, None
    for job_id, user_id, name, tags in select(db, _SEARCHED, wanted, left, LOOKED_THROUGH):
        if len(found) == limit:
            return JobPage(found, job_id - 1 if wanted.oldest_first else job_id + 1)
        looked, last = looked + 1, job_id
        is_exact = exact is not None and job_id == exact.id
        if not is_exact and (user_id == number or has_text(text, name, tags)):
            job = jobs.read_job(db, job_id)
            assert job is not None
            found.append(job)
    return JobPage(found, last if looked == LOOKED_THROUGH else None)


_SEARCHED: Final = "j.id, j.user_id, j.name, j.tags"


def has_text(text: str, name: str | None, tags: str) -> bool:
    """Whether the casefolded text is in a job's name, or in one of its tags, which come as JSON."""
    if name is not None and text in name.casefold():
        return True
    return len(tags) > len("[]") and any(text in tag.casefold() for tag in json.loads(tags))


def _read(db: sqlite3.Connection, wanted: JobFilter, left: Between, limit: int) -> list[Job]:
    return [jobs.job_from_row(row) for row in select(db, jobs.JOB_COLUMNS, wanted, left, limit)]


def select(
    db: sqlite3.Connection, columns: str, wanted: JobFilter, left: Between, limit: int
) -> Iterator[tuple[Any, ...]]:
    """What fits but for the search, in the order of the list; `columns` begin with the id."""
    # One walk of an index for each state, merged: together they would have to be sorted.
    each = [replace(wanted, statuses=frozenset({one})) for one in wanted.statuses] or [wanted]
    walks = [_walk(db, columns, one, left, limit) for one in each]
    return islice(heapq.merge(*walks, key=itemgetter(0), reverse=not wanted.oldest_first), limit)


def _walk(
    db: sqlite3.Connection, columns: str, wanted: JobFilter, left: Between, limit: int
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
    conditions[f"{number} < ?"] = left.end if left.end < ABOVE_ALL else None
    given = {condition: value for condition, value in conditions.items() if value is not None}
    if wanted.services:
        given["j.service IN (SELECT value FROM json_each(?))"] = json.dumps(sorted(wanted.services))
    where = f"WHERE {' AND '.join(given)}" if given else ""
    order = "ASC" if wanted.oldest_first else "DESC"
    statement = f"SELECT {columns} {source} {where} ORDER BY {number} {order} LIMIT ?"
    return db.execute(statement, (*given.values(), limit))


def number_in(text: str) -> int | None:
    return int(text) if re.fullmatch(r"-?[0-9]{1,18}", text, re.ASCII) else None


def read_exactly(db: sqlite3.Connection, wanted: JobFilter, number: int, within: Between) -> Job | None:
    """The job of this number, if it fits but for the search."""
    if not within.first <= number < within.end:
        return None
    found = _read(db, wanted, Between(number, number + 1), 1)
    return found[0] if found else None
