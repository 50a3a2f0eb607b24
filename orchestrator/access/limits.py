"""How much one user, one token or one address may take: what there is to set, and requests a second.

Whatever is over a limit is refused with 429, which names the setting and says when to ask again.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Final

BURST: Final = 10.0
"""Seconds' worth of requests that may come at once."""
REMEMBERED: Final = 4096
"""Who asks; whoever asked longest ago is forgotten."""


@dataclass(slots=True)
class Limits:
    """What holds now, and may change while the server runs. 0: none. `queued` are jobs of a service that
    wait, `queued_per_user` those of a user, of whatever service; `bytes_per_user` what is stored of a user's
    jobs, inputs and results; `uploads` how many are under way at once; `token_rate` and `address_rate`
    requests a second."""

    queued: int = 0
    queued_per_user: int = 0
    bytes_per_user: int = 0
    uploads: int = 0
    token_rate: float = 0.0
    address_rate: float = 0.0

    @property
    def of_jobs(self) -> bool:
        """Whether any limit is on what the ledger counts."""
        return bool(self.queued or self.queued_per_user or self.bytes_per_user)

    def change_to(self, other: Limits) -> None:
        """From now on these hold."""
        for one in fields(Limits):
            setattr(self, one.name, getattr(other, one.name))


class Pace:
    """One every `every` seconds of each who asks, and as many at once as come in `window` seconds. `now`
    counts seconds, and never goes back."""

    def __init__(self, every: float, window: float, now: Callable[[], float]) -> None:
        self._every = every
        self._window = window
        self._now = now
        # When all of one would have come, at this pace: that may lie ahead by the window.
        self._until: OrderedDict[str, float] = OrderedDict()

    def wait(self, who: str) -> int:
        """Whole seconds until one more may come; 0: it may now."""
        now = self._now()
        over = max(now, self._until.get(who, now)) + self._every - now - self._window
        # What is left over by arithmetic is none.
        return math.ceil(over) if over > 1e-6 else 0

    def note(self, who: str) -> None:
        """One has come."""
        now = self._now()
        self._until[who] = max(now, self._until.get(who, now)) + self._every
        self._until.move_to_end(who)
        if len(self._until) > REMEMBERED:
            self._until.popitem(last=False)


class Rate:
    """`rate` requests a second of each who asks, 0: any number. It may be another one each time; then all
    begin anew."""

    def __init__(self, rate: Callable[[], float], now: Callable[[], float]) -> None:
        self._rate = rate
        self._now = now
        self._known = 0.0
        self._pace: Pace | None = None

    def take(self, who: str) -> int:
        """0 if they may, and then it counts; else after how many whole seconds they may."""
        if (rate := self._rate()) != self._known:
            self._known = rate
            self._pace = Pace(1.0 / rate, max(BURST, 1.0 / rate), self._now) if rate else None
        wait = 0 if self._pace is None else self._pace.wait(who)
        if self._pace is not None and not wait:
            self._pace.note(who)
        return wait
