"""Who waits for a job's change is told of it, and of nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest
import trio
import trio.testing

from actors.domain.job import Job
from actors.domain.status import Status
from orchestrator.events.waiters import JobWaiters, TooManyWaiters, WaitersClosed

JOB = Job(1, 7, "example", Status.QUEUED, "", 5, 0.0, 0.0, "key")


async def test_a_change_wakes_those_who_wait_for_that_job(autojump_clock: trio.testing.MockClock) -> None:
    waiters = JobWaiters()
    seen: list[Job | None] = []

    async def wait(job_id: int, after: int) -> None:
        with waiters.watch(job_id) as watch, trio.move_on_after(60):
            seen.append(await watch.newer(after))
            return
        seen.append(None)

    newer = replace(JOB, change_seq=6)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait, 1, 5)
        nursery.start_soon(wait, 1, 0)
        nursery.start_soon(wait, 2, 0)
        nursery.start_soon(wait, 1, 6)
        await trio.testing.wait_all_tasks_blocked()
        waiters.publish(JOB)
        await trio.testing.wait_all_tasks_blocked()
        assert seen == [JOB]
        waiters.publish(newer)
        await trio.testing.wait_all_tasks_blocked()
        assert seen == [JOB, newer]
    assert seen == [JOB, newer, None, None]
    assert trio.current_time() == pytest.approx(60, abs=1e-3)


async def test_who_waits_for_an_end_is_not_woken_by_what_comes_before() -> None:
    waiters, seen, looked_at = JobWaiters(), list[Job](), list[int]()

    def is_over(job: Job) -> bool:
        looked_at.append(job.change_seq)
        return job.status is Status.FAILED

    async def wait() -> None:
        with waiters.watch(1) as watch:
            seen.append(await watch.newer(5, is_over))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        waiters.publish_all([JOB, replace(JOB, status=Status.FAILED)])
        waiters.publish(replace(JOB, change_seq=6))
        await trio.testing.wait_all_tasks_blocked()
        assert (seen, looked_at) == ([], [6]), "it was asked of what is no news, or its task was woken"
        waiters.publish(over := replace(JOB, change_seq=7, status=Status.FAILED))
    assert seen == [over]


async def test_what_is_published_after_the_watch_began_is_not_missed() -> None:
    waiters = JobWaiters()
    with waiters.watch(1) as watch:
        waiters.publish(replace(JOB, change_seq=7))
        waiters.publish(JOB)
        assert (await watch.newer(5)).change_seq == 7


async def test_no_more_wait_than_may() -> None:
    waiters = JobWaiters(most=2)
    with waiters.watch(1), waiters.watch(1), pytest.raises(TooManyWaiters), waiters.watch(2):
        raise AssertionError("too many")
    with waiters.watch(2):
        pass


async def test_closing_lets_everybody_go() -> None:
    waiters = JobWaiters()
    with waiters.watch(1) as watch:
        waiters.close()
        with pytest.raises(WaitersClosed):
            await watch.newer(0)
    with waiters.watch(1) as watch, pytest.raises(WaitersClosed):
        await watch.newer(0)
