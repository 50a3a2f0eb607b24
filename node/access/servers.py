"""Whom this node serves by the published contract, which knows no proof: addresses.

Those that `SERVERS` names; unset, the first that has submitted something, which is kept in DATA/server. Never
this machine's own addresses, from which the node's scripts would come, unless `SERVERS` names them itself.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import trio

from actors.store.durable import write_durably
from actors.store.kept_file import Damaged, read_kept
from actors.store.repair import retry_repaired
from actors.wire.http.app import Refusal
from actors.wire.http.peers import IpAddress, is_own, parse_address, parse_network, resolve

log: Final = logging.getLogger("node.access")

RESOLVED_FOR: Final = 30.0
"""Seconds for which a name's addresses are known."""
_LONGEST: Final = 100


class Servers:
    """`named`: addresses, networks and host names."""

    def __init__(self, data: Path, named: Sequence[str]) -> None:
        """Reads what is kept. Raises OSError."""
        self._path = data / "server"
        self._named = tuple(named)
        self._networks = [network for text in named if (network := parse_network(text)) is not None]
        self._names = [text for text in named if parse_network(text) is None]
        self._resolved: dict[str, tuple[float, frozenset[str]]] = {}
        self._turn = trio.Lock()
        self.first: str | None = self._read()
        """Who has submitted first; "" where that cannot be read any more."""

    def forget(self) -> None:
        """Whoever submits next is the first. Blocks. Raises OSError."""
        self._path.unlink(missing_ok=True)
        self.first = None

    async def admit(self, peer: str | None, *, submits: bool, closed: bool) -> None:
        """One who asks by the contract. `closed`: the node has other orchestrators, and whoever submits
        first is nobody. Raises Refusal (403)."""
        address = parse_address(peer or "")
        if address is None:
            raise Refusal(403, "foreign_server", self.why_not(peer))
        if self._named:
            if not await self._is_named(address):
                raise Refusal(403, "foreign_server", self.why_not(peer))
            return
        if is_own(address):
            raise Refusal(403, "own_address", _OWN)
        if self.first is None and submits and not closed:
            async with self._turn:
                if self.first is None:
                    await trio.to_thread.run_sync(self._keep, str(address))
        if self.first != str(address):
            raise Refusal(403, "foreign_server", self.why_not(peer))

    async def may_come(self, peer: str | None) -> bool:
        """Whether one who has proved nothing may have to do with an open node at all."""
        address = parse_address(peer or "")
        if self._named:
            return address is not None and await self._is_named(address)
        return self.first is None or (address is not None and self.first == str(address))

    async def _is_named(self, address: IpAddress) -> bool:
        if any(address in network for network in self._networks):
            return True
        for name in self._names:
            if str(address) in await self._addresses_of(name):
                return True
        return False

    async def _addresses_of(self, name: str) -> frozenset[str]:
        now = trio.current_time()
        async with self._turn:
            until, found = self._resolved.get(name, (0.0, frozenset()))
            if until <= now:
                found = await trio.to_thread.run_sync(resolve, name, abandon_on_cancel=True)
                self._resolved[name] = (now + RESOLVED_FOR, found)
        return found

    def _keep(self, address: str) -> None:
        retry_repaired(self._path, lambda: write_durably(self._path, address.encode()))
        self.first = address
        log.info("%s has submitted, and is served by the contract from now on, alone", address)

    def _read(self) -> str | None:
        found = read_kept(self._path, _LONGEST)
        if found is None:
            return None
        address = None if isinstance(found, Damaged) else parse_address(found.decode("ascii", "replace"))
        if address is None:
            log.error("%s is damaged: set SERVERS, or start this node with --pair-anew", self._path)
            return ""
        return str(address)

    def why_not(self, peer: str | None) -> str:
        """What to do for a peer to be let in."""
        address = parse_address(peer or "")
        if address is None:
            return "it is not known where this comes from"
        return self._not_named(address) if self._named else self._not_first(address)

    def _not_named(self, address: IpAddress) -> str:
        named = ", ".join(self._named)
        return f"this node serves {named}: to have it serve {address}, add that to its SERVERS"

    def _not_first(self, address: IpAddress) -> str:
        serves = f"serves {self.first}" if self.first else "serves nobody by the published contract"
        return f"this node {serves}: to have it serve {address}, set SERVERS={address} in its environment"


_OWN: Final = (
    "this node serves no programs of its own machine by the published contract: its scripts are among them. "
    "If a server runs here, name its address in SERVERS, as SERVERS=127.0.0.1"
)
