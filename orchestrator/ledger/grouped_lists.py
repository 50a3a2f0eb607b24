"""Lists with the jobs of one user, or of one service, together: the newest of each first.

No index has that order once a list is narrowed, and one more would cost every job. So what fits is counted
first: few are sorted here. Of many one user after the other is walked through, by the indices that there are,
and no more than a bounded number of jobs are looked at for a page.
"""

from __future__ import annotations

import heapq
import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from operator import attrgetter, itemgetter
from typing import Any, Final, Literal, TypeAlias

from actors.domain.ids import MAX_ID
from actors.domain.job import Job
from orchestrator.ledger.job_lists import (
    Between,
    JobFilter,
    has_text,
    ids_between,
    number_in,
    read_exactly,
    select,
)
from orchestrator.ledger.tables import jobs

SORTED: Final = 1000
"""Jobs that fit, up to which they are read and sorted."""
LOOKED_THROUGH: Final = 5000
"""Jobs, users and services that are looked at for a page where more fit."""

Group: TypeAlias = int | str
"""A user, or a service."""


@dataclass(frozen=True, slots=True)
class Grouping:
    """By what jobs are together; `descending`: the greatest number, or the last name, comes first."""

    by: Literal["user", "service"]
    descending: bool = False


@dataclass(frozen=True, slots=True)
class GroupPlace:
    """Where a list goes on: with the jobs of `group` that have an id below `below`, then the next group."""

    group: Group
    below: int


@dataclass(frozen=True, slots=True)
class GroupPage:
    """Some jobs of a list, and where it goes on; None: they were the last."""

    jobs: Sequence[Job]
    beyond: GroupPlace | None


@dataclass(frozen=True, slots=True)
class _Row:
    """A job that was looked at; `fits`: all but the search, 1 or 0."""

    id: int
    user: int
    service: str
    name: str | None
    tags: str
    fits: int


_COLUMNS: Final = "j.id, j.user_id, j.service, j.name, j.tags"


def read_group_page(
    db: sqlite3.Connection, wanted: JobFilter, grouping: Grouping, beyond: GroupPlace | None, limit: int
) -> GroupPage:
    """See `Queries.group_page`."""
    between = ids_between(db, wanted)
    text = None if wanted.search is None else wanted.search.casefold()
    number = None if text is None else number_in(text)
    exact = None if number is None else read_exactly(db, wanted, number, between)
    found = [exact] if exact is not None and beyond is None else []
    for place, row in _look(db, wanted, grouping, beyond, between):
        if row is None:
            return GroupPage(found, place)
        is_found = row.fits and (text is None or row.user == number or has_text(text, row.name, row.tags))
        if is_found and (exact is None or row.id != exact.id):
            if len(found) == limit:
                return GroupPage(found, GroupPlace(place.group, row.id + 1))  # with this one
            job = jobs.read_job(db, row.id)
            assert job is not None
            found.append(job)
    return GroupPage(found, None)


def _look(
    db: sqlite3.Connection, wanted: JobFilter, grouping: Grouping, beyond: GroupPlace | None, between: Between
) -> Iterator[tuple[GroupPlace, _Row | None]]:
    """What is beyond that place, in order, each with its own place. None at the end: more follow from there
    on, but enough was looked at."""
    few = _read_few(db, wanted, between)
    return _walk(db, wanted, grouping, beyond, between) if few is None else _sort(few, grouping, beyond)


def _read_few(db: sqlite3.Connection, wanted: JobFilter, between: Between) -> list[_Row] | None:
    """All that fit but for the search, the newest first; None if they are many, or nobody can say at once."""
    if wanted.services or replace(wanted, search=None, oldest_first=False) == JobFilter():
        return None
    rows = select(db, f"{_COLUMNS}, 1", replace(wanted, oldest_first=False), between, SORTED + 1)
    few = [_Row(*row) for row in rows]
    return few if len(few) <= SORTED else None


def _sort(
    few: Sequence[_Row], grouping: Grouping, beyond: GroupPlace | None
) -> Iterator[tuple[GroupPlace, _Row]]:
    for row in sorted(few, key=attrgetter(grouping.by), reverse=grouping.descending):
        group = getattr(row, grouping.by)
        if beyond is None or (
            row.id < beyond.below
            if group == beyond.group
            else (group > beyond.group) is not grouping.descending
        ):
            yield GroupPlace(group, row.id), row


