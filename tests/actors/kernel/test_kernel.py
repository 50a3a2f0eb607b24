"""The kernel: mailbox, doorbell, questions, supervisor, backoff. Under the mock clock."""

from __future__ import annotations

import itertools
import random

import pytest
import trio
from trio.testing import MockClock

from actors.kernel.actor import Actor, ActorError, Doorbell, NoAnswer
from actors.kernel.backoff import Backoff
from actors.kernel.supervisor import GaveUp, Supervisor


class Counter(Actor):
    """Sums what it is told; crashes when told to; counts its turns."""

    def __init__(self, mailbox: int = 4) -> None:
        super().__init__("counter", tick=10.0, mailbox=mailbox)
        self.lives = 0
        self.turns: list[float] = []
        self.busy = trio.Event()
        self.busy.set()

    async def begin(self, nursery: trio.Nursery) -> None:
        self.lives += 1
        self.total = 0

    def receive(self, message: object) -> None:
        if message == "crash":
            raise ZeroDivisionError("told to")
        if not isinstance(message, int):
            super().receive(message)
        else:
            self.total += message

    def answer(self, message: object) -> int:
        if message != "total":
            super().answer(message)
        return self.total

    async def turn(self) -> None:
        self.turns.append(trio.current_time())
        await self.busy.wait()


async def test_a_message_is_taken_at_once_and_a_tick_comes_without_one(autojump_clock: MockClock) -> None:
    actor = Counter()
    async with trio.open_nursery() as nursery:
        start = trio.current_time()
        await nursery.start(actor.run)
        actor.tell(3)
        assert await actor.ask("total", deadline=1.0) == 3
        assert trio.current_time() == start
        await trio.sleep(25.0)
        assert [round(t - start) for t in actor.turns][-2:] == [10, 20]
        nursery.cancel_scope.cancel()


async def test_a_full_mailbox_drops_the_message_and_rings_all_the_same(autojump_clock: MockClock) -> None:
    actor = Counter(mailbox=2)
    for _ in range(5):
        actor.tell(1)
    assert actor.dropped == 3
    async with trio.open_nursery() as nursery:
        await nursery.start(actor.run)
        assert await actor.ask("total", deadline=1.0) == 0  # an earlier life's mail is stale
        nursery.cancel_scope.cancel()


async def test_a_question_to_a_busy_actor_ends_at_its_deadline(autojump_clock: MockClock) -> None:
    actor = Counter()
    actor.busy = trio.Event()
    async with trio.open_nursery() as nursery:
        await nursery.start(actor.run)
        start = trio.current_time()
        with pytest.raises(NoAnswer, match="within 2 s"):
            await actor.ask("total", deadline=2.0)
        assert trio.current_time() - start == 2.0
        nursery.cancel_scope.cancel()


async def test_a_question_with_a_full_mailbox_is_refused_at_once() -> None:
    actor = Counter(mailbox=1)
    actor.tell(1)
    with pytest.raises(NoAnswer, match="too busy"):
        await actor.ask("total", deadline=60.0)


async def test_an_unknown_question_is_the_askers_error_and_an_open_one_ends_with_the_life(
    autojump_clock: MockClock,
) -> None:
    actor = Counter()
    refused: list[str] = []

    async def ask() -> None:
        try:
            await actor.ask("total", deadline=60.0)
        except NoAnswer as error:
            refused.append(str(error))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        await nursery.start(actor.run)
        await trio.testing.wait_all_tasks_blocked()
        assert refused == ["counter was started anew; ask again"]
        with pytest.raises(ActorError, match="does not know"):
            await actor.ask("the time", deadline=1.0)
        nursery.cancel_scope.cancel()


async def test_a_crash_is_started_again_from_an_empty_state(autojump_clock: MockClock) -> None:
    actor = Counter()
    supervisor = Supervisor(random.Random(1))
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.keep, "counter", actor.run)
        actor.tell(5)
        await trio.sleep(1.0)
        actor.tell("crash")
        await trio.sleep(1.0)
        assert actor.lives == 2
        assert await actor.ask("total", deadline=1.0) == 0
        nursery.cancel_scope.cancel()


async def test_what_keeps_crashing_ends_loudly_with_growing_delays(autojump_clock: MockClock) -> None:
    lives: list[float] = []

    async def life(*, task_status: trio.TaskStatus[None]) -> None:
        lives.append(trio.current_time())
        task_status.started()
        raise ValueError("again")

    supervisor = Supervisor(random.Random(1), give_up_after=5)
    with pytest.raises(ExceptionGroup) as caught:
        async with trio.open_nursery() as nursery:
            await nursery.start(supervisor.keep, "loser", life)
    (gave_up,) = caught.value.exceptions
    assert isinstance(gave_up, GaveUp)
    assert isinstance(gave_up.__cause__, ValueError)
    assert len(lives) == 5
    gaps = [b - a for a, b in itertools.pairwise(lives)]
    assert gaps == sorted(gaps)


async def test_a_calm_life_forgives_earlier_crashes(autojump_clock: MockClock) -> None:
    lives = 0

    async def life(*, task_status: trio.TaskStatus[None]) -> None:
        nonlocal lives
        lives += 1
        task_status.started()
        await trio.sleep(100.0)
        if lives == 20:
            return
        raise ValueError("after a long time")

    await Supervisor(random.Random(1), give_up_after=3).keep("old hand", life)
    assert lives == 20


async def test_a_doorbell_keeps_one_ring(autojump_clock: MockClock) -> None:
    bell = Doorbell()
    bell.ring()
    bell.ring()
    await bell.wait()
    with trio.move_on_after(1.0) as scope:
        await bell.wait()
    assert scope.cancelled_caught


def test_backoff_grows_to_its_limit_and_is_jittered() -> None:
    backoff = Backoff(random.Random(3), first=1.0, most=8.0)
    delays = [backoff.next() for _ in range(50)]
    assert all(0.5 <= d <= 8.0 for d in delays)
    assert max(delays[:3]) <= 4.0
    assert len(set(delays[10:])) > 30
    backoff.reset()
    assert backoff.next() <= 1.0
