"""When a node is sick, and when it is the jobs."""

from __future__ import annotations

import random
from dataclasses import replace

from actors.domain.failure import Failure
from actors.domain.job import Attempt, End, Job
from actors.domain.node import Heartbeat, NodeAddress, NodeRef, NodeState
from actors.domain.service import ServiceLimits
from actors.domain.status import Status
from orchestrator.scheduling.node_health import (
    ASIDE_FIRST,
    ASIDE_MOST,
    DISPATCHES,
    PROBATION,
    NodeHealth,
)
from orchestrator.scheduling.service_pool import ServicePool
from orchestrator.scheduling.troubles import TroubleKind, find_troubles

WELL = Heartbeat(slots=2, free_disk=1 << 40, free_memory=1 << 40)


class Found(dict[str, NodeHealth]):
    """The health of nodes by name."""

    def __missing__(self, name: str) -> NodeHealth:
        self[name] = NodeHealth(random.Random(1))
        return self[name]


def fail(
    found: Found, *users: int, node: str = "a", others: tuple[str, ...] = ("b",), now: float = 0.0
) -> None:
    for user in users:
        found[node].ended(user, badly=True, others=[found[one] for one in others], now=now)


def test_jobs_of_several_users_that_fail_at_once_set_a_node_aside() -> None:
    found = Found()
    fail(found, 1, 2)
    assert not found["a"].why_set_aside(0.0)
    fail(found, 1)
    assert "3 jobs in a row, of 2 users, failed at once" in found["a"].why_set_aside(0.0)
    assert not found["b"].why_set_aside(0.0)


def test_one_user_s_bad_jobs_say_nothing_of_a_node() -> None:
    found = Found()
    fail(found, *[1] * 50)
    assert not found["a"].why_set_aside(0.0)


def test_a_job_that_goes_well_between_makes_it_well() -> None:
    found = Found()
    fail(found, 1, 2)
    found["a"].ended(3, badly=False, others=(), now=0.0)
    fail(found, 1, 2)
    assert not found["a"].why_set_aside(0.0)


def test_jobs_that_fail_everywhere_are_held_against_no_further_node() -> None:
    found = Found()
    fail(found, 1, 2, 3, others=("b",))
    assert found["a"].why_set_aside(0.0)
    fail(found, 1, 2, 3, node="b", others=("a",))
    assert not found["b"].why_set_aside(0.0), "the service goes on"


def test_the_last_node_is_not_set_aside_for_bad_jobs() -> None:
    found = Found()
    fail(found, 1, 2, 3, 4, others=())
    assert not found["a"].why_set_aside(0.0)


def test_it_comes_back_on_probation_and_one_job_decides() -> None:
    found = Found()
    fail(found, 1, 2, 3)
    later = ASIDE_FIRST + 1
    assert not found["a"].why_set_aside(later) and found["a"].on_probation(later)
    fail(found, 4, now=later)
    assert found["a"].why_set_aside(later) and not found["a"].on_probation(later)
    again = later + 2 * ASIDE_FIRST + 1
    assert found["a"].why_set_aside(later + ASIDE_FIRST / 2), "longer than the first time"
    assert not found["a"].why_set_aside(again)
    found["a"].ended(5, badly=False, others=(), now=again)
    assert not found["a"].on_probation(again)
    fail(found, 1, 2)
    assert not found["a"].why_set_aside(again)


def test_mistakes_that_come_one_by_one_are_forgotten() -> None:
    found = Found()
    for n in range(20):
        fail(found, n % 4, now=n * 31.0)
        assert not found["a"].why_set_aside(n * 31.0)


def test_probation_ends_with_a_job_that_runs_on() -> None:
    found = Found()
    fail(found, 1, 2, 3)
    later = ASIDE_FIRST + 1
    assert not found["a"].why_set_aside(later) and found["a"].on_probation(later)
    assert not found["a"].on_probation(later + PROBATION)


def test_it_is_never_given_up_for_ever() -> None:
    found, now = Found(), 0.0
    for _ in range(40):
        fail(found, 1, 2, 3, now=now)
        now += ASIDE_MOST + 1
        assert not found["a"].why_set_aside(now)


def test_a_node_that_takes_nothing_is_set_aside() -> None:
    found = Found()
    for _ in range(DISPATCHES - 1):
        found["a"].refused("HTTP 503", 0.0)
    found["a"].took()
    for _ in range(DISPATCHES - 1):
        found["a"].refused("HTTP 503", 0.0)
    assert not found["a"].why_set_aside(0.0)
    found["a"].refused("HTTP 503", 0.0)
    assert "took none of 8 attempts: HTTP 503" in found["a"].why_set_aside(0.0)


