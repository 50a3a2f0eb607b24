"""What scaling speaks of: machines, a snapshot to decide on, decisions; and the ports behind it.

A *machine* is something that a provider made for us and that costs money: it boots, its node joins with the
machine's token, it is drained, it is terminated. Its record is in the ledger before the provider is asked, so
that no machine is ever forgotten. Durations are seconds; `now` and all `…_at` and `…_since` of a snapshot are
monotonic seconds of this process, so that a jumping wall clock scales nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

# ------------------------------------------------------------------ settings

SHORTEST_RUN: Final = 0.1
"""Seconds. What a job costs a slot at least: it is sent, started and collected, however short its run."""


@dataclass(frozen=True, slots=True)
class ScalingLimits:
    """How one service scales; how the defaults were chosen is in docs/scaling.md.

    `min_nodes` and `max_nodes` count the machines that scaling makes; static nodes and nodes that joined by
    themselves come on top. `target_wait`: how long a job may wait before more is asked for. `idle_timeout`:
    how long a node must have been idle, or that much of the pool not needed, before it may go. `cooldown`:
    the least time between the last growth and a shrinking. `boot_timeout`: a machine whose node has not
    joined by then is a failed boot. `max_booting`: machines that boot at once, 0: as `boots_at_once` says.
    After `max_failed_boots` in a row no more are tried for a growing while, then one at a time: never given
    up for ever."""

    service: str
    min_nodes: int = 0
    max_nodes: int = 4
    slots_per_node: int = 1
    target_wait: float = 15.0
    idle_timeout: float = 180.0
    cooldown: float = 60.0
    boot_timeout: float = 300.0
    max_booting: int = 0
    max_failed_boots: int = 3
    boot_backoff: float = 30.0
    boot_backoff_most: float = 1800.0

    @property
    def boots_at_once(self) -> int:
        """How many machines may boot at the same time."""
        return self.max_booting or max(4, self.max_nodes // 4)

    def turns(self, run_seconds: float | None) -> float:
        """How many further jobs a slot begins within `target_wait`, after the one that it begins at once."""
        return 0.0 if run_seconds is None else self.target_wait / max(run_seconds, SHORTEST_RUN)


# ------------------------------------------------------------------ machines


class MachineState(StrEnum):
    """WANTED: recorded, the provider is being asked. BOOTING: the provider has it, its node has not joined.
    JOINED: its node is in the pool. ENDING: to be terminated, until the provider confirms. ENDED."""

    WANTED = "wanted"
    BOOTING = "booting"
    JOINED = "joined"
    ENDING = "ending"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class MachineRecord:
    """A row of the ledger. `token` (32 hex digits) names it from before it exists: it makes a repeated
    request the same request, tags the machine, and is what its node joins with, once. `machine_id` is the
    provider's own name, None until it is known. `requested_at` is wall-clock."""

    token: str
    service: str
    state: MachineState
    requested_at: float
    machine_id: str | None = None
    node_id: str | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class MachineEnd:
    """Why a machine is not there any more. `blameless`: had its node not come yet, it is no failed boot."""

    reason: str
    blameless: bool = False


@dataclass(frozen=True, slots=True)
class Machine:
    """What a provider tells of one machine. `owner`: the orchestrator whose it is by what is written on the
    machine itself, "" if nothing is. A machine is ours by that alone. `waiting`: it was asked for and does
    not boot yet, as on a cluster that is full; `note` is what is to be said of it. `ended`: it is told that
    it is not there any more; others that are not there are not told at all."""

    machine_id: str
    token: str
    service: str
    running: bool
    address: str | None = None
    owner: str = ""
    waiting: bool = False
    note: str = ""
    ended: MachineEnd | None = None


@dataclass(frozen=True, slots=True)
class UnreadableMachine:
    """What a provider tells and nobody can read: it may be a machine of ours. `text` says what and where."""

    text: str


# ------------------------------------------------------------------ the policy


DRAINED_BY_SCALING: Final = "scaling: "
"""How the reason of a drain begins that scaling ordered. What an operator drains is neither undrained nor
ended by scaling."""


