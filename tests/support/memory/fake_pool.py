"""Who owns queue and pool, as scaling sees it: jobs wait, nodes take them, a drained node takes none. It
counts what must never be: a job that was ended by scaling."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import trio

from actors.domain.scaling import NodeFact, ScalingView
from actors.kernel.actor import NoAnswer


@dataclass
class FakeNode:
    node_id: str
    machine: str | None
    slots: int
    joined_at: float
    busy: int = 0
    idle_since: float = 0.0
    drained_for: str | None = None
    drained_at: float = 0.0
    used: int = 0
    ended: bool = False
    silent_since: float | None = None


class FakePool:
    """A `PoolControl`. A heartbeat comes with each full second since a node joined; `node-x` is called
    `host-x`."""

    def __init__(self, nursery: trio.Nursery, *, slots: int = 1, lost_after: float = 60.0) -> None:
        self._nursery = nursery
        self.slots = slots
        self.lost_after = lost_after
        self.nodes: dict[str, FakeNode] = {}
        self.waiting: deque[tuple[float, float]] = deque()
        self.completed = 0
        self.ended_by_scaling: list[str] = []
        self.waits: list[float] = []
        self.delay: Callable[[], float] = lambda: 0.0
        self.deaf = False
        self.heeds_drains = True
        self.words: dict[str, str] = {}
        self.remarks: dict[str, str] = {}
        self._turns = 0

    def up(self, token: str | None, node_id: str | None = None) -> FakeNode:
        now = trio.current_time()
        name = node_id or f"node-{token}"
        node = self.nodes[name] = FakeNode(name, token, self.slots, now, idle_since=now)
        self.assign()
        return node

    def down(self, token: str) -> None:
        """The machine is gone, and so is what ran there."""
        for node in list(self.nodes.values()):
            if node.machine == token:
                node.ended = True
                if node.busy and node.silent_since is None:
                    self.ended_by_scaling.append(node.node_id)
                del self.nodes[node.node_id]

    def restart(self) -> None:
        """The Sender begins anew: nobody is draining as far as it knows."""
        for node in self.nodes.values():
            node.drained_for = None
        self.assign()

    def submit(self, seconds: float) -> None:
        self.waiting.append((trio.current_time(), seconds))
        self.assign()

    def assign(self) -> None:
        while self.waiting:
            able = [n for n in self.nodes.values() if self._takes(n)]
            if not able:
                return
            node = min(able, key=lambda n: (n.busy / n.slots, n.used, n.node_id))
            at, seconds = self.waiting.popleft()
            self.waits.append(trio.current_time() - at)
            self._turns += 1
            node.used, node.busy = self._turns, node.busy + 1
            self._nursery.start_soon(self._run, node, seconds)

    async def _hear(self) -> None:
        await trio.sleep(self.delay())
        if self.deaf:
            raise NoAnswer("sender: no answer")

    async def picture(self, service: str) -> ScalingView:
        await self._hear()
        now = trio.current_time()
        oldest = now - self.waiting[0][0] if self.waiting else 0.0
        facts = tuple(self._fact(node) for node in self.nodes.values())
        return ScalingView(len(self.waiting), oldest, sum(n.busy for n in self.nodes.values()), facts)

    async def drain(self, node_id: str, reason: str) -> bool:
        await self._hear()
        node = self.nodes.get(node_id)
        if node is not None and node.drained_for is None:
            node.drained_for, node.drained_at = reason, trio.current_time()
        return node is not None

    async def undrain(self, node_id: str, *, by_scaling: bool) -> bool:
        await self._hear()
        node = self.nodes.get(node_id)
        if node is not None:
            node.drained_for = None
            self.assign()
        return node is not None

    def word_of(self, token: str, service: str) -> str:
        return self.words.get(token, "")

    def remark(self, token: str, text: str) -> None:
        self.remarks[token] = text

    def _takes(self, node: FakeNode) -> bool:
        drained = node.drained_for is not None and self.heeds_drains
        return not drained and node.busy < node.slots and node.silent_since is None

    async def _run(self, node: FakeNode, seconds: float) -> None:
        await trio.sleep(seconds)
        if not node.ended:
            node.busy -= 1
            node.idle_since = trio.current_time()
            self.completed += 1
            self.assign()

    def _fact(self, node: FakeNode) -> NodeFact:
        now = trio.current_time()
        until = now if node.silent_since is None else node.silent_since
        return NodeFact(
            node_id=node.node_id,
            machine=node.machine,
            ready=node.silent_since is None,
            draining=node.drained_for is not None,
            slots=node.slots,
            busy=node.busy,
            idle_since=None if node.busy else node.idle_since,
            joined_at=node.joined_at,
            lost=node.silent_since is not None and now - node.silent_since >= self.lost_after,
            drained_for=node.drained_for or "",
            drained_at=None if node.drained_for is None else node.drained_at,
            heard_at=node.joined_at + math.floor(until - node.joined_at),
            name=node.node_id.replace("node-", "host-"),
        )
