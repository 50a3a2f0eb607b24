"""Queue and pool as the Sender needs them: who is next, and where it goes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from actors.domain.job import Job
from actors.domain.node import Heartbeat, Member, NodeRef, NodeView
from actors.domain.service import Demand, Waiting


class Queue(Protocol):
    """Which queued jobs may go now, fairly. Rows come in any order and more than once: an older `change_seq`
    of a job than the one known is ignored."""

    def apply(self, job: Job) -> None: ...

    def next(self, service: str, requires: str = "") -> int | None:
        """The job that goes next for `service` of those with this requirement, None if none may. Does not
        take it: the row that says Processing does (`apply`), or `reserve`."""
        ...

    def reserve(self, job_id: int) -> None:
        """Count a job as going, before its row says so."""
        ...

    def unreserve(self, job_id: int) -> None:
        """Take a `reserve` back: the job's own row counts again."""
        ...

    def set_pauses(self, reasons: Mapping[str, str]) -> None:
        """Offer no job of these services, and of these only; why is what the jobs are told."""
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

    def explain_wait(self, job_id: int, *, free_slots: bool, any_node: bool) -> Waiting | None:
        """None for a job that is not queued."""
        ...


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

    def reserve(self, key: str, node_id: str) -> None:
        """An attempt takes a slot on a node. Idempotent."""
        ...

    def unreserve(self, key: str) -> None:
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
    def get(self, node_id: str) -> NodeView | None: ...
    def view(self) -> Sequence[NodeView]: ...
