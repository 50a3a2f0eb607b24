"""At which addresses nodes are: their scripts may reach the server from there, and are nobody here."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Final
from urllib.parse import urlsplit

import trio

from actors.domain.node import NodeAddress
from actors.wire.http.peers import is_own, parse_address, resolve
from actors.wire.link.dialled import dialled_node
from orchestrator.nodes.addresses import base_of

log: Final = logging.getLogger("orchestrator.access")

LOOK_EVERY: Final = 30.0
RESOLVING: Final = 5.0
"""Seconds that the name of a host may take."""


class NodeHosts:
    """The addresses behind nodes' URLs, looked up again and again."""

    def __init__(
        self,
        nodes: Callable[[], Sequence[NodeAddress]],
        came_from: Callable[[str], str | None] = lambda node_id: None,
    ) -> None:
        """`came_from` tells the address of a node that opens the connections itself, once it has."""
        self._nodes = nodes
        self._came_from = came_from
        self._hosts = self._named()
        self._changed = trio.Event()
        self.on_look: list[Callable[[], None]] = []
        """Are called after each look."""
        self._found: dict[str, frozenset[str]] = {}
        self._here: frozenset[str] = frozenset()

    @property
    def seen_here(self) -> bool:
        """Whether a node was at an address of this machine when it was looked last."""
        return bool(self._here)

    @property
    def on_this_machine(self) -> bool:
        """Whether a node is at an address of this machine, or may be: a name is not looked up yet."""
        return any(host not in self._found or bool(self._found[host] & self._here) for host in self._hosts)

    def has(self, address: str) -> bool:
        """Whether a node is at this address, or may be."""
        parsed = parse_address(address)
        if any(host not in self._found or str(parsed) in self._found[host] for host in self._hosts):
            return True
        # A script of this machine may come from any address of it.
        return self.on_this_machine and _is_own(address)

    async def run(self) -> None:
        """Look the names up whenever there are others, and every now and then."""
        while True:
            await self.look()
            with trio.move_on_after(LOOK_EVERY):
                await self._changed.wait()

    def ring(self) -> None:
        """There are other nodes."""
        self._hosts = self._named()
        self._changed.set()

    async def look(self) -> None:
        """Look all names up. One that cannot be looked up now is where it was, or else may be anywhere."""
        self._changed = trio.Event()
        found: dict[str, frozenset[str]] = {}

        async def look_up(host: str) -> None:
            addresses: frozenset[str] = frozenset()
            if (node_id := dialled_node(host)) is not None:
                address = parse_address(self._came_from(node_id) or "")
                addresses = frozenset(() if address is None else (str(address),))
            else:
                with trio.move_on_after(RESOLVING):
                    addresses = await trio.to_thread.run_sync(resolve, host, abandon_on_cancel=True)
            if not addresses:
                log.info("the address of node host %s is not known now", host)
            if addresses := addresses or self._found.get(host, addresses):
                found[host] = addresses

        async with trio.open_nursery() as nursery:
            for host in self._hosts:
                nursery.start_soon(look_up, host)
        self._found = found
        self._here = frozenset(one for some in found.values() for one in some if _is_own(one))
        for tell in self.on_look:
            tell()

    def _named(self) -> frozenset[str]:
        return frozenset(urlsplit(base_of(node)).hostname or "" for node in self._nodes())


def _is_own(address: str) -> bool:
    parsed = parse_address(address)
    return parsed is not None and is_own(parsed)
