"""Whose turn it is in one service: rings of users with waiting jobs, and what counts against the quotas. A
part of the queue manager, which says what it is for."""

from __future__ import annotations

import heapq
from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from actors.domain.job import job_of
from actors.domain.service import ServiceLimits


@dataclass(slots=True)
class _User:
    """A user's jobs in one ring: `orders`, ascending, from `head` on. The first one leaves most often, and
    comes back to where it was: it is skipped, and the array cut when half is. `place` says where the user is
    in the ring: smaller is earlier. `listed` is the place under which the user stands in the heap of those
    who may be served. `turns` says how many of this round the user has had, below zero of whom some were
    given back."""

    user_id: int
    orders: array[int]
    head: int = 0
    place: int = 0
    listed: int | None = None
    turns: int = 0

    def __len__(self) -> int:
        return len(self.orders) - self.head

    @property
    def first(self) -> int:
        return self.orders[self.head]

    def has(self, order: int) -> bool:
        at = self.head + self.rank(order)
        return at < len(self.orders) and self.orders[at] == order

    def add(self, order: int) -> None:
        at = self.head + self.rank(order)
        if at == self.head > 0:
            self.head -= 1
            self.orders[self.head] = order
        else:
            self.orders.insert(at, order)

    def rank(self, order: int) -> int:
        return bisect_left(self.orders, order, lo=self.head) - self.head

    def remove(self, order: int) -> None:
        if order != self.first:
            del self.orders[self.head + self.rank(order)]
            return
        self.head += 1
        if self.head * 2 > len(self.orders):
            del self.orders[: self.head]
            self.head = 0


class ServiceRings:
    """What counts against the quotas, and a ring for each requirement of waiting jobs, none of them empty."""

    def __init__(self, limits: ServiceLimits | None) -> None:
        self.limits = limits
        self.going = 0
        self.served = 0
        self.users_going: Counter[int] = Counter()
        self.rings: dict[str, Ring] = {}
        self._places = 0

    @property
    def full(self) -> bool:
        return self.limits is None or self.going >= self.limits.max_runs

    def blocked(self, user_id: int) -> bool:
        """Whether a user is at the quota."""
        return self.limits is not None and self.users_going[user_id] >= self.limits.runs_per_user

    def weight(self, user_id: int) -> int:
        """How many turns a user has in a round."""
        return 1 if self.limits is None else self.limits.weights.get(user_id, 1)

    def ring(self, requires: str) -> Ring:
        """The ring of those who require that; a new one is to get a user at once."""
        ring = self.rings.get(requires)
        if ring is None:
            ring = self.rings[requires] = Ring(self, requires)
        return ring

    def set_limits(self, limits: ServiceLimits | None) -> None:
        """Other quotas hold from now on."""
        self.limits = limits
        for ring in self.rings.values():
            for user in ring.users.values():
                ring.list(user)  # who was at the quota may be within it now

    def next_place(self) -> int:
        """The end of any of its rings. None is given twice: a ring may end, and begin again."""
        self._places += 1
        return self._places

    def started(self, user_id: int) -> None:
        self.going += 1
        self.users_going[user_id] += 1

    def ended(self, user_id: int) -> None:
        self.going -= 1
        self.users_going[user_id] -= 1
        if not self.users_going[user_id]:
            del self.users_going[user_id]
        for ring in self.rings.values():
            if (user := ring.users.get(user_id)) is not None:
                ring.list(user)

    def runnable(self, able: Callable[[str], bool]) -> tuple[int, tuple[int, ...]]:
        """How many jobs the quotas let go now, and the first one of each user who has any of these."""
        if self.limits is None or self.full:
            return 0, ()
        waiting: Counter[int] = Counter()
        first: dict[int, int] = {}
        for ring in self.rings.values():
            if able(ring.requires):
                for user_id, user in ring.users.items():
                    if not self.blocked(user_id):
                        waiting[user_id] += len(user)
                        first[user_id] = min(user.first, first.get(user_id, user.first))
        quota = self.limits.runs_per_user
        count = sum(min(n, quota - self.users_going[user_id]) for user_id, n in waiting.items())
        return min(count, self.limits.max_runs - self.going), tuple(map(job_of, first.values()))


