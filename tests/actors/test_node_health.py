"""When a node is sick, and when it is the jobs."""

from __future__ import annotations

import random
from dataclasses import replace

from trio.testing import MockClock

from actors.domain.job import Attempt, End, Job
from actors.domain.node import Heartbeat, NodeAddress, NodeRef, NodeState
from actors.domain.service import ServiceLimits
from actors.domain.status import Status
from actors.node_health import ASIDE_FIRST, ASIDE_MOST, DISPATCHES, PROBATION, NodeHealth
from actors.roster import Roster
from orchestrator.scheduling.service_pool import ServicePool

WELL = Heartbeat(slots=2, free_disk=1 << 40, free_memory=1 << 40)


def health() -> NodeHealth:
    return NodeHealth(random.Random(1))


def fail(
    found: NodeHealth, *users: int, node: str = "a", others: tuple[str, ...] = ("a",), now: float = 0.0
) -> None:
    for user in users:
        found.ended(node, user, badly=True, others=others, now=now)


def test_jobs_of_several_users_that_fail_at_once_set_a_node_aside() -> None:
    found = health()
    fail(found, 1, 2)
    assert not found.why_aside("a", 0.0)
    fail(found, 1)
    assert "3 jobs in a row, of 2 users, failed at once" in found.why_aside("a", 0.0)
    assert not found.why_aside("b", 0.0)


def test_one_user_s_bad_jobs_say_nothing_of_a_node() -> None:
    found = health()
    fail(found, *[1] * 50)
    assert not found.why_aside("a", 0.0)


def test_a_job_that_goes_well_between_makes_it_well() -> None:
    found = health()
    fail(found, 1, 2)
    found.ended("a", 3, badly=False, others=(), now=0.0)
    fail(found, 1, 2)
    assert not found.why_aside("a", 0.0)


def test_jobs_that_fail_everywhere_are_held_against_no_further_node() -> None:
    found = health()
    fail(found, 1, 2, 3, others=("a", "b"))
    assert found.why_aside("a", 0.0)
    fail(found, 1, 2, 3, node="b", others=("a", "b"))
    assert not found.why_aside("b", 0.0), "the service goes on"


def test_it_comes_back_on_probation_and_one_job_decides() -> None:
    found = health()
    fail(found, 1, 2, 3)
    later = ASIDE_FIRST + 1
    assert not found.why_aside("a", later) and found.on_probation("a", later)
    fail(found, 4, now=later)
    assert found.why_aside("a", later) and not found.on_probation("a", later)
    again = later + 2 * ASIDE_FIRST + 1
    assert found.why_aside("a", later + ASIDE_FIRST / 2), "longer than the first time"
    assert not found.why_aside("a", again)
    found.ended("a", 5, badly=False, others=(), now=again)
    assert not found.on_probation("a", again)
    fail(found, 1, 2)
    assert not found.why_aside("a", again)


def test_mistakes_that_come_one_by_one_are_forgotten() -> None:
    found = health()
    for n in range(20):
        fail(found, n % 4, now=n * 31.0)
        assert not found.why_aside("a", n * 31.0)


def test_probation_ends_with_a_job_that_runs_on() -> None:
    found = health()
    fail(found, 1, 2, 3)
    later = ASIDE_FIRST + 1
    assert not found.why_aside("a", later) and found.on_probation("a", later)
    assert not found.on_probation("a", later + PROBATION)


def test_it_is_never_given_up_for_ever() -> None:
    found, now = health(), 0.0
    for _ in range(40):
        fail(found, 1, 2, 3, now=now)
        now += ASIDE_MOST + 1
        assert not found.why_aside("a", now)


def test_a_node_that_takes_nothing_is_set_aside() -> None:
    found = health()
    for _ in range(DISPATCHES - 1):
        found.refused("a", "HTTP 503", 0.0)
    found.took("a")
    for _ in range(DISPATCHES - 1):
        found.refused("a", "HTTP 503", 0.0)
    assert not found.why_aside("a", 0.0)
    found.refused("a", "HTTP 503", 0.0)
    assert "took none of 8 attempts: HTTP 503" in found.why_aside("a", 0.0)


def test_a_node_without_disk_or_memory_is_aside_until_there_is_enough_again() -> None:
    found = health()
    for name in ("free_disk", "free_memory"):
        found.heard("a", replace(WELL, **{name: 1 << 20}))  # type: ignore[arg-type]  # by name
        assert "has run out of" in found.why_aside("a", 0.0)
        found.heard("a", WELL)
        assert not found.why_aside("a", 0.0)
    found.heard("a", replace(WELL, free_disk=60 << 20))
    found.heard("a", replace(WELL, free_disk=70 << 20))
    assert found.why_aside("a", 0.0), "just above the least is not enough"
    found.heard("b", Heartbeat())
    assert not found.why_aside("b", 0.0), "one that does not say has enough"


def test_a_node_may_say_itself_that_it_is_sick() -> None:
    found = health()
    found.heard("a", replace(WELL, unhealthy="the GPU is gone"))
    assert found.why_aside("a", 0.0) == "the GPU is gone"
    found.heard("a", WELL)
    assert not found.why_aside("a", 0.0)


def ended(number: int, user: int, node: str, status: Status, seconds: float) -> tuple[Job, Job]:
    attempt = Attempt(f"{number:032x}", number, 1, node)
    running = Job(number, user, "s", Status.RUNNING, "", number, 0.0, 0.0, f"k{number}", attempt=attempt)
    return running, replace(running, status=status, end=End(status, "", wall_seconds=seconds))


async def test_the_roster_gives_a_sick_node_nothing_then_one_job(mock_clock: MockClock) -> None:
    addresses = (NodeAddress("http://a"), NodeAddress("http://b"))
    pool = ServicePool({"s": ServiceLimits("s", addresses=addresses)})
    roster = Roster(pool, tuple, random.Random(1))
    nodes = [NodeRef("a", "http://a"), NodeRef("b", "http://b")]
    for node in nodes:
        roster.seen(node, WELL)
    for number, user in enumerate((1, 2, 3), 1):
        for row in ended(number, user, "a", Status.FAILED, 0.5):
            roster.apply(row)
    (view, _) = roster.views()
    assert view.state is NodeState.SET_ASIDE and "3 jobs in a row" in view.reason
    pool.reserve("k" * 32, "b")
    assert pool.choose("s") == nodes[1]
    mock_clock.jump(ASIDE_FIRST + 1)
    for node in nodes:
        roster.seen(node, WELL)
    assert pool.choose("s") == nodes[0]
    pool.reserve("l" * 32, "a")
    assert pool.choose("s") == nodes[1], "one at a time"
    for row in ended(9, 1, "a", Status.COMPLETED, 0.5):
        roster.apply(row)
    pool.unreserve("l" * 32)
    pool.reserve("m" * 32, "a")
    pool.reserve("n" * 32, "b")
    assert pool.choose("s") == nodes[0], "it is well again"
