"""What was used, by month, user and service: each end counts once, in its own commit, and for ever."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from support.data.ledgers import SetClock, by_owner, new_job, walk

from actors.domain.changes import ChangeResult, MoveAttempt, RecordEnd
from actors.domain.job import AttemptState, End, Job
from actors.domain.status import Status
from orchestrator.ledger.ledger import SqliteLedger
from orchestrator.ledger.tables.usage import Usage, UsageFilter

S = Status
ALL = UsageFilter()


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


@pytest.fixture
def clock() -> SetClock:
    return SetClock(at("2026-11-30T23:59:59"))


async def running(ledger: SqliteLedger, user: int = 7, service: str = "example") -> Job:
    job = await ledger.insert(new_job(user, service, size=100))
    return await walk(ledger, job, S.PROCESSING, S.SUBMITTED, S.RUNNING)


def ended(status: Status = S.COMPLETED, **figures: float) -> End:
    values = {"wall_seconds": 10.0, "cpu_seconds": 4.0, "peak_bytes": 1000, "size": 7} | figures
    return End(status, "", 0, **values)  # type: ignore[arg-type]  # figures of any kind


async def tell(ledger: SqliteLedger, job: Job, end: End) -> Job:
    assert job.attempt is not None
    (answer,) = await ledger.record([RecordEnd(job.id, job.attempt.key, end)])
    assert answer.outcome is ChangeResult.DONE and answer.job is not None
    return answer.job


async def test_each_end_counts_in_its_month_by_user_and_service(
    ledger: SqliteLedger, clock: SetClock
) -> None:
    for status in (S.COMPLETED, S.COMPLETED, S.FAILED, S.INVALID):
        await walk(ledger, await tell(ledger, await running(ledger), ended(status)), status)
    await walk(ledger, await ledger.insert(new_job(7, size=50)), S.KILLED)
    await walk(ledger, await tell(ledger, await running(ledger, 8), ended()), S.COMPLETED)
    late = await tell(ledger, await running(ledger, service="other"), ended())
    clock.time += 1
    await walk(ledger, late, S.COMPLETED)
    assert await ledger.queries.usage(ALL) == [
        Usage("2026-11", 7, "example", 5, 2, 1, 1, 1, 40.0, 16.0, 40_000.0, 450, 28),
        Usage("2026-11", 8, "example", 1, 1, 0, 0, 0, 10.0, 4.0, 10_000.0, 100, 7),
        Usage("2026-12", 7, "other", 1, 1, 0, 0, 0, 10.0, 4.0, 10_000.0, 100, 7),
    ]


async def test_an_end_that_is_told_again_counts_once_and_cleaning_takes_nothing_back(
    ledger: SqliteLedger,
) -> None:
    job = await tell(ledger, await running(ledger), ended())
    assert await ledger.queries.usage(ALL) == [], "its results are not here yet"
    end = by_owner(job.id, S.RUNNING, S.COMPLETED, "")
    answers = await ledger.record(
        [end, end, RecordEnd(job.id, str(job.attempt and job.attempt.key), ended())]
    )
    assert [answer.outcome for answer in answers] == [
        *(ChangeResult.DONE, ChangeResult.STALE, ChangeResult.STALE)
    ]
    (used,) = await ledger.queries.usage(ALL)
    assert (used.jobs, used.wall_seconds, used.bytes_in) == (1, 10.0, 100)
    assert answers[0].job is not None
    await walk(ledger, answers[0].job, S.CLEANED)
    assert await ledger.queries.usage(ALL) == [used]


async def test_an_attempt_that_is_run_again_counts_what_it_used_and_no_job(
    ledger: SqliteLedger,
) -> None:
    job = await tell(ledger, await running(ledger), ended())
    job = await walk(ledger, job, S.QUEUED)
    lost = Usage("2026-11", 7, "example", 0, 0, 0, 0, 0, 10.0, 4.0, 10_000.0, 0, 0)
    assert await ledger.queries.usage(ALL) == [lost]
    (attempt,) = await ledger.attempts(job.id)
    await ledger.record([MoveAttempt(attempt.key, AttemptState.RELEASED)])
    job = await walk(ledger, job, S.PROCESSING, S.SUBMITTED, S.RUNNING)
    job = await walk(ledger, job, S.QUEUED)
    assert await ledger.queries.usage(ALL) == [lost], "nothing is known of what it used"
    (_, attempt) = await ledger.attempts(job.id)
    await ledger.record([MoveAttempt(attempt.key, AttemptState.RELEASED)])
    job = await walk(ledger, job, S.PROCESSING, S.SUBMITTED, S.RUNNING)
    await walk(ledger, await tell(ledger, job, ended()), S.COMPLETED)
    assert await ledger.queries.usage(ALL) == [
        Usage("2026-11", 7, "example", 1, 1, 0, 0, 0, 20.0, 8.0, 20_000.0, 100, 7)
    ]


async def test_many_ends_of_one_commit_are_all_counted_and_one_that_fails_is_not(
    ledger: SqliteLedger,
) -> None:
    jobs = [await running(ledger) for _ in range(3)]
    ends = [by_owner(job.id, S.RUNNING, S.COMPLETED, "", end=ended()) for job in jobs]
    bad = by_owner(jobs[0].id, S.RUNNING, S.QUEUED, "")
    answers = await ledger.record([*ends, bad])
    assert answers[-1].outcome is ChangeResult.STALE
    (used,) = await ledger.queries.usage(ALL)
    assert (used.jobs, used.completed, used.cpu_seconds, used.bytes_out) == (3, 3, 12.0, 21)


async def test_no_figure_of_a_node_spoils_a_sum(ledger: SqliteLedger) -> None:
    for wall in (-5.0, 1e300, 1e300):
        end = ended(wall_seconds=wall, cpu_seconds=wall, peak_bytes=2**70, size=2**70)
        await walk(ledger, await tell(ledger, await running(ledger), end), S.COMPLETED)
    (used,) = await ledger.queries.usage(ALL)
    assert (used.jobs, used.wall_seconds, used.cpu_seconds) == (3, 2e12, 2e12)
    assert (used.memory_byte_seconds, used.bytes_out) == (2e12 * 2**50, 3 * 2**50)


async def test_rows_are_narrowed_and_told_in_pages(ledger: SqliteLedger, clock: SetClock) -> None:
    for when in ("2026-11-05", "2026-12-31", "2027-01-01"):
        clock.time = at(f"{when}T12:00:00")
        for user, service in ((7, "a"), (7, "b"), (8, "a")):
            await walk(ledger, await ledger.insert(new_job(user, service)), S.KILLED)

    async def told(wanted: UsageFilter) -> list[tuple[str, int, str]]:
        return [(one.month, one.user_id, one.service) for one in await ledger.queries.usage(wanted)]

    whole = await told(ALL)
    assert len(whole) == 9 and whole == sorted(whole)
    assert await told(UsageFilter("2026-12", "2026-12")) == whole[3:6]
    assert await told(UsageFilter(user=8, service="a")) == [whole[2], whole[5], whole[8]]
    assert await told(UsageFilter(first="2027-01", services=frozenset({"b", "c"}))) == [whole[7]]
    paged = []
    after = None
    while page := await ledger.queries.usage(ALL, after, 4):
        after = (page[-1].month, page[-1].user_id, page[-1].service)
        paged += [(one.month, one.user_id, one.service) for one in page]
        assert len(page) <= 4
    assert paged == whole
