"""Queue and pool as the Sender needs them: who is next, and where it goes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol

from actors.domain.job import Job, QueuedJobs
from actors.domain.node import Heartbeat, JoinedNode, NodeAddress, NodeRef, NodeView
from actors.domain.queue_excerpt import QueueExcerpt
from actors.domain.scaling import NodeFact
from actors.domain.service import Backlog, Demand, ServiceLimits, Waiting


class Queue(Protocol):
    """Which queued jobs may go now, fairly."""

    def fill(self, queued: Sequence[QueuedJobs]) -> None:
        """The jobs that wait at the start, as if their rows came, the oldest first; before any row."""
        ...

    def apply(self, job: Job) -> None:
        """Take a row in, none after a newer one of the same job. One that says that the job is no longer
        Queued settles what was taken."""
        ...

    def next(self, service: str, requires: str = "") -> int | None:
        """The job that goes next for `service` of those with this requirement, None if none may. Does not
        take it: the row that says Processing does (`apply`), or `take`."""
        ...

    def take(self, service: str, requires: str = "") -> int | None:
        """Count the job that goes next as going, before its row says so; which it is."""
        ...

    def give_back(self, job_id: int) -> None:
        """Take a `take` back: the job's own row counts again."""
        ...

    def admits(self, service: str, user_id: int) -> bool:
        """Whether a job that is not stored yet may go as soon as it is: none of its service waits, and the
        quotas have room."""
        ...

    def reserve(self, key: str, service: str, user_id: int) -> None:
        """Count a job that is not stored yet as going, under the key of its first attempt. Idempotent."""
        ...

    def unreserve(self, key: str) -> None:
        """It does so no longer: its row does, or there will be none. Idempotent."""
        ...

    def set_pauses(self, reasons: Mapping[str, str]) -> None:
        """Offer no job of these services, and of these only; why is what the jobs are told."""
        ...

    def set_limits(self, limits: Mapping[str, ServiceLimits]) -> None:
        """Go by these services and quotas from now on. Jobs of one that is not among them wait; what goes,
        goes on."""
        ...

    def is_empty(self) -> bool:
        """Whether no job waits."""
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

    def backlog(self, most: int) -> Sequence[Backlog]:
        """How many jobs wait, by service and requirement: the `most` largest, the largest first."""
        ...

    def explain_wait(
        self, job: Job, *, free_slots: bool, any_node: bool, kept_for: Sequence[str] = ()
    ) -> Waiting | None:
        """None for a job that is not queued."""
        ...

    def excerpt(self, services: Collection[str], most: int) -> QueueExcerpt:
        """The beginning of the queue of these services, and what is going in them."""
        ...


class Pool(Protocol):
    """Nodes, slots, load: where a job goes, decided on what it was told. `now` is monotonic."""

    def set_limits(self, limits: Mapping[str, ServiceLimits]) -> None:
        """Go by these services and their addresses from now on. A node that nobody names any more has left:
        it gets no job, and what runs there goes on."""
        ...

    def sync(self, members: Sequence[JoinedNode], now: float) -> None:
        """Who has joined by itself; nothing is done for the same object."""
        ...

    def seen(self, node: NodeRef, heartbeat: Heartbeat, now: float) -> None: ...
    def suspect(self, node_id: str, reason: str) -> None: ...
    def lost(self, node_id: str, reason: str) -> None: ...
    def unreached(self, address: NodeAddress, reason: str, now: float) -> None: ...

    def back_off(self, node_id: str, reason: str, now: float) -> None:
        """A node did not take an attempt."""
        ...

    def took(self, node_id: str) -> None:
        """A node took an attempt."""
        ...

    def start_failed(self, node_id: str, reason: str, now: float) -> None:
        """A node could not start an attempt, and it was no fault of the job's."""
        ...

    def drain(self, node_id: str, reason: str, now: float) -> bool:
        """False if nobody knows it."""
        ...

    def undrain(self, node_id: str) -> bool:
        """False if nobody knows it."""
        ...

    def apply(self, job: Job, now: float) -> None:
        """Take a row in, each once and none after a newer."""
        ...

    def choose(self, service: str, requires: str = "") -> NodeRef | None:
        """Where the next job of `service` with this requirement goes: largest share of free slots, then
        smallest load, then the longest unused. None when no ready node that fits has a free slot, or all
        that are free are kept for others."""
        ...

    def kept_for(self, service: str, requires: str = "") -> Sequence[str]:
        """The services for which the free slots are kept that such a job could have; none if it may have
        one, or none is free."""
        ...

    def count_kept(self, service: str) -> int:
        """How many of the free slots of a service's nodes are kept for others."""
        ...

    def reserve(self, key: str, node_id: str, service: str = "") -> None:
        """An attempt takes a slot on a node, for a job of this service ("": nobody knows). Idempotent."""
        ...

    def unreserve(self, key: str) -> None:
        """An attempt no longer holds its slot. Idempotent."""
        ...

    def ended(self, key: str) -> None:
        """An attempt that is still under way no longer needs its slot: its node has said how it ended."""
        ...

    def given_back(self, key: str, now: float) -> None:
        """An attempt has waited on its node for a slot as long as it may, and waits there no longer."""
        ...

    def any_node(self, service: str, requires: str = "") -> bool:
        """Whether any node that may get such jobs of `service` is ready (its slots may be full)."""
        ...

    def why_none(self, service: str) -> str:
        """A sentence on why no node takes jobs of `service` now."""
        ...

    def ref(self, node_id: str) -> NodeRef | None:
        """Where a node is; None if that is not known."""
        ...

    def views(self, now: float) -> Sequence[NodeView]: ...

    def machines_fit(self, service: str) -> Callable[[str], bool]:
        """Whether a machine that scaling makes for `service` has what jobs require."""
        ...

    def facts(self, service: str, now: float) -> tuple[NodeFact, ...]:
        """Every node of a service as scaling has to see it."""
        ...
