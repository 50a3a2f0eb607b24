"""The CallbackSender under the mock clock: what is told, and how often."""

from __future__ import annotations

import itertools
from pathlib import Path

import trio
from support.data.ledgers import SetClock, new_job, open_ledger, walk
from support.memory.callback_house import URL, House, settled
from support.memory.memory_callbacks import REFUSED, TAKEN
from trio.testing import MockClock

from actors.callbacks.callback_sender import DAY, DELAYS
from actors.domain.changes import JobDetails
from actors.domain.job import Job
from actors.domain.status import Status
from actors.messages import CallbackWritten, Committed
from actors.ports.callbacks import Callback, CallbackStatus, PostAnswer, PostResult, Subject, subject_of


async def test_an_end_is_told_at_once_and_once(autojump_clock: MockClock) -> None:
    house = House()
    async with house.living():
        await trio.sleep(10)
        house.end(7)
        before = trio.current_time()
        await trio.sleep(1)
        assert house.receiver.times(7) == [before]
        await trio.sleep(2 * DAY)
        assert len(house.receiver.posts) == 1
        assert house.ledger.status(7) is CallbackStatus.DELIVERED


async def test_an_end_that_no_message_told_of_is_told_within_a_minute(autojump_clock: MockClock) -> None:
    house = House()
    async with house.living():
        await trio.sleep(100)
        house.ledger.end(7, URL, house.wall.now())
        await trio.sleep(61)
        assert house.ledger.status(7) is CallbackStatus.DELIVERED


async def test_a_batch_that_had_ended_when_it_was_ordered_is_told_at_once(autojump_clock: MockClock) -> None:
    house, batch = House(), Subject("batch", "0" * 16)
    async with house.living():
        await trio.sleep(10)
        house.ledger.end(batch, URL, house.wall.now())
        house.mailbox.tell(CallbackWritten())
        await trio.sleep(1)
        assert house.ledger.status(batch) is CallbackStatus.DELIVERED


async def test_an_end_whose_message_was_dropped_is_told_at_once(autojump_clock: MockClock) -> None:
    house = House()
    running = Committed((Job(1, 1, "example", Status.RUNNING, "", 1, 0.0, 0.0, "k"),))
    async with house.living():
        await trio.sleep(10)
        while not house.mailbox.dropped:
            house.mailbox.tell(running)
        house.end(7)
        await trio.sleep(1)
        assert house.ledger.status(7) is CallbackStatus.DELIVERED


async def test_without_callbacks_the_ledger_is_not_asked_more_than_once_a_minute(
    autojump_clock: MockClock,
) -> None:
    house = House()
    async with house.living():
        for _ in range(600):
            running = Job(1, 1, "example", Status.RUNNING, "", 1, 0.0, 0.0, "k")
            house.mailbox.tell(Committed((running,)))
            await trio.sleep(1)
        assert house.ledger.reads <= 11


async def test_a_day_of_failures_with_growing_delays_and_then_it_is_given_up(
    autojump_clock: MockClock,
) -> None:
    house = House()
    house.receiver.behave = lambda _: REFUSED
    async with house.living():
        house.end(7)
        began = trio.current_time()
        await trio.sleep(3 * DAY)
    times = house.receiver.times(7)
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    for gap, delay in zip(gaps[:-1], [*DELAYS, *([DELAYS[-1]] * 100)], strict=False):
        assert 0.8 * delay <= gap <= 1.2 * delay
    assert times[-1] == began + DAY
    assert 24 <= len(times) <= 36
    last = house.ledger.tried[subject_of(7)]
    assert last.status is CallbackStatus.GIVEN_UP and last.error == "HTTP 500" and last.tries == len(times)


async def test_one_that_wants_nothing_more_is_given_up_at_once(autojump_clock: MockClock) -> None:
    house = House()
    house.receiver.behave = lambda _: PostAnswer(PostResult.GONE, "HTTP 410")
    async with house.living():
        house.end(7)
        await trio.sleep(DAY)
    assert len(house.receiver.posts) == 1
    assert house.ledger.status(7) is CallbackStatus.GIVEN_UP


async def test_killed_between_the_post_and_its_record_it_is_sent_again_the_same(
    autojump_clock: MockClock,
) -> None:
    house = House()
    posted = trio.Event()

    async def never(_: Callback) -> PostAnswer:
        posted.set()
        await trio.sleep_forever()
        return TAKEN

    house.receiver.behave = never
    async with house.living():
        house.end(7)
        await posted.wait()
    assert house.ledger.notes == []
    house.receiver.behave = lambda _: TAKEN
    await house.crashes()
    async with house.living():
        await settled(house, 1)
    first, second = (callback for _, callback in house.receiver.posts)
    assert first == second


