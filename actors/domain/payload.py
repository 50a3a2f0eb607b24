"""A payload, the node's side of an attempt: its row, a change of it, and how a run ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from actors.domain.batch_request import NOTHING_REQUESTED, BatchRequest
from actors.domain.failure import Failure
from actors.domain.job import End, make_changer
from actors.domain.limits import UNLIMITED, JobLimits
from actors.domain.progress import Progress
from actors.domain.status import Status

UNKNOWN: Final = "?"
"""The owner of a payload whose record is damaged: every orchestrator is told of it, for one knows its key."""


@dataclass(frozen=True, slots=True)
class Payload:
    """One attempt on a node. `id` is the contract's number (below 1: it is not known any more), `owner` names
    the orchestrator ("" when it came by the contract alone, without a key of its own). `max_runtime` 0: no
    limit. `request_id`: of the orchestrator's request that handed the job in, "" if it did not say.
    `progress` is what the script says; it is no part of the record on disk. `through`: all that is recorded
    of it is written through to the disk at once; of others what has ended is, a while later. `slot_wait`:
    seconds that it may wait for a slot before it is given back, None: as long as it takes."""

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
    limits: JobLimits = UNLIMITED
    batch_request: BatchRequest = NOTHING_REQUESTED
    request_id: str = ""
    cancelled: bool = False
    pid: int = 0
    started_at: float | None = None
    end: End | None = None
    lost: bool = False
    progress: Progress | None = None
    through: bool = False
    slot_wait: float | None = None

    @property
    def about(self) -> dict[str, object]:
        """What a line of the log on it says besides."""
        about = {"job": self.job_id, "user": self.user_id, "service": self.service, "attempt": self.key}
        return about | ({"request": self.request_id} if self.request_id else {})


change_payload: Final = make_changer(Payload)


@dataclass(frozen=True, slots=True)
class PayloadMove:
    """Take a payload from `source` to `target`. An end is recorded on disk before it is told to anybody; if
    `written` it has been already, by who looked through what the payload left."""

    key: str
    source: Status
    target: Status
    pid: int = 0
    started_at: float | None = None
    end: End | None = None
    lost: bool = False
    written: bool = False


change_move: Final = make_changer(PayloadMove)


@dataclass(frozen=True, slots=True)
class RunResult:
    """How a run ended, as the kernel tells it. `pid`: of one that was over at once. `refused` is set when
    nothing could be started (the reason); `refused_by` is NODE then for a fault there, LOST if the node went
    down meanwhile, and BATCH_SYSTEM if that does not take what the job asks for, which alone is for good.
    `supervision_killed` when its shepherd died and all of it was killed; `asked` when this node, or an
    earlier process of it, had asked for its end; `lost` when the machine's own end took it; `unreadable` when
    what would tell its end is damaged. `told`: what a batch system says of an end that is no success.
    `exceeded` names the limit that it was over as `JobLimits` does, or is `machine_memory`. `loss` says what
    of its output is lost: then it is no success."""

    exit_code: int | None = None
    signal: int | None = None
    started_at: float | None = None
    ended_at: float | None = None
    wall_seconds: float | None = None
    cpu_seconds: float | None = None
    peak_bytes: int | None = None
    refused: str = ""
    refused_by: Failure = Failure.NODE
    invalid: str = ""
    note: str = ""
    loss: str = ""
    supervision_killed: bool = False
    asked: bool = False
    exceeded: str = ""
    lost: bool = False
    unreadable: bool = False
    told: str = ""
    pid: int = 0
