"""Large bodies on their way leave time to small work, as long as there is any.

Whoever moves one does so in pieces, each of which takes its time of the loop, of the cores and of the disk,
and small work has to wait for each of them. So a large body rests after each piece for `TIMES` as long as it
took, if small work was done a moment ago; else it goes as fast as it can.
"""

from __future__ import annotations

import math
from typing import Final

import trio

LARGE: Final = 4 << 20
"""Bytes after which a body is a large one."""
RECENT: Final = 0.25
"""Seconds for which small work counts."""
TIMES: Final = 2.5
LONGEST: Final = 0.05
"""Seconds of a rest: of a slow peer's piece most of the time was waiting."""


class Courtesy:
    """Knows when small work was done last."""

    def __init__(self) -> None:
        self.noted = -math.inf

    def note(self) -> None:
        """Small work is done now."""
        self.noted = trio.current_time()


class LargeBody:
    """One body on its way."""

    def __init__(self, courtesy: Courtesy) -> None:
        self._courtesy = courtesy
        self._size = 0
        self._since = trio.current_time()

    async def rest(self, size: int) -> None:
        """A piece of so many bytes has moved."""
        self._size += size
        now = trio.current_time()
        if self._size > LARGE and now < self._courtesy.noted + RECENT:
            await trio.sleep(min(LONGEST, TIMES * (now - self._since)))
            now = trio.current_time()
        self._since = now
