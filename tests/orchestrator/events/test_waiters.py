"""Who waits for a job's change is told of it, and of nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest
import trio
import trio.testing

from actors.domain.job import Job
from actors.domain.status import Status
from orchestrator.events.waiters import Feed, FeedClosed, FeedFull

JOB = Job(1, 7, "example", Status.QUEUED, "", 5, 0.0, 0.0, "key")


async def test_a_change_wakes_those_who_wait_for_that_job(autojump_clock: trio.testing.MockClock) -> None:
    feed = Feed()
    seen: list[Job | None] = []

    async def wait(job_id: int, after: int) -> None:
        with feed.watch(job_id) as watch, trio.move_on_after(60):
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
        feed.publish(JOB)
        await trio.testing.wait_all_tasks_blocked()
        assert seen == [JOB]
        feed.publish(newer)
        await trio.testing.wait_all_tasks_blocked()
        assert seen == [JOB, newer]
    assert seen == [JOB, newer, None, None]
    assert trio.current_time() == pytest.approx(60, abs=1e-3)


async def test_what_is_published_after_the_watch_began_is_not_missed() -> None:
    feed = Feed()
    with feed.watch(1) as watch:
        feed.publish(replace(JOB, change_seq=7))
        feed.publish(JOB)
        assert (await watch.newer(5)).change_seq == 7


async def test_no_more_wait_than_may() -> None:
    feed = Feed(most=2)
    with feed.watch(1), feed.watch(1), pytest.raises(FeedFull), feed.watch(2):
        raise AssertionError("too many")
    with feed.watch(2):
        pass


async def test_closing_lets_everybody_go() -> None:
    feed = Feed()
    with feed.watch(1) as watch:
        feed.close()
        with pytest.raises(FeedClosed):
            await watch.newer(0)
    with feed.watch(1) as watch, pytest.raises(FeedClosed):
        await watch.newer(0)
