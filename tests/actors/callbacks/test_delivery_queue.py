"""Turns under many kinds of weather: its bounds hold, and nobody waits for ever."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from actors.callbacks.delivery_queue import (
    PLACES,
    PLACES_A_HOST,
    SICK_PLACES,
    Delivery,
    DeliveryQueue,
    PendingCallback,
)
from actors.ports.callbacks import Callback, PostAnswer, PostResult, subject_of

TAKEN = PostAnswer(PostResult.DELIVERED)
ANSWERS = (
    TAKEN,
    PostAnswer(PostResult.FAILED, "HTTP 500"),
    PostAnswer(PostResult.FAILED, "HTTP 429", 50.0),
    PostAnswer(PostResult.FAILED, "no connection", connected=False),
)


def pending(seq: int, url: str, due: float = 0.0) -> PendingCallback:
    return PendingCallback(due, seq, Callback(seq, subject_of(seq), url, 0.0, 0.0), 1e9, 1e9, 0)


@pytest.mark.parametrize("seed", range(20))
def test_the_bounds_hold_and_each_has_its_turn(seed: int) -> None:
    rng, turns, now = random.Random(seed), DeliveryQueue(), 0.0
    hosts = [f"https://h{number}.example" for number in range(rng.choice([1, 5, 60]))]
    left = 600
    for seq in range(left):
        url = f"{rng.choice(hosts)}/{rng.randrange(8)}?{seq}"
        turns.add(pending(seq, url, rng.choice([0.0, rng.random() * 50])), now)
    active: list[tuple[float, Delivery]] = []
    while left:
        for delivery in turns.begin(now):
            assert delivery.pending.due <= now and delivery.receiver.rests_until <= now
            active.append((rng.choice([0.1, 4.0, 30.0]), delivery))
        assert len(active) <= PLACES and sum(delivery.ailing for _, delivery in active) <= SICK_PLACES
        of_host = Counter(delivery.receiver.key.rpartition("/")[0] for _, delivery in active)
        assert not of_host or max(of_host.values()) <= PLACES_A_HOST
        if not active:
            assert turns.next_alarm is not None and turns.next_alarm > now, "somebody waits for ever"
            now = turns.next_alarm
            continue
        took, delivery = active.pop(rng.randrange(len(active)))
        now += rng.random() * took
        answer = rng.choice(ANSWERS)
        turns.learn(delivery, answer, took)
        if answer.retry_after is not None:
            turns.rest(delivery.receiver, now + answer.retry_after, now)
        delivery.pending.due = now + 5.0
        turns.end(delivery, now, again=answer is not TAKEN)
        left -= answer is TAKEN
    assert not turns.kept, "what is kept grows with the URLs that were ever told"


def test_the_sick_of_a_host_have_half_of_its_places_and_the_others_the_rest() -> None:
    turns = DeliveryQueue()

    def first_tries(paths: range, took: float, next_at: float) -> None:
        for path in paths:
            turns.add(pending(path, f"https://a.example/{path}"), 0.0)
            (delivery,) = turns.begin(0.0)
            turns.learn(delivery, TAKEN, took)
            delivery.pending.due = next_at
            turns.end(delivery, 0.0, again=True)

    first_tries(range(6), 9.0, next_at=1.0)
    first_tries(range(6, 12), 0.1, next_at=2.0)
    assert [delivery.pending.seq < 6 for delivery in turns.begin(1.0)] == [True] * (PLACES_A_HOST // 2)
    assert [delivery.pending.seq < 6 for delivery in turns.begin(2.0)] == [False] * (PLACES_A_HOST // 2)


def test_who_is_told_to_rest_while_it_stands_in_line_lets_the_next_one_go() -> None:
    turns = DeliveryQueue()
    turns.add(pending(1, "https://a.example/a"), 0.0)
    (delivery,) = turns.begin(0.0)
    turns.learn(delivery, ANSWERS[-1], 0.1)
    delivery.pending.due = 1.0
    turns.end(delivery, 0.0, again=True)
    turns.add(pending(2, "https://a.example/a"), 0.0)
    turns.add(pending(3, "https://a.example/b"), 0.0)
    turns.rest(delivery.receiver, 100.0, 0.0)
    assert [delivery.pending.seq for delivery in turns.begin(0.0)] == [3]
