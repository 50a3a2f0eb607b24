"""Which queued jobs may go now, fairly; and why each other one waits. Pure: rows in, decisions out.

For each service there is a ring of the users who have queued jobs. The job that goes next is the oldest one
of the first user in the ring who is within quota; a user who was served goes to the ring's end, and so does
one who enters it. A user who is at the quota keeps the place. So with k users in the ring each of them is
served within k turns, however many jobs another one has, and the same rows give the same order.

Jobs that require different things of a node stand in rings of their own, so that none waits behind one that
no node can run now; the quotas are counted over all of them.

A job counts against its user's and its service's quota while its row says so (`Job.counts`) or while it is
reserved: from the decision that it goes until its row says what became of it.

No operation walks through the queue: `apply`, `next`, `reserve` and `unreserve` cost the logarithm of its
length, `explain_wait` a step for each user who waits."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from actors.domain.job import Job
from actors.domain.service import Demand, ServiceLimits, Waiting, WaitReason
from actors.domain.status import OVER, Status
from orchestrator.scheduling.round_robin import Ring, ServiceRings, by_turn

REMEMBERED: Final = 10_000
"""How many jobs that are over are remembered, so that an old row that comes late does not bring one back."""


class _JobState(Enum):
    WAITING = auto()
    ORDERED_TO_END = auto()  # queued, but never to go
    GOING = auto()
    NEITHER = auto()


@dataclass(slots=True)
class _Known:
    seq: int
    service: str
    user_id: int
    requires: str
    state: _JobState
    reserved: bool = False

    @property
    def effective(self) -> _JobState:
        queued = self.state in (_JobState.WAITING, _JobState.ORDERED_TO_END)
        return _JobState.GOING if self.reserved and queued else self.state


class QueueManager:
    """Implements `actors.ports.scheduling.Queue`. Services that are not in `limits` are listed but never
    offered."""

    def __init__(self, limits: Mapping[str, ServiceLimits]) -> None:
        self._limits = dict(limits)
        self._services: dict[str, ServiceRings] = {}
        self._known: dict[int, _Known] = {}
        self._over: OrderedDict[int, int] = OrderedDict()
        self._paused: Mapping[str, str] = {}
        self._turns = 0

    def apply(self, job: Job) -> None:
        """Take a row in. One that is older than what is known of the job is ignored; one that says that the
        job is no longer Queued ends its `reserve`."""
        known = self._known.get(job.id)
        if job.change_seq <= (known.seq if known is not None else self._over.get(job.id, -1)):
            return
        if known is None:
            known = _Known(job.change_seq, job.service, job.user_id, job.requires, _JobState.NEITHER)
            self._known[job.id] = known
        before = known.effective
        known.seq = job.change_seq
        known.state = _state_of(job)
        known.reserved = known.reserved and job.status is Status.QUEUED
        self._shift(job.id, known, before)
        if job.status in OVER:
            del self._known[job.id]
            self._over[job.id] = job.change_seq
            if len(self._over) > REMEMBERED:
                self._over.popitem(last=False)
        else:
            self._over.pop(job.id, None)

    def next(self, service: str, requires: str = "") -> int | None:
        """The job of `service` with this requirement that goes next; None if none may. Asking changes
        nothing."""
        room = self._services.get(service)
        ring = None if room is None or service in self._paused else room.rings.get(requires)
        return None if ring is None else ring.next()

    def requirements(self, service: str) -> Sequence[str]:
        """The requirements of the jobs that wait, the one that was served longest ago first."""
        room = self._services.get(service)
        return () if room is None else [one.requires for one in sorted(room.rings.values(), key=by_turn)]

    def reserve(self, job_id: int) -> None:
        """Count a queued job as going. Nothing happens to a job that is unknown or not queued."""
        known = self._known.get(job_id)
        if known is not None and known.state is _JobState.WAITING and not known.reserved:
            known.reserved = True
            self._shift(job_id, known, _JobState.WAITING)

    def unreserve(self, job_id: int) -> None:
        """Let the job's own row count again. Idempotent."""
        known = self._known.get(job_id)
        if known is not None and known.reserved:
            before = known.effective
            known.reserved = False
            self._shift(job_id, known, before)

    def services(self) -> Sequence[str]:
        """Services that have jobs waiting, unknown ones too; the one that was served longest ago first, as
        services may share nodes."""
        waiting = [(room.served, name) for name, room in self._services.items() if room.rings]
        return [name for _, name in sorted(waiting)]

    def demand(self, service: str, able: Callable[[str], bool] = lambda requires: True) -> Demand:
        """What the quotas would let go if there were slots, of the jobs whose requirement is `able`. A step
        for each user who waits."""
        room = self._services.get(service)
        if room is None:
            return Demand(0, (), 0)
        return Demand(*((0, ()) if service in self._paused else room.runnable(able)), room.going)

    def set_pauses(self, reasons: Mapping[str, str]) -> None:
        """Offer no job of these services, and of these only; why is what the jobs are told."""
        self._paused = reasons

    def explain_wait(self, job_id: int, *, free_slots: bool, any_node: bool) -> Waiting | None:
        """Why a job waits. None for one that is not queued, is going, or was ordered to end. `free_slots`
        and `any_node` are what the pool says of its service."""
        known = self._known.get(job_id)
        if known is None or known.effective is not _JobState.WAITING:
            return None
        name, room = known.service, self._services[known.service]
        ring, limits = room.rings[known.requires], room.limits
        position = ring.position(ring.users[known.user_id], job_id)
        going = room.users_going[known.user_id]
        before = _before(position)
        if name in self._paused:
            return Waiting(
                WaitReason.PAUSED, f"waits: service {name} is paused: {self._paused[name]}", position
            )
        if limits is None:
            return Waiting(WaitReason.NO_NODE, f"waits: there is no service {name} any more", position)
        if going >= limits.runs_per_user:
            running = f"already runs {going} of {limits.runs_per_user} jobs of service {name}"
            return Waiting(WaitReason.USER_QUOTA, f"waits: user {known.user_id} {running}", position)
        if room.going >= limits.max_runs:
            running = f"already runs {room.going} of {limits.max_runs} jobs"
            return Waiting(WaitReason.SERVICE_QUOTA, f"waits: service {name} {running}; {before}", position)
        if not any_node:
            having = f" that has {known.requires}" if known.requires else ""
            message = f"waits for a node of service {name}{having}"
            # The first does not go next either, as long as there is none.
            message += f"; {before}" if position else ""
            return Waiting(WaitReason.NO_NODE, message, position)
        if not free_slots:
            return Waiting(WaitReason.SLOT, f"waits for a free slot; {before}", position)
        return Waiting(WaitReason.SLOT, f"waits for its turn; {before}", position)

    def _shift(self, job_id: int, known: _Known, before: _JobState) -> None:
        """Bring a job's service up to date after its state may have changed."""
        after = known.effective
        if after is before:
            return
        room = self._services.get(known.service)
        if room is None:
            room = self._services[known.service] = ServiceRings(self._limits.get(known.service))
        if before is _JobState.WAITING:
            ring = room.rings[known.requires]
            if after is _JobState.GOING:
                self._turns += 1
                room.served = ring.served = self._turns
            ring.leave(known.user_id, job_id, served=after is _JobState.GOING)
            if not ring.users:
                del room.rings[known.requires]
        elif before is _JobState.GOING:
            room.ended(known.user_id)
        if after is _JobState.WAITING:
            ring = room.rings.get(known.requires) or Ring(room, known.requires)
            room.rings[known.requires] = ring
            ring.enter(known.user_id, job_id)
        elif after is _JobState.GOING:
            room.started(known.user_id)


def _state_of(job: Job) -> _JobState:
    if job.status is Status.QUEUED:
        return _JobState.ORDERED_TO_END if job.terminate_requested else _JobState.WAITING
    return _JobState.GOING if job.counts else _JobState.NEITHER


def _before(position: int) -> str:
    if position == 0:
        return "it goes next"
    return "1 job before it" if position == 1 else f"{position} jobs before it"
