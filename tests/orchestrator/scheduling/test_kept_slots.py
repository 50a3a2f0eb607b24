"""Slots that are kept for services: no other gets them, nothing else waits for them, and everybody has a
turn. Against a model that gives out single slots."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.domain.job import Job
from actors.domain.node import Heartbeat, NodeAddress, NodeRef
from actors.domain.service import ServiceLimits, WaitReason
from actors.domain.status import Status
from orchestrator.scheduling.kept_slots import KeptSlots
from orchestrator.scheduling.queue_manager import QueueManager
from orchestrator.scheduling.service_pool import ServicePool

NAMES = ("a", "b", "c", "d")
Slots = list[frozenset[str]]
"""The users of each free slot."""


def count_met(claims: dict[str, int], slots: Slots) -> int:
    """How many of the claimed slots can be had at once: one after the other finds its own, and whoever has it
    looks for another one."""
    wanted = [name for name, count in claims.items() for _ in range(count)]
    owner: dict[int, int] = {}

    def find(one: int, tried: set[int]) -> bool:
        for number, users in enumerate(slots):
            if wanted[one] in users and number not in tried:
                tried.add(number)
                if number not in owner or find(owner[number], tried):
                    owner[number] = one
                    return True
        return False

    return sum(find(one, set()) for one in range(len(wanted)))


def spoils(claims: dict[str, int], slots: Slots, service: str, number: int) -> bool:
    """Whether this slot, given to this service, leaves somebody else with less."""
    own = min(claims.get(service, 0), 1)
    after = {**claims, service: claims.get(service, 0) - own}
    return count_met(after, slots[:number] + slots[number + 1 :]) + own < count_met(claims, slots)


USERS = st.frozensets(st.sampled_from(NAMES), min_size=1)
CLAIMS = st.dictionaries(st.sampled_from(NAMES[:3]), st.integers(1, 4), max_size=3)


@settings(max_examples=150)
@given(CLAIMS, st.lists(USERS, min_size=1, max_size=9), st.sampled_from(NAMES))
def test_who_may_take_what_is_the_models(claims: dict[str, int], slots: Slots, service: str) -> None:
    kept = KeptSlots(claims, Counter(slots))
    for number, users in enumerate(slots):
        if service in users:
            assert kept.may_take(service, users) == (not spoils(claims, slots, service, number))


@settings(max_examples=150)
@given(CLAIMS, st.lists(USERS, max_size=9), st.sampled_from(NAMES), st.randoms(use_true_random=False))
def test_what_is_kept_is_what_cannot_be_taken_one_by_one(
    claims: dict[str, int], slots: Slots, service: str, rng: random.Random
) -> None:
    """In whatever order the others are taken."""
    counted = KeptSlots(claims, Counter(slots)).count_kept(service)
    rng.shuffle(slots)
    while True:
        kept = KeptSlots(claims, Counter(slots))
        usable = [users for users in slots if service in users]
        able = [users for users in usable if kept.may_take(service, users)]
        if not able:
            break
        slots.remove(rng.choice(able))
        if claims.get(service):
            claims[service] -= 1
    assert counted == len(usable)


@settings(max_examples=100)
@given(CLAIMS, st.lists(USERS, max_size=9))
def test_who_has_a_claim_gets_any_slot_that_is_free_somewhere(claims: dict[str, int], slots: Slots) -> None:
    """However many claims there are: no two of them wait for each other."""
    kept = KeptSlots(claims, Counter(slots))
    for service in claims:
        usable = {users for users in slots if service in users}
        assert not usable or any(kept.may_take(service, users) for users in usable)


# ---------------------------------------------------------------------- queue and pool together


@dataclass(frozen=True)
class House:
    """Nodes by their services and slots, and what is kept."""

    nodes: Sequence[tuple[frozenset[str], int]]
    keeps: dict[str, int]

    def limits(self) -> dict[str, ServiceLimits]:
        return {
            name: ServiceLimits(
                name,
                runs_per_user=3,
                max_runs=6,
                keep_slots=self.keeps.get(name, 0),
                addresses=tuple(
                    NodeAddress(f"http://n{number}:1")
                    for number, (users, _) in enumerate(self.nodes)
                    if name in users
                ),
            )
            for name in NAMES
        }

    def slots(self) -> Slots:
        return [users for users, count in self.nodes for _ in range(count)]

    def fits(self) -> bool:
        return count_met(self.keeps, self.slots()) == sum(self.keeps.values())


HOUSES = st.builds(House, st.lists(st.tuples(USERS, st.integers(1, 4)), min_size=1, max_size=4), CLAIMS)


class Play:
    """Jobs that come, go to nodes as the Sender has them go, and end."""

    def __init__(self, house: House) -> None:
        self.house, self.limits = house, house.limits()
        self.queue = QueueManager(self.limits)
        self.pool = ServicePool(self.limits, random.Random(1), going=self.queue.going)
        for number, (_, count) in enumerate(house.nodes):
            self.pool.seen(NodeRef(f"id-{number}", f"http://n{number}:1"), Heartbeat(slots=count), 0.0)
        self.jobs: dict[int, Job] = {}
        self.places: dict[int, int] = {}
        self.last = 0

    def come(self, service: str, user: int) -> None:
        self.last += 1
        row = Job(self.last, user, service, Status.QUEUED, "", self.last, 0.0, 0.0, f"k{self.last}")
        self.jobs[self.last] = row
        self.queue.apply(row)

    def end(self, job_id: int) -> None:
        del self.places[job_id]
        self.queue.apply(replace(self.jobs.pop(job_id), status=Status.CLEANED))
        self.pool.unreserve(f"k{job_id}")

    def assign(self) -> Iterator[tuple[str, int]]:
        """Each job that goes, and where."""
        for service in self.queue.services():
            while self.queue.next(service) is not None and (ref := self.pool.choose(service)) is not None:
                job_id = self.queue.take(service)
                assert job_id is not None
                self.pool.reserve(f"k{job_id}", ref.node_id)
                self.places[job_id] = int(ref.node_id.removeprefix("id-"))
                yield service, self.places[job_id]

    def going(self) -> Counter[str]:
        return Counter(self.jobs[job_id].service for job_id in self.places)

    def claims(self) -> dict[str, int]:
        going = self.going()
        return {name: max(0, count - going[name]) for name, count in self.house.keeps.items()}

    def free(self) -> Slots:
        held = Counter(self.places.values())
        return [
            users
            for number, (users, count) in enumerate(self.house.nodes)
            for _ in range(count - held[number])
        ]


@settings(max_examples=80)
@given(HOUSES, st.integers(0, 2**32))
def test_kept_slots_are_never_taken_and_no_other_is_left_idle(house: House, seed: int) -> None:
    rng, play, fits = random.Random(seed), Play(house), house.fits()
    for _ in range(40):
        if play.places and rng.random() < 0.5:
            play.end(rng.choice(sorted(play.places)))
        else:
            for _ in range(rng.randint(1, 4)):
                play.come(rng.choice(NAMES), rng.randint(1, 3))
        claims, before = play.claims(), count_met(play.claims(), play.free())
        for service, _ in play.assign():
            own = 1 if claims.get(service) else 0
            claims, after = play.claims(), count_met(play.claims(), play.free())
            assert after + own >= before, "somebody else's"
            before = after
        assert not fits or before == sum(claims.values()), "what is kept is there"
        free = play.free()
        for service in play.queue.services():
            if play.queue.next(service) is None:
                continue  # the quotas
            usable = [number for number, users in enumerate(free) if service in users]
            assert all(spoils(claims, free, service, number) for number in usable)
            assert not usable or not claims.get(service)
            assert not fits or not claims.get(service), "it has fewer than are kept for it, and waits"
            assert bool(play.pool.kept_for(service)) == bool(usable)
        for service in NAMES:
            usable = [number for number, users in enumerate(free) if service in users]
            assert play.pool.count_kept(service) <= len(usable)
        assert all(count <= 6 for count in play.going().values())
        users = Counter((play.jobs[one].service, play.jobs[one].user_id) for one in play.places)
        assert all(count <= 3 for count in users.values())


@settings(max_examples=30)
@given(HOUSES, st.integers(0, 2**32))
def test_nobody_starves_whose_nodes_have_one_slot_more_than_is_kept(house: House, seed: int) -> None:
    """Though jobs of those for whom slots are kept never cease to come."""
    rng, play, slots = random.Random(seed), Play(house), house.slots()
    for service in NAMES:
        for user in (1, 2):
            play.come(service, user)
    first = {job_id: job.service for job_id, job in play.jobs.items()}
    for _ in range(250):
        for service in house.keeps:
            if sum(job.service == service for job in play.jobs.values()) < 8:
                play.come(service, rng.randint(3, 5))
        for _ in play.assign():
            pass
        if play.places:
            play.end(rng.choice(sorted(play.places)))
    left = {service for job_id, service in first.items() if job_id in play.jobs}
    for service in left:
        usable = [number for number, users in enumerate(slots) if service in users]
        assert all(spoils(house.keeps, slots, service, number) for number in usable), service


def test_a_job_is_told_for_whom_the_free_slots_are_kept() -> None:
    play = Play(House([(frozenset("ab"), 2)], {"a": 5}))
    play.come("b", 1)
    assert list(play.assign()) == []
    kept_for = play.pool.kept_for("b")
    assert kept_for == ("a",)
    why = play.queue.explain_wait(play.jobs[1], free_slots=False, any_node=True, kept_for=kept_for)
    assert why is not None and why.reason is WaitReason.KEPT
    assert why.message == "waits: the free slots are kept for a; it goes next"
    play.come("a", 1)
    assert list(play.assign()) == [("a", 0)]
    assert play.pool.kept_for("a") == (), "it has its claim"
    assert (play.pool.count_kept("a"), play.pool.count_kept("b")) == (0, 1)


def test_other_settings_hold_at_once() -> None:
    play = Play(House([(frozenset("ab"), 3)], {"a": 3}))
    play.come("b", 1)
    assert list(play.assign()) == []
    play.pool.set_limits(play.limits | {"a": replace(play.limits["a"], keep_slots=2)})
    assert list(play.assign()) == [("b", 0)]


@pytest.mark.parametrize("beat", [Heartbeat(slots=None), Heartbeat(slots=4)])
def test_a_node_that_runs_whatever_it_is_sent_has_slots_for_all(beat: Heartbeat) -> None:
    play = Play(House([(frozenset("ab"), 4)], {"a": 3}))
    play.pool.seen(NodeRef("id-0", "http://n0:1"), beat, 0.0)
    for _ in range(3):
        play.come("b", 1)
    assert len(list(play.assign())) == (3 if beat.slots is None else 1)


def test_a_node_that_is_not_ready_keeps_nothing_for_anybody() -> None:
    play = Play(House([(frozenset("ab"), 1), (frozenset("a"), 1)], {"a": 1}))
    play.come("b", 1)
    play.pool.drain("id-1", "to be mended", 0.0)
    assert list(play.assign()) == []
    play.pool.undrain("id-1")
    assert list(play.assign()) == [("b", 0)]
