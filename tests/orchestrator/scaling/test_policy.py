"""What scaling decides: case by case, and what holds for every snapshot."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from actors.domain.scaling import (
    DRAINED_BY_SCALING,
    Action,
    Create,
    Drain,
    MachineFact,
    MachineState,
    NodeFact,
    ScalingLimits,
    Snapshot,
    Terminate,
    Undrain,
)
from orchestrator.scaling.policy import decide

LIMITS = ScalingLimits(
    "dock",
    max_nodes=40,
    max_booting=40,
    target_wait=5.0,
    idle_timeout=300.0,
    cooldown=60.0,
    boot_timeout=300.0,
)
NOW = 10_000.0


def node(name: str = "a", *, busy: int = 0, slots: int = 1, idle: float = 0.0, **more: object) -> NodeFact:
    fact = NodeFact(
        f"node-{name}",
        f"machine-{name}",
        ready=True,
        draining=False,
        slots=slots,
        busy=busy,
        idle_since=None if busy else NOW - idle,
        joined_at=NOW - 5000.0,
        heard_at=NOW - 0.5,
    )
    return replace(fact, **more)  # type: ignore[arg-type]  # the names are the test's own


def going(name: str, *, busy: int = 0, ago: float = 10.0, **more: object) -> NodeFact:
    reason = DRAINED_BY_SCALING + "idle"
    return node(name, busy=busy, draining=True, drained_for=reason, drained_at=NOW - ago, **more)


def snapshot(runnable: int = 0, *nodes: NodeFact, **more: object) -> Snapshot:
    made = Snapshot(NOW, LIMITS, runnable, 1.0 if runnable else 0.0, 0, None, nodes=nodes)
    return replace(made, **more)  # type: ignore[arg-type]  # the names are the test's own


def kinds(actions: tuple[Action, ...]) -> list[str]:
    return [type(action).__name__ for action in actions]


def created(actions: tuple[Action, ...]) -> int:
    return sum(action.count for action in actions if isinstance(action, Create))


def test_a_reason_has_the_name_of_its_node_and_the_id_where_it_has_none() -> None:
    (end,) = decide(snapshot(0, replace(node(lost=True), name="gpu-3")))
    assert isinstance(end, Terminate) and end.reason == "node gpu-3 is lost"
    (end,) = decide(snapshot(0, node(lost=True)))
    assert isinstance(end, Terminate) and end.reason == "node node-a is lost"


# ------------------------------------------------------------------ growing


def test_while_nothing_is_known_of_run_times_each_job_asks_for_a_slot() -> None:
    assert created(decide(snapshot(7))) == 7
    assert created(decide(snapshot(7, limits=replace(LIMITS, slots_per_node=4)))) == 2


def test_a_burst_of_short_jobs_does_not_order_a_machine_a_job() -> None:
    assert created(decide(snapshot(20, node(busy=1), run_seconds=0.5))) == 1
    assert created(decide(snapshot(11, node(busy=1), node("b", busy=1), run_seconds=0.5))) == 0


def test_long_jobs_order_a_machine_each() -> None:
    assert created(decide(snapshot(20, node(busy=1), run_seconds=3600.0))) == 20


def test_booting_machines_count_as_slots_that_come() -> None:
    booting = tuple(MachineFact(f"m{i}", MachineState.BOOTING, NOW - 30.0) for i in range(5))
    assert created(decide(snapshot(7, machines=booting))) == 2
    assert created(decide(snapshot(5, machines=booting))) == 0


def test_a_node_that_joined_and_was_not_yet_in_touch_counts_as_coming() -> None:
    fresh = node(ready=False, slots=0, heard_at=None, joined_at=NOW - 1.0)
    assert decide(snapshot(1, fresh)) == ()


def test_free_slots_of_static_nodes_are_used_first() -> None:
    assert decide(snapshot(3, node(machine=None, slots=3))) == ()


def test_slots_that_are_kept_for_other_services_are_none() -> None:
    """A job that waits for one of them is one that a machine is made for."""
    static = node(machine=None, slots=3)
    assert created(decide(snapshot(1, static, kept=2))) == 0
    assert created(decide(snapshot(1, static, kept=3))) == 1
    assert created(decide(snapshot(2, static, node("b", busy=1), kept=2))) == 1
    assert created(decide(snapshot(30, static, run_seconds=0.5, kept=3))) == 3, "and no slots for later jobs"
    late = snapshot(1, replace(static, busy=1, slots=4), kept=3, run_seconds=0.5, oldest_wait=60.0)
    assert created(decide(late)) == 1


def test_a_node_that_is_set_aside_or_suspect_is_no_slot() -> None:
    assert created(decide(snapshot(1, node(ready=False)))) == 1


def test_jobs_that_wait_longer_than_expected_get_one_more_machine() -> None:
    stuck = snapshot(1, node(busy=1), run_seconds=0.5, oldest_wait=60.0)
    assert created(decide(stuck)) == 1
    assert created(decide(replace(stuck, oldest_wait=4.0))) == 0
    coming = (MachineFact("m", MachineState.WANTED, NOW),)
    assert created(decide(replace(stuck, machines=coming))) == 0


def test_no_more_than_max_nodes_and_max_booting() -> None:
    assert created(decide(snapshot(1000))) == 40
    assert created(decide(snapshot(1000, limits=replace(LIMITS, max_booting=3)))) == 3
    some = tuple(node(str(i), busy=1) for i in range(38))
    ending = (MachineFact("m", MachineState.ENDING, NOW),)
    assert created(decide(snapshot(1000, *some, machines=ending))) == 1


def test_min_nodes_are_made_without_any_job() -> None:
    assert created(decide(snapshot(limits=replace(LIMITS, min_nodes=2)))) == 2


def test_a_node_that_was_about_to_go_is_kept_before_a_machine_is_made() -> None:
    actions = decide(snapshot(2, going("a"), going("b", busy=1)))
    assert [a.node_id for a in actions if isinstance(a, Undrain)] == ["node-a", "node-b"]
    assert created(actions) == 1
    assert not any(isinstance(action, Terminate) for action in actions)


def test_what_an_operator_drained_is_neither_kept_nor_ended() -> None:
    theirs = node(draining=True, drained_for="new kernel", drained_at=NOW - 50.0)
    assert kinds(decide(snapshot(1, theirs))) == ["Create"]
    assert decide(snapshot(0, theirs)) == ()


# ------------------------------------------------------------------ failed boots


def test_a_machine_without_a_node_past_boot_timeout_is_ended_and_none_is_ordered_with_it() -> None:
    late = (MachineFact("m", MachineState.BOOTING, NOW - 300.0),)
    assert kinds(decide(snapshot(3, machines=late))) == ["Terminate"]


def test_a_node_that_joined_and_was_never_in_touch_is_ended() -> None:
    silent = node(ready=False, slots=0, heard_at=None, joined_at=NOW - 301.0)
    assert kinds(decide(snapshot(0, silent))) == ["Terminate"]
    assert decide(snapshot(0, replace(silent, busy=1))) == (), "it has a job of ours from before a restart"


def test_boots_are_held_back_and_then_tried_one_at_a_time() -> None:
    held = snapshot(9, failed_boots=3, hold_boots_until=NOW + 1.0)
    assert decide(held) == ()
    assert created(decide(replace(held, hold_boots_until=NOW))) == 1
    assert created(decide(replace(held, failed_boots=2, hold_boots_until=NOW))) == 9


# ------------------------------------------------------------------ shrinking


def test_nodes_idle_for_long_enough_are_drained_the_longest_idle_first() -> None:
    nodes = (node("a", idle=301.0), node("b", idle=400.0), node("c", idle=299.0), node("d", busy=1))
    drained = [a.node_id for a in decide(snapshot(0, *nodes)) if isinstance(a, Drain)]
    assert drained == ["node-b", "node-a"]


def test_min_nodes_stay_and_static_nodes_are_never_drained() -> None:
    nodes = (node("a", idle=900.0), node("b", idle=800.0), node("c", idle=9000.0, machine=None))
    drained = decide(snapshot(0, *nodes, limits=replace(LIMITS, min_nodes=1)))
    assert [a.node_id for a in drained if isinstance(a, Drain)] == ["node-a"]


def test_nothing_is_drained_within_the_cooldown_or_while_jobs_can_run() -> None:
    idle = snapshot(0, node(idle=900.0))
    assert kinds(decide(idle)) == ["Drain"]
    assert decide(replace(idle, grown_at=NOW - 59.0)) == ()
    assert decide(replace(idle, runnable=1)) == ()


def test_a_node_that_has_just_joined_has_its_own_grace() -> None:
    assert decide(snapshot(0, node(idle=900.0, joined_at=NOW - 100.0))) == ()


def test_slots_that_were_not_needed_go_though_no_node_is_idle_for_long() -> None:
    nodes = tuple(node(str(i), busy=i % 2, idle=5.0) for i in range(10))
    assert decide(snapshot(0, *nodes)) == ()
    actions = decide(snapshot(0, *nodes, peak_demand=7))
    assert kinds(actions) == ["Drain"] * 3
    assert all(isinstance(a, Drain) and int(a.node_id[-1]) % 2 == 0 for a in actions), "the idle ones go"


def test_a_machine_is_ended_once_its_node_itself_says_that_it_is_empty() -> None:
    assert kinds(decide(snapshot(0, going("a")))) == ["Terminate"]
    assert decide(snapshot(0, going("a", busy=1))) == ()
    assert decide(snapshot(0, going("a", ago=0.2))) == (), "its heartbeat is older than the drain"
    assert decide(snapshot(0, going("a", heard_at=None))) == ()


def test_the_machine_of_a_lost_node_is_ended_and_replaced() -> None:
    actions = decide(snapshot(1, node(lost=True, ready=False)))
    assert kinds(actions) == ["Create", "Terminate"]


# ------------------------------------------------------------------ what always holds

_limits = st.builds(
    ScalingLimits,
    service=st.just("dock"),
    min_nodes=st.integers(0, 3),
    max_nodes=st.integers(3, 8),
    slots_per_node=st.integers(1, 4),
    target_wait=st.sampled_from([0.0, 1.0, 30.0]),
    idle_timeout=st.sampled_from([0.0, 60.0]),
    cooldown=st.sampled_from([0.0, 60.0]),
    boot_timeout=st.sampled_from([30.0, 120.0]),
    max_booting=st.integers(1, 8),
    max_failed_boots=st.integers(1, 3),
)
_ago = st.sampled_from([0.0, 0.5, 10.0, 100.0, 1000.0])


@st.composite
def _nodes(draw: st.DrawFn, index: int) -> NodeFact:
    slots, ready, draining = draw(st.integers(1, 4)), draw(st.booleans()), draw(st.booleans())
    busy = draw(st.integers(0, slots))
    ours = draw(st.booleans())
    heard = draw(st.none() | _ago) if not ready else draw(_ago)
    return NodeFact(
        f"n{index}",
        f"t{index}" if draw(st.booleans()) else None,
        ready=ready,
        draining=draining,
        slots=slots,
        busy=busy,
        idle_since=None if busy else NOW - draw(_ago),
        joined_at=NOW - draw(_ago),
        lost=not ready and draw(st.booleans()),
        drained_for=(DRAINED_BY_SCALING if ours else "by hand") if draining else "",
        drained_at=NOW - draw(_ago) if draining else None,
        heard_at=None if heard is None else NOW - heard,
    )


@st.composite
def _snapshots(draw: st.DrawFn) -> Snapshot:
    runnable = draw(st.integers(0, 30))
    states = st.sampled_from([s for s in MachineState if s is not MachineState.ENDED])
    machines = [MachineFact(f"m{i}", draw(states), NOW - draw(_ago)) for i in range(draw(st.integers(0, 4)))]
    return Snapshot(
        NOW,
        draw(_limits),
        runnable,
        draw(_ago) if runnable else 0.0,
        draw(st.integers(0, 10)),
        draw(st.none() | st.sampled_from([0.01, 1.0, 20.0, 3600.0])),
        tuple(draw(_nodes(i)) for i in range(draw(st.integers(0, 6)))),
        tuple(machines),
        draw(st.none() | _ago.map(lambda ago: NOW - ago)),
        draw(st.integers(0, 4)),
        draw(st.sampled_from([0.0, NOW + 5.0])),
        draw(st.none() | st.integers(0, 20)),
    )


def done(s: Snapshot, actions: tuple[Action, ...]) -> Snapshot:
    """The snapshot after the actions, at the same moment."""
    nodes, machines = {n.node_id: n for n in s.nodes}, {m.token: m for m in s.machines}
    for action in actions:
        match action:
            case Create(count=count):
                s = replace(s, grown_at=s.now)
                for i in range(count):
                    machines[f"new{i}"] = MachineFact(f"new{i}", MachineState.WANTED, s.now)
            case Drain(node_id=node_id, reason=reason):
                nodes[node_id] = replace(nodes[node_id], draining=True, drained_for=reason, drained_at=s.now)
            case Undrain(node_id=node_id):
                nodes[node_id] = replace(nodes[node_id], draining=False, drained_for="", drained_at=None)
            case Terminate(token=token):
                node = next((n for n in nodes.values() if n.machine == token), None)
                if node is None or node.heard_at is None:
                    s = replace(s, failed_boots=s.failed_boots + 1, hold_boots_until=s.now + 30.0)
                if node is not None:
                    del nodes[node.node_id]
                machines[token] = MachineFact(token, MachineState.ENDING, s.now)
    return replace(s, nodes=tuple(nodes.values()), machines=tuple(machines.values()))


def made(s: Snapshot) -> int:
    return len(s.machines) + sum(n.machine is not None for n in s.nodes)


def booting(s: Snapshot) -> int:
    return sum(m.state is not MachineState.ENDING for m in s.machines)


@settings(max_examples=200)
@given(_snapshots())
def test_whatever_is_seen(s: Snapshot) -> None:
    actions = decide(s)
    after = done(s, actions)
    assert decide(s) == actions, "deterministic"
    assert decide(after) == (), "done is done"
    assert made(after) <= max(made(s), s.limits.max_nodes)
    assert booting(after) <= max(booting(s), s.limits.max_booting)
    nodes = {n.node_id: n for n in s.nodes}
    by_machine = {n.machine: n for n in s.nodes if n.machine is not None}
    for action in actions:
        match action:
            case Terminate(token=token) if token in by_machine:
                node = by_machine[token]
                assert node.lost or node.heard_at is None or (node.going and node.empty)
                assert node.lost or node.busy == 0
            case Drain(node_id=node_id):
                assert nodes[node_id].machine is not None
                assert not nodes[node_id].draining
            case Undrain(node_id=node_id):
                assert nodes[node_id].going
            case Create(count=count):
                assert count > 0
                assert s.now >= s.hold_boots_until
    drained = sum(isinstance(action, Drain) for action in actions)
    staying = sum(n.machine is not None and not n.draining and not n.lost for n in after.nodes)
    assert not drained or staying >= s.limits.min_nodes


@given(_snapshots(), st.randoms(use_true_random=False))
def test_the_order_in_which_nodes_are_told_of_changes_nothing(s: Snapshot, random: object) -> None:
    nodes, machines = list(s.nodes), list(s.machines)
    random.shuffle(nodes)  # type: ignore[attr-defined]  # Hypothesis says object
    random.shuffle(machines)  # type: ignore[attr-defined]
    shuffled = replace(s, nodes=tuple(nodes), machines=tuple(machines))
    assert sorted(map(repr, decide(shuffled))) == sorted(map(repr, decide(s)))
