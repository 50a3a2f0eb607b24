"""The CallbackSender under the mock clock, with many callbacks: who waits for whom, and who is left alone."""

from __future__ import annotations

import itertools

import pytest
import trio
from support.memory.callback_house import ENDED, URL, House, settled
from support.memory.memory_callbacks import REFUSED, TAKEN
from trio.testing import MockClock

from actors.callbacks.callback_sender import DAY
from actors.callbacks.delivery_queue import FEW, PLACES, PLACES_A_HOST, SICK_PLACES
from actors.ports.callbacks import Callback, CallbackStatus, PostAnswer, PostResult, subject_of


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
            tried_at = house.wall.jumped + house.receiver.times(note.subject)[note.tries - 1]
            assert note.next_at is not None and note.next_at > tried_at + 3599.9
    if number < 10:
        assert all(len(house.receiver.times(job_id)) >= FEW for job_id in range(number))
    else:
        untried = [job_id for job_id in range(number) if not house.receiver.times(job_id)]
        told = {house.ledger.tried[subject_of(job_id)].error for job_id in untried}
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
        house.mailbox.tell(ENDED)
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
        if int(callback.subject.id) < 1000:
            await trio.sleep(seconds)
            return answer
        await trio.sleep(0.1)
        return TAKEN

    house.receiver.behave = behave
    async with house.living():
        for job_id in range(200):
            house.ledger.end(job_id, bad.format(job_id), house.wall.now())
        house.mailbox.tell(ENDED)
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
