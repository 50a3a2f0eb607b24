"""The pool's nodes as scaling sees them: who joined, what is on them, drains."""

from __future__ import annotations

import random
from dataclasses import replace

from actors.domain.job import Attempt, End, Job
from actors.domain.node import Heartbeat, JoinedNode, Lately, NodeAddress, NodeRef, NodeState, NodeView
from actors.domain.scaling import NodeFact
from actors.domain.service import ServiceLimits
from actors.domain.status import Status
from orchestrator.scheduling.service_pool import ServicePool

S = Status
A, B = JoinedNode("a", "http://a", ("s",), 2, machine="t" * 32), JoinedNode("b", "http://b", ("s",), 1)
NODE_A = NodeRef("a", "http://a")


class House:
    """A pool with a clock beside it; `members` is what the registry would say."""

    def __init__(self, *members: JoinedNode) -> None:
        addresses = (NodeAddress("http://static"),)
        self.pool = ServicePool({"s": ServiceLimits("s", addresses=addresses)}, random.Random(1))
        self.members: tuple[JoinedNode, ...] = members
        self.now = 0.0
        self.sync()

    def sync(self) -> None:
        self.pool.sync(self.members, self.now)

    def seen(self, node: NodeRef, beat: Heartbeat) -> None:
        self.pool.seen(node, beat, self.now)

    def apply(self, row: Job) -> None:
        self.pool.apply(row, self.now)

    def drain(self, node_id: str, reason: str) -> bool:
        return self.pool.drain(node_id, reason, self.now)

    def unreached(self, address: NodeAddress, reason: str) -> None:
        self.pool.unreached(address, reason, self.now)

    def fact(self, node_id: str = "a") -> NodeFact:
        self.sync()
        return next(one for one in self.pool.facts("s", self.now) if one.node_id == node_id)

    def views(self) -> tuple[NodeView, ...]:
        self.sync()
        return self.pool.views(self.now)

    def ids(self) -> list[str]:
        return [view.node.node_id for view in self.views()]


def job(status: Status, *, node: str = "a", end: End | None = None) -> Job:
    attempt = Attempt("f" * 32, 1, 1, node)
    return Job(1, 1, "s", status, "", 1, 0.0, 0.0, "k", attempt=attempt, end=end)


def test_a_node_is_idle_since_its_last_job_was_brought_home() -> None:
    house = House(A)
    house.seen(NODE_A, Heartbeat(slots=2))
    began = house.now
    assert (house.fact().busy, house.fact().idle_since) == (0, began)
    house.now += 10
    house.apply(job(S.RUNNING))
    assert (house.fact().busy, house.fact().idle_since) == (1, None)
    house.now += 10
    # It has ended and holds no slot; what it made is still on the node.
    house.apply(job(S.RUNNING, end=End(S.COMPLETED, "")))
    assert house.fact().busy == 1
    house.apply(job(S.COMPLETED))
    assert (house.fact().busy, house.fact().idle_since) == (0, began + 20)


def test_jobs_too_short_to_be_seen_keep_a_node_from_being_idle() -> None:
    house = House(A)
    house.seen(NODE_A, Heartbeat(slots=2))
    house.now += 30
    house.apply(job(S.PROCESSING))
    house.apply(job(S.COMPLETED))
    assert house.fact().idle_since == house.now
    house.now += 5
    house.seen(NODE_A, Heartbeat(slots=2, others=1))
    house.seen(NODE_A, Heartbeat(slots=2))
    assert house.fact().idle_since == house.now, "another owner's"


def test_a_drained_node_is_empty_only_by_a_word_that_is_newer() -> None:
    house = House(A)
    house.seen(NODE_A, Heartbeat(slots=2))
    house.now += 1
    assert house.drain("a", "scaling: idle for 300 s")
    assert house.pool.choose("s") is None
    fact = house.fact()
    assert (fact.going, fact.empty, fact.machine, fact.ready) == (True, False, "t" * 32, True)
    house.now += 1
    house.seen(NODE_A, Heartbeat(slots=2, others=1))
    assert not house.fact().empty
    house.seen(NODE_A, Heartbeat(slots=2))
    assert house.fact().empty
    assert house.pool.undrain("a")
    assert house.pool.choose("s") == NODE_A
    assert not house.drain("nobody", "x") and not house.pool.undrain("nobody")


