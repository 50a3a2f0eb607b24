"""The Sender's nodes beyond their slots: who joined and left, what is on each and since when, who is shunned.

The pool says where a job goes; this is what it is told, and what scaling asks. Who assigns jobs also drains
nodes, so the two have one order. Times are monotonic.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

import trio

from actors.domain.job import Job
from actors.domain.labels import satisfies
from actors.domain.node import Heartbeat, Member, NodeAddress, NodeRef, NodeState, NodeView
from actors.domain.scaling import DRAINED_BY_SCALING, NodeFact
from actors.domain.status import ENDED, QUOTA, Status
from actors.kernel.backoff import Backoff
from actors.node_health import SECONDS, NodeHealth
from actors.ports.scheduling import Pool
from actors.ports.world import Random

log: Final = logging.getLogger("orchestrator.sender")

SHUNNED_FIRST: Final = 0.5
SHUNNED_MOST: Final = 10.0
UNREACHED_FOR: Final = 60.0
"""Seconds that nobody is shown at an address after it was last told that nobody answers there."""

REMEMBERED: Final = 1000
"""Nodes that have left and of which a late word may still come."""


class Roster:
    """`members` are the nodes that have joined by themselves: another object when they change."""

    def __init__(self, pool: Pool, members: Callable[[], Sequence[Member]], rng: Random) -> None:
        self._pool = pool
        self._wanted = members
        self._rng = rng
        self._known: Sequence[Member] | None = None
        self._members: dict[str, Member] = {}
        self._shunned: dict[str, tuple[float, Backoff]] = {}
        self._on: dict[int, str] = {}
        self._count: Counter[str] = Counter()
        self._since: dict[str, float] = {}
        self._heard: dict[str, float] = {}
        self._touched: dict[str, float] = {}
        self._drained: dict[str, float] = {}
        self._left: dict[str, None] = {}
        self._unreached: dict[str, tuple[NodeAddress, str, float]] = {}
        self._ended: Counter[str] = Counter()
        self._failed: Counter[str] = Counter()
        self._health = NodeHealth(rng)

    # ------------------------------------------------------------------ who there is

    def sync(self) -> None:
        """Take in who joined and who left."""
        wanted = self._wanted()
        if wanted is self._known:
            return
        self._known = wanted
        before, self._members = self._members, {member.node_id: member for member in wanted}
        for node_id in before.keys() - self._members.keys():
            self._pool.forget(node_id)
            self._left[node_id] = None
            self._health.left(node_id)
            for known_of in (
                self._since,
                self._heard,
                self._touched,
                self._drained,
                self._ended,
                self._failed,
            ):
                known_of.pop(node_id, None)
        for node_id in list(self._left)[:-REMEMBERED]:
            del self._left[node_id]
        for node_id, member in self._members.items():
            self._left.pop(node_id, None)
            known = before.get(node_id)
            if member == known:
                continue
            self._pool.join(member)
            self._since.setdefault(node_id, trio.current_time())
            if member.draining is not None:
                self._drained.setdefault(node_id, trio.current_time())
            elif known is None or known.draining is not None:
                self._pool.undrain(node_id)
                self._drained.pop(node_id, None)

    def seen(self, node: NodeRef, heartbeat: Heartbeat) -> None:
        """A node is in touch. One that is shunned stays so."""
        now = trio.current_time()
        self._unreached.pop(node.url, None)
        self._heard[node.node_id] = now
        self._since.setdefault(node.node_id, now)
        if heartbeat.others:
            self._touched[node.node_id] = now
        until, _ = self._shunned.get(node.node_id, (0.0, None))
        if now >= until:
            self._pool.seen(node, heartbeat)
        if node.node_id in self._left and not self._serves(node.node_id):
            self._pool.forget(node.node_id)  # its last words, or what it still brings home
            return
        self._health.heard(node.node_id, heartbeat)
        self._judge(node.node_id)

    def _judge(self, node_id: str) -> None:
        """Set a sick node aside, take a well one back. Looked at with each heartbeat."""
        view = self._pool.get(node_id)
        if view is None:
            return
        why = self._health.why_aside(node_id, trio.current_time())
        if why:
            if view.aside is None:
                log.warning("node %s is set aside: %s", node_id, why)
            self._pool.set_aside(node_id, why)
        elif view.aside is not None:
            log.info("node %s is tried again", node_id)
            self._pool.take_back(node_id)
        self._pool.probation(node_id, self._health.on_probation(node_id, trio.current_time()))

    def _serves(self, node_id: str) -> bool:
        view = self._pool.get(node_id)
        return view is not None and bool(view.services)

    def unreached(self, address: NodeAddress, reason: str) -> None:
        """Nobody answers there, so nobody knows which node it would be."""
        self._unreached[address.url] = (address, reason, trio.current_time())

    def suspect(self, node_id: str, reason: str) -> None:
        if self._pool.get(node_id) is not None:  # else it has left
            self._pool.suspect(node_id, reason)

    def lost(self, node_id: str, reason: str) -> None:
        if self._pool.get(node_id) is not None:
            self._pool.lost(node_id, reason)

    def shun(self, node_id: str, reason: str) -> None:
        """A node that did not take an attempt gets none for a growing while, though its heartbeats go on."""
        new = Backoff(self._rng, first=SHUNNED_FIRST, most=SHUNNED_MOST)
        _, backoff = self._shunned.get(node_id, (0.0, new))
        self._shunned[node_id] = (trio.current_time() + backoff.next(), backoff)
        self._pool.suspect(node_id, reason)
        self._health.refused(node_id, reason, trio.current_time())
        self._judge(node_id)

    def took(self, node_id: str) -> None:
        """It took an attempt: nothing of the sort is held against it any more."""
        self._shunned.pop(node_id, None)
        self._health.took(node_id)

    def apply(self, job: Job) -> None:
        """Remember on which node a job is, until its results are here."""
        attempt = job.attempt if job.status in QUOTA else None
        node_id = None if attempt is None else attempt.node_id
        before = self._on.get(job.id)
        if node_id == before:
            return
        if before is not None:
            del self._on[job.id]
            self._count[before] -= 1
            self._touched[before] = trio.current_time()
            if not self._count[before]:
                del self._count[before]
            if job.status in ENDED and job.attempt is not None and job.attempt.node_id == before:
                self._note_end(job, before)
        if node_id is not None:
            self._on[job.id] = node_id
            self._count[node_id] += 1

    def _note_end(self, job: Job, node_id: str) -> None:
        """A job's end tells something of its node too: one that failed at once may not be to blame."""
        if node_id not in self._left:
            self._ended[node_id] += 1
            self._failed[node_id] += job.status is Status.FAILED
        end = job.end
        if end is None or job.status not in (Status.COMPLETED, Status.FAILED):
            return
        badly = job.status is Status.FAILED and (end.wall_seconds or 0.0) < SECONDS
        others = (
            [
                view.node.node_id
                for view in self._pool.view()
                if job.service in view.services and view.contact is NodeState.READY
            ]
            if badly
            else ()
        )
        self._health.ended(node_id, job.user_id, badly=badly, others=others, now=trio.current_time())
        self._judge(node_id)

    # ------------------------------------------------------------------ drains

    def drain(self, node_id: str, reason: str) -> bool:
        """No more jobs for that node; False if nobody knows it. What drains already keeps its time, and its
        reason too, unless an operator wants what so far only scaling did."""
        self.sync()
        view = self._pool.get(node_id)
        if view is None:
            return False
        self._drained.setdefault(node_id, trio.current_time())
        by_scaling = reason.startswith(DRAINED_BY_SCALING)
        if view.draining is None or (view.draining.startswith(DRAINED_BY_SCALING) and not by_scaling):
            self._pool.drain(node_id, reason)
        return True

    def undrain(self, node_id: str) -> bool:
        self.sync()
        if self._pool.get(node_id) is None:
            return False
        self._pool.undrain(node_id)
        self._drained.pop(node_id, None)
        return True

    # ------------------------------------------------------------------ what is asked

    def views(self) -> tuple[NodeView, ...]:
        self.sync()
        views = [self._view(view) for view in self._pool.view()]
        known, now = {view.node.url for view in views}, trio.current_time()
        self._unreached = {
            url: told for url, told in self._unreached.items() if now - told[2] < UNREACHED_FOR
        }
        nobody = [self._unreached[url] for url in sorted(self._unreached.keys() - known)]
        return (*views, *(_nobody(address, reason) for address, reason, _ in nobody))

    def _view(self, view: NodeView) -> NodeView:
        node_id = view.node.node_id
        return replace(
            view,
            heard_at=self._heard.get(node_id),
            jobs_ended=self._ended[node_id],
            jobs_failed=self._failed[node_id],
        )

    def machines_fit(self, service: str) -> Callable[[str], bool]:
        """Whether a machine that scaling makes for a service has what jobs require, going by those that it
        has. More of them would not help a job that requires something else."""
        self.sync()
        made = [one.labels for one in self._pool.view() if one.machine and service in one.services]
        return lambda requires: not requires or any(satisfies(requires, labels) for labels in made)

    def facts(self, service: str) -> tuple[NodeFact, ...]:
        """Every node of a service, lost and draining ones too, as scaling has to see it."""
        self.sync()
        return tuple(self._fact(view) for view in self._pool.view() if service in view.services)

    def _fact(self, view: NodeView) -> NodeFact:
        now, node_id = trio.current_time(), view.node.node_id
        busy = max(view.held, self._count[node_id]) + view.others
        joined = self._since.setdefault(node_id, now)
        if busy:
            self._touched[node_id] = now
        if view.draining is not None:
            self._drained.setdefault(node_id, now)  # ordered in an earlier life
        return NodeFact(
            node_id=node_id,
            machine=view.machine,
            ready=view.contact is NodeState.READY and view.aside is None,
            draining=view.draining is not None,
            slots=view.slots if view.slots is not None else view.cores,
            busy=busy,
            idle_since=None if busy else self._touched.get(node_id, joined),
            joined_at=joined,
            lost=view.contact is NodeState.LOST,
            drained_for=view.draining or "",
            drained_at=self._drained.get(node_id),
            heard_at=self._heard.get(node_id),
        )


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
