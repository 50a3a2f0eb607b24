"""Lists, changes and usage as the routes ask the ledger for them."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain

import pytest
from support.data.ledgers import SetClock, list_jobs, new_job, walk

from actors.domain.changes import ChangeResult, JobDetails, SetProgress
from actors.domain.progress import BatchStand
from actors.domain.status import Status
from orchestrator.ledger import job_lists, queries
from orchestrator.ledger.job_lists import JobFilter
from orchestrator.ledger.ledger import SqliteLedger
from orchestrator.ledger.tables.activity import KEPT
from orchestrator.ledger.tables.queue_counts import QueueShare

S = Status


async def test_names_and_tags_narrow_a_list(ledger: SqliteLedger) -> None:
    plain = await ledger.insert(new_job())
    one = await ledger.insert(new_job(details=JobDetails("dock", ("a", "b"))))
    two = await ledger.insert(new_job(user=8, details=JobDetails("dock", ("b",))))
    assert await list_jobs(ledger, name="dock") == [two, one]
    assert await list_jobs(ledger, tag="b") == [two, one]
    assert await list_jobs(ledger, tag="b", before_id=two.id) == [one]
    assert await list_jobs(ledger, tag="a", user=8) == []
    assert await list_jobs(ledger, tag="b", user=8, name="dock", status=S.QUEUED) == [two]
    assert plain not in await list_jobs(ledger, name="dock")


async def test_jobs_are_listed_by_the_node_that_they_are_on(ledger: SqliteLedger) -> None:
    first, second, third = [await ledger.insert(new_job(user)) for user in (1, 2, 3)]
    await walk(ledger, first, S.PROCESSING, S.SUBMITTED, S.RUNNING)
    third = await walk(ledger, third, S.PROCESSING, S.SUBMITTED)
    assert [job.id for job in await list_jobs(ledger, node="node-a")] == [third.id, first.id]
    assert [job.id for job in await list_jobs(ledger, node="node-a", user=1)] == [first.id]
    assert await list_jobs(ledger, node="node-a", tag="none") == []
    assert await list_jobs(ledger, node="node-b") == []
    await walk(ledger, third, S.FAILED)
    assert [job.id for job in await list_jobs(ledger, node="node-a")] == [first.id]
    assert second.id not in [job.id for job in await list_jobs(ledger, node="node-a")]


@pytest.mark.parametrize("limit", [1, 2, 50])
@pytest.mark.parametrize("oldest_first", [False, True])
async def test_a_list_is_of_several_states_and_of_a_time_from_either_end(
    ledger: SqliteLedger, clock: SetClock, limit: int, oldest_first: bool
) -> None:
    async def found(**narrowed: object) -> list[int]:
        ids = list(chain(*await pages(ledger, limit, oldest_first=oldest_first, **narrowed)))
        assert ids == sorted(ids, reverse=not oldest_first)
        return sorted(ids)

    assert await found(since=clock.time) == []
    begin = clock.time
    for number in range(1, 10):
        clock.time = begin + 10 * ((number - 1) // 2)  # two at a time
        job = await ledger.insert(new_job(number % 2, details=JobDetails("dock")))
        if number % 3 != 0:
            await walk(ledger, job, S.PROCESSING, *((S.FAILED,) if number % 3 == 1 else ()))
    assert await found(statuses=frozenset({S.QUEUED, S.FAILED})) == [1, 3, 4, 6, 7, 9]
    assert await found(statuses=frozenset({S.QUEUED, S.FAILED}), user=1) == [1, 3, 7, 9]
    assert await found(statuses=frozenset({S.QUEUED, S.FAILED}), search="dock", user=0) == [4, 6]
    assert await found(since=begin + 10) == [3, 4, 5, 6, 7, 8, 9]
    assert await found(until=begin + 20) == [1, 2, 3, 4]
    assert await found(since=begin + 9.5, until=begin + 30.5) == [3, 4, 5, 6, 7, 8]
    assert await found(since=begin + 10, until=begin + 30, search="dock", user=1) == [3, 5]
    assert await found(ended_since=begin) == [1, 4, 7] and await found(ended_since=begin + 31) == []
    assert await found(ended_since=begin + 10, statuses=frozenset({S.FAILED, S.INVALID})) == [4, 7]
    assert await found(ended_since=begin + 10, statuses=frozenset({S.QUEUED})) == []
    assert await found(ended_since=begin + 10, user=0, search="dock", until=begin + 30) == [4]
    assert await found(since=begin + 41) == [] and await found(until=begin) == []
    # The number that is searched for is found where the list has it, and nowhere else.
    assert await found(since=begin + 10, search="3") == [3]
    assert await found(until=begin + 10, search="3") == []


async def pages(ledger: SqliteLedger, limit: int, **narrowed: object) -> list[list[int]]:
    wanted, before, found = JobFilter(**narrowed), None, []  # type: ignore[arg-type]  # keywords of any kind
    while True:
        page = await ledger.queries.page(wanted, before, limit)
        found.append([job.id for job in page.jobs])
        assert len(found) < 50
        if page.beyond is None:
            return found
        assert before is None or (page.beyond > before) == wanted.oldest_first
        before = page.beyond


@pytest.mark.parametrize("limit", [1, 2, 3, 50])
@pytest.mark.parametrize("window", [2, 3, 1000])
async def test_a_search_finds_each_job_once_however_it_is_paged(
    ledger: SqliteLedger, monkeypatch: pytest.MonkeyPatch, limit: int, window: int
) -> None:
    monkeypatch.setattr(job_lists, "LOOKED_THROUGH", window)
    for number in range(1, 15):
        name = "Dock 5" if number % 4 == 0 else None
        tags = ("redocking",) if number == 7 else ()
        await ledger.insert(new_job(5 if number == 11 else 6, details=JobDetails(name, tags)))
    found = await pages(ledger, limit, search="dock")
    assert all(len(page) <= limit for page in found)
    assert list(chain(*found)) == [12, 8, 7, 4]
    # The job of that number first, then what has it in its name or as its user.
    assert list(chain(*await pages(ledger, limit, search="5"))) == [5, 12, 11, 8, 4]
    assert list(chain(*await pages(ledger, limit, search="5", user=5))) == [11]
    assert list(chain(*await pages(ledger, limit, search="%"))) == []
    assert list(chain(*await pages(ledger, limit, search="-3"))) == []


async def test_a_search_reads_text_as_people_do(ledger: SqliteLedger) -> None:
    one = await ledger.insert(new_job(details=JobDetails("Größe 3", ("Müller",))))
    await ledger.insert(new_job(details=JobDetails("other", ("a", "b"))))
    for text in ("müller", "MÜLL", "GRÖSSE", "größe"):
        assert await list_jobs(ledger, search=text) == [one], text
    for text in ('"', ",", "[", "u00", "null"):
        assert await list_jobs(ledger, search=text) == [], text


async def test_a_narrowed_search_looks_through_what_fits_and_not_through_all(
    ledger: SqliteLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_lists, "LOOKED_THROUGH", 5)
    mine = await ledger.insert(new_job(1, details=JobDetails("dock")))
    for _ in range(20):
        await ledger.insert(new_job(2))
    assert await pages(ledger, 50, search="dock", user=1) == [[mine.id]]


async def test_every_transition_is_told_once_and_in_order(
    ledger: SqliteLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await ledger.insert(new_job())
    other = await ledger.insert(new_job())
    await walk(ledger, job, S.PROCESSING, S.SUBMITTED, S.RUNNING)
    await ledger.request_terminate(other.id)
    told, upto = await ledger.queries.changes_after(0)
    assert upto == await ledger.queries.newest_change()
    assert [(one.job.id, one.entry.target if one.entry else None) for one in told] == [
        (job.id, S.QUEUED),
        (other.id, S.QUEUED),
        (job.id, S.PROCESSING),
        (job.id, S.SUBMITTED),
        (job.id, S.RUNNING),
        (other.id, None),
    ]
    assert {one.job.status for one in told if one.job.id == job.id} == {S.RUNNING}
    monkeypatch.setattr(queries, "WINDOW", 2)
    again, after = [], 0
    while after < upto:
        some, after = await ledger.queries.changes_after(after)
        again += some
    assert again == told


async def test_who_fills_the_queue_is_known_without_counting(ledger: SqliteLedger) -> None:
    jobs = [await ledger.insert(new_job(user)) for user in (1, 1, 1, 2)]
    await ledger.insert(new_job(9, "other"))
    await walk(ledger, jobs[0], S.PROCESSING, S.SUBMITTED, S.RUNNING)
    wanted = [QueueShare("example", 1, 2, 1), QueueShare("example", 2, 1, 0)]
    assert await ledger.queries.queue_counts("example", 9) == wanted
    assert len(await ledger.queries.queue_counts(None, 2)) == 2
    assert await ledger.queries.queue_counts("example", 9, 1) == wanted[1:]
    back = await walk(ledger, jobs[1], S.PROCESSING, S.QUEUED)
    await walk(ledger, back, S.PROCESSING, S.SUBMITTED, S.COMPLETED, S.CLEANED)
    await walk(ledger, jobs[3], S.KILLED)
    wanted = [QueueShare("example", 1, 1, 1)]  # user 2 has nothing any more
    assert await ledger.queries.queue_counts("example", 9) == wanted


async def test_minutes_tell_what_happened_in_them(ledger: SqliteLedger, clock: SetClock) -> None:
    clock.time = 6000.0
    jobs = [await ledger.insert(new_job()) for _ in range(4)]
    clock.time = 6070.0
    going = await walk(ledger, jobs[0], S.PROCESSING)
    clock.time = 6090.0
    await walk(ledger, jobs[1], S.PROCESSING, S.SUBMITTED, S.FAILED)
    back = await walk(ledger, going, S.QUEUED)
    clock.time = 6130.0
    await walk(ledger, back, S.PROCESSING, S.SUBMITTED, S.COMPLETED)
    await walk(ledger, jobs[2], S.KILLED)
    first, second, third = await ledger.queries.activity(6001.0, 9e9, None)
    assert (first.at, first.submitted, first.begun) == (6000.0, 4, 0)
    # Its second leaving of the queue counts no more.
    assert (second.begun, second.wait_seconds, second.longest_wait, second.failed) == (2, 160.0, 90.0, 1)
    assert (third.begun, third.completed, third.killed) == (0, 1, 1)
    assert await ledger.queries.activity(6060.0, 9e9, "example") == [second, third]
    assert await ledger.queries.activity(0.0, 9e9, "other") == []


async def test_minutes_are_kept_in_number_and_survive_a_clock_that_jumped(
    ledger: SqliteLedger, clock: SetClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock.time = 6000.0
    await ledger.insert(new_job())
    clock.time = 6000.0 + 30 * 86400
    await ledger.insert(new_job(service="other"))
    clock.time = 6120.0
    await ledger.insert(new_job())
    found = await ledger.queries.activity(0.0, clock.time, None)
    assert [one.at for one in found] == [6000.0, 6120.0]
    for _ in range(KEPT):
        clock.time += 60.0
        await ledger.insert(new_job())
    found = await ledger.queries.activity(0.0, clock.time, None)
    # The one that is ahead is the newest of those that are kept.
    assert len(found) == KEPT - 1 and found[-1].at == clock.time


async def test_progress_is_the_current_attempts_alone(ledger: SqliteLedger) -> None:
    job = await walk(ledger, await ledger.insert(new_job()), S.PROCESSING, S.SUBMITTED, S.RUNNING)
    assert job.attempt is not None
    half = SetProgress(job.id, job.attempt.key, 0.5, "half")
    first, again, other = await ledger.record([half, half, SetProgress(job.id, "f" * 32, 0.9)])
    assert (first.outcome, again.outcome, other.outcome) == (
        ChangeResult.DONE,
        ChangeResult.STALE,
        ChangeResult.STALE,
    )
    assert first.job is not None
    assert (first.job.progress, first.job.progress_message) == (0.5, "half")
    assert first.job.change_seq > job.change_seq
    told, _ = await ledger.queries.changes_after(job.change_seq)
    assert [(one.entry, one.job.progress) for one in told] == [(None, 0.5)]
    stand = BatchStand("slurm", "4711", "PENDING", "Priority")
    (stood,) = await ledger.record([replace(half, batch=stand)])
    assert stood.job is not None and stood.job.batch == stand
    assert (await list_jobs(ledger))[0].batch == stand
    back = await walk(ledger, stood.job, S.QUEUED)
    assert (back.progress, back.progress_message, back.batch) == (None, "", None)


async def test_a_job_runs_since_its_attempt_was_first_seen_to(ledger: SqliteLedger, clock: SetClock) -> None:
    job = await walk(ledger, await ledger.insert(new_job()), S.PROCESSING, S.SUBMITTED)
    assert job.running_since is None
    clock.time = 5000.0
    job = await walk(ledger, job, S.RUNNING)
    clock.time = 5010.0
    locked = await walk(ledger, job, S.LOCKED)
    assert (job.running_since, locked.running_since) == (5000.0, 5000.0)
    other = await walk(ledger, await ledger.insert(new_job()), S.PROCESSING, S.SUBMITTED, S.RUNNING, S.QUEUED)
    assert other.running_since is None
