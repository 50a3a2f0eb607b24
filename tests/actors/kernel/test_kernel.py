"""The kernel: mailbox, doorbell, questions, supervisor, backoff. Under the mock clock."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from actors.kernel.actor import (
    MOST_LEFT,
    Actor,
    ActorError,
    Doorbell,
    Mailbox,
    NoAnswer,
    Question,
    Urgency,
    live,
)
from actors.kernel.backoff import Backoff
from actors.kernel.supervisor import GaveUp, Supervisor


class Total(Question[int]):
    """Asked of the Counter."""


class Glance(Question[int]):
    """Asked of the Counter, which has no work by it."""

    only_looks = True


class Time(Question[float]):
    """Asked of nobody."""


@dataclass
class Seen:
    """What the lives of a Counter leave behind."""

    lives: int = 0
    turns: list[float] = field(default_factory=list)
    busy: bool = False
    idle_for: frozenset[int] = frozenset()
    taken: frozenset[object] = frozenset()
    tick: float = 10.0
    takes_within: bool = False
    in_turn: trio.Event = field(default_factory=trio.Event)


class Counter(Actor):
    """Sums what it is told; crashes when told to; counts its turns."""

    def __init__(self, mailbox: Mailbox, nursery: trio.Nursery, *, seen: Seen) -> None:
        super().__init__(mailbox, nursery, tick=10.0)
        self.seen = seen
        self.seen.lives += 1
        self.total = 0

    def receive(self, message: object) -> None:
        if message == "crash":
            raise ZeroDivisionError("told to")
        if not isinstance(message, int):
            super().receive(message)
        else:
            self.total += message

    def judge_urgency(self, message: object) -> Urgency:
        if message in self.seen.taken:
            return Urgency.TAKING
        return Urgency.LATER if message in self.seen.idle_for else Urgency.TURN

    def answer(self, question: Question[object]) -> object:
        match question:
            case Total() | Glance():
                return self.total
            case _:
                return super().answer(question)

    async def turn(self) -> None:
        self.seen.turns.append(trio.current_time())
        self.tick = self.seen.tick
        self.seen.in_turn.set()
        if self.seen.takes_within:
            await trio.lowlevel.checkpoint()
            await trio.lowlevel.checkpoint()
            self.mailbox.take(self.receive, self.answer)
        if self.seen.busy:
            await trio.sleep_forever()


def counter(**seen: Any) -> tuple[Seen, Callable[[Mailbox, trio.Nursery], Counter]]:
    record = Seen(**seen)
    return record, partial(Counter, seen=record)


async def test_a_message_is_taken_at_once_and_a_tick_comes_without_one(autojump_clock: MockClock) -> None:
    box, (seen, make) = Mailbox("counter"), counter()
    async with trio.open_nursery() as nursery:
        start = trio.current_time()
        await nursery.start(live, box, make)
        box.tell(3)
        assert await box.ask(Total(), deadline=1.0) == 3
        assert trio.current_time() == start
        await trio.sleep(25.0)
        assert [round(t - start) for t in seen.turns][-2:] == [10, 20]
        nursery.cancel_scope.cancel()


async def test_what_is_left_is_taken_with_what_is_told_next(autojump_clock: MockClock) -> None:
    box, (seen, make) = Mailbox("counter"), counter()
    async with trio.open_nursery() as nursery:
        await nursery.start(live, box, make)
        await trio.sleep(1.0)
        turns = len(seen.turns)
        box.leave(3)
        await trio.sleep(1.0)
        assert (box.waiting, len(seen.turns)) == (1, turns)
        box.tell(4)
        assert await box.ask(Total(), deadline=1.0) == 7
        nursery.cancel_scope.cancel()


async def test_what_needs_no_turn_is_taken_with_the_next_one(autojump_clock: MockClock) -> None:
    box, (seen, make) = Mailbox("counter"), counter(idle_for=frozenset({3}))
    async with trio.open_nursery() as nursery:
        await nursery.start(live, box, make)
        await trio.sleep(1.0)
        turns = len(seen.turns)
        box.tell(3)
        await trio.sleep(1.0)
        assert (box.waiting, len(seen.turns)) == (1, turns)
        assert await box.ask(Glance(), deadline=1.0) == 3
        assert (box.waiting, len(seen.turns)) == (0, turns)
        box.tell(3)
        box.tell(4)
        await trio.testing.wait_all_tasks_blocked()
        assert (box.ask_now(Total()), len(seen.turns)) == (10, turns + 1)
        box.tell(3)
        await trio.sleep(11.0)
        assert (box.waiting, len(seen.turns)) == (0, turns + 2), "at the latest with a tick"
        for _ in range(MOST_LEFT):
            box.tell(3)
        await trio.testing.wait_all_tasks_blocked()
        assert box.waiting == MOST_LEFT
        box.tell(3)
        await trio.testing.wait_all_tasks_blocked()
        assert (box.waiting, len(seen.turns)) == (0, turns + 3)
        nursery.cancel_scope.cancel()


async def test_what_needs_taking_alone_is_taken_in_the_step_that_tells_it_unless_a_turn_is_under_way(
    autojump_clock: MockClock,
) -> None:
    box, (seen, make) = Mailbox("counter"), counter(taken=frozenset({5, "crash"}), idle_for=frozenset({3}))
    supervisor = Supervisor(random.Random(1))
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.keep, "counter", partial(live, box, make))
        await trio.testing.wait_all_tasks_blocked()
        turns = len(seen.turns)
        box.tell(3)
        box.tell(5)
        assert (box.waiting, box.ask_now(Total())) == (0, 8)
        await trio.testing.wait_all_tasks_blocked()
        assert len(seen.turns) == turns
        box.ring()
        box.tell(5)
        assert box.waiting == 1, "it has not acted on what came before"
        await trio.testing.wait_all_tasks_blocked()
        assert (box.ask_now(Total()), len(seen.turns)) == (13, turns + 1)
        box.tell("crash")
        await trio.sleep(1.0)
        assert (seen.lives, box.ask_now(Total())) == (2, 0), "it is its end, and not that of who told it"
        nursery.cancel_scope.cancel()


async def test_what_was_left_ends_the_life_that_crashes_by_it_and_not_who_asks(
    autojump_clock: MockClock,
) -> None:
    box, (seen, make) = Mailbox("counter"), counter()
    supervisor = Supervisor(random.Random(1))
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.keep, "counter", partial(live, box, make))
        await trio.testing.wait_all_tasks_blocked()
        box.leave("crash")
        assert box.ask_now(Total()) is None
        await trio.sleep(1.0)
        assert (seen.lives, box.ask_now(Total())) == (2, 0)
        nursery.cancel_scope.cancel()


async def test_mail_that_is_taken_within_a_turn_brings_no_other_and_a_ring_does(
    autojump_clock: MockClock,
) -> None:
    box, (seen, make) = Mailbox("counter"), counter(takes_within=True)
    async with trio.open_nursery() as nursery:
        await nursery.start(live, box, make)
        await trio.testing.wait_all_tasks_blocked()
        for ring, more in ((False, 1), (True, 2)):
            turns, seen.in_turn = len(seen.turns), trio.Event()
            box.ring()
            await seen.in_turn.wait()
            box.tell(1)
            if ring:
                box.ring()
            await trio.testing.wait_all_tasks_blocked()
            assert (box.waiting, len(seen.turns)) == (0, turns + more)
        nursery.cancel_scope.cancel()


async def test_the_tick_follows_the_last_turn_and_may_become_shorter(autojump_clock: MockClock) -> None:
    box, (seen, make) = Mailbox("counter"), counter()
    async with trio.open_nursery() as nursery:
        start = trio.current_time()
        await nursery.start(live, box, make)
        for _ in range(3):
            await trio.sleep(4.0)
            box.ring()
        await trio.sleep(11.0)
        seen.tick = 2.0
        box.ring()
        await trio.sleep(5.0)
        assert [round(at - start) for at in seen.turns] == [0, 4, 8, 12, 22, 23, 25, 27]
        nursery.cancel_scope.cancel()


async def test_a_full_mailbox_drops_the_message_and_rings_all_the_same(autojump_clock: MockClock) -> None:
    box, (_, make) = Mailbox("counter", size=2), counter()
    for _ in range(5):
        box.tell(1)
    assert box.dropped == 3
    async with trio.open_nursery() as nursery:
        await nursery.start(live, box, make)
        assert await box.ask(Total(), deadline=1.0) == 0  # an earlier life's mail is stale
        nursery.cancel_scope.cancel()


async def test_a_question_to_a_busy_actor_ends_at_its_deadline(autojump_clock: MockClock) -> None:
    box, (_, make) = Mailbox("counter"), counter(busy=True)
    async with trio.open_nursery() as nursery:
        await nursery.start(live, box, make)
        start = trio.current_time()
        with pytest.raises(NoAnswer, match="within 2 s"):
            await box.ask(Total(), deadline=2.0)
        assert trio.current_time() - start == 2.0
        nursery.cancel_scope.cancel()


async def test_who_only_looks_is_answered_without_a_turn_and_after_all_that_was_told() -> None:
    box, (seen, make) = Mailbox("counter"), counter()
    async with trio.open_nursery() as nursery:
        await nursery.start(live, box, make)
        await trio.testing.wait_all_tasks_blocked()
        turns = len(seen.turns)
        assert await box.ask(Glance(), deadline=1.0) == 0
        await trio.testing.wait_all_tasks_blocked()
        assert len(seen.turns) == turns
        box.tell(3)
        assert await box.ask(Glance(), deadline=1.0) == 3
        await box.ask(Total(), deadline=1.0)
        await trio.testing.wait_all_tasks_blocked()
        assert len(seen.turns) > turns + 1
        nursery.cancel_scope.cancel()
    box.tell(3)
    with pytest.raises(NoAnswer), trio.fail_after(5):
        await box.ask(Glance(), deadline=0.01)


async def test_only_who_waits_and_has_nothing_to_do_answers_now() -> None:
    box, (_, make) = Mailbox("counter"), counter()
    assert box.ask_now(Total()) is None, "nobody lives"
    async with trio.open_nursery() as nursery:
        await nursery.start(live, box, make)
        await trio.testing.wait_all_tasks_blocked()
        assert box.ask_now(Total()) == 0
        box.leave(3)
        assert (box.ask_now(Total()), box.waiting) == (3, 0), "it takes in what was left before"
        box.tell(4)
        assert box.ask_now(Total()) is None, "there is something that it has not acted on"
        await trio.testing.wait_all_tasks_blocked()
        assert box.ask_now(Total()) == 7
        box.ring()
        assert box.ask_now(Total()) is None, "it may have to act"
        nursery.cancel_scope.cancel()
    assert box.ask_now(Total()) is None


async def test_a_question_with_a_full_mailbox_is_refused_at_once() -> None:
    box = Mailbox("counter", size=1)
    box.tell(1)
    with pytest.raises(NoAnswer, match="too busy"):
        await box.ask(Total(), deadline=60.0)


async def test_an_unknown_question_is_the_askers_error_and_an_open_one_ends_with_the_life(
    autojump_clock: MockClock,
) -> None:
    box, (_, make) = Mailbox("counter"), counter()
    refused: list[str] = []

    async def ask() -> None:
        try:
            await box.ask(Total(), deadline=60.0)
        except NoAnswer as error:
            refused.append(str(error))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        await nursery.start(live, box, make)
        await trio.testing.wait_all_tasks_blocked()
        assert refused == ["counter was started anew; ask again"]
        with pytest.raises(ActorError, match="does not know"):
            await box.ask(Time(), deadline=1.0)
        nursery.cancel_scope.cancel()


async def test_a_crash_is_started_again_from_an_empty_state(autojump_clock: MockClock) -> None:
    box, (seen, make) = Mailbox("counter"), counter()
    supervisor = Supervisor(random.Random(1))
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.keep, "counter", partial(live, box, make))
        box.tell(5)
        await trio.sleep(1.0)
        box.tell("crash")
        await trio.sleep(1.0)
        assert seen.lives == 2
        assert await box.ask(Total(), deadline=1.0) == 0
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
    assert not bell.is_awaited
    bell.ring()
    with trio.fail_after(1.0):
        await bell.wait()


async def test_a_ring_wakes_all_who_wait(autojump_clock: MockClock) -> None:
    bell = Doorbell()
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(bell.wait)
        await trio.testing.wait_all_tasks_blocked()
        assert bell.is_awaited and not bell.rings
        bell.ring()


def test_backoff_grows_to_its_limit_and_is_jittered() -> None:
    backoff = Backoff(random.Random(3), first=1.0, most=8.0)
    delays = [backoff.next() for _ in range(50)]
    assert all(0.5 <= d <= 8.0 for d in delays)
    assert max(delays[:3]) <= 4.0
    assert len(set(delays[10:])) > 30
    backoff.reset()
    assert backoff.next() <= 1.0
