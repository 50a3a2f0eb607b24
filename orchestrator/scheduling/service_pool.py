"""All that is known of nodes, in one record each, and where a job goes. Pure: it is told things, and when,
and decides on what it was told. Times are monotonic.

The free slots of a node are its slots, minus our attempts that hold one there, minus what its heartbeat says
of other owners' payloads; never the heartbeat's own idea of free, which is older than what we have just sent.
A job goes where the share of free slots is largest, then the load smallest, then where nothing was sent for
longest; so equal nodes take turns and the same history gives the same choice.

A node without a number of slots runs whatever it is sent. Its cores stand for slots in the share, which may
fall below zero; it is chosen all the same, after those that have room.

Where no slot is free, a job goes to a node that takes some ahead of its slots, so that it has the next one
when a script ends: only where all that hold a slot there are of services whose last jobs were short, and so
is its own, and none of another service waits for the next slot that is free there: what goes ahead would
take each. The node gives back what then waits too long all the same; it gets nothing ahead after that, and
one more with each slot that becomes free: else a node where one slot changes hands, and long jobs have the
others, would get and give back as many as it has slots, over and over.

What keeps a node from being given jobs, besides that it is full or not in touch: it is drained (ordered),
set aside (sick: see `node_health`), or backed off from (it did not take an attempt just now).
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from actors.domain.failure import Failure
from actors.domain.job import Job
from actors.domain.labels import satisfies
from actors.domain.node import Heartbeat, JoinedNode, Lately, NodeAddress, NodeRef, NodeState, NodeView
from actors.domain.scaling import DRAINED_BY_SCALING, NodeFact
from actors.domain.service import ServiceLimits
from actors.domain.status import ENDED, QUOTA, Status
from actors.kernel.backoff import Backoff
from actors.ports.world import Random
from orchestrator.nodes.addresses import base_of
from orchestrator.nodes.names import NodeNames
from orchestrator.scheduling.kept_slots import ENDLESS, KeptSlots, Users
from orchestrator.scheduling.node_health import SECONDS, NodeHealth

log: Final = logging.getLogger("orchestrator.sender")

BACK_OFF_FIRST: Final = 0.5
BACK_OFF_MOST: Final = 10.0
FULL_MOST: Final = 60.0
"""Seconds at most until a node is tried again that has fewer slots free than we know of."""
UNREACHED_FOR: Final = 60.0
"""Seconds that nobody is shown at an address after it was last told that nobody answers there."""

SKEW_MOST: Final = 2.0
"""Seconds by which a node's clock may be wrong without a word."""

REMEMBERED: Final = 1000
"""Nodes that have left and of which a late word may still come."""

LEAST_LEFT: Final = 600.0
"""Seconds that a node has to be there still for a job that has no limit: whether it finishes nobody knows."""

ENDS_KEPT: Final = 10
"""Jobs of a service of which a node's view tells how they ended there."""
LATELY: Final = 3600.0
"""Seconds after which it does so no longer."""

SHORT: Final = 0.5
"""Seconds that each of the last jobs of a service has taken at most, for its next ones to count as short."""
SHORT_ENDS: Final = 10
"""How many of these there have to be."""

_NAMED: Final = 5
"""How many nodes a sentence names before it counts the rest."""


