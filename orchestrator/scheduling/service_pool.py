"""Nodes, slots, load: where a job goes. Pure: it is told things, and decides on what it was told.

The free slots of a node are its slots, minus our attempts that hold one there, minus what its heartbeat says
of other owners' payloads; never the heartbeat's own idea of free, which is older than what we have just sent.
A job goes where the share of free slots is largest, then the load smallest, then where nothing was sent for
longest; so equal nodes take turns and the same history gives the same choice.

A node without a number of slots runs whatever it is sent. Its cores stand for slots in the share, which may
fall below zero; it is chosen all the same, after those that have room.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from actors.domain.labels import satisfies
from actors.domain.node import Heartbeat, Member, NodeAddress, NodeRef, NodeState, NodeView
from actors.domain.service import ServiceLimits
from orchestrator.nodes.addresses import base_of

_NAMED = 5
"""How many nodes a sentence names before it counts the rest."""


@dataclass(slots=True)
class _Node:
    """`ref` None: heard of (an attempt is there, or it joined), but not yet from it. `contact` is READY,
    SUSPECT, LOST or JOINING; draining and being set aside are orders of ours and outlast it. `used` is when
    it last took an attempt, in turns. `left`: to be forgotten once nothing is held there."""

    node_id: str
    ref: NodeRef | None = None
    beat: Heartbeat = field(default_factory=Heartbeat)
    contact: NodeState = NodeState.JOINING
    reason: str = "not yet in touch"
    draining: str | None = None
    aside: str | None = None
    probation: bool = False
    joined: tuple[str, ...] | None = None
    machine: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    services: tuple[str, ...] = ()
    keys: set[str] = field(default_factory=set)
    used: int = 0
    left: bool = False

    @property
    def state(self) -> tuple[NodeState, str]:
        """The one that matters most, and why."""
        if self.contact is NodeState.LOST:
            return self.contact, self.reason
        if self.draining is not None:
            return NodeState.DRAINING, self.draining
        if self.aside is not None:
            return NodeState.SET_ASIDE, self.aside
        return self.contact, self.reason

    @property
    def unreserve(self) -> int | None:
        """Slots to give away, below zero if the node was made smaller. None: as many as you like."""
        slots = self.beat.slots
        return None if slots is None else slots - len(self.keys) - self.beat.others

    @property
    def takes(self) -> bool:
        if self.state[0] is not NodeState.READY or (self.probation and self.keys):
            return False
        unreserve = self.unreserve
        return unreserve is None or unreserve > 0

    @property
    def share(self) -> float:
        unreserve, slots = self.unreserve, self.beat.slots
        if unreserve is None or slots is None:
            cores = max(self.beat.cores, 1)
            return (cores - len(self.keys)) / cores
        return unreserve / slots


class ServicePool:
    """Implements `actors.ports.scheduling.Pool`. Which node serves which service is in the addresses of
    `limits`; nodes that joined by themselves say it (`join`)."""

    def __init__(self, limits: Mapping[str, ServiceLimits]) -> None:
        self._limits = dict(limits)
        self._nodes: dict[str, _Node] = {}
        self._serving: dict[str, dict[str, _Node]] = {name: {} for name in limits}
        self._holders: dict[str, _Node] = {}
        self._turns = 0

    # ------------------------------------------------------------------ what it is told

    def seen(self, node: NodeRef, heartbeat: Heartbeat) -> None:
        """A node is in touch: whatever it was, it is ready again, unless we ordered otherwise."""
        one = self._node(node.node_id)
        moved = one.ref != node
        one.ref, one.beat = node, heartbeat
        one.contact, one.reason, one.left = NodeState.READY, "", False
        if moved:
            self._serve(one)

    def suspect(self, node_id: str, reason: str) -> None:
        """A node gets no job until it is seen. One that is lost stays lost."""
        one = self._node(node_id)
        if one.contact is not NodeState.LOST:
            one.contact, one.reason = NodeState.SUSPECT, reason

    def lost(self, node_id: str, reason: str) -> None:
        one = self._node(node_id)
        one.contact, one.reason = NodeState.LOST, reason

    def join(self, member: Member) -> None:
        """A node joined by itself, for these services; names that are not configured are left out. Replaces
        what it said before. Its address and slots are taken for its own until it is seen."""
        one = self._node(member.node_id)
        one.joined, one.left = tuple(sorted(set(member.services))), False
        one.machine, one.labels = member.machine, member.labels
        if member.draining is not None:
            one.draining = member.draining
        if one.contact is NodeState.LOST and one.ref is None:
            one.contact, one.reason = NodeState.JOINING, "has joined again, not yet in touch"
        if one.ref is None and member.url:
            one.ref = NodeRef(member.node_id, member.url)
            one.beat = Heartbeat(slots=member.slots)
        self._serve(one)

    def forget(self, node_id: str) -> None:
        """A node left for good. It is kept, lost and for no service, while attempts hold slots there; should
        it come back, it is seen as before. Idempotent."""
        one = self._nodes.get(node_id)
        if one is None:
            return
        one.contact, one.reason, one.left = NodeState.LOST, "has left", True
        one.joined, one.machine, one.labels = None, None, {}
        for serving in self._serving.values():
            serving.pop(node_id, None)
        one.services, one.ref = (), None
        self._tidy(one)

    def drain(self, node_id: str, reason: str) -> None:
        """No new job for this node; what runs there goes on."""
        self._node(node_id).draining = reason

    def undrain(self, node_id: str) -> None:
        self._node(node_id).draining = None

    def set_aside(self, node_id: str, reason: str) -> None:
        """No new job for this node, as it fails what it gets. Lasts until `take_back`."""
        self._node(node_id).aside = reason

    def take_back(self, node_id: str) -> None:
        self._node(node_id).aside = None

    def probation(self, node_id: str, on: bool) -> None:
        """Whether a node gets only one job at a time, until it is known what becomes of it."""
        self._node(node_id).probation = on

    # ------------------------------------------------------------------ slots

    def reserve(self, key: str, node_id: str) -> None:
        """An attempt takes a slot on a node, known or not. Idempotent; a key holds one slot only."""
        one = self._node(node_id)
        before = self._holders.get(key)
        if before is one:
            return
        if before is not None:
            self.unreserve(key)
        self._turns += 1
        one.used = self._turns
        one.keys.add(key)
        self._holders[key] = one

    def unreserve(self, key: str) -> None:
        """An attempt no longer holds its slot. Idempotent."""
        one = self._holders.pop(key, None)
        if one is not None:
            one.keys.discard(key)
            self._tidy(one)

    # ------------------------------------------------------------------ decisions

    def choose(self, service: str, requires: str = "") -> NodeRef | None:
        """Where the next job of `service` goes; None when no ready node that has what it requires has a free
        slot. Takes nothing."""
        able = [one for one in self._able(service, requires) if one.takes]
        best = min(able, key=lambda one: (-one.share, one.beat.load, one.used, one.node_id), default=None)
        return None if best is None else best.ref

    def any_node(self, service: str, requires: str = "") -> bool:
        """Whether such a node of `service` is ready, though its slots may be full."""
        return any(one.state[0] is NodeState.READY for one in self._able(service, requires))

    def why_none(self, service: str) -> str:
        """A sentence on why no node takes jobs of `service` now."""
        if service not in self._limits:
            return f"there is no service {service}"
        nodes = sorted(self._serving[service].values(), key=lambda one: one.node_id)
        if not nodes:
            configured = len(self._limits[service].addresses)
            if not configured:
                return f"service {service} has no node yet"
            return f"no node of service {service} has been in touch yet ({configured} configured)"
        if any(one.takes for one in nodes):
            return f"service {service} has a free slot"
        told = [f"{_name(one)} {_why(one)}" for one in nodes[:_NAMED]]
        if len(nodes) > _NAMED:
            told.append(f"and {len(nodes) - _NAMED} more")
        return f"no node takes jobs of service {service}: {'; '.join(told)}"

    def ref(self, node_id: str) -> NodeRef | None:
        """Where a node is; None if that is not known."""
        one = self._nodes.get(node_id)
        return None if one is None else one.ref

    def is_lost(self, node_id: str) -> bool:
        one = self._nodes.get(node_id)
        return one is not None and one.contact is NodeState.LOST

    def get(self, node_id: str) -> NodeView | None:
        """One node; None if it was not heard of."""
        one = self._nodes.get(node_id)
        return None if one is None else _view(one)

    def view(self) -> Sequence[NodeView]:
        """Every node that was heard of, by id."""
        return [_view(self._nodes[node_id]) for node_id in sorted(self._nodes)]

    # ------------------------------------------------------------------

    def _able(self, service: str, requires: str) -> Iterable[_Node]:
        serving = self._serving.get(service, {}).values()
        return (one for one in serving if satisfies(requires, one.labels)) if requires else serving

    def _node(self, node_id: str) -> _Node:
        one = self._nodes.get(node_id)
        if one is None:
            one = self._nodes[node_id] = _Node(node_id)
        return one

    def _tidy(self, one: _Node) -> None:
        if one.left and not one.keys:
            self._nodes.pop(one.node_id, None)

    def _serve(self, one: _Node) -> None:
        names = set(one.joined or ())
        for name, limits in self._limits.items():
            if any(_is_at(address, one.ref) for address in limits.addresses):
                names.add(name)
        one.services = tuple(sorted(names & set(self._limits)))
        for name, serving in self._serving.items():
            if name in one.services:
                serving[one.node_id] = one
            else:
                serving.pop(one.node_id, None)


def _is_at(address: NodeAddress, ref: NodeRef | None) -> bool:
    """Whether a node is the one at this address. A contract-only one that was given by its full URLs is known
    by them: two services may have neighbouring ones."""
    if ref is None:
        return False
    if ref.contract_only and address.upload_url:
        return address.upload_url == ref.upload_url
    return base_of(address) == ref.url.rstrip("/")


def _name(one: _Node) -> str:
    return (
        one.node_id
        if one.ref is None or one.ref.url in ("", one.node_id)
        else f"{one.node_id} ({one.ref.url})"
    )


def _why(one: _Node) -> str:
    state, reason = one.state
    if state is NodeState.READY:
        others = f", {one.beat.others} by others" if one.beat.others else ""
        return f"is full ({len(one.keys)} of {one.beat.slots} slots held{others})"
    words = state.value.replace("_", " ")
    return f"is {words}: {reason}" if reason else f"is {words}"


def _view(one: _Node) -> NodeView:
    state, reason = one.state
    return NodeView(
        node=one.ref or NodeRef(one.node_id, ""),
        state=state,
        reason=reason,
        services=one.services,
        slots=one.beat.slots,
        held=len(one.keys),
        others=one.beat.others,
        load=one.beat.load,
        free_disk=one.beat.free_disk,
        free_memory=one.beat.free_memory,
        cores=one.beat.cores,
        contact=one.contact,
        draining=one.draining,
        aside=one.aside,
        joined=one.joined is not None,
        machine=one.machine,
        labels=one.labels,
    )
