"""Growing delays between tries."""

from __future__ import annotations

from actors.ports.world import Random


class Backoff:
    """Growing, jittered delays: `first` seconds, doubled up to `most`, each times 0.5 to 1."""

    def __init__(self, rng: Random, *, first: float, most: float) -> None:
        self._rng = rng
        self._first = first
        self._most = most
        self.failures = 0

    def next(self) -> float:
        delay: float = min(self._most, self._first * 2.0 ** min(self.failures, 30))
        self.failures += 1
        return delay * (0.5 + self._rng.random() / 2)

    def reset(self) -> None:
        self.failures = 0
