"""What actors need of the world, as Protocols. Each has a real implementation in `orchestrator/` or `node/`
and, where the world is slow or random, a fake in the tests that passes the same suite.

Ports speak in the plural where the work comes in plural; an answer is per item, in the order of the items.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from actors.model import (
    Attempt,
    End,
    Heartbeat,
    Job,
    Mark,
    NodeRef,
    PayloadView,
)

# ------------------------------------------------------------------ time and chance


class Clock(Protocol):
    """The wall clock. It may jump: deadlines never come from it."""

    def now(self) -> float: ...


class Chance(Protocol):
    """Where randomness comes from: `random.Random` fits, and so does a seeded one."""

    def random(self) -> float: ...
    def getrandbits(self, k: int, /) -> int: ...


# ------------------------------------------------------------------ queue and pool (pure, no waiting)


class WaitReason(StrEnum):
    """Why a queued job waits."""

    USER_QUOTA = "user_quota"
    SERVICE_QUOTA = "service_quota"
    SLOT = "slot"
    NO_NODE = "no_node"
    NODE_BOOTING = "node_booting"
    BACKOFF = "backoff"
    PAUSED = "paused"


@dataclass(frozen=True, slots=True)
class Waiting:
    """Why a job waits, the same as a sentence, and how many of its service go before it (0: the next)."""

    reason: WaitReason
    message: str
    position: int


@dataclass(frozen=True, slots=True)
class Demand:
    """What one service's queue asks for. `runnable`: jobs that the quotas would let go now, if there were
    slots; `first`: of each user among them the job that would go first; `running`: jobs that go or are
    about to."""

    runnable: int
    first: tuple[int, ...]
    running: int


class Queue(Protocol):
    """Which queued jobs may go now, fairly. Rows come in any order and more than once: an older `change_seq`
    of a job than the one known is ignored."""

    def apply(self, job: Job) -> None: ...

    def next(self, service: str, requires: str = "") -> int | None:
        """The job that goes next for `service` of those with this requirement, None if none may. Does not
        take it: the row that says Processing does (`apply`), or `hold`."""
        ...

    def hold(self, job_id: int) -> None:
        """Count a job as going, before its row says so."""
        ...

    def unhold(self, job_id: int) -> None:
        """Take a `hold` back: the job's own row counts again."""
        ...

    def services(self) -> Sequence[str]:
        """Services that have queued jobs."""
        ...

    def requirements(self, service: str) -> Sequence[str]:
        """What the waiting jobs of a service require of a node ("" is one too), each once."""
        ...

    def demand(self, service: str, able: Callable[[str], bool] = ...) -> Demand:
        """Of the jobs whose requirement is `able`."""
        ...

    def why(self, job_id: int, *, free_slots: bool, any_node: bool) -> Waiting | None:
        """None for a job that is not queued."""
        ...


class NodeState(StrEnum):
    JOINING = "joining"
    READY = "ready"
    SUSPECT = "suspect"
    LOST = "lost"
    DRAINING = "draining"
    SET_ASIDE = "set_aside"


@dataclass(frozen=True, slots=True)
class NodeView:
    """One node as the pool sees it. `slots` None: it runs whatever it is sent. `held` are our attempts that
    hold a slot there.

    `contact` is the state without our own orders; these are `draining` and `aside`, with their reasons.
    `joined`: by itself; `machine` is then the token of the machine it runs on, if scaling has made it.
    `heard_at`: when it was last heard, in monotonic seconds; None if not yet. `jobs_ended` there since the
    server started, of which `jobs_failed` did."""

    node: NodeRef
    state: NodeState
    reason: str
    services: tuple[str, ...]
    slots: int | None
    held: int
    others: int
    load: float
    free_disk: int | None = None
    free_memory: int | None = None
    cores: int = 1
    contact: NodeState = NodeState.JOINING
    draining: str | None = None
    aside: str | None = None
    joined: bool = False
    machine: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    heard_at: float | None = None
    jobs_ended: int = 0
    jobs_failed: int = 0


