"""The Sender's nodes as scaling sees them: who joined, what is on them, drains. Under the mock clock, on the
real pool."""

from __future__ import annotations

import random

import trio
from trio.testing import MockClock

from actors.domain.job import Attempt, End, Job
from actors.domain.node import Heartbeat, Member, NodeAddress, NodeRef, NodeState
from actors.domain.scaling import NodeFact
from actors.domain.service import ServiceLimits
from actors.domain.status import Status
from actors.roster import Roster
from orchestrator.scheduling.service_pool import ServicePool

S = Status
A, B = Member("a", "http://a", ("s",), 2, machine="t" * 32), Member("b", "http://b", ("s",), 1)
NODE_A = NodeRef("a", "http://a")


class House:
    """A roster on a pool; `members` is what the registry would say."""

    def __init__(self, *members: Member) -> None:
        addresses = (NodeAddress("http://static"),)
        self.pool = ServicePool({"s": ServiceLimits("s", addresses=addresses)})
        self.members: tuple[Member, ...] = members
        self.roster = Roster(self.pool, lambda: self.members, random.Random(1))
        self.roster.sync()

    def fact(self, node_id: str = "a") -> NodeFact:
        return next(one for one in self.roster.facts("s") if one.node_id == node_id)

    def ids(self) -> list[str]:
        return [view.node.node_id for view in self.roster.views()]


def job(status: Status, *, node: str = "a", end: End | None = None) -> Job:
    attempt = Attempt("f" * 32, 1, 1, node)
    return Job(1, 1, "s", status, "", 1, 0.0, 0.0, "k", attempt=attempt, end=end)


async def test_a_node_is_idle_since_its_last_job_was_brought_home(mock_clock: MockClock) -> None:
    house = House(A)
    house.roster.seen(NODE_A, Heartbeat(slots=2))
    began = trio.current_time()
    assert (house.fact().busy, house.fact().idle_since) == (0, began)
    mock_clock.jump(10)
    house.roster.apply(job(S.RUNNING))
    assert (house.fact().busy, house.fact().idle_since) == (1, None)
    mock_clock.jump(10)
    # It has ended and holds no slot; what it made is still on the node.
    house.roster.apply(job(S.RUNNING, end=End(S.COMPLETED, "")))
    assert house.fact().busy == 1
    house.roster.apply(job(S.COMPLETED))
    assert (house.fact().busy, house.fact().idle_since) == (0, began + 20)


async def test_jobs_too_short_to_be_seen_keep_a_node_from_being_idle(mock_clock: MockClock) -> None:
    house = House(A)
    house.roster.seen(NODE_A, Heartbeat(slots=2))
    mock_clock.jump(30)
    house.roster.apply(job(S.PROCESSING))
    house.roster.apply(job(S.COMPLETED))
    assert house.fact().idle_since == trio.current_time()
    mock_clock.jump(5)
    house.roster.seen(NODE_A, Heartbeat(slots=2, others=1))
    house.roster.seen(NODE_A, Heartbeat(slots=2))
    assert house.fact().idle_since == trio.current_time(), "another owner's"


async def test_a_drained_node_is_empty_only_by_a_word_that_is_newer(mock_clock: MockClock) -> None:
    house = House(A)
    house.roster.seen(NODE_A, Heartbeat(slots=2))
    mock_clock.jump(1)
    assert house.roster.drain("a", "scaling: idle for 300 s")
    assert house.pool.choose("s") is None
    fact = house.fact()
    assert (fact.going, fact.empty, fact.machine, fact.ready) == (True, False, "t" * 32, True)
    mock_clock.jump(1)
    house.roster.seen(NODE_A, Heartbeat(slots=2, others=1))
    assert not house.fact().empty
    house.roster.seen(NODE_A, Heartbeat(slots=2))
    assert house.fact().empty
    assert house.roster.undrain("a")
    assert house.pool.choose("s") == NODE_A
    assert not house.roster.drain("nobody", "x") and not house.roster.undrain("nobody")


