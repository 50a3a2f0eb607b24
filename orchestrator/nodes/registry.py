"""The nodes that joined by themselves, and which nodes get no more jobs: rows of the ledger, and what the
actors read of them.

A change is durable before an actor can see it. The Getter follows `addresses`, the Sender gives jobs to
`members`; both compare by identity, so each change makes new tuples. The Sender alone drains, as it alone
assigns: an order is kept here and then asked of it.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Final

import trio

from actors.domain.changes import MoveAttempt
from actors.domain.job import AttemptState
from actors.domain.node import JoinedNode, NodeAddress, NodeState, NodeView
from actors.domain.scaling import DRAINED_BY_SCALING, ScalingView
from actors.kernel.actor import ActorError, Mailbox
from actors.messages import DrainNode, PoolPicture, ScalingPicture, UndrainNode
from actors.ports.ledger import LedgerError
from actors.ports.world import Clock
from orchestrator.access.audit import AuditEntry
from orchestrator.errors import OrchestratorError
from orchestrator.ledger.ledger import SqliteLedger
from orchestrator.nodes.addresses import base_of
from orchestrator.nodes.names import NodeNames

log: Final = logging.getLogger("orchestrator.nodes")

SWEEP_EVERY: Final = 60.0
REFUSED_MOST: Final = 1000
"""Machines whose nodes were not let in, of which the reason is kept."""
REFUSAL_MOST: Final = 500
FORGOTTEN_AFTER: Final = 3600.0
"""Seconds after which a node of which nothing was heard, and of which nothing is wanted, is forgotten. One
that lives joins again by itself."""

_ASKING: Final = 5.0


class MachineTaken(OrchestratorError):
    """The machine's token belongs to another node; the text says to which."""


