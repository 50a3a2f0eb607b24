"""Every message between actors: frozen, named for the fact that it tells.

Messages are hints. What must not be lost is in the ledger, so each of these may be dropped without harm.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from actors.domain.changes import FirstAttempt
from actors.domain.job import Attempt, Job
from actors.domain.node import Heartbeat, NodeAddress, NodeRef, NodeView, PayloadView
from actors.domain.queue_excerpt import ForecastView
from actors.domain.scaling import ScalingView, ServiceScaling
from actors.domain.service import Backlog, ServiceLimits, Waiting
from actors.kernel.actor import Question


@dataclass(frozen=True, slots=True)
class Committed:
    """These rows are durable now; an older one may come after a newer."""

    jobs: tuple[Job, ...]


@dataclass(frozen=True, slots=True)
class CallbackWritten:
    """There is a callback that came with no job's end."""


@dataclass(frozen=True, slots=True)
class NodeSeen:
    """A node is in touch: told when its picture arrived and with each heartbeat."""

    node: NodeRef
    heartbeat: Heartbeat


@dataclass(frozen=True, slots=True)
class NodeSuspect:
    """Heartbeats are missing, or the node cannot be reached. Told again as long as it lasts.
    `reason`: why it is silent, without the word that it is lost."""

    node_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class NodeLost:
    """Silent for `node_lost_after`. What is being sent to it is given up. Told again as long as it lasts."""

    node_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class StartFailed:
    """A node could not start an attempt, through no fault of the job's."""

    node_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class AttemptEnded:
    """A node has said how an attempt ended: it holds no slot there any more, though its results may still
    have to be fetched, and its end to be recorded. `given_back`: it had none there either."""

    key: str
    given_back: bool = False


@dataclass(frozen=True, slots=True)
class NodeUnreached:
    """Nobody who says who he is answers at an address. Told again as long as it lasts."""

    address: NodeAddress
    reason: str


@dataclass(frozen=True, slots=True)
class AttemptHanded:
    """The Sender hands an attempt over, which the node said to have at `answered_at` (monotonic), as it is in
    `view`. It is the Getter's as soon as that is recorded."""

    attempt: Attempt
    answered_at: float
    view: PayloadView | None = None


@dataclass(frozen=True, slots=True)
class ServicesPaused:
    """Which services are paused now, and why: all of them."""

    reasons: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class SetServices(Question[None]):
    """Asked of the Sender: go by these services from now on: all that there are, with their quotas and their
    nodes."""

    services: Mapping[str, ServiceLimits]


@dataclass(frozen=True, slots=True)
class KeepingChanged:
    """Told the Cleaner: for how many seconds things are kept from now on, as it was told them first."""

    max_age: float
    keep_rows: float
    audit_keep: float


@dataclass(frozen=True, slots=True)
class WhyWaiting(Question[Sequence[Waiting | None]]):
    """Asked of the Sender: why these jobs wait, None for those that do not, whatever their rows said."""

    only_looks = True

    jobs: tuple[Job, ...]


@dataclass(frozen=True, slots=True)
class PoolPicture(Question[Sequence[NodeView]]):
    """Asked of the Sender: the nodes as the pool sees them."""

    only_looks = True


@dataclass(frozen=True, slots=True)
class ReserveFirst(Question[FirstAttempt | None]):
    """Asked of the Sender, which has to wait with nothing to do: an attempt for a job that is not stored yet,
    with a slot and a place in the quotas, which it has until it is stored or given back. None if it has to
    wait."""

    service: str
    user_id: int
    requires: str


@dataclass(frozen=True, slots=True)
class BacklogPicture(Question[Sequence[Backlog]]):
    """Asked of the Sender: how many jobs wait, by service and requirement, the `most` largest."""

    only_looks = True

    most: int


@dataclass(frozen=True, slots=True)
class ForecastPicture(Question[ForecastView]):
    """Asked of the Sender: the queue of this service, and of those that share nodes with it, up to `most`
    jobs; and the nodes."""

    only_looks = True

    service: str
    most: int


# ------------------------------------------------------------------ scaling


@dataclass(frozen=True, slots=True)
class ScalingPicture(Question[ScalingView]):
    """Asked of the Sender: one service as scaling has to see it."""

    only_looks = True

    service: str


@dataclass(frozen=True, slots=True)
class DrainNode(Question[bool]):
    """Asked of the Sender: give that node no more jobs. True: it is draining now (or was already), and no job
    is assigned to it from here on; False: the pool does not know it. Who assigns also drains, so that the two
    have one order. A node that is draining already keeps its reason and time."""

    node_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class UndrainNode(Question[bool]):
    """Asked of the Sender: give that node jobs again. False: the pool does not know it."""

    node_id: str


@dataclass(frozen=True, slots=True)
class ScalingStatus(Question[Sequence[ServiceScaling]]):
    """Asked of the AutoScaler: how scaling stands, by service."""

    only_looks = True
