"""What is wrong now, in words: what keeps jobs from running, or has them fail, and that somebody can change.
Pure, on what queue, pool, pauses and scaling know already.

Jobs that wait for their turn, for a slot or for their user's quota are no trouble, nor is a node that scaling
drains, or a machine that boots.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from actors.domain.labels import satisfies
from actors.domain.node import NodeState, NodeView
from actors.domain.phrases import name_some
from actors.domain.scaling import DRAINED_BY_SCALING, ServiceScaling
from actors.domain.service import Backlog, ServiceLimits
from orchestrator.scheduling.kept_slots import ENDLESS, KeptSlots

FAILING_SHARE: Final = 0.8
"""The share of a node's last jobs of a service from which on they count as failing there."""
FAILING_LEAST: Final = 5
"""Jobs that have to have ended there lately, before anything is said of them."""
NAMED: Final = 3
"""Nodes that have a line each; of more of one kind there is one line with their number and some names."""
MOST_WAITING: Final = 20
"""Lines on jobs that wait for a node; the others are counted together."""


class TroubleKind(StrEnum):
    """The worst first. NOT_READY: the server cannot do its work. NO_NODE: jobs wait, and no node is there
    for them; or would, as no node is there at all. KEPT: more slots are kept for services than is good.
    FAILING: nearly all jobs of a service fail, on a node or everywhere."""

    NOT_READY = "not_ready"
    NO_NODE = "no_node"
    KEPT = "kept"
    FAILING = "failing"
    LOST = "lost"
    SET_ASIDE = "set_aside"
    SUSPECT = "suspect"
    SCALING = "scaling"
    PAUSED = "paused"
    DRAINED = "drained"


@dataclass(frozen=True, slots=True)
class Trouble:
    """`text` is a sentence without its full stop. `service` and `node` (its id) are what it is about, where
    that is one; `jobs`: how many it concerns, None where that says nothing."""

    kind: TroubleKind
    text: str
    service: str | None = None
    node: str | None = None
    jobs: int | None = None


_ORDER: Final = tuple(TroubleKind)
_OF_STATE: Final = {
    NodeState.LOST: TroubleKind.LOST,
    NodeState.SET_ASIDE: TroubleKind.SET_ASIDE,
    NodeState.SUSPECT: TroubleKind.SUSPECT,
}


def find_troubles(
    backlog: Sequence[Backlog],
    nodes: Sequence[NodeView],
    services: Mapping[str, ServiceLimits],
    paused: Mapping[str, str],
    scaling: Sequence[ServiceScaling] = (),
) -> tuple[Trouble, ...]:
    """The worst first, then those of most jobs. `backlog`: jobs that wait, by service and requirement;
    `services`: those in the settings; `paused`: why some are."""
    booting = {one.service for one in scaling if one.booting and not one.trouble}
    scaled = {one.service for one in scaling}
    served = {name for view in nodes for name in view.services}
    nodeless = find_nodeless(services, served | scaled)
    found = [
        *_waiting(backlog, nodes, services, paused, booting=booting, nodeless=nodeless),
        *_nodeless([name for name in nodeless if name not in {one.service for one in backlog}]),
        *_kept(backlog, nodes, services, scaled),
        *_failing(nodes),
        *(trouble for state, kind in _OF_STATE.items() for trouble in _in_state(nodes, state, kind)),
        *_scaling(scaling),
        *_left_machines(nodes, scaled),
        *_paused(backlog, paused),
        *_drained(nodes),
    ]
    return tuple(sorted(found, key=lambda one: (_ORDER.index(one.kind), -(one.jobs or 0), one.text)))


def find_own_troubles(checks: Mapping[str, str]) -> tuple[Trouble, ...]:
    """What keeps the server itself from its work. `checks` are those of GET /ready."""
    failing = [f"{name}: {answer}" for name, answer in checks.items() if answer != "ok"]
    return tuple(Trouble(TroubleKind.NOT_READY, f"the server is not ready: {one}") for one in failing)


def find_nodeless(services: Mapping[str, ServiceLimits], served: Collection[str]) -> list[str]:
    """Those of the services that no node is for: none is in the settings, none has joined, nothing makes
    them. `served`: those for which one has joined, or is made. What has joined is on record, so that those
    of before a restart count."""
    return sorted(name for name, one in services.items() if not one.addresses and name not in served)


def tell_nodeless(*names: str) -> str:
    """That no node is for these services, and what to do."""
    return f"no node runs {_shortened(names)}: {_how_to_start(names)}"