class NodeRegistry:
    """See the module; made by `load`. Implements `PoolControl` too. `static` are the addresses from the
    settings; `sender` owns the pool."""

    def __init__(
        self,
        ledger: SqliteLedger,
        clock: Clock,
        sender: Mailbox,
        *,
        static: Sequence[NodeAddress],
        nodes: Sequence[JoinedNode],
        drains: Mapping[str, str],
        names: NodeNames | None = None,
    ) -> None:
        self._ledger = ledger
        self._clock = clock
        self._sender = sender
        self._static = tuple(static)
        self._leaving: dict[NodeAddress, str] = {}
        """Addresses that the settings named, and who is there, for as long as something of ours is."""
        self._nodes = {node.node_id: node for node in nodes}
        self._drains = dict(drains)
        self.names: Final = NodeNames() if names is None else names
        self._posted: dict[str, float] = {}
        self._refused: dict[str, str] = {}
        self._remarks: dict[str, str] = {}
        self._began = trio.current_time()
        self._turn = trio.Lock()
        self.on_change: list[Callable[[], None]] = []
        """Are called once there are other addresses."""
        self.on_sweep: list[Callable[[Collection[str]], Awaitable[None]]] = []
        """Forget what is of machines that have ended; are told which have not. Raise LedgerError."""
        self._changed()

    @classmethod
    async def load(
        cls, ledger: SqliteLedger, clock: Clock, sender: Mailbox, static: Sequence[NodeAddress]
    ) -> NodeRegistry:
        """The registry as the ledger has it. Raises LedgerError."""
        nodes, drains = await ledger.nodes(), await ledger.drains()
        names = NodeNames(await ledger.node_names())
        return cls(ledger, clock, sender, static=static, nodes=nodes, drains=drains, names=names)

    # ------------------------------------------------------------------ what the actors read

    def addresses(self) -> tuple[NodeAddress, ...]:
        """Where to look for nodes, each address once: those of the settings, those that joined."""
        return self._addresses

    def members(self) -> tuple[JoinedNode, ...]:
        return self._members

    def served(self) -> set[str]:
        """The services for which nodes have joined by themselves."""
        return {service for node in self._members for service in node.services}

    def url_of(self, node_id: str) -> str | None:
        """Where a node that joined is; None for one that did not."""
        node = self._nodes.get(node_id)
        return None if node is None else node.url

    def drains(self) -> Mapping[str, str]:
        """Nodes that get no more jobs, by id, and why."""
        return self._drains

    def _changed(self) -> None:
        static = {base_of(address) for address in (*self._static, *self._leaving)}
        joined = [node for _, node in sorted(self._nodes.items())]
        self._addresses = (
            *self._static,
            *self._leaving,
            *(NodeAddress(node.url, node.services) for node in joined if node.url not in static),
        )
        self._members = tuple(replace(node, draining=self._drains.get(node.node_id)) for node in joined)
        self._sender.ring()
        for tell in self.on_change:
            tell()

    # ------------------------------------------------------------------ the settings

    async def set_static(self, addresses: Sequence[NodeAddress]) -> None:
        """The settings name these nodes from now on. Who is at one that they do not name any more is followed
        until nothing of ours is there. Raises NoAnswer, then nothing has changed."""
        views = await self._sender.ask(PoolPicture(), deadline=_ASKING)
        there = {(view.node.upload_url or view.node.url): view.node.node_id for view in views}
        async with self._turn:
            named = {(one.url, one.upload_url) for one in addresses}
            for one in self._static:
                node_id = there.get(one.upload_url) or there.get(base_of(one))
                if node_id is not None:
                    self._leaving[one] = node_id
            self._leaving = {
                one: node_id
                for one, node_id in self._leaving.items()
                if (one.url, one.upload_url) not in named
            }
            self._static = tuple(addresses)
            self._changed()

    async def _let_go_of_addresses(self) -> None:
        live, unreleased = await self._ledger.live(), await self._ledger.unreleased()
        owed = {job.attempt.node_id for job in live.jobs if job.attempt is not None}
        owed |= {attempt.node_id for attempt in unreleased}
        self._leaving = {one: node_id for one, node_id in self._leaving.items() if node_id in owed}
        self._changed()

    # ------------------------------------------------------------------ joining and leaving

    def heard(self, node: JoinedNode) -> bool:
        """A node says again who it is. Whether that is known already, and nothing has to be done."""
        known = self._nodes.get(node.node_id)
        same = known is not None and replace(node, last_seen=known.last_seen) == known
        if not same:
            return False
        self._posted[node.node_id] = trio.current_time()
        return True

    async def join(self, node: JoinedNode, entry: AuditEntry | None = None) -> bool:
        """A node joins, or says what is new about it; durable on return. Who had its address before has left.
        True if it was not here. Raises MachineTaken, LedgerError."""
        async with self._turn:
            others = [one for one in self._nodes.values() if one.node_id != node.node_id]
            before = [one for one in others if one.url == node.url]
            for one in others:
                if node.machine is not None and one.machine == node.machine and one not in before:
                    name = self.names.of(one.node_id)
                    raise MachineTaken(f"the machine's token was used by node {name} at {one.url}")
            for one in before:
                await self._remove(one.node_id)
            stored = replace(node, last_seen=self._clock.now())
            new = node.node_id not in self._nodes
            await self._ledger.upsert_node(stored, entry if new else None)
            self._nodes[node.node_id] = stored
            self._posted[node.node_id] = trio.current_time()
            self._refused.pop(node.machine or "", None)
            self._changed()
        if new:
            name = self.names.of(node.node_id)
            about = {"node": node.node_id}
            log.info("node %s at %s joined for %s", name, node.url, ", ".join(node.services), extra=about)
        return new

    def note_refused(self, token: str, why: str) -> None:
        """The node on that machine was not let in."""
        self._refused.pop(token, None)
        self._refused[token] = why[:REFUSAL_MOST]
        if len(self._refused) > REFUSED_MOST:
            del self._refused[next(iter(self._refused))]

    async def leave(self, node_id: str, entry: AuditEntry | None = None) -> bool:
        """A node leaves; durable on return. What runs there is followed until it is lost. False if it had not
        joined. Raises LedgerError."""
        async with self._turn:
            if node_id not in self._nodes:
                return False
            await self._remove(node_id, entry)
            self._changed()
        log.info("node %s has left", self.names.of(node_id), extra={"node": node_id})
        return True

    async def _remove(self, node_id: str, entry: AuditEntry | None = None) -> None:
        await self._ledger.remove_node(node_id, entry)
        # What an operator ordered outlasts a restart of the node.
        if self._drains.get(node_id, "").startswith(DRAINED_BY_SCALING):
            await self._order(node_id, None)
        self._remarks.pop(self._nodes.pop(node_id).machine or "", None)
        self._posted.pop(node_id, None)

    # ------------------------------------------------------------------ the pool

    def word_of(self, token: str, service: str) -> str:
        for node in self._nodes.values():
            if node.machine == token:
                others = f"its node joined for {', '.join(node.services)}, and not for {service}"
                return "" if service in node.services else others
        return self._refused.get(token, "")

    def remark(self, token: str, text: str) -> None:
        self._remarks.pop(token, None)
        if text:
            self._remarks[token] = text

    def remark_on(self, machine: str | None) -> str:
        """What is to be shown of the node on that machine."""
        return self._remarks.get(machine or "", "")

    async def picture(self, service: str) -> ScalingView:
        """Raises NoAnswer."""
        return await self._sender.ask(ScalingPicture(service), deadline=_ASKING)

    async def drain(self, node_id: str, reason: str, entry: AuditEntry | None = None) -> bool:
        """No job is assigned to that node any more on return, also after a restart; False if the pool does
        not know it. What an operator ordered is not replaced by what scaling orders. Raises LedgerError,
        NoAnswer (the order stands; ask again)."""
        async with self._turn:
            before = self._drains.get(node_id)
            if before is None or not reason.startswith(DRAINED_BY_SCALING):
                await self._order(node_id, reason, entry)
                self._changed()
            if await self._sender.ask(DrainNode(node_id, reason), deadline=_ASKING):
                return True
            await self._order(node_id, before)
            self._changed()
            return False

    async def undrain(
        self, node_id: str, entry: AuditEntry | None = None, *, by_scaling: bool = False
    ) -> bool:
        """Jobs for that node again; False if the pool does not know it and no order stood, or if it is not
        scaling's to lift. Raises LedgerError, NoAnswer."""
        async with self._turn:
            before = self._drains.get(node_id)
            if by_scaling and before is not None and not before.startswith(DRAINED_BY_SCALING):
                return False
            if before is not None:
                await self._order(node_id, None, entry)
                self._changed()
            return await self._sender.ask(UndrainNode(node_id), deadline=_ASKING) or before is not None

    async def _order(self, node_id: str, reason: str | None, entry: AuditEntry | None = None) -> None:
        if reason == self._drains.get(node_id):
            return
        await self._ledger.order_drain(node_id, reason, entry)
        if reason is None:
            self._drains.pop(node_id, None)
        else:
            self._drains[node_id] = reason

    # ------------------------------------------------------------------ forgetting

    async def run(self) -> None:
        """Forget nodes that are gone for good, until cancelled."""
        while True:
            await trio.sleep(SWEEP_EVERY)
            try:
                await self.sweep()
            except (LedgerError, ActorError) as error:
                log.warning("nodes that are gone are forgotten later: %s", error)

    async def sweep(self) -> None:
        """Forget nodes that are silent for long, and those of machines that have ended: nothing is owed to
        them any more. Raises LedgerError, ActorError."""
        alive = {record.token for record in await self._ledger.machines()}
        for forget in self.on_sweep:
            await forget(alive)
        if self._leaving:
            await self._let_go_of_addresses()
        if not self._nodes:
            return
        views = {view.node.node_id: view for view in await self._sender.ask(PoolPicture(), deadline=_ASKING)}
        for node in tuple(self._nodes.values()):
            view = views.get(node.node_id)
            # One that was never in touch may have joined directly before its machine went.
            lost = view is not None and (view.contact is NodeState.LOST or view.heard_at is None)
            if lost and node.machine is not None and node.machine not in alive:
                await self._let_go(node.node_id)
                await self.leave(node.node_id)
            elif (view is None or not view.held) and self._silence(node.node_id, view) >= FORGOTTEN_AFTER:
                await self.leave(node.node_id)

    async def _let_go(self, node_id: str) -> None:
        unreleased = [attempt for attempt in await self._ledger.unreleased() if attempt.node_id == node_id]
        await self._ledger.record(
            [MoveAttempt(one.key, AttemptState.RELEASED, one.job_id) for one in unreleased]
        )

    def _silence(self, node_id: str, view: NodeView | None) -> float:
        heard = view.heard_at if view is not None else None
        last = max(self._began, self._posted.get(node_id, self._began), heard or self._began)
        return trio.current_time() - last