@dataclass(frozen=True, slots=True)
class NodeFact:
    """One node of a service as the pool sees it. `machine` is the token of the machine it runs on, None for
    static and self-joined nodes, which are never ended. `ready`: in touch and not set aside, whether draining
    or not. `busy`: slots held or in use by anybody, our uncollected attempts included. `idle_since` None
    while busy. `drained_for` and `drained_at`: the reason of the drain and when it was ordered; `heard_at`:
    when its last heartbeat came, None if there was none yet. All three times are monotonic. `name`: how it is
    called where people read of it, "" if by its id."""

    node_id: str
    machine: str | None
    ready: bool
    draining: bool
    slots: int
    busy: int
    idle_since: float | None
    joined_at: float
    lost: bool = False
    drained_for: str = ""
    drained_at: float | None = None
    heard_at: float | None = None
    name: str = ""

    @property
    def free(self) -> int:
        return max(0, self.slots - self.busy)

    @property
    def called(self) -> str:
        return self.name or self.node_id

    @property
    def going(self) -> bool:
        """Whether scaling has ordered it to go."""
        return self.machine is not None and self.draining and self.drained_for.startswith(DRAINED_BY_SCALING)

    @property
    def empty(self) -> bool:
        """Draining, and the node itself has said since then that nothing is left on it."""
        heard = self.drained_at is not None and self.heard_at is not None and self.heard_at > self.drained_at
        return self.draining and self.busy == 0 and heard


@dataclass(frozen=True, slots=True)
class ScalingView:
    """`runnable`: queued jobs that the quotas would let run now, if there were slots; `oldest_wait`: of
    these, in seconds, 0 if there are none; `running`: jobs that hold a slot. `nodes`: every node of the
    service that the pool knows of, lost and draining ones too. `kept`: how many of their free slots are kept
    for other services."""

    runnable: int
    oldest_wait: float
    running: int
    nodes: tuple[NodeFact, ...] = ()
    kept: int = 0


@dataclass(frozen=True, slots=True)
class MachineFact:
    """One machine that has no node in the pool (yet), or is ENDING. `requested_at`: since when it has none,
    monotonic."""

    token: str
    state: MachineState
    requested_at: float


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that a decision on one service is made on. `runnable`: queued jobs that the quotas would let
    run now, if there were slots. `oldest_wait`: of these. `run_seconds`: recent run times' estimate (a mean
    of the newest), None when nothing is known. `kept`: free slots that other services have a claim to, and
    so are none for this one. `grown_at`: when a machine was last wanted, None if never.
    `failed_boots`: in a row. `hold_boots_until`: no boot is tried before. `peak_demand`: the most slots that
    were wanted at once (running and runnable) within the last `idle_timeout`, None before that much is known:
    jobs go to the node unused for longest, so under a light load of short jobs no single node is idle for
    long, though many are not needed."""

    now: float
    limits: ScalingLimits
    runnable: int
    oldest_wait: float
    running: int
    run_seconds: float | None
    nodes: tuple[NodeFact, ...] = ()
    machines: tuple[MachineFact, ...] = ()
    grown_at: float | None = None
    failed_boots: int = 0
    hold_boots_until: float = 0.0
    peak_demand: int | None = None
    kept: int = 0


@dataclass(frozen=True, slots=True)
class Create:
    """Make that many machines."""

    count: int
    reason: str


@dataclass(frozen=True, slots=True)
class Drain:
    """Give that node no more jobs; terminate follows when it is empty."""

    node_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Undrain:
    """Load came back before the node was empty: it is cheaper than a boot."""

    node_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Terminate:
    """End that machine: its node is drained and empty, lost, or never came."""

    token: str
    reason: str


Action = Create | Drain | Undrain | Terminate


@dataclass(frozen=True, slots=True)
class DecisionRecord:
    """One decision with its reason, as `GET /v1/scaling` shows it. `at` is wall-clock."""

    at: float
    service: str
    action: str
    subject: str
    reason: str


@dataclass(frozen=True, slots=True)
class ServiceScaling:
    """How a service's scaling stands now. `trouble` is loud: boots fail, the provider cannot be asked."""

    service: str
    provider: str
    limits: ScalingLimits
    nodes: int
    booting: int
    ending: int
    runnable: int
    trouble: str = ""
    machines: tuple[MachineRecord, ...] = field(default=())
