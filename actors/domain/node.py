"""A node, and what is known of it: the values that travel between node, pool, actors and routes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from typing import Final

from actors.domain.failure import Failure
from actors.domain.job import End
from actors.domain.progress import Progress
from actors.domain.status import Status


@dataclass(frozen=True, slots=True)
class Tally:
    """How many attempts a node has ever taken over, how many it was told to forget, and for how many seconds
    its machine is up. All of it only grows within one boot, unless the node was set back: by an older copy of
    its disk, or of its whole machine."""

    accepted: int
    buried: int
    uptime: int

    def is_before(self, other: Tally) -> bool:
        """Whether any of it is less."""
        return self.accepted < other.accepted or self.buried < other.buried or self.uptime < other.uptime


@dataclass(frozen=True, slots=True)
class NodeRef:
    """Where a node is, and who. `node_id` is its only identity; `contract_only` nodes know no more than the
    contract and are identified by their address. For a contract-only node the three URLs may differ in host
    and prefix; `url` is then the upload URL's base. `boot` is this run of its machine, "" where it is not
    known: in another one nothing runs any more, and what was not on the disk is forgotten. `tally` is what it
    said last, None if it does not say."""

    node_id: str
    url: str
    contract_only: bool = False
    upload_url: str = ""
    download_url: str = ""
    terminate_url: str = ""
    boot: str = ""
    tally: Tally | None = field(default=None, compare=False)

    @property
    def moment(self) -> str:
        """How far the node has come: for `has_forgotten`, later. "" if its boot is not known."""
        if not self.boot or self.tally is None:
            return self.boot
        return f"{self.boot} {self.tally.accepted} {self.tally.buried} {self.tally.uptime}"

    def has_forgotten(self, moment: str) -> bool:
        """Whether it may have forgotten what it was told in that moment, or later: it is in another boot, or
        was set back."""
        boot, tally = _read_moment(moment)
        if not boot or self.boot != boot:
            return bool(boot) and bool(self.boot)
        return tally is not None and self.tally is not None and self.tally.is_before(tally)


_MOMENT: Final = re.compile(r"(.+) ([0-9]+) ([0-9]+) ([0-9]+)")


@lru_cache(maxsize=1024)
def _read_moment(moment: str) -> tuple[str, Tally | None]:
    match = _MOMENT.fullmatch(moment)
    return (moment, None) if match is None else (match[1], Tally(*map(int, match.groups()[1:])))


@dataclass(frozen=True, slots=True)
class NodeName:
    """How a node is called, `said` by itself: its `name` is that, with a number behind it if another had it
    before. `url` is where it is. `left`: it is gone, and its name may be another's."""

    node_id: str
    said: str
    name: str
    url: str
    left: bool = False


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """What a node says of itself each second. `slots` None means that it runs whatever it is sent; `cores`
    weighs it then. `others` counts payloads of other owners that hold or wait for a slot. `load` is the CPU
    use in percent, 0 to 100. `unhealthy`: why it wants no jobs, "" if it does. `stopping`: it was told to
    stop, takes no new jobs and waits for those that it has. `skew`: seconds by which its clock is ahead of
    ours, None if it does not say what it shows. `seconds_left`: for which it is there still, as an allocation
    of a cluster is; None if no end is known. `tally` is None if it does not count. `name`: what it wants to
    be called, `executor`: the tier in which scripts run there, `executor_limits`: how it keeps them apart and
    what that does not cover, in sentences; "" if it does not say. `ahead`: how many jobs it takes beyond its
    slots now."""

    load: float = 0.0
    slots: int | None = None
    cores: int = 1
    others: int = 0
    free_disk: int | None = None
    free_memory: int | None = None
    unhealthy: str = ""
    stopping: bool = False
    skew: float | None = None
    seconds_left: float | None = None
    tally: Tally | None = None
    name: str = ""
    executor: str = ""
    executor_limits: str = ""
    ahead: int = 0


