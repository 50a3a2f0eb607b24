"""What this orchestrator has agreed on with its nodes: a secret for each, in the ledger, never sent.

With a node that has none a link agrees on one: by the key that its token yields, if it has joined by a token
since this start; by none if the settings name it, or an operator has let it in. With any other node nothing
is agreed on: who knows who answers there now. See `node/access/kept_secrets.py` for how both come to keep the
same; here one is kept once the node has proved that it has it, so that no node is ever asked for what it may
not have.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from ipaddress import ip_network
from typing import Final, Protocol

from actors.wire.http.peers import parse_address
from actors.wire.link.proof import join_key
from orchestrator.access.audit import AuditEntry
from orchestrator.access.tokens import TokenRecord

BY_TOKEN: Final = "token"
"""The kind of a node that has joined by a token."""
INVITED: Final = 4096
"""Nodes that may have joined and not agreed on a secret yet."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What a token lets its nodes do: join for `services` alone (empty: any), with at most `max_slots`, from
    these networks (empty: anywhere). `token`: its id, None for who has joined without."""

    token: str | None = None
    services: tuple[str, ...] = ()
    max_slots: int | None = None
    sources: tuple[str, ...] = ()

    @classmethod
    def of(cls, token: TokenRecord) -> Terms:
        return cls(token.id, token.services, token.max_slots, token.sources)

    def objection(self, services: Iterable[str], slots: int | None, peer: str) -> tuple[str, str] | None:
        """Why a node may not join so: a code, and a sentence."""
        foreign = sorted(set(services) - set(self.services)) if self.services else []
        if foreign:
            mine = ", ".join(self.services)
            return "foreign_service", f"its token is for {mine} alone, not for {', '.join(foreign)}"
        if self.max_slots is not None and (slots is None or slots > self.max_slots):
            given = "no limit" if slots is None else f"{slots}"
            return (
                "too_many_slots",
                f"its token allows {self.max_slots} slots, and it says {given}: start it with "
                f"--slots {self.max_slots} at most",
            )
        if self.sources and not _is_in(peer, self.sources):
            named = ", ".join(self.sources)
            return "wrong_address", f"its token is for nodes at {named}, and this comes from {peer}"
        return None


@dataclass(frozen=True, slots=True)
class NodeSecret:
    node_id: str
    secret: bytes = field(repr=False)
    made_at: float
    terms: Terms = Terms()
    machine: str | None = None
    """That scaling has made, and that the node ends with."""


class Keeper(Protocol):
    """The ledger."""

    async def put_node_secret(self, secret: NodeSecret) -> None: ...
    async def remove_node_secret(self, node_id: str, entry: AuditEntry | None = None) -> bool: ...


@dataclass(frozen=True, slots=True)
class _Invitation:
    key: str = field(default="", repr=False)
    terms: Terms = Terms()
    machine: str | None = None


class NodeSecrets:
    """`named`: base URLs of nodes in the settings, which pair by `named_key`. `before`: nodes that had joined
    without a token before this start."""

    def __init__(
        self,
        known: Iterable[NodeSecret],
        keeper: Keeper,
        named: Iterable[str] = (),
        before: Iterable[str] = (),
        named_key: str = "",
    ) -> None:
        self._secrets = {one.node_id: one for one in known}
        self._keeper = keeper
        self.on_forget: Final[list[Callable[[str], None]]] = []
        """Are called with the node whose secret is forgotten: nothing that it has proved holds any more."""
        self._named = frozenset(named)
        self._named_key = named_key
        self.forgotten: set[str] = set()
        """Nodes of which an operator has had the secret forgotten since the start: they may have moved."""
        self._invited = {node_id: _Invitation() for node_id in before}

    def find(self, node_id: str) -> NodeSecret | None:
        return self._secrets.get(node_id)

    def name(self, urls: Iterable[str]) -> None:
        """The settings name the nodes at these base URLs from now on."""
        self._named = frozenset(urls)

    # ------------------------------------------------------------------ nodes without one

    def invite(
        self, node_id: str, token: TokenRecord | None = None, said: str = "", machine: str | None = None
    ) -> None:
        """A node without a secret has joined: by a token, saying a nonce, or let in by an operator."""
        self._invited.pop(node_id, None)
        if token is None:
            self._invited[node_id] = _Invitation(machine=machine)
        else:
            self._invited[node_id] = _Invitation(join_key(token.hash, said), Terms.of(token), machine)
        if len(self._invited) > INVITED:
            del self._invited[next(iter(self._invited))]

    def key_for(self, node_id: str, url: str) -> str | None:
        """With which a secret is agreed on; None where none is to be."""
        if node_id in self._invited:
            return self._invited[node_id].key
        return self._named_key if url in self._named else None

    async def keep(self, node_id: str, secret: bytes, now: float) -> None:
        """Both have this from now on; durable on return. Raises LedgerError."""
        invited = self._invited.get(node_id, _Invitation())
        made = NodeSecret(node_id, secret, now, invited.terms, invited.machine)
        await self._keeper.put_node_secret(made)
        self._secrets[node_id] = made
        self._invited.pop(node_id, None)

    async def forget(self, node_id: str, entry: AuditEntry | None = None) -> bool:
        """Whoever has this id may agree on another; False if there was none. Raises LedgerError."""
        self._invited.pop(node_id, None)
        there = await self._keeper.remove_node_secret(node_id, entry)
        self._secrets.pop(node_id, None)
        self.forgotten.add(node_id)
        for tell in self.on_forget:
            tell(node_id)
        return there

    async def forget_machines(self, alive: Collection[str]) -> None:
        """Forget the secrets with nodes of machines that have ended. Raises LedgerError."""
        for one in list(self._secrets.values()):
            if one.machine is not None and one.machine not in alive:
                await self.forget(one.node_id)


def _is_in(peer: str, networks: Iterable[str]) -> bool:
    address = parse_address(peer)
    return address is not None and any(address in ip_network(network) for network in networks)