async def test_an_operator_s_drain_takes_over_scaling_s_and_is_not_taken_over(mock_clock: MockClock) -> None:
    house = House(A)
    house.roster.seen(NODE_A, Heartbeat(slots=2))
    house.roster.drain("a", "scaling: idle")
    ordered = house.fact().drained_at
    mock_clock.jump(5)
    house.roster.drain("a", "new kernel")
    house.roster.drain("a", "scaling: idle still")
    assert (house.fact().drained_for, house.fact().drained_at) == ("new kernel", ordered)
    assert not house.fact().going


async def test_who_has_left_is_gone_whatever_is_still_heard_of_it(mock_clock: MockClock) -> None:
    house = House(A, B)
    house.roster.seen(NODE_A, Heartbeat(slots=2))
    house.members = (B,)
    assert house.ids() == ["b"]
    house.roster.seen(NODE_A, Heartbeat(slots=2))
    house.roster.suspect("a", "its address was removed")
    house.roster.lost("a", "silent")
    assert house.ids() == ["b"]
    house.members = (A, B)
    house.roster.sync()
    house.roster.seen(NODE_A, Heartbeat(slots=2))
    assert house.ids() == ["a", "b"] and house.pool.choose("s") == NODE_A


async def test_a_node_that_joins_anew_is_not_drained_for_what_was_before(mock_clock: MockClock) -> None:
    house = House(A)
    house.roster.seen(NODE_A, Heartbeat(slots=2))
    house.pool.reserve("k" * 32, "a")
    house.roster.drain("a", "scaling: idle")
    house.members = ()
    house.roster.sync()
    house.members = (A,)
    house.roster.seen(NODE_A, Heartbeat(slots=2))
    house.roster.sync()
    assert not house.fact().draining


async def test_a_node_of_the_settings_is_nobody_s_machine(mock_clock: MockClock) -> None:
    house = House()
    house.roster.seen(NodeRef("x", "http://static"), Heartbeat(slots=None, cores=4))
    fact = house.fact("x")
    assert (fact.machine, fact.slots, fact.lost) == (None, 4, False)
    house.roster.lost("x", "silent")
    assert house.fact("x").lost


async def test_what_ended_on_a_node_is_counted_while_it_is_a_member(mock_clock: MockClock) -> None:
    house = House(A)
    house.roster.seen(NODE_A, Heartbeat(slots=2))
    for status in (S.COMPLETED, S.FAILED, S.KILLED):
        house.roster.apply(job(S.RUNNING))
        house.roster.apply(job(status))
        house.roster.apply(job(status))  # a row may come twice
    (view,) = house.roster.views()
    assert (view.jobs_ended, view.jobs_failed) == (3, 1)
    house.roster.apply(job(S.RUNNING))
    house.members = ()
    house.roster.sync()
    house.roster.apply(job(S.FAILED))
    house.members = (A,)
    (view,) = house.roster.views()
    assert (view.jobs_ended, view.jobs_failed) == (0, 0)


async def test_an_address_where_nobody_answers_is_shown_until_somebody_does(mock_clock: MockClock) -> None:
    house = House()
    address = NodeAddress("http://static", ("s",))
    house.roster.unreached(address, "connection refused")
    (view,) = house.roster.views()
    assert (view.node.node_id, view.state, view.services) == ("http://static", NodeState.LOST, ("s",))
    assert "connection refused" in view.reason
    assert house.pool.choose("s") is None and house.roster.facts("s") == ()
    house.roster.seen(NodeRef("b", "http://static"), Heartbeat(slots=1))
    assert house.ids() == ["b"]
    house.roster.lost("b", "silent")
    house.roster.unreached(address, "connection refused")
    assert house.ids() == ["b"], "it is known who is not there"
    house.roster.unreached(NodeAddress("http://gone", ("s",)), "no route")
    assert house.ids() == ["b", "http://gone"]
    mock_clock.jump(61)
    assert house.ids() == ["b"], "nobody looks there any more"