def test_a_node_that_cannot_start_a_job_is_set_aside_at_once_and_tried_with_one() -> None:
    found, node = Found(), "a"
    found[node].start_failed("could not be started: no bash", 0.0)
    why = found[node].why_set_aside(0.0)
    assert why.startswith("a job could not be started: no bash; mend that on its machine")
    again = ASIDE_FIRST + 1
    assert not found[node].why_set_aside(again) and found[node].on_probation(again)
    found[node].start_failed("could not be started: no bash", again)
    assert found[node].why_set_aside(again + ASIDE_FIRST / 2 + 1), "longer than the first time"
    later = again + 2 * ASIDE_FIRST + 1
    assert not found[node].why_set_aside(later) and found[node].on_probation(later)
    found[node].ended(1, badly=False, others=(), now=later)
    assert not found[node].on_probation(later)
    found[node].start_failed("could not be started: no bash", later)
    assert not found[node].why_set_aside(later + ASIDE_FIRST + 1), "as if for the first time"


def test_a_node_that_could_not_start_a_job_gets_one_until_one_begins_however_long_that_takes() -> None:
    found = NodeHealth(random.Random(1))
    found.start_failed("could not be started: no process", 0.0)
    later = ASIDE_FIRST + 1
    assert not found.why_set_aside(later)
    assert found.on_probation(later + 10 * PROBATION)
    found.began()
    assert not found.on_probation(later + 10 * PROBATION)
    # What begins meanwhile was under way before.
    found.start_failed("could not be started: no process", later)
    found.began()
    assert found.why_set_aside(later)


def test_a_node_without_disk_or_memory_is_set_aside_until_there_is_enough_again() -> None:
    found = Found()
    for name in ("free_disk", "free_memory"):
        found["a"].heard(replace(WELL, **{name: 1 << 20}))  # type: ignore[arg-type]  # by name
        assert "has run out of" in (why := found["a"].why_set_aside(0.0))
        least = {"free_disk": 64, "free_memory": 32}[name]
        assert why.endswith(f": 1 MiB are free, and at least {least} have to be")
        found["a"].heard(WELL)
        assert not found["a"].why_set_aside(0.0)
    found["a"].heard(replace(WELL, free_disk=60 << 20))
    found["a"].heard(replace(WELL, free_disk=70 << 20))
    assert found["a"].why_set_aside(0.0), "just above the least is not enough"
    found["b"].heard(Heartbeat())
    assert not found["b"].why_set_aside(0.0), "one that does not say has enough"


def test_a_node_may_say_itself_that_it_is_sick() -> None:
    found = Found()
    found["a"].heard(replace(WELL, unhealthy="the GPU is gone"))
    assert found["a"].why_set_aside(0.0) == "the GPU is gone"
    found["a"].heard(WELL)
    assert not found["a"].why_set_aside(0.0)


def ended(number: int, user: int, node: str, status: Status, seconds: float) -> tuple[Job, Job]:
    attempt = Attempt(f"{number:032x}", number, 1, node)
    running = Job(number, user, "s", Status.RUNNING, "", number, 0.0, 0.0, f"k{number}", attempt=attempt)
    return running, replace(running, status=status, end=End(status, "", wall_seconds=seconds))


def test_the_pool_gives_a_sick_node_nothing_then_one_job() -> None:
    addresses = (NodeAddress("http://a"), NodeAddress("http://b"))
    pool, now = ServicePool({"s": ServiceLimits("s", addresses=addresses)}, random.Random(1)), 0.0
    nodes = [NodeRef("a", "http://a"), NodeRef("b", "http://b")]
    for node in nodes:
        pool.seen(node, WELL, now)
    for number, user in enumerate((1, 2, 3), 1):
        for row in ended(number, user, "a", Status.FAILED, 0.5):
            pool.apply(row, now)
    (view, _) = pool.views(now)
    assert view.state is NodeState.SET_ASIDE and "3 jobs in a row" in view.reason
    pool.reserve("k" * 32, "b")
    assert pool.choose("s") == nodes[1]
    now = ASIDE_FIRST + 1
    for node in nodes:
        pool.seen(node, WELL, now)
    assert pool.choose("s") == nodes[0]
    pool.reserve("l" * 32, "a")
    assert pool.choose("s") == nodes[1], "one at a time"
    for row in ended(9, 1, "a", Status.COMPLETED, 0.5):
        pool.apply(row, now)
    pool.unreserve("l" * 32)
    pool.reserve("m" * 32, "a")
    pool.reserve("n" * 32, "b")
    assert pool.choose("s") == nodes[0], "it is well again"


