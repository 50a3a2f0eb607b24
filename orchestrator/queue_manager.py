"""Which queued jobs may go now, fairly; and why each other one waits. Pure: rows in, decisions out.

For each service there is a ring of the users who have queued jobs. The job that goes next is the oldest one
of the first user in the ring who is within quota; a user who was served goes to the ring's end, and so does
one who enters it. A user who is at the quota keeps the place. So with k users in the ring each of them is
served within k turns, however many jobs another one has, and the same rows give the same order.

A job counts against its user's and its service's quota while its row says so (`Job.counts`) or while it is
held: from the decision that it goes until its row says what became of it.

No operation walks through the queue: `apply`, `next`, `hold` and `unhold` cost the logarithm of its length,
`why` a step for each user who waits.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final

from actors.lifecycle import OVER, Status
from actors.model import Job
from actors.ports import Demand, ServiceLimits, Waiting, WaitReason

REMEMBERED: Final = 10_000
"""How many jobs that are over are remembered, so that an old row that comes late does not bring one back."""


class _State(Enum):
    WAITING = auto()
    ORDERED_TO_END = auto()  # queued, but never to go
    GOING = auto()
    NEITHER = auto()


@dataclass(slots=True)
class _Known:
    seq: int
    service: str
    user_id: int
    state: _State
    held: bool = False

    @property
    def effective(self) -> _State:
        queued = self.state in (_State.WAITING, _State.ORDERED_TO_END)
        return _State.GOING if self.held and queued else self.state


class QueueManager:
    """Implements `actors.ports.Queue`. Services that are not in `limits` are listed but never offered."""

    def __init__(self, limits: Mapping[str, ServiceLimits]) -> None:
        self._limits = dict(limits)
        self._services: dict[str, _Service] = {}
        self._known: dict[int, _Known] = {}
        self._over: OrderedDict[int, int] = OrderedDict()
        self._paused: dict[str, str] = {}
        self._turns = 0

    def apply(self, job: Job) -> None:
        """Take a row in. One that is older than what is known of the job is ignored; one that says that the
        job is no longer Queued ends its `hold`."""
        known = self._known.get(job.id)
        if job.change_seq <= (known.seq if known is not None else self._over.get(job.id, -1)):
            return
        if known is None:
            known = _Known(job.change_seq, job.service, job.user_id, _State.NEITHER)
            self._known[job.id] = known
        before = known.effective
        known.seq = job.change_seq
        known.state = _state_of(job)
        known.held = known.held and job.status is Status.QUEUED
        self._shift(job.id, known, before)
        if job.status in OVER:
            del self._known[job.id]
            self._over[job.id] = job.change_seq
            if len(self._over) > REMEMBERED:
                self._over.popitem(last=False)
        else:
            self._over.pop(job.id, None)

    def next(self, service: str) -> int | None:
        """The job of `service` that goes next; None if none may. Asking changes nothing."""
        room = self._services.get(service)
        return None if room is None or service in self._paused else room.next()

    def hold(self, job_id: int) -> None:
        """Count a queued job as going. Nothing happens to a job that is unknown or not queued."""
        known = self._known.get(job_id)
        if known is not None and known.state is _State.WAITING and not known.held:
            known.held = True
            self._shift(job_id, known, _State.WAITING)

    def unhold(self, job_id: int) -> None:
        """Let the job's own row count again. Idempotent."""
        known = self._known.get(job_id)
        if known is not None and known.held:
            before = known.effective
            known.held = False
            self._shift(job_id, known, before)

    def services(self) -> Sequence[str]:
        """Services that have jobs waiting, unknown ones too; the one that was served longest ago first, as
        services may share nodes."""
        waiting = [(room.served, name) for name, room in self._services.items() if room.ring]
        return [name for _, name in sorted(waiting)]

    def demand(self, service: str) -> Demand:
        """What the quotas would let go if there were slots. A step for each user who waits."""
        room = self._services.get(service)
        if room is None:
            return Demand(0, (), 0)
        return Demand(*((0, ()) if service in self._paused else room.runnable()), room.going)

    def pause(self, service: str, reason: str) -> None:
        """Offer no job of `service` until `resume`; `reason` is what its jobs are told."""
        self._paused[service] = reason

    def resume(self, service: str) -> None:
        """Idempotent."""
        self._paused.pop(service, None)

    def why(self, job_id: int, *, free_slots: bool, any_node: bool) -> Waiting | None:
        """Why a job waits. None for one that is not queued, is going, or was ordered to end. `free_slots`
        and `any_node` are what the pool says of its service."""
        known = self._known.get(job_id)
        if known is None or known.effective is not _State.WAITING:
            return None
        name, room = known.service, self._services[known.service]
        user, limits = room.ring[known.user_id], room.limits
        position = room.position(user, job_id)
        before = _before(position)
        if name in self._paused:
            return Waiting(
                WaitReason.PAUSED, f"waits: service {name} is paused: {self._paused[name]}", position
            )
        if limits is None:
            return Waiting(WaitReason.NO_NODE, f"waits: there is no service {name} any more", position)
        if user.going >= limits.runs_per_user:
            running = f"already runs {user.going} of {limits.runs_per_user} jobs of service {name}"
            return Waiting(WaitReason.USER_QUOTA, f"waits: user {user.user_id} {running}", position)
        if room.going >= limits.max_runs:
            running = f"already runs {room.going} of {limits.max_runs} jobs"
            return Waiting(WaitReason.SERVICE_QUOTA, f"waits: service {name} {running}; {before}", position)
        if not any_node:
            return Waiting(WaitReason.NO_NODE, f"waits for a node of service {name}; {before}", position)
        if not free_slots:
            return Waiting(WaitReason.SLOT, f"waits for a free slot; {before}", position)
        return Waiting(WaitReason.SLOT, f"waits for its turn; {before}", position)

    def _shift(self, job_id: int, known: _Known, before: _State) -> None:
        """Bring a job's service up to date after its state may have changed."""
        after = known.effective
        if after is before:
            return
        room = self._services.get(known.service)
        if room is None:
            room = self._services[known.service] = _Service(self._limits.get(known.service))
        if before is _State.WAITING and after is _State.GOING:
            self._turns += 1
            room.served = self._turns
        if before is _State.WAITING:
            room.leave(known.user_id, job_id, served=after is _State.GOING)
        elif before is _State.GOING:
            room.ended(known.user_id)
        if after is _State.WAITING:
            room.enter(known.user_id, job_id)
        elif after is _State.GOING:
            room.started(known.user_id)
        room.tidy(known.user_id)


