"""What is wrong, in words, of a picture of queue and nodes."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from actors.domain.labels import satisfies
from actors.domain.node import Lately, NodeAddress, NodeRef, NodeState, NodeView
from actors.domain.scaling import DRAINED_BY_SCALING, ScalingLimits, ServiceScaling
from actors.domain.service import Backlog, ServiceLimits
from orchestrator.scheduling.troubles import MOST_WAITING, NAMED, Trouble, TroubleKind, find_troubles

READY = NodeState.READY
SERVICES = {
    name: ServiceLimits(name, addresses=(NodeAddress("http://n", (name,)),))
    for name in ("docking", "folding")
}
NODELESS = {name: ServiceLimits(name) for name in SERVICES}


def node(name: str, state: NodeState = READY, reason: str = "", **more: Any) -> NodeView:
    whole = {"services": ("docking",), **more}
    services = whole.pop("services")
    return NodeView(NodeRef(f"id-{name}", ""), state, reason, services, 2, 0, 0, 0.0, name=name, **whole)


def texts(
    *backlog: Backlog,
    nodes: Sequence[NodeView] = (),
    paused: Mapping[str, str] | None = None,
    scaling: Sequence[ServiceScaling] = (),
) -> list[str]:
    found = find_troubles(backlog, nodes, SERVICES, paused or {}, scaling)
    return [one.text for one in found]


def scaled(*, booting: int = 0, trouble: str = "") -> ServiceScaling:
    return ServiceScaling("docking", "local", ScalingLimits("docking"), 0, booting, 0, 3, trouble)


def test_nothing_is_wrong_where_jobs_wait_for_slots_and_turns() -> None:
    assert texts() == []
    assert texts(Backlog("docking", "", 10_000), nodes=[node("gpu-1"), node("new", NodeState.JOINING)]) == []
    has = node("gpu-1", labels={"gpu": "h100"})
    assert texts(Backlog("docking", "gpu=h100", 5), nodes=[has, node("gpu-2")]) == []


@pytest.mark.parametrize(
    ("waiting", "nodes", "text"),
    [
        (
            Backlog("docking", "gpu=h100", 10),
            [node("gpu-1", labels={"gpu": "a100"})],
            "10 jobs of docking wait for gpu=h100: no ready node has it",
        ),
        (
            Backlog("docking", "ssd", 1),
            [node("gpu-1"), node("gpu-2", NodeState.JOINING, labels={"ssd": ""})],
            "1 job of docking waits for ssd: the only node that has it, gpu-2, is not ready",
        ),
        (
            Backlog("docking", "", 2),
            [node(name, NodeState.JOINING) for name in ("gpu-1", "gpu-2")],
            "2 jobs of docking wait: none of its 2 nodes is ready",
        ),
        (
            Backlog("docking", "ssd", 2),
            [node("other", services=("folding",), labels={"ssd": ""})],
            "2 jobs of docking wait for ssd: no node of docking has been in touch yet",
        ),
        (Backlog("gone", "", 3), [], "3 jobs of gone wait: the settings have no such service any more"),
    ],
)
def test_jobs_that_no_ready_node_can_take(waiting: Backlog, nodes: list[NodeView], text: str) -> None:
    assert texts(waiting, nodes=nodes) == [text]
    assert texts(waiting, nodes=nodes, paused={waiting.service: "x"}) != [text]


START = "start one with `orchestrator node --join URL --join-services docking`"


def test_a_service_without_any_node_is_told_unless_scaling_makes_them() -> None:
    def told(*nodes: NodeView, waiting: int = 0, scaling: Sequence[ServiceScaling] = ()) -> list[str]:
        backlog = [Backlog("docking", "", waiting)] if waiting else []
        return [one.text for one in find_troubles(backlog, nodes, NODELESS, {}, scaling)]

    both, nobody = ("docking", "folding"), f"no node runs docking: {START}"
    folds = node("f", services=("folding",))
    assert told(folds) == [nobody]
    assert told(folds, waiting=2) == [f"2 jobs of docking wait: no node runs docking; {START}"]
    assert told(node("back-soon", NodeState.JOINING, services=both)) == [], "it is on record"
    assert told(node("gone", NodeState.LOST, services=both)) == ["node gone is lost"]
    assert told(folds, scaling=[scaled()]) == []
    assert texts() == [], "the settings have nodes, which were not heard yet"


def test_many_services_without_a_node_are_one_trouble() -> None:
    services = {name: ServiceLimits(name) for name in "abcde"}
    (one,) = find_troubles([], [], services, {})
    assert one.text.startswith("no node runs a, b, c and 2 more: start one with `") and one.service is None
    assert "--join-services a,b,c`" in one.text


def test_a_machine_that_boots_is_on_its_way_and_one_that_does_not_is_told() -> None:
    assert texts(Backlog("docking", "", 3), scaling=[scaled(booting=1)]) == []
    wants = Backlog("docking", "gpu", 3)
    assert texts(wants, scaling=[scaled(booting=1)]) == [
        "3 jobs of docking wait for gpu: no node of docking has been in touch yet"
    ]
    assert texts(Backlog("docking", "", 3), scaling=[scaled(booting=1, trouble="no quota")]) == [
        "3 jobs of docking wait: no node of docking has been in touch yet",
        "no machine for docking: no quota",
    ]


def test_a_node_on_which_a_service_fails_is_told_with_its_last_jobs() -> None:
    sick, well = (
        node("gpu-3", lately={"docking": Lately(9, 10)}),
        node("gpu-1", lately={"docking": Lately(1, 10)}),
    )
    assert texts(nodes=[well, sick]) == ["docking fails on node gpu-3: 9 of its last 10"]
    assert texts(nodes=[sick]) == ["docking fails on node gpu-3: 9 of its last 10"]
    assert texts(nodes=[node("gpu-3", lately={"docking": Lately(7, 10)})]) == []
    assert texts(nodes=[node("gpu-3", lately={"docking": Lately(4, 4)})]) == []
    both = [sick, node("gpu-4", lately={"docking": Lately(5, 5), "folding": Lately(0, 10)})]
    assert texts(nodes=both) == ["docking fails on all 2 nodes: 14 of their last 15 jobs"]


def test_nodes_that_are_gone_or_sick_are_named_and_many_are_counted() -> None:
    lost = [node(f"gpu-{number}", NodeState.LOST, "silent for 60 s") for number in range(1, 6)]
    assert texts(nodes=lost[:2]) == [f"node gpu-{number} is lost: silent for 60 s" for number in (1, 2)]
    assert texts(nodes=[*lost, node("well")]) == ["5 of 6 nodes are lost: gpu-1, gpu-2, gpu-3 and 2 more"]
    sick = node("gpu-9", NodeState.SET_ASIDE, "it has run out of disk")
    suspect = node("gpu-8", NodeState.SUSPECT)
    assert texts(nodes=[suspect, sick]) == [
        "node gpu-9 is set aside: it has run out of disk",
        "node gpu-8 is suspect",
    ]


def test_drained_nodes_are_counted_but_for_those_that_scaling_drains() -> None:
    def drained(name: str, state: NodeState, why: str = "new kernel") -> NodeView:
        return node(name, state, why, draining=why)

    nodes = [drained("gpu-1", NodeState.DRAINED), drained("gpu-2", NodeState.DRAINED)]
    nodes += [drained("gpu-3", NodeState.DRAINING), drained("gpu-4", NodeState.DRAINED, DRAINED_BY_SCALING)]
    told_to_stop = node("gpu-5", NodeState.DRAINING, "it was told to stop")
    assert texts(nodes=[*nodes, told_to_stop, node("gpu-6")]) == [
        "1 of 6 nodes is draining: gpu-3 (new kernel)",
        "2 of 6 nodes are drained: gpu-1, gpu-2 (new kernel)",
    ]
    nodes[1] = drained("gpu-2", NodeState.DRAINED, "its disk")
    assert "2 of 3 nodes are drained: gpu-1 (new kernel), gpu-2 (its disk)" in texts(nodes=nodes[:3])


def test_a_paused_service_is_told_with_what_waits() -> None:
    waiting = (Backlog("docking", "", 2), Backlog("docking", "gpu", 1), Backlog("folding", "", 5))
    folding = node("gpu-1", services=("folding",))
    assert texts(*waiting, nodes=[folding], paused={"docking": "an upgrade"}) == [
        "service docking is paused: an upgrade; 3 jobs wait"
    ]
    assert texts(paused={"docking": "an upgrade"}) == ["service docking is paused: an upgrade"]


# ---------------------------------------------------------------------- whatever the picture

_LABELS = some.sampled_from([{}, {"gpu": "a100"}, {"gpu": "h100"}, {"gpu": "h100", "ssd": ""}])
_NODES = some.lists(
    some.builds(
        node,
        some.uuids().map(str),
        some.sampled_from(NodeState),
        some.just("why"),
        services=some.sampled_from([(), ("docking",), ("folding",), ("docking", "folding")]),
        labels=_LABELS,
        draining=some.sampled_from([None, "order", DRAINED_BY_SCALING]),
        lately=some.dictionaries(
            some.sampled_from(["docking", "folding"]),
            some.integers(0, 10).flatmap(lambda n: some.builds(Lately, some.integers(0, n), some.just(n))),
        ),
    ),
    max_size=12,
)
_BACKLOG = some.lists(
    some.builds(
        Backlog,
        some.sampled_from(["docking", "folding", "gone"]),
        some.one_of(
            some.sampled_from(["", "gpu=a100", "gpu=h100,ssd"]), some.integers(0, 99).map(lambda n: f"l{n}")
        ),
        some.integers(1, 1000),
    ),
    max_size=60,
    unique_by=lambda one: (one.service, one.requires),
)
_PAUSED = some.dictionaries(some.sampled_from(["docking", "folding"]), some.just("an upgrade"))


def find(
    backlog: Sequence[Backlog], nodes: Sequence[NodeView], paused: Mapping[str, str]
) -> tuple[Trouble, ...]:
    return find_troubles(backlog, nodes, SERVICES, paused)


@given(_BACKLOG, _NODES, _PAUSED, some.randoms(use_true_random=False))
def test_the_order_of_what_is_seen_changes_nothing(
    backlog: list[Backlog], nodes: list[NodeView], paused: dict[str, str], shuffled: random.Random
) -> None:
    found = find(backlog, nodes, paused)
    shuffled.shuffle(backlog)
    shuffled.shuffle(nodes)
    assert find(backlog, nodes, paused) == found
    ranks = [list(TroubleKind).index(one.kind) for one in found]
    assert ranks == sorted(ranks)


@given(_BACKLOG, _NODES, _PAUSED)
def test_every_job_that_no_node_can_take_is_counted_once_and_no_other(
    backlog: list[Backlog], nodes: list[NodeView], paused: dict[str, str]
) -> None:
    def stuck(one: Backlog) -> bool:
        return one.service not in paused and not any(
            view.state is READY and one.service in view.services and satisfies(one.requires, view.labels)
            for view in nodes
        )

    told = [one for one in find(backlog, nodes, paused) if one.kind is TroubleKind.NO_NODE]
    assert sum(one.jobs or 0 for one in told) == sum(one.jobs for one in backlog if stuck(one))


@given(_BACKLOG, _NODES, _PAUSED)
def test_what_is_told_is_bounded_and_each_thing_is_told_once(
    backlog: list[Backlog], nodes: list[NodeView], paused: dict[str, str]
) -> None:
    found = find(backlog, nodes, paused)
    assert len({one.text for one in found}) == len(found)
    assert len([one for one in found if one.kind is TroubleKind.NO_NODE]) <= MOST_WAITING + 1
    for kind in (TroubleKind.LOST, TroubleKind.SET_ASIDE, TroubleKind.SUSPECT):
        assert len([one for one in found if one.kind is kind]) <= NAMED


@given(_BACKLOG, _NODES, _PAUSED)
def test_with_every_node_ready_and_able_nothing_is_wrong_but_what_people_ordered(
    backlog: list[Backlog], nodes: list[NodeView], paused: dict[str, str]
) -> None:
    able = {"gpu": "h100", "ssd": ""}
    well = [
        replace(view, state=READY, services=("docking", "folding"), lately={}, labels=able) for view in nodes
    ]
    backlog = [one for one in backlog if one.service != "gone" and satisfies(one.requires, able)]
    kinds = {
        one.kind
        for one in find(backlog, [*well, node("w", services=("docking", "folding"), labels=able)], paused)
    }
    assert kinds == ({TroubleKind.PAUSED} if paused else set())


def kept_texts(keeps: int, *nodes: NodeView, scaling: Sequence[ServiceScaling] = ()) -> list[str]:
    services = SERVICES | {"docking": ServiceLimits("docking", keep_slots=keeps)}
    found = find_troubles([Backlog("folding", "", 3)], nodes, services, {}, scaling)
    return [one.text for one in found if one.kind is TroubleKind.KEPT]


def test_more_slots_kept_than_there_are_is_told() -> None:
    both = ("docking", "folding")
    shared, mine = node("a", services=both), node("b", services=("folding",))
    short = "5 slots are kept for docking, and its ready nodes have 2"
    never = "3 jobs of folding wait: all slots of its ready nodes are kept for docking"
    assert kept_texts(1, shared) == []
    assert kept_texts(2, shared) == [never]
    assert kept_texts(5, shared) == [never, short]
    assert kept_texts(5, shared, mine) == [short]
    assert kept_texts(5, shared, replace(mine, state=NodeState.LOST)) == [never, short]
    assert kept_texts(5, replace(shared, slots=None)) == []
    assert kept_texts(5, shared, mine, scaling=[scaled()]) == [], "machines come when they are wanted"


def test_machines_that_nothing_scales_any_more_are_told() -> None:
    machines = [node("aws-1", machine="a" * 32), node("aws-2", machine="b" * 32)]
    gone = node("aws-3", NodeState.LOST, machine="c" * 32)
    told = texts(nodes=[*machines, gone, node("own")])
    assert told[-1] == "2 machines of docking are left, and nothing scales it"
    assert texts(nodes=[*machines, node("own")], scaling=[scaled()]) == []
