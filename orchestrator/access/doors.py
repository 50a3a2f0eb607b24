"""What is open without a token: to programs of this machine, and of the published contract. Both close by
themselves once somebody else could come in that way."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio

from actors.domain.scaling import MachineRecord, MachineState
from actors.ports.ledger import LedgerError
from actors.ports.world import Clock
from actors.process import sock_diag
from actors.wire.http.app import Refusal
from actors.wire.http.plain_routes import Head
from orchestrator.access.links import load_key
from orchestrator.access.local_peers import is_local
from orchestrator.access.node_hosts import NodeHosts
from orchestrator.access.roles import Role
from orchestrator.access.token_files import (
    OPERATOR_FILE,
    BadTokensFile,
    keep_operator_token,
    link_operator_token,
    read_declared,
    unlink_operator_token,
)
from orchestrator.access.tokens import USED_EVERY, TokenRecord, Tokens, machine_token
from orchestrator.config.settings import Settings
from orchestrator.dialled_streams import DialledStreams
from orchestrator.errors import StartError
from orchestrator.ledger.ledger import SqliteLedger
from orchestrator.nodes.registry import NodeRegistry

log: Final = logging.getLogger("orchestrator.access")

JOBS_HERE: Final = "jobs.here"
"""A file of the data directory: jobs have run on this machine. Whoever knows that nothing of them is left may
take it away, and start the server anew."""


@dataclass(slots=True)
class Doors:
    """`portal_made`: whether a token of a portal was ever made, whatever became of it."""

    settings: Settings
    hosts: NodeHosts
    tokens: Tokens
    portal_made: bool
    makes_nodes_here: bool = False
    closed_for_good: bool = False
    links_key: bytes = b""

    # ------------------------------------------------------------------ programs of this machine

    @property
    def local_open(self) -> bool:
        """Whether programs of the server's own uid need no token. Where jobs may run on this machine their
        scripts would be such programs."""
        if self.settings.open_local != "auto":
            return self.settings.open_local == "1"
        return not self.closed_for_good and not self.hosts.on_this_machine

    def hear_look(self) -> None:
        """A node was here: what its jobs have begun may be here still when it is gone, and when this server
        was started anew."""
        if self.closed_for_good or not (self.makes_nodes_here or self.hosts.seen_here):
            return
        self.closed_for_good = True
        path = self.settings.data_path / JOBS_HERE
        try:
            path.touch(mode=0o600)
        except OSError as error:
            log.error("%s: %s; a start without a node here will not know that jobs ran here", path, error)
        self.say_if_closed()

    def say_if_closed(self) -> None:
        if self.settings.open_local == "auto" and self.closed_for_good:
            log.info(
                "jobs run on this machine, or did, so every program needs a token: that of the server's own "
                "account is in %s, and its commands find it there",
                self.settings.data_path / OPERATOR_FILE,
            )

    def is_local(self, head: Head) -> bool:
        return self.local_open and is_local(head)

    # ------------------------------------------------------------------ the published contract

    @property
    def contract_open(self) -> bool:
        settings = self.settings
        return settings.open_contract == "auto" and settings.as_2x and not self.portal_made

    def contract_open_to(self, head: Head) -> bool:
        """A node's scripts come from its address: they would be the portal. Raises Refusal, which says so."""
        if not self.contract_open or head.peer is None:
            return False
        if self.hosts.has(head.peer[0]):
            detail = (
                f"the contract is open without a token, but not to {head.peer[0]}, from where scripts of a "
                "node may come: `orchestrator token create --role portal` makes a token for the portal"
            )
            raise Refusal(401, "node_address", detail, headers={"WWW-Authenticate": "Bearer"})
        return True

    def note_made(self, record: TokenRecord) -> None:
        """A token was made: a portal that has one closes the contract to all that have none."""
        if record.role is Role.PORTAL and not self.portal_made:
            was_open, self.portal_made = self.contract_open, True
            if was_open:
                log.warning(
                    "the contract's routes need a token from now on: %s was made", record.name or "one"
                )

    # ------------------------------------------------------------------ machines of scaling

    def hear_machine(self, machine: MachineRecord) -> None:
        """The node of a machine elsewhere joins by the machine's token, once: nobody else is there yet. Here
        others may see it, and its node is given another."""
        config = self.settings.scaling.get(machine.service)
        if config is None or not config.elsewhere:
            return
        token = machine_token(machine)
        if machine.state is MachineState.ENDED:
            self.tokens.remove(token.id)
        elif self.tokens.get(token.id) is None:
            self.tokens.add(token)

    # ------------------------------------------------------------------ what is said of it

    def tell(self) -> None:
        """What the start says: what is open, and how it is closed."""
        if any(network.is_loopback for network in self.settings.trusted_proxies):
            log.warning(
                "TRUSTED_PROXIES has a loopback address: whatever runs on this machine, as any account, "
                "may say that it is anybody"
            )
        if self.contract_open:
            log.warning(
                "the contract's routes of 2.x are open to whoever reaches the port, as OPEN_CONTRACT=auto "
                "says: `orchestrator token create --role portal` closes them at once; the portal sends what "
                "it prints as `Authorization: Bearer ...`"
            )
            if self.hosts.on_this_machine:
                log.warning("they are not open to programs of this machine, where scripts of a node run too")
        elif self.settings.open_contract == "auto" and not self.portal_made:
            log.warning("OPEN_CONTRACT=auto opens nothing: not all services come from SERVICE_... variables")