def _walk(
    db: sqlite3.Connection, wanted: JobFilter, grouping: Grouping, beyond: GroupPlace | None, between: Between
) -> Iterator[tuple[GroupPlace, _Row | None]]:
    place = beyond or _next_place(db, wanted, grouping, None)
    left = LOOKED_THROUGH
    while place is not None:
        ids = between.narrowed(place.below, oldest_first=False)
        looked = 0
        for row in _walk_group(db, wanted, _columns_of(place.group, wanted, grouping), ids, left):
            looked += 1
            place = GroupPlace(place.group, row.id)
            yield place, row
        if looked < left:
            place = _next_place(db, wanted, grouping, place.group)
        # A group without any costs as much as a job.
        left -= looked + 1 + len(wanted.statuses)
        if left <= 0 and place is not None:
            yield place, None
            return


def _columns_of(group: Group, wanted: JobFilter, grouping: Grouping) -> Mapping[str, Group]:
    """What the jobs of a group have in columns that an index begins with."""
    if grouping.by == "user":
        return {"user_id": group} | ({} if wanted.service is None else {"service": wanted.service})
    return {"service": group} | ({} if wanted.user is None else {"user_id": wanted.user})


def _next_place(
    db: sqlite3.Connection, wanted: JobFilter, grouping: Grouping, after: Group | None
) -> GroupPlace | None:
    group = _next_group(db, wanted, grouping, after)
    return None if group is None else GroupPlace(group, MAX_ID + 1)


def _next_group(
    db: sqlite3.Connection, wanted: JobFilter, grouping: Grouping, after: Group | None
) -> Group | None:
    """The one that follows, whether any of its jobs fit or not: an index tells, without looking at jobs."""
    only = wanted.user if grouping.by == "user" else wanted.service
    if only is not None:
        return only if after is None else None
    column, index = ("user_id", "jobs_user") if grouping.by == "user" else ("service", "jobs_service")
    conditions: dict[str, Any] = {}
    if grouping.by == "service" and wanted.user is not None:
        index = "jobs_user_service"
        conditions["user_id = ?"] = wanted.user
    if after is not None:
        conditions[f"{column} {'<' if grouping.descending else '>'} ?"] = after
    where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
    order = "DESC" if grouping.descending else "ASC"
    row = db.execute(
        f"SELECT {column} FROM jobs INDEXED BY {index} {where} ORDER BY {column} {order} LIMIT 1",
        tuple(conditions.values()),
    ).fetchone()
    return None if row is None else row[0]


def _walk_group(
    db: sqlite3.Connection, wanted: JobFilter, narrowed: Mapping[str, Group], ids: Between, limit: int
) -> Iterator[_Row]:
    """Jobs with these columns, in the states that are wanted, the newest first, whether they fit the rest or
    not."""
    fits, values = _condition(wanted)
    if wanted.statuses:
        first = next(iter(narrowed.items()))
        walked = [dict([first, ("status", status.value)]) for status in wanted.statuses]
    else:
        walked = [dict(narrowed)]
    walks = [
        db.execute(
            f"SELECT {_COLUMNS}, coalesce({fits}, 0) FROM jobs AS j INDEXED BY {_INDICES[frozenset(one)]} "
            f"WHERE {' AND '.join(f'j.{name} = ?' for name in one)} AND j.id >= ? AND j.id < ? "
            "ORDER BY j.id DESC LIMIT ?",
            (*values, *one.values(), ids.first, ids.end, limit),
        )
        for one in walked
    ]
    merged = heapq.merge(*walks, key=itemgetter(0), reverse=True)
    return (_Row(*row) for row in islice(merged, limit))


def _condition(wanted: JobFilter) -> tuple[str, tuple[Any, ...]]:
    """Whether a job fits all but the search and the states, also where its group was nobody's to ask for."""
    conditions = {
        "j.user_id = ?": wanted.user,
        "j.service = ?": wanted.service,
        "j.service IN (SELECT value FROM json_each(?))": json.dumps(sorted(wanted.services))
        if wanted.services
        else None,
        "j.name = ?": wanted.name,
        "EXISTS (SELECT 1 FROM job_tags WHERE tag = ? AND job_id = j.id)": wanted.tag,
        "EXISTS (SELECT 1 FROM attempts AS o WHERE o.key = j.attempt_key AND o.state = 'open' "
        "AND o.node_id = ?)": wanted.node,
        "j.ended_at >= ?": wanted.ended_since,
    }
    given = {condition: value for condition, value in conditions.items() if value is not None}
    return " AND ".join(given) or "1", tuple(given.values())


_INDICES: Final = {
    frozenset({"user_id"}): "jobs_user",
    frozenset({"service"}): "jobs_service",
    frozenset({"user_id", "service"}): "jobs_user_service",
    frozenset({"user_id", "status"}): "jobs_user_status",
    frozenset({"service", "status"}): "jobs_service_status",
}
"""By the columns that they begin with; all of them end in the id."""
