"""The Caller under the mock clock: what is told, how often, and who waits for whom."""

from __future__ import annotations

import itertools
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from fakes.ledgers import SetClock, new_job, open_ledger, walk
from fakes.memory_callbacks import REFUSED, TAKEN, MemoryCallbacks, Receiver
from trio.testing import MockClock

from actors.callback_port import Callback, CallbackLedger, CallbackStatus, PostAnswer, PostResult
from actors.callback_turns import FEW, PLACES, PLACES_A_HOST, SICK_PLACES
from actors.caller import DAY, DELAYS, Caller
from actors.ledger_port import JobDetails
from actors.lifecycle import Status
from actors.messages import Committed
from actors.model import Job
from orchestrator.ledger_callbacks import SqliteCallbacks

URL = "https://portal.example/done"
ENDED = Committed((Job(1, 1, "example", Status.COMPLETED, "", 1, 0.0, 0.0, "k"),))


class Wall:
    """A wall clock that goes on with the mock clock, and can be made to jump."""

    def __init__(self) -> None:
        self.jumped = 1_700_000_000.0

    def now(self) -> float:
        return self.jumped + trio.current_time()


class House:
    def __init__(self) -> None:
        self.ledger = MemoryCallbacks()
        self.receiver = Receiver()
        self.wall = Wall()
        self.caller = self.new_caller()

    def new_caller(self, ledger: CallbackLedger | None = None) -> Caller:
        return Caller(
            ledger=ledger or self.ledger, poster=self.receiver, clock=self.wall, chance=random.Random(1)
        )

    def end(self, *job_ids: int, url: str = URL) -> None:
        for job_id in job_ids:
            self.ledger.end(job_id, url, self.wall.now())
        self.caller.tell(ENDED)

    @asynccontextmanager
    async def living(self) -> AsyncIterator[None]:
        """One life of the Caller; leaving it is its death."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self.caller.run)
            yield
            nursery.cancel_scope.cancel()

    async def crashes(self) -> None:
        """A new life, of which nothing but the ledger remembers the old one."""
        self.caller = self.new_caller()

    def statuses(self) -> set[CallbackStatus]:
        return {self.ledger.status(job_id) for job_id in self.ledger.rows}


async def settled(house: House, within: float) -> None:
    with trio.fail_after(within):
        while CallbackStatus.PENDING in house.statuses():
            await house.ledger.noted.wait()


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


async def test_an_end_whose_message_was_dropped_is_told_at_once(autojump_clock: MockClock) -> None:
    house = House()
    running = Committed((Job(1, 1, "example", Status.RUNNING, "", 1, 0.0, 0.0, "k"),))
    async with house.living():
        await trio.sleep(10)
        while not house.caller.dropped:
            house.caller.tell(running)
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
            house.caller.tell(Committed((running,)))
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
    last = house.ledger.tried[7]
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
        with trio.fail_after(10):
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
    assert house.ledger.tried[7].tries == tries == 3
    await house.crashes()
    async with house.living():
        await trio.sleep(60)
        assert len(house.receiver.posts) == tries
        await trio.sleep(120)
        assert len(house.receiver.posts) == tries + 1


async def test_a_receiver_that_asks_for_time_gets_it_within_bounds(autojump_clock: MockClock) -> None:
    for asked, least, most in ((100.0, 100, 101), (0.0, 4, 6), (1e9, 3600, 3601)):
        house = House()
        answers = [PostAnswer(PostResult.FAILED, "HTTP 503", asked), TAKEN]
        house.receiver.behave = lambda _, answers=answers: answers.pop(0)  # type: ignore[misc]
        async with house.living():
            house.end(7)
            await settled(house, 4000)
        first, second = house.receiver.times(7)
        assert least <= second - first <= most, asked


async def test_a_receiver_that_asks_for_time_gets_it_for_all_its_callbacks(autojump_clock: MockClock) -> None:
    house = House()
    answers = [PostAnswer(PostResult.FAILED, "HTTP 429", 100.0)]
    house.receiver.behave = lambda _: answers.pop() if answers else TAKEN
    async with house.living():
        house.end(1)
        await trio.sleep(1)
        house.end(2, url=f"{URL}?job=2")
        house.end(3, url="https://portal.example/other")
        house.end(4, url="https://other.example/done")
        await trio.sleep(1)
        assert house.receiver.times(2) == []
        assert len(house.receiver.times(3)) == len(house.receiver.times(4)) == 1
        await settled(house, 200)


@pytest.mark.parametrize("number", [1, 5, 200])
async def test_a_receiver_that_always_asks_for_time_gets_it_to_the_last_try(
    autojump_clock: MockClock, number: int
) -> None:
    house = House()
    house.receiver.behave = lambda _: PostAnswer(PostResult.FAILED, "HTTP 429", 3600.0)
    async with house.living():
        house.end(*range(number))
        began = trio.current_time()
        await trio.sleep(3 * DAY)
    times = [at for at, _ in house.receiver.posts]
    assert all(later - earlier > 3599.9 for earlier, later in itertools.pairwise(times))
    assert DAY <= times[-1] - began <= 2 * DAY + 3700
    assert house.statuses() == {CallbackStatus.GIVEN_UP}
    for note in house.ledger.notes:
        if note.status is CallbackStatus.PENDING:  # not sooner after a restart, either
            tried_at = house.wall.jumped + house.receiver.times(note.job_id)[note.tries - 1]
            assert note.next_at is not None and note.next_at > tried_at + 3599.9
    if number < 10:
        assert all(len(house.receiver.times(job_id)) >= FEW for job_id in range(number))
    else:
        untried = [job_id for job_id in range(number) if not house.receiver.times(job_id)]
        told = {house.ledger.tried[job_id].error for job_id in untried}
        assert told == {"its receiver asked to be left alone"}


async def test_a_rest_gives_nothing_up_before_its_day_is_over(autojump_clock: MockClock) -> None:
    house = House()
    answers = [PostAnswer(PostResult.FAILED, "HTTP 429", 3600.0) for _ in range(20)]
    house.receiver.behave = lambda _: answers.pop() if answers else TAKEN
    async with house.living():
        house.end(*range(200))
        await settled(house, DAY)
    assert house.statuses() == {CallbackStatus.DELIVERED}


SILENT = PostAnswer(PostResult.FAILED, "no answer")
DEAD = PostAnswer(PostResult.FAILED, "no connection", connected=False)


@pytest.mark.parametrize("path", ["", "{0}", "done?job={0}"])
@pytest.mark.parametrize("answer", [SILENT, DEAD, TAKEN])
async def test_dead_and_slow_hosts_delay_nobody_else(
    autojump_clock: MockClock, answer: PostAnswer, path: str
) -> None:
    """Many of them, each with many callbacks, of one URL or of many: once they are known, the others are told
    at once."""
    house = House()

    async def behave(callback: Callback) -> PostAnswer:
        if "dead" not in callback.url:
            return TAKEN
        await trio.sleep(29)
        return answer

    house.receiver.behave = behave
    async with house.living():
        number = 0
        for host in range(3 * PLACES):
            for _ in range(5):
                number += 1
                url = f"https://dead{host}.example/{path.format(number)}"
                house.ledger.end(number, url, house.wall.now())
        house.caller.tell(ENDED)
        await trio.sleep(30 * 3)  # each was tried once
        assert house.receiver.active == SICK_PLACES
        for job_id in range(10_000, 10_050):
            before = trio.current_time()
            house.end(job_id, url=f"https://well{job_id % 3}.example/")
            await trio.sleep(0.5)
            assert house.receiver.times(job_id) == [before]


@pytest.mark.parametrize(
    ("bad", "seconds", "answer"),
    [
        ("https://portal.example:8443/done", 30.0, SILENT),
        ("https://portal.example:8443/done?job={0}", 10.0, DEAD),
        ("https://portal.example/slow", 6.0, TAKEN),
        ("https://portal.example/slow?job={0}", 30.0, SILENT),
        ("https://portal.example/busy", 0.1, PostAnswer(PostResult.FAILED, "HTTP 429", 3600.0)),
        ("https://portal.example/{0}", 0.1, REFUSED),
    ],
)
async def test_one_bad_url_of_a_host_does_not_delay_another(
    autojump_clock: MockClock, bad: str, seconds: float, answer: PostAnswer
) -> None:
    house = House()

    async def behave(callback: Callback) -> PostAnswer:
        if callback.job_id < 1000:
            await trio.sleep(seconds)
            return answer
        await trio.sleep(0.1)
        return TAKEN

    house.receiver.behave = behave
    async with house.living():
        for job_id in range(200):
            house.ledger.end(job_id, bad.format(job_id), house.wall.now())
        house.caller.tell(ENDED)
        await trio.sleep(60)
        house.end(*range(1000, 1010))
        await trio.sleep(35)
        assert {house.ledger.status(job_id) for job_id in range(1000, 1010)} == {CallbackStatus.DELIVERED}


async def test_a_few_hosts_that_nobody_knew_to_be_dead_delay_nobody_else(
    autojump_clock: MockClock,
) -> None:
    house = House()

    async def behave(callback: Callback) -> PostAnswer:
        if "dead" in callback.url:
            await trio.sleep(30)
        return TAKEN

    house.receiver.behave = behave
    async with house.living():
        for host in range(PLACES - 1):
            house.end(*range(100 * host, 100 * host + 50), url=f"https://dead{host}.example/")
        await trio.sleep(1)
        before = trio.current_time()
        house.end(10_000)
        await trio.sleep(1)
        assert house.receiver.times(10_000) == [before]


async def test_one_busy_host_takes_a_few_places_only(autojump_clock: MockClock) -> None:
    house = House()

    async def behave(callback: Callback) -> PostAnswer:
        if "slow" in callback.url:
            await trio.sleep(4)
        return TAKEN

    house.receiver.behave = behave
    async with house.living():
        house.end(*range(1, 200), url="https://slow.example/")
        await trio.sleep(5)
        assert house.receiver.active == PLACES_A_HOST
        house.end(*range(200, 300))
        await trio.sleep(1)
        assert all(len(house.receiver.times(job_id)) == 1 for job_id in range(200, 300))
        await settled(house, 60 * 4)


async def test_a_restart_with_a_thousand_pending_is_bounded_and_tells_all(autojump_clock: MockClock) -> None:
    house = House()
    for job_id in range(1, 1201):
        house.ledger.end(job_id, f"https://h{job_id % 100}.example/", house.wall.now())

    async def behave(_: Callback) -> PostAnswer:
        await trio.sleep(0.1)
        return TAKEN

    house.receiver.behave = behave
    async with house.living():
        await settled(house, 60)
    assert house.receiver.most_active == PLACES
    assert len(house.receiver.posts) == 1200


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
        if callback.job_id == 1:
            raise ZeroDivisionError
        return TAKEN

    house.receiver.behave = behave
    async with house.living():
        house.end(1, 2)
        await trio.sleep(3)
        assert house.ledger.status(2) is CallbackStatus.DELIVERED
        assert "ZeroDivisionError" in (house.ledger.tried[1].error or "")


async def test_with_the_real_ledger_an_end_has_its_callback_and_no_other_job_has(tmp_path: Path) -> None:
    house = House()
    clock = SetClock()
    async with open_ledger(tmp_path / "db.sqlite", clock) as ledger:
        callbacks = SqliteCallbacks(ledger)
        house.caller = house.new_caller(callbacks)
        house.wall.jumped = clock.time - trio.current_time()
        told = await ledger.insert(new_job(details=JobDetails(callback_url=URL)))
        other = await ledger.insert(new_job())
        path = (Status.PROCESSING, Status.SUBMITTED, Status.RUNNING)
        told, other = await walk(ledger, told, *path), await walk(ledger, other, *path)
        assert await callbacks.pending(0) == []
        await walk(ledger, other, Status.COMPLETED)
        assert await callbacks.pending(0) == []
        await walk(ledger, told, Status.FAILED, Status.CLEANED)
        (pending,) = await callbacks.pending(0)
        assert (pending.job_id, pending.url, pending.tries) == (told.id, URL, 0)
        async with house.living():
            with trio.fail_after(30):
                while await callbacks.pending(0):
                    await trio.lowlevel.checkpoint()
        assert [callback for _, callback in house.receiver.posts] == [pending]