def test_the_pool_sets_the_last_node_that_takes_jobs_not_aside() -> None:
    addresses = (NodeAddress("http://a"), NodeAddress("http://b"))
    pool = ServicePool({"s": ServiceLimits("s", addresses=addresses)}, random.Random(1))
    for name in ("a", "b"):
        pool.seen(NodeRef(name, f"http://{name}"), WELL, 0.0)
    pool.drain("a", "new disks", 0.0)
    for number, user in enumerate((1, 2, 3), 1):
        for row in ended(number, user, "b", Status.FAILED, 0.5):
            pool.apply(row, 0.0)
    assert pool.views(0.0)[1].state is NodeState.READY


def test_the_pool_sets_even_the_last_node_aside_that_cannot_start_jobs() -> None:
    pool = ServicePool({"s": ServiceLimits("s", addresses=(NodeAddress("http://a"),))}, random.Random(1))
    pool.seen(NodeRef("a", "http://a"), WELL, 0.0)
    pool.start_failed("a", "could not be started: no bash", 0.0)
    pool.start_failed("gone", "could not be started: no bash", 0.0)
    assert pool.choose("s") is None
    assert "is set aside: a job could not be started: no bash" in pool.why_none("s")
    (trouble,) = find_troubles((), pool.views(0.0), {}, {})
    assert trouble.kind is TroubleKind.SET_ASIDE and trouble.node == "a"
    assert "no bash; mend that on its machine, where its log says more; it is tried again" in trouble.text
    now = ASIDE_FIRST + 1
    pool.seen(NodeRef("a", "http://a"), WELL, now)
    assert pool.choose("s") is not None and not find_troubles((), pool.views(now), {}, {})
    pool.reserve("k" * 32, "a")
    pool.seen(NodeRef("a", "http://a"), WELL, now + 2 * PROBATION)
    assert pool.choose("s") is None, "one at a time"
    running, _ = ended(1, 1, "a", Status.FAILED, 0.5)
    pool.apply(running, now)
    pool.seen(NodeRef("a", "http://a"), WELL, now)
    assert pool.choose("s") is not None, "it begins jobs again"


def test_that_older_jobs_go_on_and_end_does_not_show_that_a_node_starts_jobs() -> None:
    pool = ServicePool({"s": ServiceLimits("s", addresses=(NodeAddress("http://a"),))}, random.Random(1))
    pool.seen(NodeRef("a", "http://a"), WELL, 0.0)
    older = [ended(number, number, "a", Status.COMPLETED, 3600.0) for number in (1, 2)]
    for running, _ in older:
        pool.apply(running, 0.0)
    pool.start_failed("a", "could not be started: no bash", 0.0)
    now = ASIDE_FIRST + 1
    pool.seen(NodeRef("a", "http://a"), WELL, now)
    pool.reserve("k" * 32, "a")
    pool.apply(replace(older[0][0], progress=0.5), now)
    pool.seen(NodeRef("a", "http://a"), WELL, now)
    assert pool.choose("s") is None, "one at a time, whatever an older one says of its progress"
    _, over = older[1]
    assert over.end is not None
    pool.apply(replace(over, end=replace(over.end, started_at=1.0)), now)
    pool.seen(NodeRef("a", "http://a"), WELL, now)
    assert pool.choose("s") is None, "and however well one ends"
    begun, _ = ended(3, 1, "a", Status.COMPLETED, 1.0)
    pool.apply(begun, now)
    pool.seen(NodeRef("a", "http://a"), WELL, now)
    assert pool.choose("s") is not None


def test_a_script_that_fails_at_once_shows_that_its_node_starts_jobs() -> None:
    addresses = (NodeAddress("http://a"), NodeAddress("http://b"))
    pool = ServicePool({"s": ServiceLimits("s", addresses=addresses)}, random.Random(1))
    for name in ("a", "b"):
        pool.seen(NodeRef(name, f"http://{name}"), WELL, 0.0)
    pool.start_failed("a", "could not be started: no bash", 0.0)
    # Its last attempt, which is held against it already.
    _, failed = ended(1, 1, "a", Status.FAILED, 0.0)
    assert failed.end is not None and failed.attempt is not None
    unable = replace(failed.end, wall_seconds=None, failure=Failure.NODE)
    pool.apply(replace(failed, status=Status.SUBMITTED, end=None), 0.0)
    pool.apply(replace(failed, end=unable), 0.0)
    now = ASIDE_FIRST + 1
    pool.seen(NodeRef("a", "http://a"), WELL, now)
    submitted = replace(failed, id=2, status=Status.SUBMITTED, end=None)
    pool.apply(submitted, now)
    pool.apply(replace(submitted, status=Status.FAILED, end=replace(failed.end, started_at=1.0)), now)
    pool.seen(NodeRef("a", "http://a"), WELL, now)
    (view, _) = pool.views(now)
    assert view.state is NodeState.READY, "the script was bad"
    pool.reserve("k" * 32, "a")
    pool.reserve("l" * 32, "b")
    pool.reserve("m" * 32, "b")
    assert pool.choose("s") == NodeRef("a", "http://a"), "not one at a time"
