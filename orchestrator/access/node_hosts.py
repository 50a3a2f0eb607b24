"""At which addresses nodes are: their scripts may reach the server from there, and are nobody here."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Iterable, Sequence
from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

import trio

from actors.domain.node import NodeAddress
from actors.wire.http.web_pages import is_loopback
from orchestrator.nodes.addresses import base_of

log: Final = logging.getLogger("orchestrator.access")

LOOK_EVERY: Final = 30.0
RESOLVING: Final = 5.0
"""Seconds that the name of a host may take."""


class NodeHosts:
    """The addresses behind nodes' URLs, looked up again and again. `is_ours`: whether an address is this
    machine's."""

    def __init__(
        self, addresses: Callable[[], Sequence[NodeAddress]], *, is_ours: Callable[[str], bool] | None = None
    ) -> None:
        self._nodes = addresses
        self._is_ours = _is_ours if is_ours is None else is_ours
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
        return any(host not in self._found or bool(self._found[host] & self._here) for host in self._hosts())

    def has(self, address: str) -> bool:
        """Whether a node is at this address, or may be."""
        plain = _plain(address)
        if any(host not in self._found or plain in self._found[host] for host in self._hosts()):
            return True
        # A script of this machine may come from any address of it.
        return self.on_this_machine and self._is_ours(plain)

    async def run(self) -> None:
        """Look the names up whenever there are others, and every now and then."""
        while True:
            await self.look()
            with trio.move_on_after(LOOK_EVERY):
                await self._changed.wait()

    def ring(self) -> None:
        """There are other nodes."""
        self._changed.set()

    async def look(self) -> None:
        """Look all names up. One that cannot be looked up now is where it was, or else may be anywhere."""
        self._changed = trio.Event()
        hosts = self._hosts()
        found: dict[str, frozenset[str]] = {}

        async def look_up(host: str) -> None:
            addresses = await _addresses_of(host) or self._found.get(host)
            if addresses:
                found[host] = addresses

        async with trio.open_nursery() as nursery:
            for host in hosts:
                nursery.start_soon(look_up, host)
        self._found = found
        self._here = frozenset(one for some in found.values() for one in some if self._is_ours(one))
        for tell in self.on_look:
            tell()

    def _hosts(self) -> frozenset[str]:
        return frozenset(_hosts_of(self._nodes()))


def _hosts_of(nodes: Iterable[NodeAddress]) -> Iterable[str]:
    for node in nodes:
        yield urlsplit(base_of(node)).hostname or ""


def _plain(address: str) -> str:
    """An address in one form: those of version 4 that are written as of version 6 are of version 4."""
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    mapped = getattr(parsed, "ipv4_mapped", None)
    return str(mapped or parsed)


async def _addresses_of(host: str) -> frozenset[str]:
    with trio.move_on_after(RESOLVING):
        try:
            found = await trio.socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            log.info("the address of node host %s is not known: %s", host, error)
            return frozenset()
        return frozenset(_plain(str(entry[4][0])) for entry in found)
    return frozenset()


def _is_ours(address: str) -> bool:
    """Whether an address is one of this machine's: a socket can be bound to it."""
    if is_loopback(address):
        return True
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((address, 0))
    except OSError:
        return False
    return True
