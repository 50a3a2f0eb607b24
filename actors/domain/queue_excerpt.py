"""What a forecast has to know of a queue: its beginning, in the order of turns, and what is under way. A
copy, bounded whatever the queue's length."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from actors.domain.node import NodeView


@dataclass(frozen=True, slots=True)
class GoingJob:
    """A job that counts against the quotas. `node_id` None: it is not known yet where it goes. `since`: when
    it left the queue, wall-clock; None if that was not seen."""

    job_id: int
    service: str
    user_id: int
    requires: str
    node_id: str | None = None
    since: float | None = None


@dataclass(frozen=True, slots=True)
class RingExcerpt:
    """The users who wait for the same, whose turn is next first, each with the orders of the first jobs.
    `served` orders the rings: the one that was served longest ago has the smallest."""

    service: str
    requires: str
    served: int
    users: Sequence[tuple[int, array[int]]]


@dataclass(frozen=True, slots=True)
class QueueExcerpt:
    """`edge`: jobs behind which more wait than are here. `served` orders the services, as it does rings;
    `paused`: why those are that are."""

    rings: Sequence[RingExcerpt]
    going: Sequence[GoingJob]
    edge: frozenset[int]
    served: Mapping[str, int]
    paused: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ForecastView:
    """Queue and nodes at the same moment."""

    queue: QueueExcerpt
    nodes: Sequence[NodeView]