def _state_of(job: Job) -> _State:
    if job.status is Status.QUEUED:
        return _State.ORDERED_TO_END if job.terminate_requested else _State.WAITING
    return _State.GOING if job.counts else _State.NEITHER


def _before(position: int) -> str:
    if position == 0:
        return "it goes next"
    return "1 job before it" if position == 1 else f"{position} jobs before it"


@dataclass(slots=True)
class _Line:
    """Job ids in order. The first one leaves most often: it is skipped, and the list cut when half is."""

    ids: list[int] = field(default_factory=list)
    head: int = 0

    def __len__(self) -> int:
        return len(self.ids) - self.head

    @property
    def first(self) -> int:
        return self.ids[self.head]

    def add(self, job_id: int) -> None:
        insort(self.ids, job_id, lo=self.head)

    def rank(self, job_id: int) -> int:
        return bisect_left(self.ids, job_id, lo=self.head) - self.head

    def remove(self, job_id: int) -> None:
        if job_id != self.first:
            del self.ids[self.head + self.rank(job_id)]
            return
        self.head += 1
        if self.head * 2 > len(self.ids):
            del self.ids[: self.head]
            self.head = 0


@dataclass(slots=True)
class _User:
    """`place` orders the ring: smaller is earlier. `listed` is the place under which the user stands in the
    heap of those who may be served."""

    user_id: int
    line: _Line = field(default_factory=_Line)
    going: int = 0
    place: int = 0
    listed: int | None = None