@dataclass(slots=True)
class _Node:
    """`ref` None: heard of (an attempt is there, or it joined), but not yet from it. `contact` is READY,
    SUSPECT, LOST or JOINING; draining and being set aside outlast it. `member`: what it said when it joined.
    `keys` are the attempts that hold a slot there, or wait for one, with their services; `jobs` those whose
    results are not here yet. `most_ahead`: how many may wait, besides what it takes itself; `full` grows
    while it gives back what should have had a slot. `used` is when it last took an attempt, in turns. `ends`:
    when the last jobs of each service ended, and whether they failed. `known_at`: when it joined or was first
    heard; `touched`: when something was last seen on it. `left`: to be forgotten once nothing of ours is
    there."""

    node_id: str
    health: NodeHealth
    backoff: Backoff
    full: Backoff
    ref: NodeRef | None = None
    beat: Heartbeat = field(default_factory=Heartbeat)
    contact: NodeState = NodeState.JOINING
    reason: str = "not yet in touch"
    draining: str | None = None
    drained_at: float | None = None
    set_aside: str | None = None
    probation: bool = False
    no_jobs_until: float = 0.0
    member: JoinedNode | None = None
    services: tuple[str, ...] = ()
    keys: dict[str, str] = field(default_factory=dict)
    most_ahead: int = ENDLESS
    jobs: set[int] = field(default_factory=set)
    used: int = 0
    known_at: float | None = None
    heard_at: float | None = None
    touched: float | None = None
    jobs_ended: int = 0
    jobs_failed: int = 0
    ends: dict[str, deque[tuple[float, bool]]] = field(default_factory=dict)
    left: bool = False

    @property
    def state(self) -> tuple[NodeState, str]:
        """The one that matters most, and why."""
        if self.contact is NodeState.LOST:
            return self.contact, self.reason
        if self.draining is not None:
            empty = not self.keys and not self.jobs
            return NodeState.DRAINED if empty else NodeState.DRAINING, self.draining
        if self.beat.stopping and self.contact is NodeState.READY:
            return NodeState.DRAINING, "it was told to stop, and waits for the jobs that it has"
        if self.set_aside is not None:
            return NodeState.SET_ASIDE, self.set_aside
        return self.contact, self.reason

    @property
    def machine(self) -> str | None:
        return None if self.member is None else self.member.machine

    @property
    def labels(self) -> Mapping[str, str]:
        return {} if self.member is None else self.member.labels

    @property
    def free(self) -> int | None:
        """Slots to give away, below zero if the node was made smaller. None: as many as you like."""
        slots = self.beat.slots
        return None if slots is None else slots - len(self.keys) - self.beat.others

    @property
    def held(self) -> int:
        """Slots that ours hold."""
        slots = self.beat.slots
        return len(self.keys) if slots is None else min(len(self.keys), slots)

    @property
    def room_ahead(self) -> int:
        """How many jobs may be sent there that wait for a slot."""
        free = self.free
        ready = self.state[0] is NodeState.READY and not self.probation
        return free + min(self.beat.ahead, self.most_ahead) if ready and free is not None else 0

    @property
    def takes(self) -> bool:
        if self.state[0] is not NodeState.READY or (self.probation and (self.keys or self.jobs)):
            return False
        free = self.free
        return free is None or free > 0

    @property
    def room(self) -> int:
        """How many jobs may be sent to one that `takes`."""
        free = self.free
        return 1 if self.probation else ENDLESS if free is None else free

    @property
    def share(self) -> float:
        free, slots = self.free, self.beat.slots
        if free is None or slots is None:
            cores = max(self.beat.cores, 1)
            return (cores - len(self.keys)) / cores
        return free / slots


