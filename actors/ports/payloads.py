"""What the Runner needs of the world, as Protocols: the node's table of payloads, and the runs behind it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from actors.domain.payload import Payload, PayloadMove, RunResult


class Payloads(Protocol):
    """The node's table, with its record on disk."""

    async def record(self, moves: Sequence[PayloadMove]) -> Sequence[bool]:
        """Compare-and-set each; False where the payload is not in `source` any more or is unknown."""
        ...

    async def changes(self, after: int) -> Sequence[Payload]:
        """Payloads changed after that sequence, ascending; ends and orders to cancel are changes too."""
        ...

    async def all(self) -> tuple[Sequence[Payload], int]:
        """Every payload that is not released, oldest first, and the sequence that the picture is at."""
        ...


class Running(Protocol):
    """A run under way. `started_at` is wall-clock, `age` the seconds since its start by the kernel's own
    reckoning, negative without end while it waits for its turn."""

    @property
    def pid(self) -> int: ...
    @property
    def started_at(self) -> float: ...
    def age(self) -> float: ...
    async def wait(self) -> Running | RunResult:
        """Its end; or itself, when its turn has come and its time begins to count."""
        ...

    async def stop(self, grace: float) -> None: ...


class Runs(Protocol):
    """Starting and finding runs: the executor with the workspace around it."""

    def claim(self, payload: Payload) -> bool:
        """Set aside what there is one of for each payload, as a card: whether it is there for this one. It is
        given back with `close`."""
        ...

    async def start(self, payload: Payload) -> Running | RunResult:
        """A result at once when nothing could be started, or what was is over already."""
        ...

    async def adopt(self, payload: Payload) -> Running | RunResult:
        """Find the run of a payload that an earlier process of this node started or was about to start."""
        ...

    async def close(self, payload: Payload, move: PayloadMove) -> PayloadMove:
        """After the last process has died: write the manifest and, if it can be, the record of the end that
        `move` takes it to; the move with the end as it is then, with its `size`."""
        ...