class _Service:
    """One service's ring. `ring` holds the users with waiting jobs; its order is their `place`."""

    def __init__(self, limits: ServiceLimits | None) -> None:
        self.limits = limits
        self.going = 0
        self.served = 0
        self.ring: dict[int, _User] = {}
        self._users: dict[int, _User] = {}
        self._places = 0
        self._heap: list[tuple[int, int]] = []

    def next(self) -> int | None:
        if self.limits is None or self.going >= self.limits.max_runs:
            return None
        while self._heap:
            place, user_id = self._heap[0]
            user = self.ring.get(user_id)
            if user is not None and user.place == place and not self._blocked(user):
                return user.line.first
            heapq.heappop(self._heap)
            if user is not None and user.listed == place:
                user.listed = None
        return None

    def runnable(self) -> tuple[int, tuple[int, ...]]:
        """How many jobs the quotas let go now, and the first one of each user who has any of these."""
        limits = self.limits
        if limits is None or self.going >= limits.max_runs:
            return 0, ()
        able = [user for user in self.ring.values() if not self._blocked(user)]
        count = sum(min(len(user.line), limits.runs_per_user - user.going) for user in able)
        return min(count, limits.max_runs - self.going), tuple(user.line.first for user in able)

    def position(self, mine: _User, job_id: int) -> int:
        """How many jobs go before this one if all goes on as it stands: in each round every user has one
        turn, in the order of the ring, those at their quota after the others."""
        rank = mine.line.rank(job_id)
        my_turn = (self._blocked(mine), mine.place)
        ahead = rank
        for user in self.ring.values():
            if user is not mine:
                earlier = (self._blocked(user), user.place) < my_turn
                ahead += min(len(user.line), rank + (1 if earlier else 0))
        return ahead

    def enter(self, user_id: int, job_id: int) -> None:
        user = self._user(user_id)
        user.line.add(job_id)
        if user_id not in self.ring:
            self.ring[user_id] = user
            self._to_end(user)
        self._list(user)

    def leave(self, user_id: int, job_id: int, *, served: bool) -> None:
        user = self._users[user_id]
        user.line.remove(job_id)
        if not user.line:
            del self.ring[user_id]
        elif served:
            self._to_end(user)
            self._list(user)

    def started(self, user_id: int) -> None:
        self.going += 1
        self._user(user_id).going += 1

    def ended(self, user_id: int) -> None:
        self.going -= 1
        user = self._users[user_id]
        user.going -= 1
        self._list(user)

    def tidy(self, user_id: int) -> None:
        """Forget a user who has nothing here."""
        user = self._users.get(user_id)
        if user is not None and not user.going and not user.line:
            del self._users[user_id]

    def _blocked(self, user: _User) -> bool:
        return self.limits is not None and user.going >= self.limits.runs_per_user

    def _user(self, user_id: int) -> _User:
        return self._users.setdefault(user_id, _User(user_id))

    def _to_end(self, user: _User) -> None:
        self._places += 1
        user.place = self._places

    def _list(self, user: _User) -> None:
        """Put a user into the heap, once a place. One who is at the quota leaves it when found there, and
        comes back with the job that ends."""
        if user.line and user.listed != user.place and not self._blocked(user):
            user.listed = user.place
            heapq.heappush(self._heap, (user.place, user.user_id))
        if len(self._heap) > 2 * len(self.ring) + 64:
            # Left places pile up while nobody asks for the next job (the service is paused, or full).
            self._heap = [(one.place, one.user_id) for one in self.ring.values() if one.listed == one.place]
            heapq.heapify(self._heap)
