"""Machines and decisions in memory, with the rules of the ones in SQLite."""

from __future__ import annotations

from collections.abc import Sequence

import trio

from actors.domain.scaling import DecisionRecord, MachineRecord, MachineState


class MemoryMachines:
    """A `MachineLedger` that forgets everything with the process. `put` has every record in the order in
    which they came, for tests to look at."""

    def __init__(self, decisions_kept: int = 5000) -> None:
        self.put: list[MachineRecord] = []
        self._machines: dict[str, MachineRecord] = {}
        self._decisions: list[DecisionRecord] = []
        self._kept = decisions_kept

    async def machines(self) -> Sequence[MachineRecord]:
        await trio.lowlevel.checkpoint()
        alive = [record for record in self._machines.values() if record.state is not MachineState.ENDED]
        return sorted(alive, key=lambda record: record.requested_at)

    async def put_machine(self, record: MachineRecord) -> None:
        await trio.lowlevel.checkpoint()
        self._machines[record.token] = record
        self.put.append(record)

    async def note_decision(self, decision: DecisionRecord) -> None:
        await trio.lowlevel.checkpoint()
        self._decisions = [*self._decisions[1 - self._kept :], decision]

    async def decisions(self, service: str | None = None, limit: int = 100) -> Sequence[DecisionRecord]:
        await trio.lowlevel.checkpoint()
        of_service = [one for one in reversed(self._decisions) if service in (None, one.service)]
        return of_service[:limit]
