"""Which nodes are in touch. A part of the Getter: one task an address follows whoever is there; a node that
is silent becomes suspect, then lost.

The addresses may change while it runs (nodes join and leave). Silence is judged in monotonic time, and the
time for which this process itself was stopped, or had no means to ask anybody, does not count: then nobody
could be heard.

Who goes on purpose does not die: a node that said that it will be back is waited for longer, and one that
has left, and of which nothing is wanted, is let go without a warning.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Final

import trio

from actors.domain.errors import CoreError
from actors.domain.node import NodeAddress, NodeRef
from actors.domain.phrases import name_some
from actors.getter.reconcile import NodeMirror
from actors.kernel.backoff import Backoff
from actors.kernel.complaint import Complaint
from actors.messages import NodeLost, NodeSuspect, NodeUnreached
from actors.ports.nodes import NodeEvent, Nodes, NoMeans, Picture
from actors.ports.world import Random
from actors.store.durable import is_passing

log: Final = logging.getLogger("orchestrator.getter")

_TWICE: Final = "%s and %s are one node; name it alike everywhere"
_COPY: Final = (
    "the node at %s has the name of the one at %s, and is another: a copy of its machine or of its data "
    "directory. It gets no jobs while that one answers; stop it, or start it with a new data directory"
)
MOST_NAMED: Final = 20
"""Jobs that a line of the log names."""
FORGOTTEN_AFTER: Final = 600.0
"""Seconds that a node has been lost before it is no longer spoken of, if nothing is wanted of it."""


WATCHED_AGAIN: Final = 2.0
"""Seconds at most until an address that could not be followed is tried again."""
TWICE_PATIENCE: Final = 30.0
"""Seconds until a second address of a node that is followed already is tried again."""


class _FollowedAlready(CoreError):
    """Another address leads to the same node, and is followed: two streams of one node would contradict each
    other about where it is. Or to a `copy` of it, which knows nothing of what it has been doing since."""

    def __init__(self, node_id: str, address: NodeAddress, *, copy: bool) -> None:
        super().__init__(f"node {node_id} is followed already, at {address.url}")
        self.address = address
        self.copy = copy


class LivenessMonitor:
    """`hear` takes each event of a node; `lost` is told once of a node that has become lost, `forget` of
    one that has been for long; `nodes` are those to be judged, whether an address leads to them or not."""

    def __init__(
        self,
        nursery: trio.Nursery,
        client: Nodes,
        *,
        addresses: Callable[[], Sequence[NodeAddress]],
        nodes: Callable[[], Sequence[NodeMirror]],
        hear: Callable[[NodeRef, NodeEvent], None],
        lost: Callable[[NodeMirror], None],
        forget: Callable[[NodeMirror], None],
        tell_sender: Callable[[object], None],
        rng: Random,
        tick: float,
        suspect_after: float,
        lost_after: float,
        back_within: float,
    ) -> None:
        self._nursery = nursery
        self._client = client
        self._addresses = addresses
        self._nodes = nodes
        self._hear = hear
        self._lost = lost
        self._forget = forget
        self._tell_sender = tell_sender
        self._rng = rng
        self._tick = tick
        self._suspect_after = suspect_after
        self._lost_after = lost_after
        self._back_within = max(lost_after, back_within)
        self._judged = trio.current_time()
        self._known: Sequence[NodeAddress] = ()
        self._watches: dict[NodeAddress, trio.CancelScope] = {}
        self._followers: dict[str, NodeAddress] = {}
        self._wanting = float("-inf")
        """When somebody could last not be asked for want of something here."""
        self._complaint = Complaint(log)

    def look(self, now: float) -> bool:
        """Follow new addresses, let removed ones go, judge once a tick who has been silent for too long.
        Whether it judged. `now` is monotonic."""
        wanted = self._addresses()
        if wanted is not self._known:
            self._known = wanted
            self._follow_addresses(wanted)
        asleep = now - self._judged
        if asleep < self._tick:
            return False
        self._judged = now
        self._check_silence(now, asleep)
        return True

    def _follow_addresses(self, wanted: Sequence[NodeAddress]) -> None:
        for address in set(self._watches) - set(wanted):
            self._watches.pop(address).cancel()
        for address in wanted:
            if address not in self._watches:
                scope = self._watches[address] = trio.CancelScope()
                self._nursery.start_soon(self._watch, address, scope)

    async def _watch(self, address: NodeAddress, scope: trio.CancelScope) -> None:
        backoff = Backoff(self._rng, first=0.1, most=WATCHED_AGAIN)
        seen: set[str] = set()

        def tell(ref: NodeRef, event: NodeEvent) -> None:
            follower = self._followers.setdefault(ref.node_id, address)
            if follower != address:
                raise _FollowedAlready(ref.node_id, follower, copy=self._is_copy(ref.node_id, event))
            seen.add(ref.node_id)
            backoff.reset()
            self._hear(ref, event)

        with scope:
            while True:
                reason = await self._follow(address, tell)
                if reason and not seen:
                    self._tell_sender(NodeUnreached(address, reason))
                self._disconnect(seen, reason)
                seen.clear()
                await trio.sleep(backoff.next())
        self._disconnect(seen, "its address was removed", left=True)

    async def _follow(self, address: NodeAddress, tell: Callable[[NodeRef, NodeEvent], None]) -> str:
        """Until it cannot be followed any more; why. "" if somebody else follows who is there."""
        try:
            return await self._client.watch(address, tell)
        except _FollowedAlready as other:
            log.warning(_COPY if other.copy else _TWICE, address.url, other.address.url)
            await trio.sleep(TWICE_PATIENCE)
            return ""
        # What one node says must not stop the others from being followed.
        except Exception as error:
            if isinstance(error, NoMeans) or is_passing(error):
                self._wanting = trio.current_time()
                self._complaint.say("nodes cannot be followed now, as %s: %s", address.url, error)
                return str(error)
            log.error("node at %s cannot be followed", address.url, exc_info=error)
            return f"internal error: {error!r}"

    def _is_copy(self, node_id: str, event: NodeEvent) -> bool:
        if not isinstance(event, Picture):
            return False
        marks = (node.mark for node in self._nodes() if node.node_id == node_id)
        return any(mark is not None and mark.incarnation != event.mark.incarnation for mark in marks)

    def _disconnect(self, seen: set[str], why: str, *, left: bool = False) -> None:
        for node_id in seen:
            self._followers.pop(node_id, None)
        for node in self._nodes():
            if node.node_id in seen:
                node.connected = False
                node.mark = None
                if not node.left:  # else it has said itself why it is away
                    node.trouble, node.left = why, left
                if not node.lost:
                    self._tell_sender(NodeSuspect(node.node_id, node.trouble))

    def _check_silence(self, now: float, asleep: float) -> None:
        deaf = asleep > 2 * self._tick + 1.0
        wanting = now < self._wanting + WATCHED_AGAIN + self._tick
        for node in self._nodes():
            if deaf or (wanting and not node.connected):
                node.heard = min(now, node.heard + asleep)
            silent = now - node.heard
            if node.lost or silent >= (self._back_within if node.expected else self._lost_after):
                if not node.lost:
                    node.lost = True
                    level = logging.INFO if node.left and not node.wanted else logging.WARNING
                    about = {"node": node.node_id}
                    log.log(level, "node %s is lost: %s", node.name, node.trouble, extra=about)
                    if node.tracked:
                        jobs = _some_jobs(node)
                        log.info("jobs of node %s are begun anew or fail: %s", node.name, jobs, extra=about)
                    self._lost(node)
                self._tell_sender(NodeLost(node.node_id, node.trouble))
                if silent >= self._lost_after + FORGOTTEN_AFTER and not node.wanted:
                    self._forget(node)
            elif silent >= self._suspect_after:
                self._tell_sender(NodeSuspect(node.node_id, node.trouble))


def _some_jobs(node: NodeMirror) -> str:
    """The ids of what it had, as many as a line holds."""
    ids = sorted(tracked.job.id for tracked in node.tracked.values())
    return name_some(ids, MOST_NAMED)
