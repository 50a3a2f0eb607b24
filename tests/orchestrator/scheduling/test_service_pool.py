"""Where jobs go, against a model that counts everything anew."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.domain.job import Attempt, End, Job
from actors.domain.node import Heartbeat, JoinedNode, NodeAddress, NodeRef, NodeState
from actors.domain.service import ServiceLimits
from actors.domain.status import Status
from orchestrator.scheduling.service_pool import LEAST_LEFT, ServicePool

URLS = [f"http://n{number}:8080" for number in range(5)]
REFS = [NodeRef(f"id-{number}", url) for number, url in enumerate(URLS)]
LIMITS = {
    "a": ServiceLimits("a", addresses=tuple(NodeAddress(url) for url in URLS[:4])),
    "b": ServiceLimits("b", addresses=(NodeAddress(URLS[2] + "/"),)),
    "c": ServiceLimits("c"),
}


ROW = Job(1, 1, "a", Status.QUEUED, "", 1, 0.0, 0.0, "key")


def pool_of(*beats: Heartbeat) -> ServicePool:
    pool = ServicePool(LIMITS, random.Random(1))
    for ref, beat in zip(REFS, beats, strict=False):
        pool.seen(ref, beat, 0.0)
    return pool


def chosen(pool: ServicePool, service: str = "a") -> str | None:
    ref = pool.choose(service)
    return None if ref is None else ref.node_id


def state(pool: ServicePool, node_id: str) -> NodeState:
    return next(view.state for view in pool.views(0.0) if view.node.node_id == node_id)


def end_jobs(pool: ServicePool, service: str, seconds: Sequence[float]) -> None:
    """Jobs of a service that take so long have ended, somewhere."""
    for number, took in enumerate(seconds):
        attempt = Attempt("f" * 32, number, 1, "elsewhere")
        job = replace(ROW, id=number, service=service, attempt=attempt)
        end = End(Status.COMPLETED, "", wall_seconds=took, started_at=1.0)
        pool.apply(replace(job, status=Status.SUBMITTED), 0.0)
        pool.apply(replace(job, status=Status.COMPLETED, end=end), 0.0)
    pool.forget("elsewhere")


class Model:
    """The rules as they are told, with exact fractions. `short`: services whose jobs are."""

    def __init__(self, short: str) -> None:
        self.short = short
        self.services: dict[str, str] = {}
        self.most_ahead: dict[int, int] = {}
        self.beats: dict[int, Heartbeat] = {}
        self.contact: dict[int, str] = {}
        self.drained: set[int] = set()
        self.known: set[int] = set()
        self.holds: dict[str, int] = {}
        self.used: dict[int, int] = {}
        self.turn = 0

    def reserve(self, key: str, number: int, service: str) -> None:
        self.known.add(number)
        if self.holds.get(key) != number:
            self.free(key)
            self.services[key] = service
            self.turn += 1
            self.used[number] = self.turn
            self.holds[key] = number

    def free(self, key: str) -> None:
        if (number := self.holds.pop(key, None)) is not None:
            self.most_ahead[number] = self.most_ahead.get(number, 9) + 1

    def held(self, number: int) -> int:
        return sum(one == number for one in self.holds.values())

    def share(self, number: int) -> Fraction:
        beat = self.beats[number]
        if beat.slots is None:
            return Fraction(beat.cores - self.held(number), beat.cores)
        return Fraction(beat.slots - self.held(number) - beat.others, beat.slots)

    def choose(self, service: str) -> str | None:
        able, ahead = [], []
        for number in {"a": (0, 1, 2, 3), "b": (2,), "c": ()}[service]:
            if self.contact.get(number) != "ready" or number in self.drained:
                continue
            beat = self.beats[number]
            if beat.unhealthy:
                continue
            if beat.slots == 0:
                continue
            choice = (-self.share(number), beat.load, self.used.get(number, 0), number)
            if beat.slots is None or beat.slots - self.held(number) - beat.others > 0:
                able.append(choice)
            elif (
                beat.slots - self.held(number) - beat.others + min(beat.ahead, self.most_ahead.get(number, 9))
                > 0
            ) and (all(self.services[key] in self.short for key, at in self.holds.items() if at == number)):
                ahead.append(choice)
        able = able or (ahead if service in self.short else [])
        return f"id-{min(able)[3]}" if able else None


@settings(max_examples=150)
@given(st.integers(0, 2**32))
def test_every_choice_is_the_models(seed: int) -> None:
    rng = random.Random(seed)
    short = rng.choice(("", "a", "ab"))
    pool, model = ServicePool(LIMITS, random.Random(1)), Model(short)
    for service in short:
        end_jobs(pool, service, [0.1] * 10)
    for _ in range(80):
        number, key = rng.randrange(5), f"key-{rng.randrange(16)}"
        node_id = f"id-{number}"
        match rng.choice(
            ["seen", "seen", "hold", *["take"] * 3, "free", "back", "suspect", "lost", "order", "lift"]
        ):
            case "seen":
                slots = rng.choice([None, 0, 1, 2, 3, 6])
                sick = rng.choice(["", "", "", "sick"])
                beat = Heartbeat(
                    float(rng.randrange(3)),
                    slots,
                    rng.randint(1, 4),
                    rng.randrange(3),
                    unhealthy=sick,
                    ahead=rng.choice((0, 1, 2)) if slots else 0,
                )
                pool.seen(REFS[number], beat, 0.0)
                model.beats[number], model.contact[number] = beat, "ready"
                model.known.add(number)
            case "hold":
                service = rng.choice("ab")
                pool.unreserve(key)
                model.free(key)
                pool.reserve(key, node_id, service)
                model.reserve(key, number, service)
            case "take":
                service = rng.choice("aaab")
                taken = chosen(pool, service)
                if taken is not None and key not in model.holds:
                    index = int(taken[-1])
                    beat, before = model.beats[index], model.held(index)
                    ahead = beat.ahead if service in short else 0
                    assert beat.slots is None or before + beat.others < beat.slots + ahead
                    pool.unreserve(key)
                    pool.reserve(key, taken, service)
                    model.reserve(key, index, service)
            case "free":
                pool.unreserve(key)
                model.free(key)
            case "back":
                pool.given_back(key, -1000.0)
                if (at := model.holds.get(key)) is not None:
                    beat = model.beats.get(at, Heartbeat())
                    counted = 0 if beat.slots is None else model.held(at) + beat.others - beat.slots
                    if model.most_ahead.get(at) == 0 and counted <= 0 and model.contact.get(at) != "lost":
                        model.contact[at] = "suspect"
                    model.free(key)
                    model.most_ahead[at] = 0
            case "suspect":
                pool.suspect(node_id, "x")
                if number in model.known and model.contact.get(number) != "lost":
                    model.contact[number] = "suspect"
            case "lost":
                pool.lost(node_id, "x")
                if number in model.known:
                    model.contact[number] = "lost"
            case "order" if rng.random() < 0.3:
                assert pool.drain(node_id, "x", 0.0) == (number in model.known)
                model.drained |= {number} & model.known
            case "lift":
                assert pool.undrain(node_id) == (number in model.known)
                model.drained -= {number}
        for service in LIMITS:
            assert chosen(pool, service) == model.choose(service)
            assert pool.choose(service) is None or pool.any_node(service)
            assert pool.why_none(service)
        lost = {view.node.node_id for view in pool.views(0.0) if view.contact is NodeState.LOST}
        assert lost == {f"id-{n}" for n in range(5) if model.contact.get(n) == "lost"}
        for view in pool.views(0.0):
            held = model.held(int(view.node.node_id[-1]))
            assert view.held + view.waiting == held
            assert view.held == held if view.slots is None else view.held == min(held, view.slots)


@given(st.lists(st.integers(0, 6), min_size=1, max_size=4), st.integers(0, 30))
def test_jobs_fill_every_slot_and_not_one_more(slots: list[int], jobs: int) -> None:
    pool = pool_of(*(Heartbeat(slots=number) for number in slots))
    placed = 0
    for job in range(jobs):
        node_id = chosen(pool)
        if node_id is None:
            break
        pool.reserve(f"k{job}", node_id)
        placed += 1
    assert placed == min(jobs, sum(slots))
    assert all(view.slots is not None and view.held <= view.slots for view in pool.views(0.0))


def test_the_largest_share_of_free_slots_wins_not_the_largest_number() -> None:
    pool = pool_of(Heartbeat(slots=8), Heartbeat(slots=2))
    for number in range(5):
        pool.reserve(f"k{number}", "id-0")
    pool.reserve("k5", "id-1")
    assert chosen(pool) == "id-1", "1 of 2 is more than 3 of 8"


def test_then_the_smallest_load_then_the_longest_unused() -> None:
    pool = pool_of(Heartbeat(50.0, 2), Heartbeat(10.0, 2), Heartbeat(10.0, 2))
    assert chosen(pool) == "id-1"
    pool.reserve("k", "id-1")
    pool.unreserve("k")
    assert chosen(pool) == "id-2"


def test_payloads_of_others_take_slots_away() -> None:
    pool = pool_of(Heartbeat(slots=2, others=1))
    assert chosen(pool) == "id-0"
    pool.reserve("k", "id-0")
    assert chosen(pool) is None
    assert pool.any_node("a")
    assert ": id-0 is full (1 of 2 slots held, 1 by others)" in pool.why_none("a")


def test_a_node_without_slots_takes_any_number_after_those_that_have_room() -> None:
    pool = pool_of(Heartbeat(slots=None, cores=2), Heartbeat(slots=1))
    order = []
    for number in range(6):
        node_id = chosen(pool)
        assert node_id is not None
        order.append(node_id)
        pool.reserve(f"k{number}", node_id)
    assert order == ["id-0", "id-1", "id-0", "id-0", "id-0", "id-0"]


def test_slots_are_held_before_the_node_is_seen_and_across_its_absence() -> None:
    pool = ServicePool(LIMITS, random.Random(1))
    pool.reserve("k1", "id-0")
    pool.reserve("k1", "id-0")
    assert pool.ref("id-0") is None
    assert state(pool, "id-0") is NodeState.JOINING
    pool.seen(REFS[0], Heartbeat(slots=1), 0.0)
    assert chosen(pool) is None
    pool.lost("id-0", "silent")
    pool.seen(REFS[0], Heartbeat(slots=1), 0.0)
    assert chosen(pool) is None
    pool.unreserve("k1")
    pool.unreserve("k1")
    assert chosen(pool) == "id-0"


def test_a_key_holds_one_slot_only() -> None:
    pool = pool_of(Heartbeat(slots=2), Heartbeat(slots=2))
    pool.reserve("k", "id-0")
    pool.reserve("k", "id-1")
    assert [view.held for view in pool.views(0.0)] == [0, 1]


def test_who_has_ended_holds_no_slot_while_its_end_is_recorded() -> None:
    pool = pool_of(Heartbeat(slots=1))
    pool.ended("k")  # not known here
    pool.reserve("k", "id-0")
    assert chosen(pool) is None
    pool.ended("k")
    pool.reserve("k", "id-0")  # its row says so until then
    assert chosen(pool) == "id-0"
    pool.unreserve("k")
    pool.reserve("k", "id-0")
    assert chosen(pool) is None


@pytest.mark.parametrize(
    ("took", "other", "then"),
    [
        ([0.5] * 10, "a", "id-0"),
        ([0.5] * 9, "a", None),
        ([*[0.1] * 9, 0.6], "a", None),
        ([9.0, *[0.1] * 10], "a", "id-0"),
        ([0.1] * 10, "b", None),
        ([0.1] * 10, "", None),
    ],
)
def test_a_job_goes_ahead_only_where_it_and_all_that_are_there_are_short(
    took: list[float], other: str, then: str | None
) -> None:
    pool = pool_of(Heartbeat(slots=1, ahead=1))
    end_jobs(pool, "a", took)
    pool.reserve("one", "id-0", other)
    assert chosen(pool) == then
    pool.reserve("two", "id-0", "a")
    assert chosen(pool) is None, "no more than it takes"


def test_who_gave_a_job_back_gets_none_ahead_until_it_has_a_slot_again() -> None:
    pool = pool_of(Heartbeat(slots=1, ahead=1))
    end_jobs(pool, "a", [0.1] * 10)
    for key in ("one", "two"):
        pool.reserve(key, "id-0", "a")
    pool.given_back("two", 0.0)
    pool.reserve("two", "id-0", "a")  # as its row says still
    assert chosen(pool) is None
    pool.ended("one")
    assert chosen(pool) == "id-0"
    pool.reserve("three", "id-0", "a")
    assert chosen(pool) == "id-0", "ahead"


def test_who_gave_a_job_back_gets_one_more_ahead_with_each_slot_that_becomes_free() -> None:
    """Long jobs that look short have all slots but one: there goes ahead about what that one takes."""
    pool = pool_of(Heartbeat(slots=8, ahead=8))
    end_jobs(pool, "a", [0.1] * 10)
    for number in range(8):
        pool.reserve(f"on {number}", "id-0", "a")
    ahead: list[str] = []

    def fill() -> int:
        """How many go there now."""
        before = len(ahead)
        while chosen(pool) is not None:
            ahead.append(f"ahead {len(ahead)}")
            pool.reserve(ahead[-1], "id-0", "a")
        return len(ahead) - before

    assert fill() == 8
    for key in ahead:
        pool.given_back(key, 0.0)
    assert fill() == 0
    pool.ended("on 0")
    assert fill() == 2, "into the slot, and one ahead"
    pool.ended(ahead[-2])
    assert fill() == 2
    pool.given_back(ahead[-1], 0.0)
    assert fill() == 0


def test_nothing_goes_ahead_of_a_job_of_another_service_that_waits_for_the_next_free_slot() -> None:
    """Else that would never be free: what ends leaves its slot to what is there already."""
    waiting: list[tuple[str, str]] = []
    pool = ServicePool(LIMITS, random.Random(1), waiting=lambda: waiting)
    for number in (0, 2):
        pool.seen(REFS[number], Heartbeat(slots=1, ahead=1), 0.0)
        pool.reserve(f"k{number}", f"id-{number}", "a")
    end_jobs(pool, "a", [0.1] * 10)
    waiting += ("a", ""), ("b", "")
    assert chosen(pool) == "id-0", "b has the other alone"
    pool.reserve("ahead", "id-0", "a")
    assert chosen(pool) is None
    waiting[1:] = [("b", "gpu"), ("c", ""), ("gone", "")]
    assert chosen(pool) == "id-2", "nothing that waits could have that slot"
    waiting[1:] = [("b", "")]
    end_jobs(pool, "b", [0.1] * 10)
    assert chosen(pool) == "id-2", "it goes ahead itself, when it is its turn"


@pytest.mark.parametrize(
    ("service", "more"),
    [("b", {"keep_slots": 1}), ("a", {"on_node_lost": "fail"}), ("a", {"max_attempts": 1})],
)
def test_nothing_goes_ahead_where_slots_are_kept_nor_what_would_fail_with_a_lost_node(
    service: str, more: dict[str, Any]
) -> None:
    pool = ServicePool(LIMITS | {service: replace(LIMITS[service], **more)}, random.Random(1))
    pool.seen(REFS[0], Heartbeat(slots=1, ahead=1), 0.0)
    end_jobs(pool, "a", [0.1] * 10)
    pool.reserve("one", "id-0", "a")
    assert chosen(pool) is None
    pool.set_limits(LIMITS)
    assert chosen(pool) == "id-0"


def test_where_slots_are_kept_a_job_holds_its_slot_until_its_end_is_recorded() -> None:
    limits = {**LIMITS, "b": replace(LIMITS["b"], keep_slots=1)}
    pool = ServicePool(limits, random.Random(1), going={"b": 1}.get)  # type: ignore[arg-type]  # b alone is asked for
    pool.seen(REFS[2], Heartbeat(slots=1), 0.0)
    pool.reserve("k", "id-2")
    pool.ended("k")
    assert chosen(pool, "a") is None, "b has a claim to the slot as soon as its job counts no more"


def test_suspect_and_lost_nodes_get_nothing_until_seen_and_lost_is_not_undone_by_suspect() -> None:
    pool = pool_of(Heartbeat(slots=1))
    pool.suspect("id-0", "3 heartbeats are missing")
    assert chosen(pool) is None
    assert not pool.any_node("a")
    assert pool.why_none("a").endswith(": id-0 is suspect: 3 heartbeats are missing")
    pool.lost("id-0", "silent for 60 s")
    pool.suspect("id-0", "late")
    assert state(pool, "id-0") is NodeState.LOST
    pool.seen(REFS[0], Heartbeat(slots=1), 0.0)
    assert state(pool, "id-0") is NodeState.READY
    assert chosen(pool) == "id-0"


def test_draining_and_being_set_aside_outlast_a_heartbeat() -> None:
    pool, sick = pool_of(Heartbeat(slots=1)), Heartbeat(slots=1, unhealthy="failed 5 jobs in 3 s")
    pool.drain("id-0", "to be removed", 0.0)
    pool.seen(REFS[0], sick, 0.0)
    pool.seen(REFS[0], sick, 0.0)
    assert state(pool, "id-0") is NodeState.DRAINED
    pool.undrain("id-0")
    assert state(pool, "id-0") is NodeState.SET_ASIDE
    assert "is set aside: failed 5 jobs in 3 s" in pool.why_none("a")
    pool.seen(REFS[0], Heartbeat(slots=1), 0.0)
    assert chosen(pool) == "id-0"


def test_a_node_that_joined_serves_what_it_said_and_is_seen_first() -> None:
    pool = ServicePool(LIMITS, random.Random(1))
    pool.join(JoinedNode("new", "http://new:1", ("c", "unheard-of")), 0.0)
    (view,) = pool.views(0.0)
    assert (view.state, view.services, view.node.url) == (NodeState.JOINING, ("c",), "http://new:1")
    assert chosen(pool, "c") is None
    pool.seen(NodeRef("new", "http://new:1"), Heartbeat(slots=1), 0.0)
    assert chosen(pool, "c") == "new"
    pool.join(JoinedNode("new", "http://new:1", ("b",)), 0.0)
    assert chosen(pool, "c") is None
    assert chosen(pool, "b") == "new"


def test_a_node_that_left_is_kept_while_it_holds_slots() -> None:
    pool = pool_of(Heartbeat(slots=1), Heartbeat(slots=1))
    pool.reserve("k", "id-0")
    pool.forget("id-0")
    pool.forget("id-1")
    pool.forget("id-1")
    assert [view.node.node_id for view in pool.views(0.0)] == ["id-0"]
    assert chosen(pool) is None
    pool.seen(REFS[0], Heartbeat(slots=1), 0.0)
    assert chosen(pool) is None, "its slot is held still"
    pool.forget("id-0")
    pool.unreserve("k")
    assert pool.views(0.0) == ()


def test_a_node_that_moves_serves_what_its_new_address_says() -> None:
    pool = pool_of(Heartbeat(slots=1))
    assert chosen(pool, "b") is None
    pool.seen(replace(REFS[0], url=URLS[2]), Heartbeat(slots=1), 0.0)
    assert chosen(pool, "b") == "id-0"


def test_foreign_nodes_are_known_by_their_full_urls() -> None:
    base = "http://old:5000"
    limits = {
        name: ServiceLimits(name, addresses=(NodeAddress("", (), f"{base}/{name}"),)) for name in ("x", "y")
    }
    pool = ServicePool(limits, random.Random(1))
    pool.seen(NodeRef(f"{base}/x", base, True, f"{base}/x", f"{base}/get", f"{base}/kill"), Heartbeat(), 0.0)
    assert chosen(pool, "x") == f"{base}/x"
    assert chosen(pool, "y") is None
    pool = ServicePool({"z": ServiceLimits("z", addresses=(NodeAddress(base),))}, random.Random(1))
    pool.seen(NodeRef(base, base, True, f"{base}/submit"), Heartbeat(), 0.0)
    assert chosen(pool, "z") == base


@pytest.mark.parametrize(
    ("service", "sentence"),
    [
        ("a", "no node of service a has been in touch yet (4 configured)"),
        ("c", "service c has no node yet"),
        ("?", "there is no service ?"),
    ],
)
def test_why_there_is_no_node_is_a_sentence(service: str, sentence: str) -> None:
    pool = ServicePool(LIMITS, random.Random(1))
    assert pool.choose(service) is None
    assert not pool.any_node(service)
    assert pool.why_none(service) == sentence


def test_a_long_list_of_nodes_is_cut() -> None:
    limits = {"a": ServiceLimits("a", addresses=(NodeAddress("http://all"),))}
    pool = ServicePool(limits, random.Random(1))
    for number in range(9):
        pool.seen(NodeRef(f"n{number}", "http://all"), Heartbeat(slots=0), 0.0)
    assert pool.why_none("a").endswith("; and 4 more")


def test_a_job_goes_where_what_it_requires_is() -> None:
    pool = ServicePool(LIMITS, random.Random(1))
    for name, labels in (("a", {"gpu": "a100", "ssd": ""}), ("b", {"gpu": "h100"}), ("c", {})):
        pool.join(JoinedNode(name, f"http://{name}:1", ("c",), labels=labels), 0.0)
        pool.seen(NodeRef(name, f"http://{name}:1"), Heartbeat(slots=1), 0.0)

    def able(requires: str) -> set[str]:
        found = set()
        while (node := pool.choose("c", requires)) is not None:
            found.add(node.node_id)
            pool.reserve(node.node_id * 32, node.node_id)
        assert pool.any_node("c", requires) == bool(found)
        for node_id in found:
            pool.unreserve(node_id * 32)
        return found

    assert able("") == {"a", "b", "c"}
    assert able("gpu") == {"a", "b"}
    assert able("gpu=a100") == able("gpu=a100,ssd") == able("ssd") == {"a"}
    assert able("gpu=h100,ssd") == able("tape") == set()


def test_a_node_that_ends_soon_gets_no_job_that_may_take_longer() -> None:
    limits = {
        "short": ServiceLimits("short", max_runtime=60.0, addresses=LIMITS["a"].addresses),
        "endless": ServiceLimits("endless", addresses=LIMITS["a"].addresses),
    }
    pool = ServicePool(limits, random.Random(1))
    pool.seen(REFS[0], Heartbeat(slots=1, seconds_left=60.0), 0.0)
    assert chosen(pool, "short") == "id-0" and chosen(pool, "endless") is None
    assert "ends in 60 s" in pool.why_none("endless")
    assert [fact.ready for name in limits for fact in pool.facts(name, 0.0)] == [True, False]
    pool.seen(REFS[0], Heartbeat(slots=1, seconds_left=59.9), 0.0)
    assert chosen(pool, "short") is None
    pool.seen(REFS[0], Heartbeat(slots=1, seconds_left=LEAST_LEFT), 0.0)
    assert chosen(pool, "endless") == "id-0"
    pool.seen(REFS[0], Heartbeat(slots=1), 0.0)
    assert chosen(pool, "endless") == "id-0"


def test_who_is_suspect_is_kept_with_when_it_was_last_heard() -> None:
    silent: dict[str, float | None] = {"of an earlier life": 0.0}
    pool = ServicePool(LIMITS, random.Random(1), silent=silent)
    assert silent == {}
    node = REFS[0]
    pool.reserve("k", "heard of")
    pool.suspect("heard of", "no word")
    pool.seen(node, Heartbeat(slots=1), 5.0)
    assert silent == {"heard of": None}
    pool.suspect(node.node_id, "its connection ended")
    assert silent == {"heard of": None, node.node_id: 5.0}
    pool.seen(node, Heartbeat(slots=1), 7.0)
    pool.lost("heard of", "silent for too long")
    assert silent == {}
    pool.back_off(node.node_id, "busy", 8.0)
    pool.seen(node, Heartbeat(slots=1), 8.1)
    assert silent == {node.node_id: 8.1}, "it is heard, and gets no jobs for a while"
    pool.forget(node.node_id)
    assert silent == {}
