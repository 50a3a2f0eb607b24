"""Services that are paused: their jobs wait, those that run go on. Orders that outlast a restart."""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol, TypeVar

from actors.ports.world import Clock
from orchestrator.ledger.tables.pauses import read_pauses, store_pause
from orchestrator.ledger.writer import Writing

T = TypeVar("T")


class PausesLedger(Protocol):
    """What is needed of the ledger."""

    def read(self, work: Callable[[sqlite3.Connection], T]) -> Awaitable[T]: ...
    def write(self, work: Callable[[Writing], T]) -> Awaitable[T]: ...


class Pauses:
    """`reasons` and `since` by service are always as they are now: whoever decides looks into them. An order
    is durable before it holds, and it holds for the next decision."""

    def __init__(
        self,
        ledger: PausesLedger,
        clock: Clock,
        known: Mapping[str, tuple[str, float]],
        changed: Callable[[], None],
    ) -> None:
        """For `load`."""
        self._ledger = ledger
        self._clock = clock
        self._changed = changed
        self.reasons = {service: reason for service, (reason, _) in known.items()}
        self.since = {service: since for service, (_, since) in known.items()}

    @classmethod
    async def load(
        cls, ledger: PausesLedger, clock: Clock, changed: Callable[[], None] = lambda: None
    ) -> Pauses:
        """`changed` is called after each order. Raises LedgerError."""
        return cls(ledger, clock, await ledger.read(read_pauses), changed)

    async def pause(self, service: str, reason: str) -> None:
        """No job of the service goes from now on. Raises LedgerError."""
        now = self._clock.now()
        await self._ledger.write(lambda writing: store_pause(writing.db, service, reason, now))
        self.reasons[service] = reason
        self.since.setdefault(service, now)
        self._changed()

    async def resume(self, service: str) -> None:
        """Idempotent. Raises LedgerError."""
        await self._ledger.write(lambda writing: store_pause(writing.db, service, None, 0.0))
        self.reasons.pop(service, None)
        self.since.pop(service, None)
        self._changed()
