"""What scaling remembers of a service's recent past: how long jobs run, and how many slots were wanted."""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Final

from actors.domain.job import Job
from actors.domain.status import Status

NEWEST: Final = 50
"""Jobs whose run times are the estimate."""

REMEMBERED: Final = 2000
"""Jobs that were counted, so that a later row of the same one is not counted again."""


class RunTimes:
    """The mean of the newest run times."""

    def __init__(self) -> None:
        self._newest: deque[float] = deque(maxlen=NEWEST)
        self._counted: OrderedDict[int, None] = OrderedDict()

    def take(self, job: Job) -> None:
        """A row that may tell of an end. What was stopped from outside says little of how long jobs run."""
        end = job.end
        if end is None or end.wall_seconds is None or end.status is Status.KILLED:
            return
        if job.id in self._counted:
            return
        self._counted[job.id] = None
        if len(self._counted) > REMEMBERED:
            self._counted.popitem(last=False)
        self._newest.append(max(0.0, end.wall_seconds))

    @property
    def mean(self) -> float | None:
        return sum(self._newest) / len(self._newest) if self._newest else None


class Peak:
    """The largest of the values of the last `length` seconds."""

    def __init__(self, length: float, now: float) -> None:
        self._length = length
        self._since = now
        self._falling: deque[tuple[float, int]] = deque()

    def take(self, now: float, value: int) -> None:
        """Of two values the older and smaller one can never be the largest again."""
        while self._falling and self._falling[-1][1] <= value:
            self._falling.pop()
        self._falling.append((now, value))
        while self._falling[0][0] < now - self._length:
            self._falling.popleft()

    def most(self, now: float) -> int | None:
        """None while less than `length` is known."""
        if now - self._since < self._length or not self._falling:
            return None
        return self._falling[0][1]