class ServicePool:
    """Implements `actors.ports.scheduling.Pool`. Which node serves which service is in the addresses of
    `limits`; nodes that joined by themselves say it. `drains`: the orders of earlier lives, by node. `names`
    are told how nodes want to be called, and which have left. `going` says how many jobs of a service are
    under way, which its `keep_slots` are counted against; `waiting` of which services, and with which
    requirements, jobs wait for nothing but a slot. `short`, `short_ends`: see `SHORT`. In `silent` it keeps
    which nodes are suspect, and when each was last heard, None: not yet."""

    def __init__(
        self,
        limits: Mapping[str, ServiceLimits],
        rng: Random,
        drains: Mapping[str, str] | None = None,
        names: NodeNames | None = None,
        *,
        going: Callable[[str], int] = lambda service: 0,
        waiting: Callable[[], Collection[tuple[str, str]]] = tuple,
        short: float = SHORT,
        short_ends: int = SHORT_ENDS,
        silent: dict[str, float | None] | None = None,
    ) -> None:
        self._limits = dict(limits)
        self._keeps_slots = _keep_slots(limits)
        self._going = going
        self._waiting = waiting
        self._rng = rng
        self._names = NodeNames() if names is None else names
        self._silent: dict[str, float | None] = {} if silent is None else silent
        self._silent.clear()
        self._nodes: dict[str, _Node] = {}
        self._serving: dict[str, dict[str, _Node]] = {name: {} for name in limits}
        self._holders: dict[str, _Node] = {}
        self._ended: set[str] = set()
        """Attempts that are under way and hold no slot any more."""
        self._job_nodes: dict[int, _Node] = {}
        self._short, self._short_ends = short, short_ends
        self._took: dict[str, deque[float]] = {}
        """Seconds that the last jobs of each service have taken."""
        self._short_services = set[str]() if short_ends else set(limits)
        """Those of which all of these were short."""
        self._running: dict[int, str] = {}
        """The attempts of jobs that are known to run: that one goes on does not say what a node can start."""
        self._turns = 0
        self._members: Sequence[JoinedNode] = ()
        self._left: dict[str, None] = {}
        self._unreached: dict[str, tuple[NodeAddress, str, float]] = {}
        for node_id, reason in (drains or {}).items():
            self._node(node_id).draining = reason

    # ------------------------------------------------------------------ who there is

    def set_limits(self, limits: Mapping[str, ServiceLimits]) -> None:
        """Other services, and other addresses, hold from now on. A node that nobody names any more has left;
        what it says later changes nothing of that, unless it is named again."""
        self._limits = dict(limits)
        self._keeps_slots = _keep_slots(limits)
        self._short_services |= set() if self._short_ends else limits.keys() - self._took.keys()
        self._serving = {name: {} for name in limits}
        for one in list(self._nodes.values()):
            served = bool(one.services)
            self._serve(one)
            if served and not one.services and one.member is None:
                self.forget(one.node_id)
        named = {address.url for one in limits.values() for address in one.addresses}
        self._unreached = {url: one for url, one in self._unreached.items() if url in named}

    def sync(self, members: Sequence[JoinedNode], now: float) -> None:
        """Take in who joined and who left; nothing is done for the same object."""
        if members is self._members:
            return
        before, self._members = self._members, members
        for node_id in {one.node_id for one in before} - {one.node_id for one in members}:
            self.forget(node_id)
        for member in members:
            self.join(member, now)

    def join(self, member: JoinedNode, now: float) -> None:
        """A node joined by itself, for these services; names that are not configured are left out. Replaces
        what it said before. Its address and slots are taken for its own until it is seen."""
        self._left.pop(member.node_id, None)
        one = self._node(member.node_id)
        known = one.member
        if member == known:
            return
        one.member, one.left = member, False
        if one.known_at is None:
            one.known_at = now
        if member.draining is not None:
            one.draining = member.draining
            if one.drained_at is None:
                one.drained_at = now
        elif known is None or known.draining is not None:
            one.draining = one.drained_at = None
        if one.contact is NodeState.LOST and one.ref is None:
            one.contact, one.reason = NodeState.JOINING, "has joined again, not yet in touch"
        if one.ref is None and member.url:
            one.ref = NodeRef(member.node_id, member.url)
            one.beat = Heartbeat(slots=member.slots)
        self._serve(one)

    def forget(self, node_id: str) -> None:
        """A node left for good. It is kept, lost and for no service, while attempts hold slots there; should
        it come back, it is seen as before. Idempotent."""
        self._left[node_id] = None
        for earlier in list(self._left)[:-REMEMBERED]:
            del self._left[earlier]
        one = self._known(node_id)
        if one is None:
            return
        self._names.release(node_id)
        one.contact, one.reason, one.left = NodeState.LOST, "has left", True
        self._silent.pop(node_id, None)
        one.health = NodeHealth(self._rng)
        one.member = one.ref = one.known_at = one.heard_at = one.touched = one.drained_at = None
        one.jobs_ended = one.jobs_failed = 0
        one.ends = {}
        self._serve(one)
        self._tidy(one)

    # ------------------------------------------------------------------ what is heard of them

    def seen(self, node: NodeRef, heartbeat: Heartbeat, now: float) -> None:
        """A node is in touch: whatever it was, it is ready again, unless we ordered otherwise or back off
        from it. Of one that has left it is a late word, or it brings home what is still there."""
        self._unreached.pop(node.url, None)
        one = self._node(node.node_id)
        if now >= one.no_jobs_until:
            moved = one.ref != node
            one.ref, one.beat = node, heartbeat
            one.contact, one.reason, one.left = NodeState.READY, "", False
            if moved:
                self._serve(one)
        if node.node_id in self._left and not one.services:
            self.forget(node.node_id)
            return
        self._names.claim(node.node_id, heartbeat.name, node.url)
        one.heard_at = now
        if one.contact is NodeState.READY:
            self._silent.pop(node.node_id, None)
        else:  # we back off from it
            self._silent[node.node_id] = now
        if one.known_at is None:
            one.known_at = now
        if heartbeat.others:
            one.touched = now
        one.health.heard(heartbeat)
        self._judge(one, now)

    def suspect(self, node_id: str, reason: str) -> None:
        """A node gets no job until it is seen. One that is lost stays lost."""
        one = self._known(node_id)
        if one is not None and one.contact is not NodeState.LOST:
            one.contact, one.reason = NodeState.SUSPECT, reason
            self._silent[node_id] = one.heard_at

    def lost(self, node_id: str, reason: str) -> None:
        one = self._known(node_id)
        if one is not None:
            one.contact, one.reason = NodeState.LOST, reason
            self._silent.pop(node_id, None)

    def unreached(self, address: NodeAddress, reason: str, now: float) -> None:
        """Nobody answers there, so nobody knows which node it would be."""
        self._unreached[address.url] = (address, reason, now)

    def back_off(self, node_id: str, reason: str, now: float) -> None:
        """A node that did not take an attempt gets none for a growing while, though its heartbeats go on."""
        one = self._known(node_id)
        if one is None:
            return
        one.no_jobs_until = now + one.backoff.next()
        self.suspect(node_id, reason)
        one.health.refused(reason, now)
        self._judge(one, now)

    def took(self, node_id: str) -> None:
        """It took an attempt: nothing of the sort is held against it any more."""
        if (one := self._known(node_id)) is not None:
            one.no_jobs_until = 0.0
            one.backoff.reset()
            one.health.took()

    def start_failed(self, node_id: str, reason: str, now: float) -> None:
        """A node could not start an attempt, and it was no fault of the job's."""
        if (one := self._known(node_id)) is not None:
            one.health.start_failed(reason, now)
            self._judge(one, now)

    def _judge(self, one: _Node, now: float) -> None:
        """Set a sick node aside, release a well one. Looked at with each heartbeat."""
        why = one.health.why_set_aside(now)
        if why and one.set_aside is None:
            about = {"node": one.node_id}
            log.warning("node %s is set aside: %s", self._names.of(one.node_id), why, extra=about)
        elif not why and one.set_aside is not None:
            log.info("node %s is tried again", self._names.of(one.node_id), extra={"node": one.node_id})
        one.set_aside = why or None
        one.probation = one.health.on_probation(now)

    # ------------------------------------------------------------------ drains

    def drain(self, node_id: str, reason: str, now: float) -> bool:
        """No new job for this node; what runs there goes on. False if nobody knows it. What drains already
        keeps its time, and its reason too, unless an operator wants what so far only scaling did."""
        one = self._known(node_id)
        if one is None:
            return False
        if one.drained_at is None:
            one.drained_at = now
        by_scaling = reason.startswith(DRAINED_BY_SCALING)
        if one.draining is None or (one.draining.startswith(DRAINED_BY_SCALING) and not by_scaling):
            one.draining = reason
        return True

    def undrain(self, node_id: str) -> bool:
        """False if nobody knows it."""
        one = self._known(node_id)
        if one is None:
            return False
        one.draining = one.drained_at = None
        return True

    # ------------------------------------------------------------------ slots and jobs

    def reserve(self, key: str, node_id: str, service: str = "") -> None:
        """An attempt takes a slot on a node, known or not. Idempotent; a key holds one slot only."""
        before = self._holders.get(key)
        if key in self._ended or (before is not None and before.node_id == node_id):
            return
        if before is not None:
            self.unreserve(key)
        one = self._node(node_id)
        self._turns += 1
        one.used = self._turns
        one.keys[key] = service
        self._holders[key] = one

    def unreserve(self, key: str) -> None:
        """An attempt no longer holds its slot. Idempotent."""
        self._ended.discard(key)
        self._let_go(key)

    def ended(self, key: str) -> None:
        """Its slot is free before its end is recorded. Not where slots are kept: a service has a claim to
        those which its jobs leave, and these count as under way until then."""
        if key in self._holders and not self._keeps_slots:
            self._ended.add(key)
            self._let_go(key)

    def given_back(self, key: str, now: float) -> None:
        one = self._holders.get(key)
        if one is None:
            return
        again = not one.most_ahead and (one.free or 0) >= 0
        self.ended(key)
        one.most_ahead = 0
        if again:
            # By our count it had a slot: something runs there that we do not know, as after a restore.
            one.no_jobs_until = now + one.full.next()
            self.suspect(one.node_id, "it has no slot for what it is sent")

    def _let_go(self, key: str) -> None:
        one = self._holders.pop(key, None)
        if one is not None:
            one.keys.pop(key, None)
            one.most_ahead += 1
            self._tidy(one)

    def apply(self, job: Job, now: float) -> None:
        """Remember on which node a job is, until its results are here."""
        attempt = job.attempt if job.status in QUOTA else None
        node_id = None if attempt is None else attempt.node_id
        before = self._job_nodes.get(job.id)
        if before is not None and before.node_id != node_id:
            del self._job_nodes[job.id]
            before.jobs.discard(job.id)
            before.touched = now
            if job.status in ENDED and job.attempt is not None and job.attempt.node_id == before.node_id:
                self._note_end(job, before, now)
            self._tidy(before)
            self._running.pop(job.id, None)
        if node_id is not None and (before is None or before.node_id != node_id):
            one = self._job_nodes[job.id] = self._node(node_id)
            one.jobs.add(job.id)
        if job.status is Status.RUNNING and attempt is not None and self._running.get(job.id) != attempt.key:
            self._running[job.id] = attempt.key
            self._job_nodes[job.id].health.began()

    def _note_end(self, job: Job, one: _Node, now: float) -> None:
        """A job's end tells something of its node too: one that failed at once may not be to blame."""
        one.full.reset()
        if not one.left:
            one.jobs_ended += 1
            one.jobs_failed += job.status is Status.FAILED
            ends = one.ends.setdefault(job.service, deque(maxlen=ENDS_KEPT))
            ends.append((now, job.status is Status.FAILED))
        end = job.end
        if end is None or job.status not in (Status.COMPLETED, Status.FAILED):
            return
        if end.wall_seconds is not None:
            took = self._took.setdefault(job.service, deque(maxlen=self._short_ends))
            took.append(end.wall_seconds)
            if len(took) == self._short_ends and max(took, default=0.0) <= self._short:
                self._short_services.add(job.service)
            else:
                self._short_services.discard(job.service)
        if job.attempt is not None and self._running.get(job.id) == job.attempt.key:
            if one.health.unable:
                return  # It had begun before the node could start no more.
        elif end.started_at is not None:
            one.health.began()
        elif end.failure is Failure.NODE:
            return  # That it could not be started is known already.
        badly = job.status is Status.FAILED and (end.wall_seconds or 0.0) < SECONDS
        serving = self._serving.get(job.service, {}).values()
        others = (other.health for other in serving if other is not one and other.state[0] is NodeState.READY)
        one.health.ended(job.user_id, badly=badly, others=others, now=now)
        self._judge(one, now)

    # ------------------------------------------------------------------ decisions

    def choose(self, service: str, requires: str = "") -> NodeRef | None:
        """Where the next job of `service` goes; None when no ready node that has what it requires has a free
        slot, or each of these is kept for others, and none takes it ahead. Takes nothing."""
        able, _ = self._choices(service, requires)
        able = able or self._find_ahead(service, requires)
        best = min(able, key=lambda one: (-one.share, one.beat.load, one.used, one.node_id), default=None)
        return None if best is None else best.ref

    def kept_for(self, service: str, requires: str = "") -> tuple[str, ...]:
        """The services for which all free slots are kept that such a job could have; none if it may have one,
        or none is free."""
        able, keepers = self._choices(service, requires)
        return () if able else tuple(sorted(keepers))

    def count_kept(self, service: str) -> int:
        """How many of the free slots of a service's nodes are kept for others."""
        claims = self._claims()
        if not claims:
            return 0
        return KeptSlots(claims, self._free_slots(self._users_among({*claims, service}))).count_kept(service)

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
        if any(one.takes and self._lasts(one, service) for one in nodes):
            return f"service {service} has a free slot"
        each = [f"{self._names.of(one.node_id)} {self._why(one, service)}" for one in nodes[:_NAMED]]
        if len(nodes) > _NAMED:
            each.append(f"and {len(nodes) - _NAMED} more")
        return f"no node takes jobs of service {service}: {'; '.join(each)}"

    def ref(self, node_id: str) -> NodeRef | None:
        """Where a node is; None if that is not known."""
        one = self._nodes.get(node_id)
        return None if one is None else one.ref

    # ------------------------------------------------------------------ what is asked

    def views(self, now: float) -> tuple[NodeView, ...]:
        """Every node that was heard of, by name; then the addresses where nobody answers."""
        views = [_view(one, self._names.of(one.node_id), now) for one in self._by_id()]
        views.sort(key=lambda view: view.name or view.node.node_id)
        known = {view.node.url for view in views}
        self._unreached = {url: one for url, one in self._unreached.items() if now - one[2] < UNREACHED_FOR}
        nobody = [self._unreached[url] for url in sorted(self._unreached.keys() - known)]
        return (*views, *(_nobody(address, reason) for address, reason, _ in nobody))

    def machines_fit(self, service: str) -> Callable[[str], bool]:
        """Whether a machine that scaling makes for a service has what jobs require, going by those that it
        has. More of them would not help a job that requires something else."""
        made = [one.labels for one in self._serving.get(service, {}).values() if one.machine]
        return lambda requires: not requires or any(satisfies(requires, labels) for labels in made)

    def facts(self, service: str, now: float) -> tuple[NodeFact, ...]:
        """Every node of a service, lost and draining ones too, as scaling has to see it."""
        return tuple(
            _fact(one, self._names.of(one.node_id), now, lasts=self._lasts(one, service))
            for one in self._by_id()
            if service in one.services
        )

    # ------------------------------------------------------------------

    def _by_id(self) -> list[_Node]:
        return [one for _, one in sorted(self._nodes.items()) if not _is_gone(one)]

    def _able(self, service: str, requires: str) -> Iterable[_Node]:
        serving = self._serving.get(service, {}).values()
        return (one for one in serving if satisfies(requires, one.labels)) if requires else serving

    def _choices(self, service: str, requires: str) -> tuple[list[_Node], set[str]]:
        """The nodes that have a slot for such a job, and for whom those of others are kept."""
        able = [one for one in self._able(service, requires) if one.takes and self._lasts(one, service)]
        claims = self._claims() if able else {}
        if not claims:
            return able, set()
        users_of = self._users_among({*claims, service})
        kept = KeptSlots(claims, self._free_slots(users_of))
        may: dict[Users, bool] = {}
        chosen, keepers = [], set[str]()
        for one in able:
            users = users_of(one)
            if users not in may:
                may[users] = kept.may_take(service, users)
            if may[users]:
                chosen.append(one)
            else:
                keepers |= users - {service}
        return chosen, keepers

    def _find_ahead(self, service: str, requires: str) -> list[_Node]:
        """The nodes that take such a job ahead."""
        limits = self._limits.get(service)
        if limits is None or limits.on_node_lost == "fail" or limits.max_attempts < 2:
            return []  # What waits on a node that is lost would fail with it, and has not begun.
        short = self._short_services
        if service not in short or self._keeps_slots:
            return []
        found = [
            one
            for one in self._able(service, requires)
            if one.room_ahead > 0 and self._lasts(one, service) and short.issuperset(one.keys.values())
        ]
        if self._limits.keys() <= short:
            return found
        longer = [other for other in self._waiting() if other[0] not in short] if found else ()
        return [one for one in found if not any(self._may_have(one, *other) for other in longer)]

    def _may_have(self, one: _Node, service: str, requires: str) -> bool:
        """Whether a node is one for such a job."""
        return service in one.services and satisfies(requires, one.labels) and self._lasts(one, service)

    def _claims(self) -> dict[str, int]:
        """How many further slots are kept, by the services that have fewer jobs under way than these."""
        kept = ((name, limits.keep_slots) for name, limits in self._limits.items() if limits.keep_slots)
        return {name: slots - going for name, slots in kept if (going := self._going(name)) < slots}

    def _users_among(self, services: Collection[str]) -> Callable[[_Node], Users]:
        """Which of these services may use a node. Most nodes are alike."""
        known: dict[tuple[tuple[str, ...], float | None], Users] = {}

        def users_of(one: _Node) -> Users:
            alike = one.services, one.beat.seconds_left
            if alike not in known:
                usable = (name for name in services if name in one.services and self._lasts(one, name))
                known[alike] = frozenset(usable)
            return known[alike]

        return users_of

    def _free_slots(self, users_of: Callable[[_Node], Users]) -> Counter[Users]:
        """How many there are, by those who may use them."""
        found: Counter[Users] = Counter()
        for one in self._nodes.values():
            if one.takes and (users := users_of(one)):
                found[users] += one.room
        return found

    def _lasts(self, one: _Node, service: str) -> bool:
        """Whether a node is there for as long as a job of this service may take."""
        left = one.beat.seconds_left
        return left is None or left >= (self._limits[service].max_runtime or LEAST_LEFT)

    def _why(self, one: _Node, service: str) -> str:
        if one.takes and not self._lasts(one, service):
            return f"ends in {one.beat.seconds_left or 0.0:.0f} s, which is too soon for a job"
        return _why(one)

    def _known(self, node_id: str) -> _Node | None:
        one = self._nodes.get(node_id)
        return None if one is None or _is_gone(one) else one

    def _node(self, node_id: str) -> _Node:
        one = self._nodes.get(node_id)
        if one is None:
            backoff = Backoff(self._rng, first=BACK_OFF_FIRST, most=BACK_OFF_MOST)
            full = Backoff(self._rng, first=BACK_OFF_FIRST, most=FULL_MOST)
            one = self._nodes[node_id] = _Node(node_id, NodeHealth(self._rng), backoff, full)
        return one

    def _tidy(self, one: _Node) -> None:
        if _is_gone(one) and not one.jobs:
            self._nodes.pop(one.node_id, None)

    def _serve(self, one: _Node) -> None:
        names = set(() if one.member is None else one.member.services)
        for name, limits in self._limits.items():
            if any(_is_at(address, one.ref) for address in limits.addresses):
                names.add(name)
        one.services = tuple(sorted(names & set(self._limits)))
        for name, serving in self._serving.items():
            if name in one.services:
                serving[one.node_id] = one
            else:
                serving.pop(one.node_id, None)


