"""Who did what: a line for every order, and a sample of what was refused.

An order's line is written in the transaction of the order itself where there is one, so that neither is
there without the other. Of refusals all are counted by their kind; in the ledger stands one line a minute of
an address and a kind, with how many there were, and in all no more than `MOST` lines a minute: whoever is
refused cannot fill the disk.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv6Address
from typing import Final

import trio

from actors.ports.ledger import LedgerError
from actors.wire.http.peers import parse_address
from orchestrator.access.roles import Principal, asked_from, asking
from orchestrator.contract.bodies import Action

log: Final = logging.getLogger("orchestrator.access")

EVERY: Final = 60.0
"""Seconds for which there is one line of an address and a kind."""
MOST: Final = 100
"""Such lines in that time."""
LONGEST: Final = 300
"""Characters of a detail."""


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """`who` is the name of a token or a person, "local", "open contract", a signal as "SIGHUP", or "" for
    nobody who is known; `token` the token's id. What it is about: a job, a node, or what `about` names (a
    service, a token)."""

    who: str
    token: str | None
    role: str | None
    address: str
    action: Action
    job: int | None = None
    node: str | None = None
    about: str | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class AuditLine:
    """An entry as it was kept; `at` is wall-clock."""

    id: int
    at: float
    entry: AuditEntry


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """What a list is narrowed to; None: not by this. `since`: wall-clock."""

    who: str | None = None
    job: int | None = None
    node: str | None = None
    since: float | None = None
    action: Action | None = None


def entry_of(
    action: Action,
    *,
    job: int | None = None,
    node: str | None = None,
    about: str | None = None,
    detail: str = "",
) -> AuditEntry:
    """That who asks now does this."""
    asks = asking.get()
    return AuditEntry(
        asks.name,
        asks.token,
        asks.role.value,
        asked_from.get(),
        action,
        job,
        None if node is None else _clip(node),
        None if about is None else _clip(about),
        _clip(detail) if detail else "",
    )


def entry_of_signal(signal: str, action: Action, detail: str) -> AuditEntry:
    """That somebody does this by a signal to the server, of whom no more is known."""
    return AuditEntry(signal, None, None, "", action, detail=_clip(detail))


def _clip(text: str) -> str:
    # A database takes no half of a character.
    return text[:LONGEST].encode(errors="backslashreplace").decode()


class Refusals:
    """What was refused before any route: counted, and sampled for the ledger."""

    def __init__(self, write: Callable[[Sequence[AuditEntry]], Awaitable[None]] | None = None) -> None:
        self._write = write
        self._counts: Counter[str] = Counter()
        self._since: dict[tuple[str, str, Principal | None], tuple[int, str]] = {}
        """By address, kind and who it was, since the last lines were written: how many, and the first."""
        self._came = trio.Event()

    @property
    def counts(self) -> Mapping[str, int]:
        """By kind, since the start."""
        return self._counts

    def note(self, address: str, kind: str, what: str, who: Principal | None = None) -> bool:
        """`what` was asked for, by method and path; `who` asked, where that is known. Whether there will be a
        line of it, and not of an earlier one alone."""
        self._counts[kind] += 1
        key = (network_of(address), kind, who)
        if key in self._since:
            number, first = self._since[key]
            self._since[key] = (number + 1, first)
            return False
        if len(self._since) >= MOST:
            return False
        self._since[key] = (1, _clip(what))
        self._came.set()
        return True

    async def run(self) -> None:
        """Write lines until cancelled: the first refusal at once, those that follow it a minute later."""
        while self._write is not None:
            await self._came.wait()
            self._came = trio.Event()
            sampled, self._since = self._since, {}
            entries = [
                AuditEntry(
                    "" if who is None else who.name,
                    None if who is None else who.token,
                    None if who is None else who.role.value,
                    address,
                    "refused",
                    detail=f"{kind}: {what}{_times(number)}",
                )
                for (address, kind, who), (number, what) in sampled.items()
            ]
            try:
                await self._write(entries)
            except LedgerError as error:
                log.warning("%d lines on what was refused are not kept: %s", len(entries), error)
            await trio.sleep(EVERY)
        await trio.sleep(math.inf)


def _times(number: int) -> str:
    return f" ({number} times)" if number > 1 else ""


def network_of(address: str) -> str:
    """What one peer may have many addresses of: of IPv6 the first half, of IPv4 all of it."""
    read = parse_address(address)
    if read is None:
        return address[:LONGEST]
    if isinstance(read, IPv6Address) and not read.is_loopback:
        return str(IPv6Address(int(read) >> 64 << 64))
    return str(read)
