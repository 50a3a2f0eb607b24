"""Services that are paused: their jobs wait, those that run go on. Orders that outlast a restart."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from actors.ports.world import Clock
from orchestrator.ledger.ledger import SqliteLedger


class Pauses:
    """`reasons` and `since` by service are always as they are now: whoever decides looks into them. An order
    is durable before it holds, and it holds for the next decision."""

    def __init__(
        self,
        ledger: SqliteLedger,
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
        cls, ledger: SqliteLedger, clock: Clock, changed: Callable[[], None] = lambda: None
    ) -> Pauses:
        """`changed` is called after each order. Raises LedgerError."""
        return cls(ledger, clock, await ledger.pauses(), changed)

    async def pause(self, service: str, reason: str) -> None:
        """No job of the service goes from now on. Raises LedgerError."""
        now = self._clock.now()
        await self._ledger.order_pause(service, reason, now)
        self.reasons[service] = reason
        self.since.setdefault(service, now)
        self._changed()

    async def resume(self, service: str) -> None:
        """Idempotent. Raises LedgerError."""
        await self._ledger.order_pause(service, None, 0.0)
        self.reasons.pop(service, None)
        self.since.pop(service, None)
        self._changed()
