"""The machine's own wall clock, for the two composition roots."""

from __future__ import annotations

import time


class WallClock:
    """Implements `actors.ports.world.Clock`."""

    def now(self) -> float:
        return time.time()
