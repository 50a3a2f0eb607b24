"""The machines that scaling has, and their records in the ledger: what is written there comes first.

A record is WANTED before the provider is asked and ENDED after it has confirmed, so that at every moment each
machine that may exist, and cost, has one. Several tasks move a machine (its node joins while the answer to
its creation is on the way): a move names the states that it leaves, and one that no longer holds does
nothing."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Final

import trio

from actors.domain.scaling import DecisionRecord, MachineRecord, MachineState
from actors.ports.ledger import LedgerError
from actors.ports.scaling import MachineLedger
from actors.ports.world import Clock, Random

log: Final = logging.getLogger("orchestrator.scaling")

LIVE: Final = frozenset({MachineState.WANTED, MachineState.BOOTING, MachineState.JOINED})
ENDED_LATELY: Final = 600.0
"""Seconds for which a provider may go on listing a machine that was ended."""


@dataclass(slots=True)
class TrackedMachine:
    """One machine. `alone_since`: since when it has no node in the pool. `known_at`: since when the provider
    has it. `asked`: the provider may have been asked to make it. `creating`: it is being asked. `came`: its
    node was in touch once; `in_touch`: it is now. `missed` and `missed_since`: how many answers in a row did
    not name it, and since when. `problem`: what of it is not as it was ordered. `note`: what the provider
    says of it."""

    record: MachineRecord
    alone_since: float
    known_at: float
    asked: bool = False
    creating: bool = False
    came: bool = False
    in_touch: bool = False
    missed: int = 0
    missed_since: float = 0.0
    problem: str = ""
    note: str = ""
    lock: trio.Lock = field(default_factory=trio.Lock)

    @property
    def token(self) -> str:
        return self.record.token

    @property
    def name(self) -> str:
        """The provider's name of it, or its token as long as that is not known."""
        return self.record.machine_id or self.token

    @property
    def state(self) -> MachineState:
        return self.record.state


class TrackedMachines:
    """All machines of this orchestrator that are not ENDED."""

    def __init__(self, ledger: MachineLedger, clock: Clock, rng: Random) -> None:
        self._ledger = ledger
        self._clock = clock
        self._rng = rng
        self._tracked: dict[str, TrackedMachine] = {}
        self._ended: dict[str, float] = {}

    def __iter__(self) -> Iterator[TrackedMachine]:
        return iter(list(self._tracked.values()))

    def of(self, services: Iterable[str]) -> list[TrackedMachine]:
        """Oldest first."""
        return [one for one in self._tracked.values() if one.record.service in services]

    def get(self, token: str) -> TrackedMachine | None:
        return self._tracked.get(token)

    async def read(self) -> None:
        """What an earlier life has left. Its age comes from the wall clock, which may have jumped: a machine
        has some time to show up, however old it looks. Raises `LedgerError`."""
        for record in await self._ledger.machines():
            self._adopt(record, age=max(0.0, self._clock.now() - record.requested_at))

    async def adopt(self, token: str, service: str, node_id: str) -> TrackedMachine:
        """A machine of ours whose node is in the pool and that has no record (an older ledger was
        restored)."""
        record = MachineRecord(token, service, MachineState.JOINED, self._clock.now(), node_id=node_id)
        await self._ledger.put_machine(record)
        return self._adopt(record, age=0.0)

    async def request(self, service: str, reason: str) -> TrackedMachine:
        """One more machine, to be made. Raises `LedgerError`."""
        token = f"{self._rng.getrandbits(128):032x}"
        record = MachineRecord(token, service, MachineState.WANTED, self._clock.now(), reason=reason)
        await self._ledger.put_machine(record)
        tracked = self._tracked[token] = TrackedMachine(record, trio.current_time(), trio.current_time())
        return tracked

    async def move(
        self,
        tracked: TrackedMachine,
        sources: Iterable[MachineState],
        target: MachineState,
        *,
        reason: str = "",
        node_id: str | None = None,
    ) -> bool:
        """False if it is in none of `sources` any more. Raises `LedgerError`: then nothing was changed."""
        async with tracked.lock:
            if tracked.state not in sources:
                return False
            record = replace(
                tracked.record,
                state=target,
                reason=reason or tracked.record.reason,
                node_id=node_id or tracked.record.node_id,
            )
            await self._ledger.put_machine(record)
            tracked.record = record
            if target is MachineState.ENDED:
                del self._tracked[tracked.token]
                self._ended[tracked.token] = trio.current_time()
            return True

    async def identify(self, tracked: TrackedMachine, machine_id: str) -> None:
        """The provider has it, under this name. Raises `LedgerError`."""
        async with tracked.lock:
            if tracked.record.machine_id == machine_id:
                return
            booting = tracked.state is MachineState.WANTED
            state = MachineState.BOOTING if booting else tracked.state
            record = replace(tracked.record, machine_id=machine_id, state=state)
            await self._ledger.put_machine(record)
            tracked.record = record
            tracked.known_at = trio.current_time()

    def was_ended(self, token: str) -> bool:
        """Whether it was ended a short while ago: the provider may not show it yet."""
        now = trio.current_time()
        self._ended = {one: at for one, at in self._ended.items() if now - at < ENDED_LATELY}
        return token in self._ended

    async def note(self, service: str, action: str, subject: str, reason: str) -> None:
        """Keep a decision for who asks later. What the ledger cannot take now is at least in the log."""
        log.info("scaling of %s: %s %s: %s", service, action, subject, reason)
        try:
            await self._ledger.note_decision(
                DecisionRecord(self._clock.now(), service, action, subject, reason)
            )
        except LedgerError as error:
            log.warning("a decision of scaling could not be recorded: %s", error)

    def _adopt(self, record: MachineRecord, *, age: float) -> TrackedMachine:
        now = trio.current_time()
        came = record.node_id is not None
        tracked = TrackedMachine(record, alone_since=now - age, known_at=now, asked=True, came=came)
        self._tracked[record.token] = tracked
        return tracked