def _how_to_start(names: Sequence[str]) -> str:
    return f"start one with `orchestrator node --join URL --join-services {','.join(names[:NAMED])}`"


def _nodeless(names: Sequence[str]) -> Iterator[Trouble]:
    if len(names) > NAMED:
        yield Trouble(TroubleKind.NO_NODE, tell_nodeless(*names))
        return
    for name in names:
        yield Trouble(TroubleKind.NO_NODE, tell_nodeless(name), name)


def _waiting(
    backlog: Sequence[Backlog],
    nodes: Sequence[NodeView],
    services: Collection[str],
    paused: Mapping[str, str],
    *,
    booting: Collection[str],
    nodeless: Collection[str],
) -> Iterator[Trouble]:
    found = []
    for one in backlog:
        why = "" if one.service in paused else _why_no_node(one, nodes, services, booting, nodeless)
        if why:
            wait = f"{_count(one.jobs, 'job')} of {one.service} {_verb(one.jobs, 'waits', 'wait')}"
            wanted = f" for {one.requires}" if one.requires else ""
            text = f"{wait}{wanted}: {why}"
            found.append(Trouble(TroubleKind.NO_NODE, text, one.service, jobs=one.jobs))
    found.sort(key=lambda one: (-(one.jobs or 0), one.text))
    yield from found[:MOST_WAITING]
    if rest := sum(one.jobs or 0 for one in found[MOST_WAITING:]):
        text = f"{_count(rest, 'further job')} {_verb(rest, 'waits', 'wait')} for what no ready node has"
        yield Trouble(TroubleKind.NO_NODE, text, jobs=rest)


def _why_no_node(
    one: Backlog,
    nodes: Sequence[NodeView],
    services: Collection[str],
    booting: Collection[str],
    nodeless: Collection[str],
) -> str:
    """ "" if a ready node may take them, or one is on its way."""
    if one.service not in services:
        return "the settings have no such service any more"
    if one.service in nodeless:
        return f"no node runs {one.service}; {_how_to_start([one.service])}"
    serving = [view for view in nodes if one.service in view.services]
    able = [view for view in serving if not one.requires or satisfies(one.requires, view.labels)]
    if any(view.state is NodeState.READY for view in able) or (one.service in booting and not one.requires):
        return ""
    if not able:
        return "no ready node has it" if serving else f"no node of {one.service} has been in touch yet"
    if len(able) == 1:
        only = "the only node that has it" if one.requires else "its only node"
        return f"{only}, {_name(able[0])}, is not ready"
    those = f"the {len(able)} nodes that have it" if one.requires else f"its {len(able)} nodes"
    return f"none of {those} is ready"


def _kept(
    backlog: Sequence[Backlog],
    nodes: Sequence[NodeView],
    services: Mapping[str, ServiceLimits],
    scaled: Collection[str],
) -> Iterator[Trouble]:
    """More slots are kept than there are, or so many that jobs of other services never get one. Nodes that
    scaling makes come when they are wanted."""
    keeps = {name: limits.keep_slots for name, limits in services.items() if limits.keep_slots}
    slots = Counter[frozenset[str]]()
    for view in nodes if keeps else ():
        if view.state is NodeState.READY:
            slots[frozenset(view.services)] += ENDLESS if view.slots is None else view.slots
    for name, most in keeps.items():
        there = sum(count for users, count in slots.items() if name in users)
        if there < most and name not in scaled:
            kept = f"{_count(most, 'slot')} {_verb(most, 'is', 'are')} kept for {name}"
            yield Trouble(TroubleKind.KEPT, f"{kept}, and its ready nodes have {there}", name)
    waiting = Counter[str]()
    for one in backlog:
        waiting[one.service] += one.jobs
    for name in waiting.keys() - keeps.keys() - {*scaled}:
        users = [those for those, count in slots.items() if name in those and count]
        if users and KeptSlots(keeps, slots).count_kept(name) == sum(slots[those] for those in users):
            keepers = " and ".join(sorted(frozenset().union(*users) & keeps.keys()))
            wait = f"{_count(waiting[name], 'job')} of {name} {_verb(waiting[name], 'waits', 'wait')}"
            text = f"{wait}: all slots of its ready nodes are kept for {keepers}"
            yield Trouble(TroubleKind.KEPT, text, name, jobs=waiting[name])


