"""A row that the ledger keeps in memory is never older than what somebody was told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import trio
import trio.testing
from support.data.ledgers import by_owner, new_job, one_commit, open_ledger, walk

from actors.domain.changes import ChangeResult, JobDetails, MoveAttempt, SetMessage
from actors.domain.job import AttemptState, Job
from actors.domain.status import Status
from orchestrator.ledger.ledger import SqliteLedger
from orchestrator.ledger.queries import Queries
from orchestrator.ledger.recent import Recent
from orchestrator.ledger.recent_jobs import MOST_NAMES, RecentJobs

S = Status
FIRST = Job(1, 7, "example", S.QUEUED, "", 1, 0.0, 0.0, "key")
SECOND = replace(FIRST, status=S.PROCESSING, change_seq=2)


def forgotten(recent: RecentJobs) -> None:
    recent.committed([replace(FIRST, status=S.CLEANED, change_seq=3)])


def moved(recent: RecentJobs) -> None:
    recent.put(1, None)


async def test_what_was_read_is_kept() -> None:
    recent = RecentJobs()

    async def read() -> Job:
        return FIRST

    assert await recent.read(1, read) is FIRST
    assert recent.get(1) is FIRST


@pytest.mark.parametrize("others", [0, 1])
@pytest.mark.parametrize("change", [forgotten, moved])
async def test_what_changed_while_it_was_read_is_not_kept(others: int, change: object) -> None:
    """However many read it, and though the newer row has made room for others meanwhile."""
    recent, begun, go = RecentJobs(most=1), trio.Semaphore(0), trio.Event()

    async def read() -> Job:
        begun.release()
        await go.wait()
        return FIRST

    async with trio.open_nursery() as nursery:
        for _ in range(1 + others):
            nursery.start_soon(recent.read, 1, read)
            await begun.acquire()
        assert callable(change)
        change(recent)
        recent.committed([SECOND])
        recent.committed([replace(FIRST, id=2, change_seq=4)])
        go.set()
    assert recent.get(1) is None


async def test_a_reading_that_fails_or_is_given_up_leaves_nothing() -> None:
    recent = RecentJobs()

    async def fail() -> Job:
        raise OSError

    with pytest.raises(OSError):
        await recent.read(1, fail)
    with trio.move_on_after(0):
        await recent.read(1, trio.sleep_forever)
    assert recent.get(1) is None
    assert not vars(recent)["_unchanged"]


def test_the_one_that_was_not_asked_for_goes_first() -> None:
    recent: Recent[int, str] = Recent(2)
    recent.put(1, "a")
    recent.put(2, "b")
    assert recent.get(1) == "a"
    recent.put(3, "c")
    assert [recent.get(number) for number in (1, 2, 3)] == ["a", None, "c"]


async def fresh(ledger: SqliteLedger) -> dict[int, Job]:
    return {job.id: job for job in await ledger.changes(0)}


async def test_every_change_of_a_job_is_seen(tmp_path: Path) -> None:
    async with open_ledger(tmp_path / "db.sqlite") as ledger:
        job = await ledger.insert(new_job())
        for target in (S.PROCESSING, S.SUBMITTED, S.RUNNING, S.FAILED):
            job = await walk(ledger, job, target)
            assert await ledger.get(job.id) == (await fresh(ledger))[job.id]
        assert job.attempt is not None
        for state in (AttemptState.OVER, AttemptState.RELEASED):
            await ledger.record([MoveAttempt(job.attempt.key, state)])
            assert await ledger.get(job.id) == (await fresh(ledger))[job.id]
        await walk(ledger, job, S.CLEANED)
        assert await ledger.get(job.id) == (await fresh(ledger))[job.id]
        assert await ledger.purge(2e9, 10) == 1
        assert await ledger.get(job.id) is None


async def test_the_row_of_a_job_whose_node_was_told_to_let_go_is_not_read_again(tmp_path: Path) -> None:
    """Most jobs are asked for just after that."""
    async with open_ledger(tmp_path / "db.sqlite") as ledger:
        job = await walk(ledger, await ledger.insert(new_job()), *(S.PROCESSING, S.SUBMITTED, S.FAILED))
        assert job.attempt is not None
        await ledger.record([MoveAttempt(job.attempt.key, AttemptState.RELEASED)])
        kept = vars(ledger)["_recent"].get(job.id)
        assert kept == (await fresh(ledger))[job.id] and kept.attempt.state is AttemptState.RELEASED


async def test_an_attempt_of_before_leaves_the_row_as_it_is(tmp_path: Path) -> None:
    async with open_ledger(tmp_path / "db.sqlite") as ledger:
        job = await walk(ledger, await ledger.insert(new_job()), S.PROCESSING)
        assert job.attempt is not None
        await walk(ledger, job, *(S.QUEUED, S.PROCESSING))
        await ledger.record([MoveAttempt(job.attempt.key, AttemptState.RELEASED)])
        assert await ledger.get(job.id) == (await fresh(ledger))[job.id]


async def test_a_row_is_as_it_was_committed_though_another_of_its_batch_failed(tmp_path: Path) -> None:
    async with open_ledger(tmp_path / "db.sqlite") as ledger:
        job = await walk(ledger, await ledger.insert(new_job()), *(S.PROCESSING, S.SUBMITTED))
        assert job.attempt is not None
        key, writer = job.attempt.key, vars(ledger)["_writer"]

        async def fail() -> None:
            with pytest.raises(OSError):
                await writer.write(lambda batch: (tmp_path / "none").read_bytes())

        async with one_commit(writer) as nursery:
            changes = [SetMessage(job.id, key, "nearly over"), MoveAttempt(key, AttemptState.OVER)]
            nursery.start_soon(ledger.record, changes)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(fail)
        assert await ledger.get(job.id) == (await fresh(ledger))[job.id]


def other_reader(ledger: SqliteLedger) -> Queries:
    """One that has read nothing yet."""
    return Queries(vars(ledger)["_reader"])


async def test_details_are_read_once_where_they_are_small(tmp_path: Path) -> None:
    async with open_ledger(tmp_path / "db.sqlite") as ledger:
        names = [tuple(f"f{n}" for n in range(count)) for count in (1, MOST_NAMES + 1)]
        jobs = [await ledger.insert(new_job(details=JobDetails(input_names=some))) for some in names]
        for _ in range(2):
            found = await ledger.queries.details([job.id for job in jobs])
            assert [found[job.id].input_names for job in jobs] == names
        found = await ledger.queries.details([99])
        assert found == {}


async def test_details_of_a_job_that_was_just_stored_are_those_that_would_be_read(tmp_path: Path) -> None:
    given = JobDetails("a name", ("one", "two"), None, {"gpu": "yes"}, 7, ("run.sh",), ("colour",))
    async with open_ledger(tmp_path / "db.sqlite") as ledger:
        job = await ledger.insert(new_job(details=given))
        kept = vars(ledger.queries)["_details"].get(job.id)
        assert kept is given and kept == (await other_reader(ledger).details([job.id]))[job.id]


async def test_small_inputs_are_here_once_their_job_is_told(tmp_path: Path) -> None:
    """Its Sender asks for them in that step."""
    kept: list[bytes | None] = []
    told: list[SqliteLedger] = []

    def look(jobs: Sequence[Job]) -> None:
        kept.extend(vars(told[0])["_recent_files"].get((job.storage_key, "input")) for job in jobs)

    async with open_ledger(tmp_path / "db.sqlite", committed=look) as ledger:
        told.append(ledger)
        await ledger.insert(new_job(files=b"packed"))
        await ledger.insert(new_job())
    assert kept == [b"packed", None]


async def test_small_results_are_here_once_their_end_is_told(tmp_path: Path) -> None:
    """Who waits for it asks for them at once; what failed has left none."""
    kept: list[bytes | None] = []
    told: list[SqliteLedger] = []

    def look(jobs: Sequence[Job]) -> None:
        files = vars(told[0])["_recent_files"]
        kept.extend(files.get((job.storage_key, "result")) for job in jobs if job.status is S.COMPLETED)

    def hear(jobs: Sequence[Job]) -> None:
        if told:
            look(jobs)

    async with open_ledger(tmp_path / "db.sqlite", committed=hear) as ledger:
        jobs = [await ledger.insert(new_job()) for _ in range(2)]
        good, bad = [await walk(ledger, job, S.PROCESSING, S.SUBMITTED) for job in jobs]
        told.append(ledger)
        answers = await ledger.record(
            [
                by_owner(job.id, source, S.COMPLETED, "", job.attempt and job.attempt.key, results=b"packed")
                for job, source in ((bad, S.RUNNING), (good, S.SUBMITTED))
            ]
        )
        assert [one.outcome for one in answers] == [ChangeResult.STALE, ChangeResult.DONE]
        assert kept == [b"packed"]
        assert vars(ledger)["_recent_files"].get((bad.storage_key, "result")) is None
