"""Every message between actors: frozen, named for the fact that it tells.

Messages are hints. What must not be lost is in the ledger, so each of these may be dropped without harm.
"""

from __future__ import annotations

from dataclasses import dataclass

from actors.domain.job import Attempt, Job
from actors.domain.node import Heartbeat, NodeAddress, NodeRef, StreamPosition
from actors.domain.scaling import NodeFact


@dataclass(frozen=True, slots=True)
class Committed:
    """These rows are durable now; an older one may come after a newer."""

    jobs: tuple[Job, ...]


@dataclass(frozen=True, slots=True)
class NodeSeen:
    """A node is in touch: told when its picture arrived and with each heartbeat."""

    node: NodeRef
    heartbeat: Heartbeat


@dataclass(frozen=True, slots=True)
class NodeSuspect:
    """Heartbeats are missing, or the node cannot be reached. Told again as long as it lasts."""

    node_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class NodeLost:
    """Silent for `node_lost_after`. What is being sent to it is given up. Told again as long as it lasts."""

    node_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class NodeUnreached:
    """Nobody who says who he is answers at an address. Told again as long as it lasts."""

    address: NodeAddress
    reason: str


@dataclass(frozen=True, slots=True)
class AttemptHanded:
    """The Sender has handed an attempt over: the node has it, as of `mark` (None for foreign nodes)."""

    attempt: Attempt
    node: NodeRef
    mark: StreamPosition | None


@dataclass(frozen=True, slots=True)
class WhyWaiting:
    """Asked of the Sender: why these jobs wait. The answer is a tuple of `Waiting | None`."""

    job_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PoolPicture:
    """Asked of the Sender: the nodes as the pool sees them. The answer is a tuple of `NodeView`."""


# ------------------------------------------------------------------ scaling


@dataclass(frozen=True, slots=True)
class ScalingPicture:
    """Asked of the Sender: one service as scaling has to see it. The answer is a `ScalingView`."""

    service: str


@dataclass(frozen=True, slots=True)
class ScalingView:
    """`runnable`: queued jobs that the quotas would let run now, if there were slots; `oldest_wait`: of
    these, in seconds, 0 if there are none; `running`: jobs that hold a slot. `nodes`: every node of the
    service that the pool knows of, lost and draining ones too."""

    runnable: int
    oldest_wait: float
    running: int
    nodes: tuple[NodeFact, ...] = ()


@dataclass(frozen=True, slots=True)
class DrainNode:
    """Asked of the Sender: give that node no more jobs. True: it is draining now (or was already), and no job
    is assigned to it from here on; False: the pool does not know it. Who assigns also drains, so that the two
    have one order. A node that is draining already keeps its reason and time."""

    node_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class UndrainNode:
    """Asked of the Sender: give that node jobs again. False: the pool does not know it."""

    node_id: str


@dataclass(frozen=True, slots=True)
class ScalingStatus:
    """Asked of the AutoScaler: how scaling stands. The answer is a tuple of `ServiceScaling`, by name."""
