"""A service: its quotas, what waits for it, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

from actors.domain.batch_request import NOTHING_ALLOWED, BatchAllowance
from actors.domain.limits import UNLIMITED, JobLimits
from actors.domain.node import NodeAddress


class WaitReason(StrEnum):
    """Why a queued job waits."""

    USER_QUOTA = "user_quota"
    SERVICE_QUOTA = "service_quota"
    SLOT = "slot"
    KEPT = "kept"
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
class Backlog:
    """How many jobs of a service wait that require this of a node ("" is nothing)."""

    service: str
    requires: str
    jobs: int


@dataclass(frozen=True, slots=True)
class Demand:
    """What one service's queue asks for. `runnable`: jobs that the quotas would let go now, if there were
    slots; `first`: of each user among them the job that would go first; `running`: jobs that go or are
    about to."""

    runnable: int
    first: tuple[int, ...]
    running: int


@dataclass(frozen=True, slots=True)
class ServiceLimits:
    """A service's quotas, what each of its jobs may use, and what happens when a node is lost (`requeue` or
    `fail`). `weights`: how many turns in a row a user has, by number; whoever is not named has one.
    `max_priority` is the highest that a job may ask for; `batch_allowed`: what, of a batch system.
    `keep_slots`: how many slots of its nodes no other service gets, while fewer of its jobs are under way."""

    name: str
    runs_per_user: int = 5
    max_runs: int = 10
    max_attempts: int = 3
    on_node_lost: str = "requeue"
    on_doubt: str = "fail"
    max_runtime: float = 0.0
    limits: JobLimits = UNLIMITED
    max_priority: int = 0
    keep_slots: int = 0
    batch_allowed: BatchAllowance = NOTHING_ALLOWED
    weights: Mapping[int, int] = field(default_factory=lambda: MappingProxyType({}), hash=False)
    addresses: tuple[NodeAddress, ...] = field(default=())
