"""Records of machines in memory, and a ledger that refuses for a while."""

from __future__ import annotations

from collections.abc import Sequence

import trio

from actors.domain.scaling import DecisionRecord, MachineRecord, MachineState
from actors.ports.ledger import LedgerError


class MemoryMachines:
    """Implements `actors.ports.scaling.MachineLedger`. While `broken` every call fails."""

    def __init__(self) -> None:
        self.rows: dict[str, MachineRecord] = {}
        self.noted: list[DecisionRecord] = []
        self.broken = False
        self._awaited: dict[str, trio.Event] = {}

    async def until_noted(self, action: str) -> None:
        """Until the next decision of that kind."""
        await self._awaited.setdefault(action, trio.Event()).wait()

    async def machines(self) -> Sequence[MachineRecord]:
        await self._reach()
        return [row for row in self.rows.values() if row.state is not MachineState.ENDED]

    async def put_machine(self, record: MachineRecord) -> None:
        await self._reach()
        self.rows[record.token] = record

    async def note_decision(self, decision: DecisionRecord) -> None:
        await self._reach()
        self.noted.append(decision)
        if (awaited := self._awaited.pop(decision.action, None)) is not None:
            awaited.set()

    async def decisions(self, service: str | None = None, limit: int = 100) -> Sequence[DecisionRecord]:
        await self._reach()
        found = [one for one in reversed(self.noted) if service in (None, one.service)]
        return found[:limit]

    async def _reach(self) -> None:
        await trio.lowlevel.checkpoint()
        if self.broken:
            raise LedgerError("disk full")