async def open_doors(
    settings: Settings, ledger: SqliteLedger, registry: NodeRegistry, clock: Clock, dialled: DialledStreams
) -> Doors:
    """All tokens, those of the ledger and of files, and what is open without one; where nodes are is known on
    return. Raises StartError, LedgerError."""
    kept = await ledger.tokens()
    try:
        records = await trio.to_thread.run_sync(_load_tokens, settings, kept, clock.now())
        links_key = await trio.to_thread.run_sync(load_key, settings.data_path)
    except BadTokensFile as error:
        raise StartError(str(error)) from error
    except OSError as error:
        raise StartError(f"{error.filename or settings.data_path}: {error.strerror}") from error
    hosts = NodeHosts(registry.addresses, dialled.address_of)
    registry.on_change.append(hosts.ring)
    dialled.on_address.append(hosts.ring)
    tokens = Tokens(records, clock.now)
    made = await ledger.portal_token_made() or any(one.role is Role.PORTAL for one in records)
    here = any(not config.elsewhere for config in settings.scaling.values())
    before = (settings.data_path / JOBS_HERE).exists()
    doors = Doors(settings, hosts, tokens, made, here, before, links_key)
    tokens.on_add.append(doors.note_made)
    for machine in await ledger.machines():
        doors.hear_machine(machine)
    ledger.on_machine.append(doors.hear_machine)
    doors.say_if_closed()
    hosts.on_look.append(doors.hear_look)
    await hosts.look()
    with suppress(OSError):  # else nobody is local
        sock_diag.prepare()
    doors.tell()
    return doors


def _load_tokens(settings: Settings, kept: Iterable[TokenRecord], now: float) -> list[TokenRecord]:
    declared = [] if settings.tokens_file is None else read_declared(settings.tokens_file, settings.services)
    return [*kept, *declared, keep_operator_token(settings.data_path, now)]


@contextmanager
def findable(data: Path) -> Iterator[Callable[[int], None]]:
    """Called with the port that the server listens at, it has the clients of this account find the token,
    until the end."""
    ports: list[int] = []

    def make_findable(port: int) -> None:
        ports.append(port)
        try:
            link_operator_token(data, port, os.environ)
        except OSError as error:
            log.info("clients do not find %s by themselves: %s", data / OPERATOR_FILE, error)

    try:
        yield make_findable
    finally:
        for port in ports:
            unlink_operator_token(data, port, os.environ)


async def note_uses(tokens: Tokens, ledger: SqliteLedger) -> None:
    """Keep when tokens were used last."""
    while True:
        await trio.sleep(USED_EVERY)
        if used := tokens.take_used():
            try:
                await ledger.note_uses(used)
            except LedgerError as error:
                log.warning("the last use of %d tokens is not kept: %s", len(used), error)
