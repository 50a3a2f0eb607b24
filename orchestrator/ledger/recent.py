"""What was read or written last, in memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Final, Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Recent(Generic[K, V]):
    """At most `most` values, or, if there is `weigh`, values that weigh at most that together; the one that
    was not asked for the longest goes first."""

    def __init__(self, most: int, weigh: Callable[[V], int] | None = None) -> None:
        self._most = most
        self._weigh = weigh
        self._weight = 0
        self._kept: OrderedDict[K, V] = OrderedDict()
        self.peek: Final[Callable[[K], V | None]] = self._kept.get
        """A value as if it had not been asked for; in any thread."""

    def get(self, key: K) -> V | None:
        if key not in self._kept:
            return None
        self._kept.move_to_end(key)
        return self._kept[key]

    def put(self, key: K, value: V) -> None:
        if self._weigh is not None:
            self.drop(key)
            self._weight += self._weigh(value)
        self._kept[key] = value
        self._kept.move_to_end(key)
        while (len(self._kept) if self._weigh is None else self._weight) > self._most:
            _, oldest = self._kept.popitem(last=False)
            if self._weigh is not None:
                self._weight -= self._weigh(oldest)

    def drop(self, key: K) -> None:
        if key in self._kept:
            value = self._kept.pop(key)
            if self._weigh is not None:
                self._weight -= self._weigh(value)
