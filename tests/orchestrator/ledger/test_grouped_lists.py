"""Lists by user and by service: every job once, in order, whatever they are narrowed to, by bounded work."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import chain, product
from typing import Any, Literal

import pytest
import trio
from support.data.ledgers import SetClock, new_job, walk

from actors.domain.changes import JobDetails
from actors.domain.job import Job
from actors.domain.status import ENDED, Status
from orchestrator.ledger import grouped_lists
from orchestrator.ledger.grouped_lists import Grouping, GroupPlace
from orchestrator.ledger.job_lists import JobFilter
from orchestrator.ledger.ledger import SqliteLedger

S = Status


async def fill(ledger: SqliteLedger, clock: SetClock) -> list[tuple[Job, JobDetails]]:
    """Forty jobs of users and services whose order is another one than theirs."""
    dice = random.Random(7)
    found = []
    for number in range(40):
        clock.time += 10.0
        user = dice.choice([-3, 0, 5, 12, 2**63 - 1])
        details = JobDetails("Dock" if number % 3 else None, ("a", "b") if number % 4 else ("b",))
        job = await ledger.insert(new_job(user, dice.choice(["Zeta", "alpha", "äther"]), details=details))
        ways = [(), (S.PROCESSING,), (S.PROCESSING, S.FAILED), (S.KILLED,)]
        found.append((await walk(ledger, job, *dice.choice(ways)), details))
    return found


async def pages(ledger: SqliteLedger, wanted: JobFilter, grouping: Grouping, limit: int) -> list[list[int]]:
    found: list[list[int]] = []
    beyond: GroupPlace | None = None
    while True:
        page = await ledger.queries.group_page(wanted, grouping, beyond, limit)
        found.append([job.id for job in page.jobs])
        assert len(page.jobs) <= limit and len(found) < 500
        if page.beyond is None:
            return found
        assert page.beyond != beyond
        beyond = page.beyond


KEYS: dict[Literal["user", "service"], Callable[[Job], Any]] = {
    "user": lambda job: job.user_id,
    "service": lambda job: job.service.encode(),
}
NARROWED: dict[str, tuple[dict[str, Any], Callable[[Job, JobDetails], bool]]] = {
    "nothing": ({}, lambda job, details: True),
    "user": ({"user": 5}, lambda job, details: job.user_id == 5),
    "service": ({"service": "alpha"}, lambda job, details: job.service == "alpha"),
    "services": (
        {"services": frozenset({"alpha", "äther"})},
        lambda job, details: job.service in ("alpha", "äther"),
    ),
    "states": (
        {"statuses": frozenset({S.QUEUED, S.FAILED})},
        lambda job, details: job.status in (S.QUEUED, S.FAILED),
    ),
    "state, user and service": (
        {"statuses": frozenset({S.QUEUED}), "user": 5, "service": "Zeta"},
        lambda job, details: (job.status, job.user_id, job.service) == (S.QUEUED, 5, "Zeta"),
    ),
    "state and service": (
        {"statuses": frozenset({S.FAILED}), "service": "Zeta"},
        lambda job, details: (job.status, job.service) == (S.FAILED, "Zeta"),
    ),
    "name and tag": (
        {"name": "Dock", "tag": "a"},
        lambda job, details: details.name == "Dock" and "a" in details.tags,
    ),
    "search": ({"search": "dOCK"}, lambda job, details: details.name == "Dock"),
    "node": ({"node": "node-a"}, lambda job, details: job.status is S.PROCESSING),
    "ended": (
        {"ended_since": 1.0, "tag": "b"},
        lambda job, details: job.status in ENDED,
    ),
    "none": ({"tag": "c"}, lambda job, details: False),
}


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize(("few", "looked_through"), [(0, 1), (5, 7), (1000, 5000)])
async def test_each_job_is_there_once_by_its_group_and_the_newest_first(
    ledger: SqliteLedger,
    clock: SetClock,
    monkeypatch: pytest.MonkeyPatch,
    few: int,
    looked_through: int,
    *,
    descending: bool,
) -> None:
    monkeypatch.setattr(grouped_lists, "SORTED", few)
    monkeypatch.setattr(grouped_lists, "LOOKED_THROUGH", looked_through)
    stored = await fill(ledger, clock)
    for by, (name, (narrowed, fits)), limit in product(KEYS, NARROWED.items(), (1, 3, 50)):
        wanted = [job for job, details in reversed(stored) if fits(job, details)]
        wanted.sort(key=KEYS[by], reverse=descending)
        found = await pages(ledger, JobFilter(**narrowed), Grouping(by, descending), limit)
        assert list(chain(*found)) == [job.id for job in wanted], (by, name, limit)


async def test_a_time_and_the_number_that_is_searched_for(
    ledger: SqliteLedger, clock: SetClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = [job for job, _ in await fill(ledger, clock)]
    since, until = stored[10].created_at, stored[30].created_at
    for few in (0, 1000):
        monkeypatch.setattr(grouped_lists, "SORTED", few)
        found = list(chain(*await pages(ledger, JobFilter(since=since, until=until), Grouping("user"), 4)))
        assert sorted(found) == [job.id for job in stored[10:30]]
        # That job first, then those of that user.
        users = [job.id for job in reversed(stored) if job.user_id == 12]
        number = JobFilter(search="12")
        first, *others = chain(*await pages(ledger, number, Grouping("service"), 3))
        assert first == 12 and sorted(others) == sorted({*users} - {12})
        assert list(chain(*await pages(ledger, number, Grouping("user"), 3)))[1:] == [
            n for n in users if n != 12
        ]


@pytest.mark.parametrize("few", [0, 1000])
async def test_a_page_that_the_number_fills_is_followed_by_the_first_of_the_others(
    ledger: SqliteLedger, monkeypatch: pytest.MonkeyPatch, few: int
) -> None:
    monkeypatch.setattr(grouped_lists, "SORTED", few)
    for _ in range(3):
        await ledger.insert(new_job(1))
    assert list(chain(*await pages(ledger, JobFilter(search="1"), Grouping("user"), 1))) == [1, 3, 2]


async def test_a_place_in_what_may_not_be_seen_shows_nothing_of_it(
    ledger: SqliteLedger, clock: SetClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = [job for job, _ in await fill(ledger, clock)]
    for few in (0, 1000):
        monkeypatch.setattr(grouped_lists, "SORTED", few)
        page = await ledger.queries.group_page(
            JobFilter(user=5), Grouping("user"), GroupPlace(0, 1 << 32), 50
        )
        assert {job.user_id for job in page.jobs} <= {5}
        some = JobFilter(services=frozenset({"alpha"}))
        page = await ledger.queries.group_page(some, Grouping("service"), GroupPlace("Zeta", 1 << 32), 50)
        assert {job.service for job in page.jobs} <= {"alpha"}
    assert {job.service for job in stored} == {"alpha", "Zeta", "äther"}


async def test_a_page_looks_at_no_more_jobs_however_many_there_are(
    ledger: SqliteLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted in steps of SQLite's machine."""
    monkeypatch.setattr(grouped_lists, "SORTED", 20)
    cases: list[tuple[dict[str, Any], Literal["user", "service"]]] = [
        (narrowed, by)
        for narrowed in ({}, {"statuses": frozenset({S.QUEUED})}, {"service": "alpha"}, {"since": 1.0})
        for by in KEYS
    ]

    async def insert(number: int) -> None:
        async with trio.open_nursery() as nursery:
            for n in range(number):
                nursery.start_soon(ledger.insert, new_job(n % 7, "alpha" if n % 2 else "beta"))

    async def steps(narrowed: dict[str, Any], by: Literal["user", "service"]) -> int:
        counted = 0

        def count() -> int:
            nonlocal counted
            counted += 1
            return 0

        connection = ledger.queries._reader._real_connection
        connection.set_progress_handler(count, 10)
        try:
            page = await ledger.queries.group_page(JobFilter(**narrowed), Grouping(by), None, 20)
        finally:
            connection.set_progress_handler(None, 10)
        assert len(page.jobs) == 20 and page.beyond is not None
        return counted

    await insert(200)
    before = [await steps(*case) for case in cases]
    await insert(1000)
    after = [await steps(*case) for case in cases]
    assert all(more <= 1.1 * one for more, one in zip(after, before, strict=True)), (before, after)


async def test_users_that_have_nothing_of_it_are_passed_over_so_many_at_a_time(
    ledger: SqliteLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grouped_lists, "SORTED", 5)
    monkeypatch.setattr(grouped_lists, "LOOKED_THROUGH", 20)
    async with trio.open_nursery() as nursery:
        for n in range(60):
            nursery.start_soon(ledger.insert, new_job(n, "beta"))
        for _ in range(10):
            nursery.start_soon(ledger.insert, new_job(1000, "alpha"))
    found = await pages(ledger, JobFilter(service="alpha"), Grouping("user"), 50)
    assert [len(page) for page in found] == [0, 0, 0, 10]
    found = await pages(ledger, JobFilter(service="alpha"), Grouping("user", descending=True), 50)
    assert len(found[0]) == 10
