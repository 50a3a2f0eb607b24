"""What the AutoScaler needs of the world: the pool, a provider of machines, and records of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from actors.domain.errors import CoreError
from actors.domain.scaling import DecisionRecord, Machine, MachineRecord, ScalingView, UnreadableMachine


class ProviderError(CoreError):
    """The provider could not do it, or could not be asked. `certain`: it is certain that nothing was done."""

    def __init__(self, message: str, *, certain: bool = False) -> None:
        super().__init__(message)
        self.certain = certain


class PoolControl(Protocol):
    """The pool, as far as scaling sees it and may change it. All raise `ActorError` when it cannot be asked
    now, the orders `LedgerError` too."""

    async def picture(self, service: str) -> ScalingView:
        """One service as it stands now."""
        ...

    async def drain(self, node_id: str, reason: str) -> bool:
        """No job is assigned to that node any more on return; False if the pool does not know it."""
        ...

    async def undrain(self, node_id: str, *, by_scaling: bool) -> bool:
        """Jobs for that node again; False if the pool does not know it, or if scaling did not order it."""
        ...

    def word_of(self, token: str, service: str) -> str:
        """Why the node of a machine that was made for `service` does not serve it: it joined for others, or
        was not let in. "" if nothing was heard."""
        ...

    def remark(self, token: str, text: str) -> None:
        """What is to be shown of the node on that machine; "" for nothing."""
        ...


class Provider(Protocol):
    """Makes and ends machines, and writes `owner` on those that it makes. All raise `ProviderError`; none
    waits for a boot. Each call has a deadline."""

    name: str
    owner: str

    async def create(self, token: str, service: str) -> Machine:
        """Make one machine for `service`, tagged with `token`. The same token again is the same machine."""
        ...

    async def list(self) -> Sequence[Machine | UnreadableMachine]:
        """Every machine of this orchestrator that exists and is not ended; machines of others, and some that
        have ended, may be among them. May forget one for a moment."""
        ...

    async def terminate(self, machine_ids: Sequence[str]) -> None:
        """End them. Idempotent: what is gone already is fine."""
        ...


class MachineLedger(Protocol):
    """Records of machines and of decisions. Durable on return. All raise `LedgerError`."""

    async def machines(self) -> Sequence[MachineRecord]:
        """All that are not ENDED, oldest first."""
        ...

    async def put_machine(self, record: MachineRecord) -> None:
        """Insert it, or replace the row of that token."""
        ...

    async def note_decision(self, decision: DecisionRecord) -> None:
        """Keep it; only the newest few thousand are kept."""
        ...

    async def decisions(self, service: str | None = None, limit: int = 100) -> Sequence[DecisionRecord]:
        """Newest first."""
        ...