@dataclass(frozen=True, slots=True)
class StreamPosition:
    """A place in a node's life: comparable only within one incarnation."""

    incarnation: str
    sequence: int


@dataclass(frozen=True, slots=True)
class PayloadView:
    """What a node tells of one payload: Prepared, Running, or ended with its `end`. `lost` means that what
    befell the machine or its files took it; it will never run again. `progress` is what its script says of
    it."""

    key: str
    status: Status
    end: End | None = None
    lost: bool = False
    progress: Progress | None = None

    @property
    def start_failed(self) -> bool:
        """Whether the node could not start it, through no fault of the job's."""
        return self.lost and self.end is not None and self.end.failure is Failure.NODE

    @property
    def given_back(self) -> bool:
        """Whether it has waited there for a slot as long as it may: nothing of it has run."""
        return self.lost and self.end is not None and self.end.failure is Failure.NOT_RUN

    def tell_loss(self, name: str) -> str:
        """The reason for another attempt, with what the node says of this one."""
        if self.start_failed:
            return f"on node {name} it {self.tell_trouble()}"
        if self.given_back:
            return f"node {name} had no slot for it in time"
        why = f": {said}" if (said := self.tell_trouble()) else ""
        return f"node {name} lost it{why}"

    def tell_trouble(self) -> str:
        """What the node says of its end; "" for nothing."""
        return "" if self.end is None else self.end.message


class NodeState(StrEnum):
    """DRAINED: we gave it no more jobs, and nothing of ours is there any more."""

    JOINING = "joining"
    READY = "ready"
    SUSPECT = "suspect"
    LOST = "lost"
    DRAINING = "draining"
    DRAINED = "drained"
    SET_ASIDE = "set_aside"


@dataclass(frozen=True, slots=True)
class Lately:
    """Of the last few jobs of a service that ended on a node, `ended` of them, so many `failed`."""

    failed: int
    ended: int


@dataclass(frozen=True, slots=True)
class NodeView:
    """One node as the pool sees it. `slots` None: it runs whatever it is sent. `held` are our attempts that
    hold a slot there, `waiting` those beyond its slots, which wait there for one.

    `contact` is the state without our own orders; these are `draining` and `set_aside`, with
    their reasons.
    `joined`: by itself; `machine` is then the token of the machine it runs on, if scaling has made it.
    `heard_at`: when it was last heard, in monotonic seconds; None if not yet. `jobs_ended` there since the
    server started, of which `jobs_failed` did. `skew`, `seconds_left`, `executor`, `executor_limits`: as in
    its heartbeats. `name`: what people are told instead of its id, "" if it has no other. `lately`: how jobs
    ended there, by service."""

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
    set_aside: str | None = None
    joined: bool = False
    machine: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    heard_at: float | None = None
    jobs_ended: int = 0
    jobs_failed: int = 0
    skew: float | None = None
    seconds_left: float | None = None
    name: str = ""
    executor: str = ""
    executor_limits: str = ""
    waiting: int = 0
    lately: Mapping[str, Lately] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class JoinedNode:
    """A node that joined by itself, as it said. `kind` says what it came from (a provider's name, or "" for
    by hand); `last_seen` is wall-clock, of its last joining. `machine` is the token of the machine that it
    runs on, None for one that no scaling has made. `draining`: why it gets no jobs, None if it does; an order
    of ours, which is kept apart."""

    node_id: str
    url: str
    services: tuple[str, ...]
    slots: int | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    kind: str = ""
    last_seen: float = 0.0
    machine: str | None = None
    draining: str | None = None


@dataclass(frozen=True, slots=True)
class NodeAddress:
    """Where to look for a node: from the settings or the ledger. The three full URLs are the contract's and
    set for services that were configured by them; the id is appended."""

    url: str
    services: tuple[str, ...] = ()
    upload_url: str = ""
    download_url: str = ""
    terminate_url: str = ""
