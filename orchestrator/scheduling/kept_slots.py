"""Slots that are kept for services, of those that are free: who may take which. Pure.

A service with `keep_slots` has a claim to as many slots of its nodes as it has fewer jobs under way. Which
slots they are stays open: anybody may take any slot that leaves the claims of the others as well met as they
were. So nothing is kept that no claim needs, and who has a claim can take a slot wherever its nodes have one
that is free. Claims that cannot all be met have equal rights: who comes first has the slot."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Final

Users = frozenset[str]
"""The services whose jobs a slot may be given to."""

ENDLESS: Final = 1 << 40
"""Slots of a node that runs whatever it is sent."""


class KeptSlots:
    """`claims`: how many further slots each service is to have; `free`: how many there are, by their
    users."""

    def __init__(self, claims: Mapping[str, int], free: Mapping[Users, int]) -> None:
        self._claims = claims
        self._free = free
        self._met = _count_met(claims, free)

    def may_take(self, service: str, users: Users) -> bool:
        """Whether `service`, one of these users, may have one of their free slots."""
        own = 1 if self._claims.get(service, 0) else 0
        claims = {**self._claims, service: self._claims[service] - 1} if own else self._claims
        left = {**self._free, users: self._free[users] - 1}
        return _count_met(claims, left) + own >= self._met

    def count_kept(self, service: str) -> int:
        """How many of the free slots that `service` could use are not for it, however many it wants."""
        usable = sum(count for users, count in self._free.items() if service in users)
        own = min(self._claims.get(service, 0), usable)
        all_of_them = _count_met({**self._claims, service: usable}, self._free)
        return max(0, usable - (all_of_them - self._met + own))


def _count_met(claims: Mapping[str, int], free: Mapping[Users, int]) -> int:
    """How many slots those who claim them can have at once, at most: a flow from the claims to the slots."""
    left = dict(free)
    given: Counter[tuple[str, Users]] = Counter()

    def give(service: str, most: int, tried: set[Users]) -> int:
        """Up to `most` slots for this one, of one kind; those who have them are moved to others for it."""
        for users in [users for users in left if service in users]:
            if users in tried:
                continue
            tried.add(users)
            found = min(most, left[users])
            left[users] -= found
            for other in () if found else users - {service}:
                if (held := given[other, users]) and (found := give(other, min(most, held), tried)):
                    given[other, users] -= found
                    break
            if found:
                given[service, users] += found
                return found
        return 0

    met = 0
    for service, claim in claims.items():
        lacking = claim
        while lacking and (found := give(service, lacking, set())):
            lacking -= found
            met += found
    return met
