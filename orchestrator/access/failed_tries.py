"""How often an address may try something that fails."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from orchestrator.access.audit import network_of

ADDRESSES: Final = 4096
"""That are remembered; the one that failed longest ago is forgotten."""


class FailedTries:
    """`burst` failures at once, and one more every `every` seconds. `now` counts seconds and is never set
    back."""

    def __init__(self, now: Callable[[], float], burst: int = 10, every: float = 6.0) -> None:
        self._now = now
        self._burst = burst
        self._every = every
        # When all failures of an address are forgotten.
        self._until: OrderedDict[str, float] = OrderedDict()

    def wait(self, address: str) -> int:
        """Whole seconds after which this address may fail again; 0: now."""
        until = self._until.get(network_of(address), 0.0)
        return max(0, math.ceil(until - self._now() - (self._burst - 1) * self._every))

    def note(self, address: str) -> None:
        """It has failed."""
        whose, now = network_of(address), self._now()
        self._until[whose] = max(now, self._until.get(whose, now)) + self._every
        self._until.move_to_end(whose)
        if len(self._until) > ADDRESSES:
            self._until.popitem(last=False)