class Ring:
    """The users with waiting jobs of one requirement; their order is their `place`."""

    def __init__(self, service: ServiceRings, requires: str) -> None:
        self.requires = requires
        self.served = 0
        self.waiting = 0
        """Jobs of all its users."""
        self.users: dict[int, _User] = {}
        self.service = service
        self._heap: list[tuple[int, int]] = []

    def next(self) -> _User | None:
        """Who has the next turn; their first job goes then."""
        if self.service.full:
            return None
        while self._heap:
            place, user_id = self._heap[0]
            user = self.users.get(user_id)
            if user is not None and user.place == place and not self.service.blocked(user_id):
                return user
            heapq.heappop(self._heap)
            if user is not None and user.listed == place:
                user.listed = None
        return None

    def position(self, mine: _User, order: int) -> int:
        """How many jobs go before this one if all goes on as it stands: in each round every user has one
        turn, or as many as the weight says, in the order of the ring, those at their quota after the
        others."""
        # For each of a list of jobs all users are gone through, so nothing is called here.
        limits, going = self.service.limits, self.service.users_going
        weights: Mapping[int, int] = {} if limits is None else limits.weights
        quota = None if limits is None else limits.runs_per_user
        rank = ahead = mine.rank(order)
        my_block = self.service.blocked(mine.user_id)
        rounds = max(0, rank + mine.turns) // self.service.weight(mine.user_id)
        for user_id, user in self.users.items():
            if user is not mine:
                block = quota is not None and going.get(user_id, 0) >= quota
                earlier = user.place < mine.place if block is my_block else my_block
                turns = (rounds + earlier) * weights.get(user_id, 1)
                if turns and (turns := turns - user.turns) > 0:
                    waiting = len(user.orders) - user.head
                    ahead += turns if turns < waiting else waiting
        return ahead

    def fill(self, user_id: int, orders: array[int]) -> None:
        """A user who is not there enters it with these jobs."""
        user = self.users[user_id] = _User(user_id, orders)
        self.waiting += len(user)
        self._to_end(user)
        self.list(user)

    def beginning(self, most: int) -> tuple[list[tuple[int, array[int]]], set[int]]:
        """The users whose turns are next, in order, each with the first jobs: `most` of them together, and of
        each user who has more one further job, or one of the next user. These are the second value."""
        if len(self.users) > most:
            users = heapq.nsmallest(most + 1, self.users.values(), key=_by_place)
            found = [(one.user_id, one.orders[one.head : one.head + 1]) for one in users]
            return found, {job_of(users[-1].first)}
        each = most // len(self.users)
        users = sorted(self.users.values(), key=_by_place)
        found = [(one.user_id, one.orders[one.head : one.head + each + 1]) for one in users]
        return found, {job_of(orders[each]) for _, orders in found if len(orders) > each}

    def enter(self, user_id: int, order: int) -> None:
        user = self.users.get(user_id)
        if user is None:
            self.fill(user_id, array("q", (order,)))
        else:
            user.add(order)
            self.waiting += 1
            self.list(user)

    def has(self, user_id: int, order: int) -> bool:
        user = self.users.get(user_id)
        return user is not None and user.has(order)

    def leave(self, user_id: int, order: int, *, served: bool) -> None:
        user = self.users[user_id]
        user.remove(order)
        self.waiting -= 1
        if not user:
            del self.users[user_id]
            if not self.users:
                del self.service.rings[self.requires]
        elif served:
            user.turns += 1
            if user.turns >= self.service.weight(user_id):
                user.turns = 0
                self._to_end(user)
            self.list(user)

    def give_turn_back(self, user_id: int, place: int, *, alone: bool) -> None:
        """A user who had a turn for nothing, at this place, has it again. `alone`: who stands here for the
        job of that turn only has no other one."""
        user = self.users[user_id]
        user.turns -= not alone
        user.place = min(user.place, place)
        self.list(user)

    def _to_end(self, user: _User) -> None:
        user.place = self.service.next_place()

    def list(self, user: _User) -> None:
        """Put a user into the heap, once a place. One who is at the quota leaves it when found there, and
        comes back with the job that ends."""
        if user.listed != user.place and not self.service.blocked(user.user_id):
            user.listed = user.place
            heapq.heappush(self._heap, (user.place, user.user_id))
        if len(self._heap) > 2 * len(self.users) + 64:
            # Left places pile up while nobody asks for the next job (the service is paused, or full).
            self._heap = [(one.place, one.user_id) for one in self.users.values() if one.listed == one.place]
            heapq.heapify(self._heap)


def _by_place(user: _User) -> int:
    return user.place


def by_turn(ring: Ring) -> tuple[int, str]:
    return ring.served, ring.requires