def _keep_slots(limits: Mapping[str, ServiceLimits]) -> bool:
    """Whether any service does."""
    return any(one.keep_slots for one in limits.values())


def _is_gone(one: _Node) -> bool:
    """It has left and holds no slot: nobody is shown it, though results of its may still be fetched."""
    return one.left and not one.keys


def _is_at(address: NodeAddress, ref: NodeRef | None) -> bool:
    """Whether a node is the one at this address. A contract-only one that was given by its full URLs is known
    by them: two services may have neighbouring ones."""
    if ref is None:
        return False
    if ref.contract_only and address.upload_url:
        return address.upload_url == ref.upload_url
    return base_of(address) == ref.url.rstrip("/")


def _why(one: _Node) -> str:
    state, reason = one.state
    if state is NodeState.READY:
        others = f", {one.beat.others} by others" if one.beat.others else ""
        return f"is full ({one.held} of {one.beat.slots} slots held{others})"
    words = state.value.replace("_", " ")
    return f"is {words}: {reason}" if reason else f"is {words}"


def _lately(ends: Iterable[tuple[float, bool]], now: float) -> Lately:
    failed = [bad for at, bad in ends if now - at < LATELY]
    return Lately(sum(failed), len(failed))


def _view(one: _Node, name: str, now: float) -> NodeView:
    state, reason = one.state
    if state is NodeState.READY:
        reason = _explain_clock(one.beat.skew)
    return NodeView(
        node=one.ref or NodeRef(one.node_id, ""),
        state=state,
        reason=reason,
        services=one.services,
        slots=one.beat.slots,
        held=one.held,
        waiting=len(one.keys) - one.held,
        others=one.beat.others,
        load=one.beat.load,
        free_disk=one.beat.free_disk,
        free_memory=one.beat.free_memory,
        cores=one.beat.cores,
        contact=one.contact,
        draining=one.draining,
        set_aside=one.set_aside,
        joined=one.member is not None,
        machine=one.machine,
        labels=one.labels,
        heard_at=one.heard_at,
        jobs_ended=one.jobs_ended,
        jobs_failed=one.jobs_failed,
        skew=one.beat.skew,
        seconds_left=one.beat.seconds_left,
        name="" if name == one.node_id else name,
        executor=one.beat.executor,
        executor_limits=one.beat.executor_limits,
        lately={service: _lately(ends, now) for service, ends in one.ends.items()},
    )