async def test_what_was_taken_is_recorded_although_the_server_stops(autojump_clock: MockClock) -> None:
    house = House()
    async with house.living():
        house.end(7)
        with trio.fail_after(30):
            while not house.receiver.posts or house.receiver.active:
                await trio.lowlevel.checkpoint()
    assert house.ledger.status(7) is CallbackStatus.DELIVERED


async def test_a_restart_goes_on_with_the_delays_where_they_were(autojump_clock: MockClock) -> None:
    house = House()
    house.receiver.behave = lambda _: REFUSED
    async with house.living():
        house.end(7)
        await trio.sleep(60)
    tries = len(house.receiver.posts)
    assert house.ledger.tried[subject_of(7)].tries == tries == 3
    await house.crashes()
    async with house.living():
        await trio.sleep(60)
        assert len(house.receiver.posts) == tries
        await trio.sleep(120)
        assert len(house.receiver.posts) == tries + 1


async def test_a_wall_clock_that_jumps_neither_floods_nor_stops(autojump_clock: MockClock) -> None:
    for jump in (10 * DAY, -10 * DAY):
        house = House()
        house.receiver.behave = lambda _: REFUSED
        async with house.living():
            house.end(*range(1, 6))
            await trio.sleep(30)
            before = len(house.receiver.posts)
            house.wall.jumped += jump
            await trio.sleep(60)
            assert len(house.receiver.posts) - before <= 5
            assert house.statuses() == {CallbackStatus.PENDING}
        # And over a restart: tried again within an hour, not given up by the first failure.
        await house.crashes()
        house.wall.jumped += jump
        async with house.living():
            before = len(house.receiver.posts)
            await trio.sleep(3000)
            assert house.statuses() == {CallbackStatus.PENDING}
            house.receiver.behave = lambda _: TAKEN
            await settled(house, 2 * DELAYS[-1])
            assert len(house.receiver.posts) - before <= 25


async def test_a_ledger_out_of_order_loses_nothing(autojump_clock: MockClock) -> None:
    house = House()
    async with house.living():
        house.end(1)
        await trio.sleep(1)
        house.ledger.broken = True
        house.end(2)
        await trio.sleep(100)
        assert len(house.receiver.posts) == 1
        house.ledger.broken = False
        await settled(house, 10)
        assert len(house.receiver.posts) == 2


async def test_a_record_that_fails_is_made_later_without_another_post(autojump_clock: MockClock) -> None:
    house = House()

    def behave(_: Callback) -> PostAnswer:
        house.ledger.broken = True
        return TAKEN

    house.receiver.behave = behave
    async with house.living():
        house.end(1)
        await trio.sleep(20)
        assert house.ledger.status(1) is CallbackStatus.PENDING
        house.ledger.broken = False
        await settled(house, 60)
    assert len(house.receiver.posts) == 1


async def test_a_defect_is_one_callbacks_own(autojump_clock: MockClock) -> None:
    house = House()

    def behave(callback: Callback) -> PostAnswer:
        if callback.subject == subject_of(1):
            raise ZeroDivisionError
        return TAKEN

    house.receiver.behave = behave
    async with house.living():
        house.end(1, 2)
        await trio.sleep(3)
        assert house.ledger.status(2) is CallbackStatus.DELIVERED
        assert "ZeroDivisionError" in (house.ledger.tried[subject_of(1)].error or "")


async def test_with_the_real_ledger_an_end_has_its_callback_and_no_other_job_has(tmp_path: Path) -> None:
    house = House()
    clock = SetClock()
    async with open_ledger(tmp_path / "db.sqlite", clock) as ledger:
        house.wall.jumped = clock.time - trio.current_time()
        told = await ledger.insert(new_job(details=JobDetails(callback_url=URL)))
        other = await ledger.insert(new_job())
        path = (Status.PROCESSING, Status.SUBMITTED, Status.RUNNING)
        told, other = await walk(ledger, told, *path), await walk(ledger, other, *path)
        assert await ledger.pending_callbacks(0) == []
        await walk(ledger, other, Status.COMPLETED)
        assert await ledger.pending_callbacks(0) == []
        await walk(ledger, told, Status.FAILED, Status.CLEANED)
        (pending,) = await ledger.pending_callbacks(0)
        assert (pending.subject, pending.url, pending.tries) == (subject_of(told.id), URL, 0)
        async with house.living(ledger):
            with trio.fail_after(30):
                while await ledger.pending_callbacks(0):
                    await trio.lowlevel.checkpoint()
        assert [callback for _, callback in house.receiver.posts] == [pending]