def test_an_operator_s_drain_takes_over_scaling_s_and_is_not_taken_over() -> None:
    house = House(A)
    house.seen(NODE_A, Heartbeat(slots=2))
    house.drain("a", "scaling: idle")
    ordered = house.fact().drained_at
    house.now += 5
    house.drain("a", "new kernel")
    house.drain("a", "scaling: idle still")
    assert (house.fact().drained_for, house.fact().drained_at) == ("new kernel", ordered)
    assert not house.fact().going


def test_who_has_left_is_gone_whatever_is_still_heard_of_it() -> None:
    house = House(A, B)
    house.seen(NODE_A, Heartbeat(slots=2))
    house.members = (B,)
    assert house.ids() == ["b"]
    house.seen(NODE_A, Heartbeat(slots=2))
    house.pool.suspect("a", "its address was removed")
    house.pool.lost("a", "silent")
    assert house.ids() == ["b"]
    house.members = (A, B)
    house.sync()
    house.seen(NODE_A, Heartbeat(slots=2))
    assert house.ids() == ["a", "b"] and house.pool.choose("s") == NODE_A


def test_a_node_that_joins_anew_is_not_drained_for_what_was_before() -> None:
    house = House(A)
    house.seen(NODE_A, Heartbeat(slots=2))
    house.pool.reserve("k" * 32, "a")
    house.drain("a", "scaling: idle")
    house.members = ()
    house.sync()
    house.members = (A,)
    house.seen(NODE_A, Heartbeat(slots=2))
    house.sync()
    assert not house.fact().draining


def test_a_node_of_the_settings_is_nobody_s_machine() -> None:
    house = House()
    house.seen(NodeRef("x", "http://static"), Heartbeat(slots=None, cores=4))
    fact = house.fact("x")
    assert (fact.machine, fact.slots, fact.lost) == (None, 4, False)
    house.pool.lost("x", "silent")
    assert house.fact("x").lost


def test_what_ended_on_a_node_is_counted_while_it_is_a_member() -> None:
    house = House(A)
    house.seen(NODE_A, Heartbeat(slots=2))
    for status in (S.COMPLETED, S.FAILED, S.KILLED):
        house.apply(job(S.RUNNING))
        house.apply(job(status))
        house.apply(job(status))  # a row may come twice
    (view,) = house.views()
    assert (view.jobs_ended, view.jobs_failed) == (3, 1)
    house.apply(job(S.RUNNING))
    house.members = ()
    house.sync()
    house.apply(job(S.FAILED))
    house.members = (A,)
    (view,) = house.views()
    assert (view.jobs_ended, view.jobs_failed) == (0, 0)


def test_an_address_where_nobody_answers_is_shown_until_somebody_does() -> None:
    house = House()
    address = NodeAddress("http://static", ("s",))
    house.unreached(address, "connection refused")
    (view,) = house.views()
    assert (view.node.node_id, view.state, view.services) == ("http://static", NodeState.LOST, ("s",))
    assert "connection refused" in view.reason
    assert house.pool.choose("s") is None and house.pool.facts("s", house.now) == ()
    house.seen(NodeRef("b", "http://static"), Heartbeat(slots=1))
    assert house.ids() == ["b"]
    house.pool.lost("b", "silent")
    house.unreached(address, "connection refused")
    assert house.ids() == ["b"], "it is known who is not there"
    house.unreached(NodeAddress("http://gone", ("s",)), "no route")
    assert house.ids() == ["b", "http://gone"]
    house.now += 61
    assert house.ids() == ["b"], "nobody looks there any more"