def _explain_clock(skew: float | None) -> str:
    """What is wrong with a node's clock. No time in a job's record comes from it; its scripts see it."""
    if skew is None or abs(skew) <= SKEW_MOST:
        return ""
    return f"its clock is {abs(skew):.0f} s {'ahead' if skew > 0 else 'behind'}"


def _nobody(address: NodeAddress, reason: str) -> NodeView:
    """A node of the settings that has not answered yet; its address stands for its id."""
    return NodeView(
        NodeRef(address.url, address.url),
        NodeState.LOST,
        f"it has not answered since the server started: {reason}",
        address.services,
        slots=None,
        held=0,
        others=0,
        load=0.0,
        contact=NodeState.LOST,
    )


def _fact(one: _Node, name: str, now: float, *, lasts: bool) -> NodeFact:
    busy = max(len(one.keys), len(one.jobs)) + one.beat.others
    if one.known_at is None:
        one.known_at = now
    if busy:
        one.touched = now
    if one.draining is not None and one.drained_at is None:
        one.drained_at = now  # ordered in an earlier life
    return NodeFact(
        node_id=one.node_id,
        machine=one.machine,
        ready=one.contact is NodeState.READY and one.set_aside is None and not one.beat.stopping and lasts,
        draining=one.draining is not None,
        slots=one.beat.slots if one.beat.slots is not None else one.beat.cores,
        busy=busy,
        idle_since=None if busy else one.known_at if one.touched is None else one.touched,
        joined_at=one.known_at,
        lost=one.contact is NodeState.LOST,
        drained_for=one.draining or "",
        drained_at=one.drained_at,
        heard_at=one.heard_at,
        name=name,
    )
