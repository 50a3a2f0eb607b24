"""What the Runner needs of the world, as Protocols: the node's table of payloads, and the runs behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from actors.lifecycle import Status
from actors.model import End
from actors.progress import Progress


@dataclass(frozen=True, slots=True)
class Payload:
    """One attempt on a node. `id` is the contract's number, `owner` names the orchestrator ("" when it came
    by the contract alone, without a key of its own). `max_runtime` 0: no limit. `progress` is what the script
    says; it is no part of the record on disk."""

    key: str
    id: int
    job_id: int
    n: int
    service: str
    user_id: int
    owner: str
    status: Status
    sequence: int
    created_at: float
    max_runtime: float = 0.0
    cancelled: bool = False
    pid: int = 0
    started_at: float | None = None
    end: End | None = None
    lost: bool = False
    progress: Progress | None = None


@dataclass(frozen=True, slots=True)
class PayloadMove:
    """Take a payload from `source` to `target`. Recorded on disk before it is told to anybody."""

    key: str
    source: Status
    target: Status
    pid: int = 0
    started_at: float | None = None
    end: End | None = None
    lost: bool = False


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


@dataclass(frozen=True, slots=True)
class RunResult:
    """How a run ended, as the kernel tells it. `refused` is set when nothing could be started (the reason);
    `supervision_killed` when its shepherd died and all of it was killed; `asked` when this node, or
    an earlier process of it, had asked for its end; `lost` when the machine's own end
    took it."""

    exit_code: int | None = None
    signal: int | None = None
    started_at: float | None = None
    ended_at: float | None = None
    wall_seconds: float | None = None
    cpu_seconds: float | None = None
    peak_bytes: int | None = None
    refused: str = ""
    invalid: str = ""
    note: str = ""
    supervision_killed: bool = False
    asked: bool = False
    lost: bool = False


class Running(Protocol):
    """A run under way. `started_at` is wall-clock, `age` the seconds since its start by the kernel's own
    reckoning."""

    @property
    def pid(self) -> int: ...
    @property
    def started_at(self) -> float: ...
    def age(self) -> float: ...
    async def wait(self) -> RunResult: ...
    async def stop(self, grace: float) -> None: ...


class Runs(Protocol):
    """Starting and finding runs: the executor with the workspace around it."""

    async def start(self, payload: Payload) -> Running | RunResult:
        """A result at once when nothing could be started."""
        ...

    async def adopt(self, payload: Payload) -> Running | RunResult:
        """Find the run of a payload that an earlier process of this node started or was about to start."""
        ...

    async def freeze(self, payload: Payload, end: End) -> End:
        """After the last process has died: write the manifest; the end with its `size`."""
        ...
