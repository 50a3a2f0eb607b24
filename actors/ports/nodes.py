"""Nodes over the wire, as the actors need them.

Calls speak in the plural where the work comes in plural; an answer is per item, in the order of the items.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from actors.domain.errors import CoreError
from actors.domain.job import Attempt, End, Job
from actors.domain.node import Heartbeat, NodeAddress, NodeRef, PayloadView, StreamPosition


@dataclass(frozen=True, slots=True)
class Dispatch:
    """One attempt to be sent, with what the node must know of its job."""

    attempt: Attempt
    job: Job


class SubmitResult(StrEnum):
    """HAS: the node has it (or had it already; `view` says how it is now). TOMBSTONED: it will never run
    there. MALFORMED: the node will never take it. UNREADABLE: our own copy of the input cannot be read.
    NOT_SENT: certain that the node does not have it, nothing of this try reached it. HELD: the same, for want
    of something of our own, which says nothing of the node; a part of it may have been sent. BUSY: the node
    refused it for now. DOUBT: it may have it."""

    HAS = "has"
    TOMBSTONED = "tombstoned"
    MALFORMED = "malformed"
    UNREADABLE = "unreadable"
    NOT_SENT = "not_sent"
    HELD = "held"
    BUSY = "busy"
    DOUBT = "doubt"


@dataclass(frozen=True, slots=True)
class SubmitAnswer:
    result: SubmitResult
    reason: str = ""
    view: PayloadView | None = None
    foreign_id: int | None = None


@dataclass(frozen=True, slots=True)
class Picture:
    """Every payload that the node has not been told to release, at `mark`."""

    mark: StreamPosition
    payloads: Mapping[str, PayloadView]
    heartbeat: Heartbeat


@dataclass(frozen=True, slots=True)
class PayloadChanged:
    """`delivered`: what it has left came along, and can be collected without asking the node."""

    view: PayloadView
    delivered: bool = False


@dataclass(frozen=True, slots=True)
class Beat:
    heartbeat: Heartbeat


@dataclass(frozen=True, slots=True)
class PayloadGone:
    """A contract-only node no longer knows an attempt: confirmed by a second question after a grace."""

    key: str


@dataclass(frozen=True, slots=True)
class Leaving:
    """The last word of a node that is stopped on purpose. `held`: payloads that it has not ended, or whose
    results are not fetched. `back`: it will be back for them, and what runs there runs on."""

    held: int
    back: bool


NodeEvent = Picture | PayloadChanged | Beat | PayloadGone | Leaving


class LookupResult(StrEnum):
    """FOUND, GONE (the node says that it does not know the key), RECEIVING (a submit is being read),
    TOMBSTONED, UNKNOWN (could not be asked, or the answer made no sense)."""

    FOUND = "found"
    GONE = "gone"
    RECEIVING = "receiving"
    TOMBSTONED = "tombstoned"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class AttemptLookup:
    result: LookupResult
    view: PayloadView | None = None
    reason: str = ""


class CollectResult(StrEnum):
    """STORED: every byte is checked, and on our disk, synced, or for the ledger to keep. GONE: the node no
    longer has it. NOT_ENDED: it still runs. FAILED: try again (`reason`); `ours` if the trouble was on our
    side, as a full disk: then for ever. IMPOSSIBLE: the node can never give them (`reason`)."""

    STORED = "stored"
    GONE = "gone"
    NOT_ENDED = "not_ended"
    FAILED = "failed"
    IMPOSSIBLE = "impossible"


@dataclass(frozen=True, slots=True)
class CollectAnswer:
    """`results`: what of a stored result the ledger has to keep, in the transaction of the job's end."""

    result: CollectResult
    end: End | None = None
    reason: str = ""
    ours: bool = False
    results: bytes | None = None


class NoMeans(CoreError):
    """Nobody can be asked for want of descriptors, threads or memory here. It says nothing of the node."""


class Nodes(Protocol):
    """Nodes over HTTP, native and contract-only. Nothing here raises for what the network does: the answers
    say it. Only cancellation and defects raise, and `watch` for what is wanting here."""

    async def submit(self, node: NodeRef, items: Sequence[Dispatch]) -> Sequence[SubmitAnswer]: ...

    async def lookup(self, node: NodeRef, attempts: Sequence[Attempt]) -> Sequence[AttemptLookup]: ...

    async def cancel(self, node: NodeRef, attempts: Sequence[Attempt]) -> Sequence[AttemptLookup]:
        """Tombstone, then kill. FOUND with the payload as it is now (perhaps ended, perhaps still being
        killed), TOMBSTONED if it will never run there, UNKNOWN if the node could not be told."""
        ...

    async def release(self, node: NodeRef, attempts: Sequence[Attempt]) -> Sequence[bool]:
        """Tell the node to let go. True once it has confirmed."""
        ...

    async def collect(self, node: NodeRef, items: Sequence[Dispatch]) -> Sequence[CollectAnswer]:
        """Fetch what ended attempts have left, into our storage."""
        ...

    async def take_delivered(self, node: NodeRef, items: Sequence[Dispatch]) -> Sequence[CollectAnswer]:
        """The same for what came along with the ends. Asks no node: what is not here any more has failed."""
        ...

    async def watch(self, address: NodeAddress, tell: Callable[[NodeRef, NodeEvent], None]) -> str:
        """Follow a node until it cannot be followed any more; why is the result. `tell` is called for each
        event, the picture first. Contract-only nodes are polled for what `follow` names. Raises NoMeans."""
        ...

    def follow(self, node_id: str, attempts: Sequence[Attempt]) -> None:
        """Which open attempts there are on a contract-only node, so that its watch knows what to ask for."""
        ...
