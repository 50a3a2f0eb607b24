"""The values that the actors speak of: jobs, attempts, payloads, nodes. All frozen.

Times called `…_at` are wall-clock seconds since the epoch; durations are seconds; sizes are bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from actors.lifecycle import QUOTA, Status
from actors.progress import Progress


@dataclass(frozen=True, slots=True)
class End:
    """How an attempt ended on its node, as the node tells it.

    `status` is one of Completed, Failed, Invalid, Killed. `exit_code` and `signal` exclude each other; both
    are None when nothing ran. `size` is the sum of the bytes that are there to be collected.
    """

    status: Status
    message: str
    exit_code: int | None = None
    signal: int | None = None
    started_at: float | None = None
    ended_at: float | None = None
    wall_seconds: float | None = None
    cpu_seconds: float | None = None
    peak_bytes: int | None = None
    size: int = 0


class AttemptState(StrEnum):
    """OPEN: it may run. GIVEN_UP: its node is lost, another attempt may run. OVER: its end is settled, the
    node still has to be told. RELEASED: the node has confirmed that it let go."""

    OPEN = "open"
    GIVEN_UP = "given_up"
    OVER = "over"
    RELEASED = "released"


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try at a job on one node. `key` is 32 hex digits (128 random bits), the name under which the node
    knows it; `n` counts from 1 and is what the script sees. `foreign_id` is the id a node gave that knows
    only the contract."""

    key: str
    job_id: int
    n: int
    node_id: str
    state: AttemptState = AttemptState.OPEN
    foreign_id: int | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """One row of the ledger, with its current attempt.

    `change_seq` grows with every change of any job: who remembers the largest one it has seen can ask for
    what changed since. `attempts_used` counts attempts that may have run. `end` is the node's verdict, which
    frees the quota before the results are here. `max_runtime` 0 means no limit. `requires`: labels that its
    node has to have, in the form of `requirements`. `progress` is the share that its script says is done, 0
    to 1, None as long as it says nothing. `running_since`: when this attempt was first seen to run; its `end`
    knows better.
    """

    id: int
    user_id: int
    service: str
    status: Status
    message: str
    change_seq: int
    created_at: float
    updated_at: float
    storage_key: str
    size: int = 0
    terminate_requested: bool = False
    attempts_used: int = 0
    max_runtime: float = 0.0
    attempt: Attempt | None = None
    end: End | None = None
    ended_at: float | None = None
    requires: str = ""
    progress: float | None = None
    progress_message: str = ""
    running_since: float | None = None

    @property
    def counts(self) -> bool:
        """Whether the job counts against the quotas."""
        return self.status in QUOTA and self.end is None


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """One recorded transition. `source` is None for the first."""

    job_id: int
    at: float
    source: Status | None
    target: Status
    reason: str
    node_id: str | None
    attempt_n: int | None


@dataclass(frozen=True, slots=True)
class NodeRef:
    """Where a node is, and who. `node_id` is its only identity; `foreign` nodes know only the contract and
    are identified by their address. For a foreign node the three URLs may differ in host and prefix; `url` is
    then the upload URL's base."""

    node_id: str
    url: str
    foreign: bool = False
    upload_url: str = ""
    download_url: str = ""
    terminate_url: str = ""


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """What a node says of itself each second. `slots` None means that it runs whatever it is sent; `cores`
    weighs it then. `others` counts payloads of other owners that hold or wait for a slot. `load` is the CPU
    use in percent, 0 to 100. `unhealthy`: why it wants no jobs, "" if it does."""

    load: float = 0.0
    slots: int | None = None
    cores: int = 1
    others: int = 0
    free_disk: int | None = None
    free_memory: int | None = None
    unhealthy: str = ""


@dataclass(frozen=True, slots=True)
class Mark:
    """A place in a node's life: comparable only within one incarnation."""

    incarnation: str
    sequence: int


@dataclass(frozen=True, slots=True)
class PayloadView:
    """What a node tells of one payload: Prepared, Running, or ended with its `end`. `lost` means that the
    machine's own end took it; it will never run again. `progress` is what its script says of it."""

    key: str
    status: Status
    end: End | None = None
    lost: bool = False
    progress: Progress | None = None
