"""Services that are paused: their jobs wait, those that run go on. Orders that outlast a restart."""

from __future__ import annotations

from collections.abc import Mapping

from actors.kernel.actor import Mailbox
from actors.messages import ServicesPaused
from actors.ports.world import Clock
from orchestrator.access.audit import AuditEntry
from orchestrator.ledger.ledger import SqliteLedger


class Pauses:
    """`reasons` and `since` by service are as they are now. An order is durable before it holds, and it holds
    for the Sender's next decision."""

    def __init__(
        self, ledger: SqliteLedger, clock: Clock, sender: Mailbox, known: Mapping[str, tuple[str, float]]
    ) -> None:
        """For `load`."""
        self._ledger = ledger
        self._clock = clock
        self._sender = sender
        self.reasons = {service: reason for service, (reason, _) in known.items()}
        self.since = {service: since for service, (_, since) in known.items()}

    @classmethod
    async def load(cls, ledger: SqliteLedger, clock: Clock, sender: Mailbox) -> Pauses:
        """Raises LedgerError."""
        return cls(ledger, clock, sender, await ledger.pauses())

    async def pause(self, service: str, reason: str, entry: AuditEntry | None = None) -> None:
        """No job of the service goes from now on. Raises LedgerError."""
        now = self._clock.now()
        await self._ledger.order_pause(service, reason, now, entry)
        self.reasons[service] = reason
        self.since.setdefault(service, now)
        self._sender.tell(ServicesPaused(dict(self.reasons)))

    async def resume(self, service: str, entry: AuditEntry | None = None) -> None:
        """Idempotent. Raises LedgerError."""
        await self._ledger.order_pause(service, None, 0.0, entry)
        self.reasons.pop(service, None)
        self.since.pop(service, None)
        self._sender.tell(ServicesPaused(dict(self.reasons)))
