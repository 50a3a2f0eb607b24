"""Which queued jobs may go now, fairly; and why each other one waits. Pure: rows in, decisions out.

For each service there is a ring of the users who have queued jobs. The job that goes next is the oldest one
of the first user in the ring who is within quota; a user who was served goes to the ring's end, and so does
one who enters it. A user who is at the quota keeps the place; one whose job comes back, as its node had no
slot for it in time, has that turn again, in the place of then. So with k users in the ring each of them is
served within k turns, however many jobs another one has, and the same rows give the same order. A user with a
weight has as many turns in a row before the ring's end: each is served within as many turns as the weights of
all in the ring together. No quota is larger for it, and nothing waits for somebody who has no job.

Jobs that require different things of a node stand in rings of their own, so that none waits behind one that
no node can run now; the quotas are counted over all of them.

A job counts against its user's and its service's quota while its row says so (`Job.counts`) or while it was
taken: from the decision that it goes until its row says what became of it.

The jobs of one user go by priority, and among the same one the oldest first: so nobody's job waits behind one
of another user for its priority.

Of a job that waits nothing is kept but its order, in its place: 8 bytes. No operation walks through the
queue: `apply`, `next`, `take` and `give_back` cost the logarithm of its length, `explain_wait` and `demand` a
step for each user who waits."""

from __future__ import annotations

import heapq
from array import array
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Final

from actors.domain.job import Job, QueuedJobs, job_of
from actors.domain.queue_excerpt import GoingJob, QueueExcerpt, RingExcerpt
from actors.domain.service import Backlog, Demand, ServiceLimits, Waiting, WaitReason
from actors.domain.status import Status
from orchestrator.scheduling.round_robin import Ring, ServiceRings, by_turn

_rings: Final = attrgetter("rings")


@dataclass(slots=True)
class _Going:
    """A job that counts. `taken`: although its row says Queued. `stopped`: it is not to wait again. `node_id`
    and `since` are what its row says of where it is, and since when, `used` how many attempts it has used.
    `place` is the one in the ring in which its user was served."""

    service: str
    user_id: int
    requires: str
    order: int
    place: int
    taken: bool = False
    stopped: bool = False
    node_id: str | None = None
    since: float | None = None
    used: int = 0

    def note(self, job: Job) -> None:
        """What its row says."""
        self.used = job.attempts_used
        if job.attempt is not None and job.attempt.node_id != self.node_id:
            self.node_id, self.since = job.attempt.node_id, job.running_since or job.updated_at


