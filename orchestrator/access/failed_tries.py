"""How often an address may try something that fails."""

from __future__ import annotations

from collections.abc import Callable

from orchestrator.access.audit import network_of
from orchestrator.access.limits import Pace


class FailedTries:
    """`burst` failures at once, and one more every `every` seconds. `now` counts seconds and is never set
    back."""

    def __init__(self, now: Callable[[], float], burst: int = 10, every: float = 6.0) -> None:
        self._pace = Pace(every, burst * every, now)

    def wait(self, address: str) -> int:
        """Whole seconds after which this address may fail again; 0: now."""
        return self._pace.wait(network_of(address))

    def note(self, address: str) -> None:
        """It has failed."""
        self._pace.note(network_of(address))