@dataclass(frozen=True, slots=True)
class Member:
    """A node that joined by itself, as it said. `draining`: why it gets no jobs, None if it does."""

    node_id: str
    url: str
    services: tuple[str, ...]
    slots: int | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    machine: str | None = None
    draining: str | None = None


class Pool(Protocol):
    """Nodes, slots, load: where a job goes. All decisions are made on what it was told."""

    def seen(self, node: NodeRef, heartbeat: Heartbeat) -> None: ...
    def suspect(self, node_id: str, reason: str) -> None: ...
    def lost(self, node_id: str, reason: str) -> None: ...

    def join(self, member: Member) -> None:
        """A node joined by itself. Replaces what it said before."""
        ...

    def forget(self, node_id: str) -> None:
        """A node that joined has left."""
        ...

    def drain(self, node_id: str, reason: str) -> None: ...
    def undrain(self, node_id: str) -> None: ...
    def set_aside(self, node_id: str, reason: str) -> None: ...
    def take_back(self, node_id: str) -> None: ...

    def probation(self, node_id: str, on: bool) -> None:
        """Whether a node gets only one job at a time."""
        ...

    def choose(self, service: str, requires: str = "") -> NodeRef | None:
        """Where the next job of `service` with this requirement goes: largest share of free slots, then
        smallest load, then the longest unused. None when no ready node that fits has a free slot."""
        ...

    def hold(self, key: str, node_id: str) -> None:
        """An attempt takes a slot on a node. Idempotent."""
        ...

    def free(self, key: str) -> None:
        """An attempt no longer holds its slot. Idempotent."""
        ...

    def any_node(self, service: str, requires: str = "") -> bool:
        """Whether any node that may get such jobs of `service` is ready (its slots may be full)."""
        ...

    def why_none(self, service: str) -> str:
        """A sentence on why no node takes jobs of `service` now."""
        ...

    def ref(self, node_id: str) -> NodeRef | None: ...
    def is_lost(self, node_id: str) -> bool: ...
    def look(self, node_id: str) -> NodeView | None: ...
    def view(self) -> Sequence[NodeView]: ...


# ------------------------------------------------------------------ nodes over the wire


@dataclass(frozen=True, slots=True)
class Dispatch:
    """One attempt to be sent, with what the node must know of its job."""

    attempt: Attempt
    job: Job


class SubmitResult(StrEnum):
    """HAS: the node has it (or had it already; `view` says how it is now). TOMBSTONED: it will never run
    there. MALFORMED: the node will never take it. UNREADABLE: our own copy of the input cannot be read.
    NOT_SENT: certain that the node does not have it, nothing of this try reached it. BUSY: the node refused
    it for now. DOUBT: it may have it."""

    HAS = "has"
    TOMBSTONED = "tombstoned"
    MALFORMED = "malformed"
    UNREADABLE = "unreadable"
    NOT_SENT = "not_sent"
    BUSY = "busy"
    DOUBT = "doubt"


@dataclass(frozen=True, slots=True)
class SubmitAnswer:
    result: SubmitResult
    reason: str = ""
    view: PayloadView | None = None
    mark: Mark | None = None
    foreign_id: int | None = None


@dataclass(frozen=True, slots=True)
class Picture:
    """Every payload that the node has not been told to release, at `mark`."""

    mark: Mark
    payloads: Mapping[str, PayloadView]
    heartbeat: Heartbeat


@dataclass(frozen=True, slots=True)
class PayloadChanged:
    view: PayloadView


@dataclass(frozen=True, slots=True)
class Beat:
    heartbeat: Heartbeat


@dataclass(frozen=True, slots=True)
class PayloadGone:
    """A foreign node no longer knows an attempt: confirmed by a second question after a grace."""

    key: str


NodeEvent = Picture | PayloadChanged | Beat | PayloadGone