def test_people_are_told_the_name_that_a_node_says() -> None:
    house = House(A, B)
    assert [view.name for view in house.views()] == ["", ""]
    for node in (NODE_A, NodeRef("b", "http://b")):
        house.seen(node, Heartbeat(slots=0, name="gpu"))
    assert [(view.node.node_id, view.name) for view in house.views()] == [("a", "gpu"), ("b", "gpu-2")]
    assert "gpu is full" in house.pool.why_none("s")
    house.members = (B,)
    house.sync()
    house.members = (B, replace(A, node_id="c", url="http://c"))
    house.seen(NodeRef("c", "http://c"), Heartbeat(name="gpu"))
    assert [(view.node.node_id, view.name) for view in house.views()] == [("c", "gpu"), ("b", "gpu-2")]


def test_a_node_that_the_settings_name_no_more_gets_no_job_and_is_let_go_of() -> None:
    house = House(A)
    house.seen(NODE_A, Heartbeat(slots=2))
    static = NodeRef("static", "http://static")
    house.seen(static, Heartbeat(slots=8))
    house.pool.reserve("k", "static")
    house.pool.set_limits({"s": ServiceLimits("s", runs_per_user=1)})
    assert house.pool.choose("s") == NODE_A
    house.seen(static, Heartbeat(slots=8))
    assert house.pool.choose("s") == NODE_A, "what it says later names it to nobody"
    assert house.ids() == ["a", "static"], "an attempt is there still"
    house.pool.unreserve("k")
    assert house.ids() == ["a"]
    house.pool.reserve("m", "a")
    house.pool.set_limits({"s": ServiceLimits("s", addresses=(NodeAddress("http://static"),))})
    house.seen(static, Heartbeat(slots=8))
    assert house.pool.choose("s") == static, "the settings name it again"


def test_nodes_of_a_service_that_goes_stay_those_of_the_others() -> None:
    house = House(JoinedNode("a", "http://a", ("s", "t"), 2))
    house.seen(NODE_A, Heartbeat(slots=2))
    house.pool.set_limits({"t": ServiceLimits("t")})
    assert house.pool.choose("s") is None and house.pool.choose("t") == NODE_A
    assert house.pool.why_none("s") == "there is no service s"
    house.pool.set_limits({})
    assert house.ids() == ["a"], "one that has joined is there for a service that comes"


def test_a_node_that_drains_is_drained_once_nothing_of_ours_is_there() -> None:
    house = House(A)
    house.seen(NODE_A, Heartbeat(slots=2))
    house.pool.reserve("f" * 32, "a")
    house.apply(job(S.RUNNING))
    assert house.drain("a", "new kernel")
    states = [house.views()[0].state]
    house.pool.unreserve("f" * 32)
    states.append(house.views()[0].state)  # its results are not here yet
    house.apply(job(S.COMPLETED, end=End(S.COMPLETED, "")))
    states.append(house.views()[0].state)
    assert states == [NodeState.DRAINING, NodeState.DRAINING, NodeState.DRAINED]
    assert "is drained: new kernel" in house.pool.why_none("s")
    house.pool.lost("a", "silent")
    assert house.views()[0].state is NodeState.LOST
    house.seen(NODE_A, Heartbeat(slots=2, stopping=True))
    assert house.pool.undrain("a")
    assert house.views()[0].state is NodeState.DRAINING  # it says itself when it has gone


def test_how_the_last_jobs_of_a_service_ended_on_a_node_is_told_for_an_hour() -> None:
    house = House(A)
    house.seen(NODE_A, Heartbeat(slots=2))
    for number in range(12):
        house.now = float(number)
        house.apply(job(S.RUNNING))
        status = S.COMPLETED if number in (0, 5) else S.FAILED
        house.apply(job(status, end=End(status, "", wall_seconds=60.0)))
    assert house.views()[0].lately == {"s": Lately(9, 10)}
    house.now = 3600.0 + 6
    assert house.views()[0].lately == {"s": Lately(5, 5)}
    house.members = ()
    house.sync()
    house.members = (A,)
    assert house.views()[0].lately == {}