class QueueManager:
    """Implements `actors.ports.scheduling.Queue`. Services that are not in `limits` are listed but never
    offered."""

    def __init__(self, limits: Mapping[str, ServiceLimits]) -> None:
        self._limits = dict(limits)
        self._services: dict[str, ServiceRings] = {}
        self._going: dict[int, _Going] = {}
        self._reserved: dict[str, tuple[str, int]] = {}
        self._paused: Mapping[str, str] = {}
        self._turns = 0

    def fill(self, queued: Sequence[QueuedJobs]) -> None:
        for one in sorted(queued, key=lambda one: job_of(one.orders[0])):
            self._service(one.service).ring(one.requires).fill(one.user_id, one.orders)

    def apply(self, job: Job) -> None:
        going = self._going.get(job.id)
        queued = job.status is Status.QUEUED
        if going is not None:
            if queued and going.taken:
                going.stopped = job.terminate_requested
                return
            going.taken = False
            if job.counts:
                going.note(job)
                return
            self.end(job.id)
        room = self._services.get(job.service)
        ring = None if room is None else room.rings.get(job.requires)
        waits = ring is not None and ring.has(job.user_id, job.order)
        if queued and not job.terminate_requested:
            if not waits:
                self.enter(job.service, job.requires, job.user_id, job.order)
                if going is not None and job.attempts_used < going.used:
                    self._give_turn_back(going)
            return
        place = 0
        if ring is not None and waits:
            place = ring.users[job.user_id].place
            self._leave(ring, job.user_id, job.order, served=job.counts)
        if job.counts:
            if not place:
                # It did not wait here, as one that came with its first attempt: a turn all the same.
                room = self._service(job.service)
                self._turns += 1
                room.served, place = self._turns, room.next_place()
            going = _Going(job.service, job.user_id, job.requires, job.order, place)
            going.note(job)
            self._start(job.id, going)

    def end(self, job_id: int) -> None:
        """A job that counted does so no longer."""
        going = self._going.pop(job_id)
        self._services[going.service].ended(going.user_id)

    def enter(self, service: str, requires: str, user_id: int, order: int) -> None:
        """The job that has this order waits from now on."""
        self._service(service).ring(requires).enter(user_id, order)

    def next(self, service: str, requires: str = "") -> int | None:
        """The job of `service` with this requirement that goes next; None if none may. Asking changes
        nothing."""
        ring = self._offering(service, requires)
        user = None if ring is None else ring.next()
        return None if user is None else job_of(user.first)

    def take(self, service: str, requires: str = "") -> int | None:
        """What `next` says, and count it as going, before its row says so."""
        ring = self._offering(service, requires)
        user = None if ring is None else ring.next()
        if ring is None or user is None:
            return None
        order, place = user.first, user.place
        self._leave(ring, user.user_id, order, served=True)
        self._start(job_of(order), _Going(service, user.user_id, requires, order, place, taken=True))
        return job_of(order)

    def give_back(self, job_id: int) -> None:
        """Let the own row of a job that was taken count again. Idempotent."""
        going = self._going.get(job_id)
        if going is None or not going.taken:
            return
        del self._going[job_id]
        room = self._services[going.service]
        room.ended(going.user_id)
        if not going.stopped:
            room.ring(going.requires).enter(going.user_id, going.order)

    def admits(self, service: str, user_id: int) -> bool:
        """Whether a job that is not stored yet may go as soon as it is: nothing of its service waits, which
        might have to go before it, and the quotas have room."""
        room = self._service(service)
        return not (service in self._paused or room.rings or room.full or room.blocked(user_id))

    def reserve(self, key: str, service: str, user_id: int) -> None:
        """Count a job that is not stored yet as going, under the key of its first attempt. Idempotent."""
        if key not in self._reserved:
            self._reserved[key] = service, user_id
            self._service(service).started(user_id)

    def unreserve(self, key: str) -> None:
        """It does so no longer: its row does, or there will be none. Idempotent."""
        if key in self._reserved:
            service, user_id = self._reserved.pop(key)
            self._services[service].ended(user_id)

    def requirements(self, service: str) -> Sequence[str]:
        """The requirements of the jobs that wait, the one that was served longest ago first."""
        room = self._services.get(service)
        return () if room is None else [one.requires for one in sorted(room.rings.values(), key=by_turn)]

    def is_empty(self) -> bool:
        return not any(map(_rings, self._services.values()))

    def services(self) -> Sequence[str]:
        """Services that have jobs waiting, unknown ones too; the one that was served longest ago first, as
        services may share nodes."""
        waiting = [(room.served, name) for name, room in self._services.items() if room.rings]
        return [name for _, name in sorted(waiting)]

    def waiting(self) -> list[tuple[str, str]]:
        """The services, each with a requirement, of which a job may go now."""
        rings = ((name, requires) for name, room in self._services.items() for requires in room.rings)
        return [(name, requires) for name, requires in rings if self.next(name, requires) is not None]

    def demand(self, service: str, able: Callable[[str], bool] = lambda requires: True) -> Demand:
        """What the quotas would let go if there were slots, of the jobs whose requirement is `able`. A step
        for each user who waits."""
        room = self._services.get(service)
        if room is None:
            return Demand(0, (), 0)
        return Demand(*((0, ()) if service in self._paused else room.runnable(able)), room.going)

    def backlog(self, most: int) -> Sequence[Backlog]:
        """How many jobs wait, by service and requirement: the `most` largest, the largest first."""
        rings = ((name, ring) for name, room in self._services.items() for ring in room.rings.values())
        largest = heapq.nsmallest(most, rings, key=lambda one: (-one[1].waiting, one[0], one[1].requires))
        return [Backlog(name, ring.requires, ring.waiting) for name, ring in largest]

    def set_pauses(self, reasons: Mapping[str, str]) -> None:
        """Offer no job of these services, and of these only; why is what the jobs are told."""
        self._paused = reasons

    def set_limits(self, limits: Mapping[str, ServiceLimits]) -> None:
        """Go by these services and quotas from now on. A step for each user who waits."""
        self._limits = dict(limits)
        for name, room in self._services.items():
            room.set_limits(self._limits.get(name))

    def excerpt(self, services: Collection[str], most: int) -> QueueExcerpt:
        """The beginnings of these services' queues, of `most` jobs together or not many more; all that is
        going in them. A step for each user who waits."""
        rooms = {name: self._services[name] for name in services if name in self._services}
        count = sum(len(room.rings) for room in rooms.values())
        rings, edge = [], set[int]()
        for name, room in rooms.items():
            for ring in room.rings.values():
                users, last = ring.beginning(max(1, most // count))
                rings.append(RingExcerpt(name, ring.requires, ring.served, users))
                edge |= last
        going = [
            GoingJob(job_id, one.service, one.user_id, one.requires, one.node_id, one.since)
            for job_id, one in self._going.items()
            if one.service in rooms
        ]
        served = {name: room.served for name, room in rooms.items()}
        return QueueExcerpt(rings, going, frozenset(edge), served, self._paused)

    @classmethod
    def of_excerpt(cls, limits: Mapping[str, ServiceLimits], excerpt: QueueExcerpt) -> QueueManager:
        """A queue that goes on from there."""
        queue = cls(limits)
        queue._paused = excerpt.paused
        for one in excerpt.going:
            queue._start(one.job_id, _Going(one.service, one.user_id, one.requires, one.job_id, 0))
        for ring in excerpt.rings:
            made = queue._service(ring.service).ring(ring.requires)
            made.served = ring.served
            for user_id, orders in ring.users:
                made.fill(user_id, array("q", orders))
        for name, served in excerpt.served.items():
            queue._service(name).served = served
        queue._turns = max(excerpt.served.values(), default=0)
        return queue

    def going(self, service: str) -> int:
        """How many jobs of a service count against its quota."""
        room = self._services.get(service)
        return 0 if room is None else room.going

    def explain_wait(
        self, job: Job, *, free_slots: bool, any_node: bool, kept_for: Sequence[str] = ()
    ) -> Waiting | None:
        """Why a job waits, whatever its row said. None for one that is not queued, is going, or was ordered
        to end. `free_slots`, `any_node` and `kept_for` are what the pool says of its service."""
        name, room = job.service, self._services.get(job.service)
        ring = None if room is None else room.rings.get(job.requires)
        if room is None or ring is None or not ring.has(job.user_id, job.order):
            return None
        limits = room.limits
        position = ring.position(ring.users[job.user_id], job.order)
        going = room.users_going[job.user_id]
        before = _before(position)
        if name in self._paused:
            return Waiting(
                WaitReason.PAUSED, f"waits: service {name} is paused: {self._paused[name]}", position
            )
        if limits is None:
            return Waiting(
                WaitReason.NO_NODE, f"waits: there is no service {name} any more; ask the operator", position
            )
        if not any_node:  # before the quotas, which end by themselves
            having = f" that has {job.requires}" if job.requires else ""
            message = f"waits for a node of service {name}{having}"
            # The first does not go next either, as long as there is none.
            message += f"; {before}" if position else ""
            return Waiting(WaitReason.NO_NODE, message, position)
        if going >= limits.runs_per_user:
            running = f"already runs {going} of {limits.runs_per_user} jobs of service {name}"
            return Waiting(WaitReason.USER_QUOTA, f"waits: user {job.user_id} {running}", position)
        if room.going >= limits.max_runs:
            running = f"already runs {room.going} of {limits.max_runs} jobs"
            return Waiting(WaitReason.SERVICE_QUOTA, f"waits: service {name} {running}; {before}", position)
        if kept_for:
            kept = f"waits: the free slots are kept for {' and '.join(kept_for)}; {before}"
            return Waiting(WaitReason.KEPT, kept, position)
        if not free_slots:
            return Waiting(WaitReason.SLOT, f"waits for a free slot; {before}", position)
        return Waiting(WaitReason.SLOT, f"waits for its turn; {before}", position)

    def _service(self, name: str) -> ServiceRings:
        room = self._services.get(name)
        if room is None:
            room = self._services[name] = ServiceRings(self._limits.get(name))
        return room

    def _offering(self, service: str, requires: str) -> Ring | None:
        room = self._services.get(service)
        return None if room is None or service in self._paused else room.rings.get(requires)

    def _start(self, job_id: int, going: _Going) -> None:
        self._going[job_id] = going
        self._service(going.service).started(going.user_id)

    def _give_turn_back(self, going: _Going) -> None:
        """Of a job that waits again."""
        ring = self._services[going.service].rings[going.requires]
        ring.give_turn_back(going.user_id, going.place, alone=len(ring.users[going.user_id]) == 1)

    def _leave(self, ring: Ring, user_id: int, order: int, *, served: bool) -> None:
        if served:
            self._turns += 1
            ring.served = ring.service.served = self._turns
        ring.leave(user_id, order, served=served)


def _before(position: int) -> str:
    if position == 0:
        return "it goes next"
    return "1 job before it" if position == 1 else f"{position} jobs before it"
