"""Every message between actors: frozen, named for the fact that it tells.

Messages are hints. What must not be lost is in the ledger, so each of these may be dropped without harm.
"""

from __future__ import annotations

from dataclasses import dataclass

from actors.model import Attempt, Heartbeat, Job, Mark, NodeRef


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
class AttemptHanded:
    """The Sender has handed an attempt over: the node has it, as of `mark` (None for foreign nodes)."""

    attempt: Attempt
    node: NodeRef
    mark: Mark | None


@dataclass(frozen=True, slots=True)
class WhyWaiting:
    """Asked of the Sender: why these jobs wait. The answer is a tuple of `Waiting | None`."""

    job_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PoolPicture:
    """Asked of the Sender: the nodes as the pool sees them. The answer is a tuple of `NodeView`."""
