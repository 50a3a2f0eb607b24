"""A time to wake at, which may come nearer while somebody sleeps."""

from __future__ import annotations

import math

import trio


class Alarm:
    """Wakes one task at the earliest of the times that it was set to. Until then it costs that task nothing,
    however often it is set. Whoever wakes looks at all that there is: what was set after its time had come
    counts no more. Times are those of trio's clock."""

    def __init__(self) -> None:
        self._at = math.inf
        self._sleep: trio.CancelScope | None = None

    def set(self, at: float) -> None:
        if at < self._at:
            self._at = at
            if self._sleep is not None:
                self._sleep.deadline = at

    async def wait(self, at: float = math.inf) -> None:
        """Sleep until the earliest of `at` and the times that it was set to since this was called last."""
        self.set(at)
        with trio.CancelScope(deadline=self._at) as self._sleep:
            await trio.sleep_forever()
        self._at, self._sleep = math.inf, None
