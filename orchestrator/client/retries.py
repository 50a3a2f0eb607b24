"""When a request is made again, and after which pause. Pure."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

AGAIN: Final = frozenset({429, 500, 502, 503, 504})
"""Statuses that may be another the next time."""


@dataclass(frozen=True, slots=True)
class Retries:
    """A request is made `tries` times at most. What goes on for long (waiting, events, a followed log, a
    download) is taken up again until nothing came for `patience` seconds. Pauses double from `first` to
    `longest` seconds, and each is a random share of that, so that clients do not come back all at once."""

    tries: int = 5
    patience: float = 120.0
    first: float = 0.25
    longest: float = 5.0

    def pause(
        self, tried: int, asked: float | None = None, rng: Callable[[], float] = random.random
    ) -> float:
        """Seconds before the next try, after `tried` of them; at least what the server `asked` for, within
        reason."""
        pause = min(self.longest, self.first * 2.0 ** min(tried - 1, 30)) * (0.5 + rng() / 2)
        return max(pause, min(asked or 0.0, 60.0))


def parse_retry_after(header: str | None) -> float | None:
    """What `Retry-After` asks for in seconds; a date in it counts as nothing."""
    if header is None or not header.strip().isascii() or not header.strip().isdigit():
        return None
    return float(header.strip()[:9])
