"""Time and chance."""

from __future__ import annotations

from typing import Protocol


class Clock(Protocol):
    """The wall clock. It may jump: deadlines never come from it."""

    def now(self) -> float: ...


class Random(Protocol):
    """Where randomness comes from: `random.Random` fits, and so does a seeded one."""

    def random(self) -> float: ...
    def getrandbits(self, k: int, /) -> int: ...