def _failing(nodes: Sequence[NodeView]) -> Iterator[Trouble]:
    """Of a service that fails wherever it runs the jobs are to blame, or what all nodes lack alike."""
    names = sorted({name for view in nodes for name in view.lately})
    for service in names:
        judged = [(view, view.lately[service]) for view in nodes if service in view.lately]
        judged = [(view, lately) for view, lately in judged if lately.ended >= FAILING_LEAST]
        bad = [(view, lately) for view, lately in judged if lately.failed >= FAILING_SHARE * lately.ended]
        if len(bad) == len(judged) > 1:
            failed, ended = sum(one.failed for _, one in bad), sum(one.ended for _, one in bad)
            text = f"{service} fails on all {len(bad)} nodes: {failed} of their last {_count(ended, 'job')}"
            yield Trouble(TroubleKind.FAILING, text, service, jobs=failed)
            continue
        for view, lately in bad:
            text = f"{service} fails on node {_name(view)}: {lately.failed} of its last {lately.ended}"
            yield Trouble(TroubleKind.FAILING, text, service, view.node.node_id, lately.failed)


def _in_state(nodes: Sequence[NodeView], state: NodeState, kind: TroubleKind) -> Iterator[Trouble]:
    found = [view for view in nodes if view.state is state]
    word = state.value.replace("_", " ")
    if len(found) > NAMED:
        yield Trouble(kind, f"{len(found)} of {len(nodes)} nodes are {word}: {_names(found)}")
        return
    for view in found:
        because = f": {view.reason}" if view.reason else ""
        yield Trouble(kind, f"node {_name(view)} is {word}{because}", node=view.node.node_id)


def _scaling(scaling: Sequence[ServiceScaling]) -> Iterator[Trouble]:
    for one in scaling:
        if one.trouble:
            yield Trouble(TroubleKind.SCALING, f"no machine for {one.service}: {one.trouble}", one.service)


def _left_machines(nodes: Sequence[NodeView], scaled: Set[str]) -> Iterator[Trouble]:
    """Machines that scaling made for what is scaled no more: they cost as before, and nothing ends them."""
    left = Counter[tuple[str, ...]]()
    for view in nodes:
        if view.machine is not None and view.state is not NodeState.LOST and scaled.isdisjoint(view.services):
            left[tuple(view.services)] += 1
    for services, number in left.items():
        which = f"{_count(number, 'machine')} of {', '.join(services)} {_verb(number, 'is', 'are')} left"
        only = services[0] if len(services) == 1 else None
        text = f"{which}, and nothing scales {_verb(len(services), 'it', 'them')}"
        yield Trouble(TroubleKind.SCALING, text, only)


def _paused(backlog: Sequence[Backlog], paused: Mapping[str, str]) -> Iterator[Trouble]:
    for service, reason in paused.items():
        jobs = sum(one.jobs for one in backlog if one.service == service)
        waiting = f"; {_count(jobs, 'job')} {_verb(jobs, 'waits', 'wait')}" if jobs else ""
        text = f"service {service} is paused: {reason}{waiting}"
        yield Trouble(TroubleKind.PAUSED, text, service, jobs=jobs)


def _drained(nodes: Sequence[NodeView]) -> Iterator[Trouble]:
    ordered = [
        view
        for view in nodes
        if view.draining is not None and not view.draining.startswith(DRAINED_BY_SCALING)
    ]
    for state in (NodeState.DRAINED, NodeState.DRAINING):
        found = [view for view in ordered if view.state is state]
        if found:
            share = f"{len(found)} of {_count(len(nodes), 'node')}"
            text = f"{share} {_verb(len(found), 'is', 'are')} {state.value}: {_names_with_reasons(found)}"
            only = found[0].node.node_id if len(found) == 1 else None
            yield Trouble(TroubleKind.DRAINED, text, node=only)


def _names_with_reasons(found: Sequence[NodeView]) -> str:
    """Why each was drained; once, if it was the same for all."""
    reasons = {view.draining for view in found}
    if len(reasons) == 1:
        return f"{_names(found)} ({reasons.pop()})"
    told = sorted(f"{_name(view)} ({view.draining})" for view in found)
    return _shortened(told)


def _names(found: Sequence[NodeView]) -> str:
    return _shortened(sorted(map(_name, found)))


def _shortened(names: Sequence[str]) -> str:
    return name_some(names, NAMED)


def _name(view: NodeView) -> str:
    return view.name or view.node.node_id


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _verb(number: int, one: str, many: str) -> str:
    return one if number == 1 else many