class LookResult(StrEnum):
    """FOUND, GONE (the node says that it does not know the key), RECEIVING (a submit is being read),
    TOMBSTONED, UNKNOWN (could not be asked, or the answer made no sense)."""

    FOUND = "found"
    GONE = "gone"
    RECEIVING = "receiving"
    TOMBSTONED = "tombstoned"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Look:
    result: LookResult
    view: PayloadView | None = None
    reason: str = ""


class CollectResult(StrEnum):
    """STORED: every byte is on our disk, checked and synced. GONE: the node no longer has it. NOT_ENDED: it
    still runs. FAILED: try again (`reason`). IMPOSSIBLE: the node can never give them (`reason`)."""

    STORED = "stored"
    GONE = "gone"
    NOT_ENDED = "not_ended"
    FAILED = "failed"
    IMPOSSIBLE = "impossible"


@dataclass(frozen=True, slots=True)
class CollectAnswer:
    result: CollectResult
    end: End | None = None
    reason: str = ""


class Nodes(Protocol):
    """Nodes over HTTP, ours and foreign ones. Nothing here raises for what the network does: the answers say
    it. Only cancellation and defects raise."""

    async def submit(self, node: NodeRef, items: Sequence[Dispatch]) -> Sequence[SubmitAnswer]: ...

    async def look(self, node: NodeRef, attempts: Sequence[Attempt]) -> Sequence[Look]: ...

    async def cancel(self, node: NodeRef, attempts: Sequence[Attempt]) -> Sequence[Look]:
        """Tombstone, then kill. FOUND with the payload as it is now (perhaps ended, perhaps still being
        killed), TOMBSTONED if it will never run there, UNKNOWN if the node could not be told."""
        ...

    async def release(self, node: NodeRef, attempts: Sequence[Attempt]) -> Sequence[bool]:
        """Tell the node to let go. True once it has confirmed."""
        ...

    async def collect(self, node: NodeRef, items: Sequence[Dispatch]) -> Sequence[CollectAnswer]:
        """Fetch what ended attempts have left, into our storage."""
        ...

    async def watch(self, address: NodeAddress, tell: Callable[[NodeRef, NodeEvent], None]) -> str:
        """Follow a node until it cannot be followed any more; why is the result. `tell` is called for each
        event, the picture first. Foreign nodes are polled for what `follow` names."""
        ...

    def follow(self, node_id: str, attempts: Sequence[Attempt]) -> None:
        """Which open attempts there are on a foreign node, so that its watch knows what to ask for."""
        ...


@dataclass(frozen=True, slots=True)
class NodeAddress:
    """Where to look for a node: from the settings or the ledger. The three full URLs are the contract's and
    set for services that were configured by them; the id is appended."""

    url: str
    services: tuple[str, ...] = ()
    upload_url: str = ""
    download_url: str = ""
    terminate_url: str = ""


# ------------------------------------------------------------------ storage


class StorageError(Exception):
    """The disk could not do it; the text says what and why. Nothing half-done is left visible."""


class Storage(Protocol):
    """Job directories, as far as actors touch them. All raise `StorageError`."""

    async def discard(self, storage_key: str) -> bool:
        """Take a job's directory away (rename into the trash, then delete). False while it is being read;
        True also when it is not there."""
        ...

    async def noted_id(self, storage_key: str) -> int | None:
        """The id of the job that the directory was accepted as; None for what never became a job."""
        ...

    async def directories(self) -> Sequence[tuple[str, float]]:
        """Every job directory's storage key and age of its last change in seconds."""
        ...


@dataclass(frozen=True, slots=True)
class ServiceLimits:
    """A service's quotas and what happens when a node is lost (`requeue` or `fail`)."""

    name: str
    runs_per_user: int = 5
    max_runs: int = 10
    max_attempts: int = 3
    on_node_lost: str = "requeue"
    on_doubt: str = "fail"
    max_runtime: float = 0.0
    addresses: tuple[NodeAddress, ...] = field(default=())
